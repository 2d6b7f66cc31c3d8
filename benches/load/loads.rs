//! The loads: what is asked of which server.

use std::sync::OnceLock;
use std::thread;

use crate::generator::{Generator, Outcome, Request};
use crate::site::{Kind, Server, Site};
use crate::support::issuer::Draft;
use crate::support::now;
use crate::support::workload::Form;

/// Connections of most loads.
const CONNECTIONS: usize = 16;

/// Requests before each measurement.
pub(crate) const WARM_UP: usize = 500;

/// One load on one server.
pub(crate) struct Load {
    /// Of the results: `server/what`.
    pub(crate) name: &'static str,
    pub(crate) server: Kind,
    /// The requests, as many as there are access tokens.
    build: fn(&Material<'_>) -> Vec<Request>,
    drive: Drive,
    /// Of every answer.
    pub(crate) status: u16,
}

/// How requests are sent.
#[derive(Clone, Copy)]
pub(crate) enum Drive {
    /// The next one as soon as the last one on that connection was answered.
    Closed(usize),
    /// At half the rate that `ideal` reaches with RS256.
    HalfLoad,
}

const fn load(name: &'static str, server: Kind, build: fn(&Material<'_>) -> Vec<Request>) -> Load {
    Load { name, server, build, drive: Drive::Closed(CONNECTIONS), status: 200 }
}

/// Loads that must run before others stand first.
pub(crate) const LOADS: &[Load] = &[
    load("null/request", Kind::Null, |material| exchanges(material.rs256())),
    load("ideal/rs256", Kind::Ideal, |material| exchanges(material.rs256())),
    load("writ/fresh-rs256", Kind::Writ, |material| exchanges(material.rs256())),
    load("ideal/es256", Kind::Ideal, |material| exchanges(material.es256())),
    load("writ/fresh-es256", Kind::Writ, |material| exchanges(material.es256())),
    load("writ/seen", Kind::Writ, |material| exchanges(&material.repeated())),
    load("writ/client-credentials", Kind::Writ, |material| {
        material.the_same(&Form::client_credentials("mailbox.deliver"))
    }),
    Load { drive: Drive::HalfLoad, ..load("ideal/half-load", Kind::Ideal, |material| exchanges(material.rs256())) },
    // Tokens that writ/fresh-rs256 has not used: they would be known already.
    Load { drive: Drive::HalfLoad, ..load("writ/half-load", Kind::Writ, |material| exchanges(material.spare())) },
];

impl Load {
    /// The requests of one round; the first of them are the warm-up.
    pub(crate) fn requests(&self, material: &Material<'_>) -> Vec<Request> {
        (self.build)(material)
    }

    /// Opens connections, sends the warm-up, calls `begin`, and sends the rest. `half_load` is in requests a second.
    pub(crate) fn run(&self, server: &Server, requests: &[Request], half_load: f64, begin: impl FnOnce()) -> Outcome {
        let (warm_up, requests) = requests.split_at(WARM_UP);
        let connections = match self.drive {
            Drive::Closed(connections) => connections,
            Drive::HalfLoad => CONNECTIONS,
        };
        let mut generator = Generator::connect(&server.endpoint, connections);
        self.check(&generator.run_closed(warm_up));
        begin();
        let outcome = match self.drive {
            Drive::Closed(_) => generator.run_closed(requests),
            Drive::HalfLoad => generator.run_at_rate(requests, half_load),
        };
        self.check(&outcome);
        outcome
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
        let key = &self.site.es256;
        let draft = || self.access_token().header("alg", key.alg()).header("kid", &*key.kid).signed_by(key);
        self.es256.get_or_init(|| mint(self.count, draft))
    }

    /// One access token many times.
    fn repeated(&self) -> Vec<String> {
        vec![self.access_token().mint(); self.count]
    }

    fn access_token(&self) -> Draft<'a> {
        self.site.issuer.access_token().claim("scope", "orders.write").claim("exp", now() + 6 * 3600)
    }

    fn the_same(&self, form: &Form) -> Vec<Request> {
        vec![Request::post("/token", &form.encode()); self.count]
    }
}

/// An exchange of each access token.
fn exchanges(tokens: &[String]) -> Vec<Request> {
    tokens.iter().map(|token| Request::post("/token", &Form::exchange(token, "order.refund").encode())).collect()
}

/// Distinct tokens, signed on every core.
fn mint<'a>(count: usize, draft: impl Fn() -> Draft<'a> + Sync) -> Vec<String> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut tokens = vec![String::new(); count];
    thread::scope(|scope| {
        for share in tokens.chunks_mut(count.div_ceil(threads)) {
            scope.spawn(|| share.fill_with(|| draft().mint()));
        }
    });
    tokens
}
