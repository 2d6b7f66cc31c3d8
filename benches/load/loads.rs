//! The loads: what is asked of which server.

use std::sync::OnceLock;
use std::thread;

use crate::generator::{Endpoint, Generator, Outcome, Request, Response};
use crate::site::{GATEWAY, Kind, PURGE_JOB, Server, Site};
use crate::support::issuer::Draft;
use crate::support::workload::Form;
use crate::support::{now, wait_until};

/// Connections of most loads.
pub(crate) const CONNECTIONS: usize = 16;

/// Requests before each measurement.
pub(crate) const WARM_UP: usize = 500;

/// One load on one server.
pub(crate) struct Load {
    /// Of the results: `server/what`.
    pub(crate) name: &'static str,
    pub(crate) server: Kind,
    client: &'static str,
    /// The requests of one round; the first of them are the warm-up.
    build: fn(&Material<'_>, &Server) -> Vec<Request>,
    drive: Drive,
    /// Of every answer.
    status: u16,
}

/// How requests are sent.
#[derive(Clone, Copy)]
enum Drive {
    /// On that many connections, the next one as soon as the last one was answered.
    Closed(usize),
    /// At half the rate that `ideal` reaches with RS256.
    HalfLoad,
    /// Each on a connection of its own.
    NewConnections,
}

const fn load(name: &'static str, server: Kind, build: fn(&Material<'_>, &Server) -> Vec<Request>) -> Load {
    Load { name, server, client: GATEWAY, build, drive: Drive::Closed(CONNECTIONS), status: 200 }
}

const fn refused(name: &'static str, build: fn(&Material<'_>, &Server) -> Vec<Request>) -> Load {
    Load { status: 400, ..load(name, Kind::Writ, build) }
}

/// Loads whose results others need stand first.
pub(crate) const LOADS: &[Load] = &[
    load("null/request", Kind::Null, |material, _| material.the_same(&deliver())),
    load("ideal/rs256", Kind::Ideal, |material, _| exchanges(material.rs256())),
    load("writ/fresh-rs256", Kind::Writ, |material, _| exchanges(material.rs256())),
    load("ideal/es256", Kind::Ideal, |material, _| exchanges(material.es256())),
    load("writ/fresh-es256", Kind::Writ, |material, _| exchanges(material.es256())),
    load("writ/seen", Kind::Writ, |material, _| exchanges(&material.repeated(&material.access_token()))),
    load("writ/client-credentials", Kind::Writ, |material, _| material.the_same(&deliver())),
    Load { drive: Drive::HalfLoad, ..load("ideal/half-load", Kind::Ideal, |material, _| exchanges(material.rs256())) },
    // Tokens that writ/fresh-rs256 has not used: they would be known already.
    Load { drive: Drive::HalfLoad, ..load("writ/half-load", Kind::Writ, |material, _| exchanges(material.spare())) },
    Load { drive: Drive::NewConnections, ..load("null/new-connection", Kind::Null, |material, _| material.few()) },
    Load { drive: Drive::NewConnections, ..load("writ/new-connection", Kind::Writ, |material, _| material.few()) },
    load("writ/recorded", Kind::Writ, |material, _| material.the_same(&Form::client_credentials("account.purge"))),
    load("writ/replacement", Kind::Writ, |material, server| {
        let tokens = material.issue(server, &exchanges(&material.repeated(&material.access_token())));
        forms("/token", &tokens, |token| Form::redeem(token, "order.refund"))
    }),
    load("writ/introspection", Kind::Writ, |material, server| {
        let tokens = material.issue(server, &material.the_same(&deliver()));
        forms("/introspect", &tokens, |token| Form::default().set("token", token))
    }),
    Load {
        client: PURGE_JOB,
        drive: Drive::Closed(32),
        ..load("writ/redemption", Kind::Writ, |material, server| {
            let tokens = material.issue(server, &material.the_same(&Form::client_credentials("account.close")));
            wait_until(now() + 2);
            forms("/token", &tokens, |token| Form::redeem(token, "account.close"))
        })
    },
    refused("writ/refused-purpose", |material, _| {
        forms("/token", material.rs256(), |token| Form::exchange(token, "order.forget"))
    }),
    refused("writ/refused-scope", |material, _| {
        forms("/token", material.rs256(), |token| Form::exchange(token, "order.refund  order.read"))
    }),
    refused("writ/refused-parameter", |material, _| {
        forms("/token", material.rs256(), |token| Form::exchange(token, "order.refund").without("audience"))
    }),
    refused("writ/refused-audience", |material, _| {
        forms("/token", material.rs256(), |token| {
            Form::exchange(token, "order.refund").set("audience", "other.example")
        })
    }),
    Load {
        client: "stranger",
        status: 401,
        ..refused("writ/refused-client", |material, _| exchanges(material.rs256()))
    },
    // Each with the signature of another token: never seen, and never valid.
    refused("writ/refused-signature", |material, _| {
        let tokens = material.rs256();
        let parts: Vec<_> = tokens.iter().map(|token| token.rsplit_once('.').expect("three parts")).collect();
        let others = parts.iter().cycle().skip(1);
        let mixed = parts.iter().zip(others).map(|((signed, _), (_, signature))| format!("{signed}.{signature}"));
        exchanges(&mixed.collect::<Vec<_>>())
    }),
    refused("writ/refused-expired", |material, _| {
        exchanges(&material.repeated(&material.access_token().claim("exp", now() - 3600)))
    }),
    refused("writ/refused-grant", |material, _| {
        exchanges(&material.repeated(&material.access_token().claim("scope", "orders.read")))
    }),
];

/// A token for itself.
fn deliver() -> Form {
    Form::client_credentials("mailbox.deliver")
}

impl Load {
    /// The requests of one round; the first of them are the warm-up.
    pub(crate) fn requests(&self, material: &Material<'_>, server: &Server) -> Vec<Request> {
        (self.build)(material, server)
    }

    /// Sends the warm-up, calls `begin`, and sends the rest. `half_load` is in requests a second.
    pub(crate) fn run(
        &self,
        endpoint: &Endpoint,
        requests: &[Request],
        half_load: f64,
        begin: &mut dyn FnMut(),
    ) -> Outcome {
        let (warm_up, requests) = requests.split_at(WARM_UP);
        let connections = match self.drive {
            Drive::Closed(connections) => connections,
            Drive::HalfLoad | Drive::NewConnections => CONNECTIONS,
        };
        let mut generator = Generator::connect(endpoint, connections);
        self.check(&generator.run_closed(warm_up));
        begin();
        let outcome = match self.drive {
            Drive::Closed(_) => generator.run_closed(requests),
            Drive::HalfLoad => generator.run_at_rate(requests, half_load),
            Drive::NewConnections => Generator::run_new_connections(endpoint, requests, connections),
        };
        self.check(&outcome);
        outcome
    }

    /// Where this load's client finds the server.
    pub(crate) fn endpoint(&self, site: &Site, server: &Server) -> Endpoint {
        site.endpoint(server, self.client)
    }

    fn check(&self, outcome: &Outcome) {
        for response in &outcome.responses {
            let body = String::from_utf8_lossy(&response.body);
            assert_eq!(response.status, self.status, "{}: {body}", self.name);
        }
    }
}

/// What requests are made of.
pub(crate) struct Material<'a> {
    site: &'a Site,
    /// Requests in one measurement, the warm-up included.
    count: usize,
    rs256: OnceLock<Vec<String>>,
    spare: OnceLock<Vec<String>>,
    es256: OnceLock<Vec<String>>,
}

impl<'a> Material<'a> {
    pub(crate) fn new(site: &'a Site, requests: usize) -> Self {
        let (rs256, spare, es256) = Default::default();
        Self { site, count: requests + WARM_UP, rs256, spare, es256 }
    }

    /// Distinct access tokens, the same ones each time.
    pub(crate) fn rs256(&self) -> &[String] {
        self.rs256.get_or_init(|| mint(self.count, || self.access_token()))
    }

    /// As many others.
    fn spare(&self) -> &[String] {
        self.spare.get_or_init(|| mint(self.count, || self.access_token()))
    }

    fn es256(&self) -> &[String] {
        self.es256.get_or_init(|| mint(self.count, || es256_token(self.site)))
    }

    /// One access token many times.
    fn repeated(&self, draft: &Draft<'_>) -> Vec<String> {
        vec![draft.mint(); self.count]
    }

    /// Requests for a part of the loads that cost more.
    fn few(&self) -> Vec<Request> {
        vec![Request::post("/token", &deliver().encode()); WARM_UP + (self.count - WARM_UP) / 10]
    }

    /// The tokens that Writ returns for these requests of the gateway.
    fn issue(&self, server: &Server, requests: &[Request]) -> Vec<String> {
        let endpoint = self.site.endpoint(server, GATEWAY);
        let outcome = Generator::connect(&endpoint, CONNECTIONS).run_closed(requests);
        let token = |response: &Response| {
            let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
            body["access_token"].as_str().unwrap_or_else(|| panic!("no token: {body}")).to_owned()
        };
        outcome.responses.iter().map(token).collect()
    }

    fn access_token(&self) -> Draft<'a> {
        access_token(self.site)
    }

    fn the_same(&self, form: &Form) -> Vec<Request> {
        vec![Request::post("/token", &form.encode()); self.count]
    }
}

/// An access token that outlives every run, to be signed with RS256.
pub(crate) fn access_token(site: &Site) -> Draft<'_> {
    site.issuer.access_token().claim("scope", "orders.write").claim("exp", now() + 6 * 3600)
}

/// The same to be signed with ES256.
pub(crate) fn es256_token(site: &Site) -> Draft<'_> {
    let key = &site.es256;
    access_token(site).header("alg", key.alg()).header("kid", &*key.kid).signed_by(key)
}

/// An exchange of each access token.
pub(crate) fn exchanges(tokens: &[String]) -> Vec<Request> {
    forms("/token", tokens, |token| Form::exchange(token, "order.refund"))
}

/// A request for each token.
fn forms(path: &str, tokens: &[String], form: impl Fn(&str) -> Form) -> Vec<Request> {
    tokens.iter().map(|token| Request::post(path, &form(token).encode())).collect()
}

/// Distinct tokens, signed on every core.
pub(crate) fn mint<'a>(count: usize, draft: impl Fn() -> Draft<'a> + Sync) -> Vec<String> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut tokens = vec![String::new(); count];
    thread::scope(|scope| {
        for share in tokens.chunks_mut(count.div_ceil(threads)) {
            scope.spawn(|| share.fill_with(|| draft().mint()));
        }
    });
    tokens
}
