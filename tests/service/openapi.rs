//! Whether `docs/openapi.json` describes what is served. Every answer of an endpoint, in every test, is validated
//! against it where it is received; unit tests compare its refusals with the error table, and `tests/schemathesis.sh`
//! sends much more.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::scene::{MAILER, READER};
use crate::support::description::{DESCRIPTION, validate, validate_as};
use crate::support::http::Connection;
use crate::support::workload::tls_config;
use crate::support::writ::{Setup, Writ, get};

const METADATA: &str = "/.well-known/oauth-authorization-server";

fn service() -> Writ {
    Setup::new().client("mailer", MAILER).client("reader", READER).start()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Listener {
    Exchange,
    Discovery,
    Ops,
}

impl Listener {
    fn connect(self, writ: &Writ) -> Connection {
        let endpoints = writ.site().endpoints();
        match self {
            Self::Exchange => writ.workload("reader").connect().connection,
            Self::Discovery => {
                Connection::tls(endpoints.discovery.unwrap(), &tls_config(&writ.site().ca, None)).unwrap()
            }
            Self::Ops => Connection::plain(endpoints.ops.unwrap()).unwrap(),
        }
    }

    /// CONTRACT 2
    fn serves(self, path: &str) -> bool {
        let is_ops = matches!(path, "/livez" | "/readyz" | "/metrics");
        match self {
            Self::Exchange => !is_ops,
            Self::Discovery => path.starts_with("/.well-known/"),
            Self::Ops => is_ops,
        }
    }
}

/// Every described path is served by the listeners that it belongs to, with the described methods and no others, and
/// by no other listener.
#[test]
fn every_path_takes_the_methods_that_are_described_and_no_others() {
    let writ = service();
    let methods = ["get", "head", "post", "put", "delete", "patch", "options"];
    for (path, item) in DESCRIPTION["paths"].as_object().unwrap() {
        let described: Vec<_> = methods.into_iter().filter(|method| item.get(method).is_some()).collect();
        for listener in [Listener::Exchange, Listener::Discovery, Listener::Ops] {
            let mut connection = listener.connect(&writ);
            for method in methods {
                let response = get(&mut connection, &method.to_uppercase(), path, &[]);
                if !listener.serves(path) {
                    assert_eq!(response.status, 404, "{method} {path} on {listener:?}");
                    continue;
                }
                assert_ne!(response.status, 404, "{method} {path} on {listener:?}");
                assert_eq!(response.status != 405, described.contains(&method), "{method} {path} on {listener:?}");
                let like = if described.contains(&method) { method } else { described[0] };
                validate(like, path, &response);
            }
        }
    }
    for listener in [Listener::Exchange, Listener::Discovery, Listener::Ops] {
        let response = get(&mut listener.connect(&writ), "GET", "/tokens", &[]);
        assert_eq!(response.status, 404);
        validate_as(&DESCRIPTION["components"]["responses"]["NotFound"], &response);
    }
}

/// R-META-01 to R-META-08
#[test]
fn the_metadata_have_the_described_members() {
    let writ = service();
    let metadata = writ.site().discover(METADATA, &[]).json();
    let schema = &DESCRIPTION["components"]["schemas"]["Metadata"];
    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(members(&schema["properties"]), members(&metadata));
    let required = schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
    assert_eq!(required.collect::<BTreeSet<_>>(), members(&metadata));
}

/// R-KEYS-06, R-META-09
#[test]
fn a_document_that_has_not_changed_is_answered_with_304() {
    let writ = service();
    for path in ["/.well-known/jwks.json", METADATA] {
        let etag = writ.site().discover(path, &[]).header("etag").unwrap().to_owned();
        let response = writ.site().discover(path, &[("If-None-Match", &etag)]);
        assert_eq!(response.status, 304);
        validate("GET", path, &response);
    }
}
