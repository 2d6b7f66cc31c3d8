//! Whether `docs/openapi.json` says what is there. Every answer of an endpoint, in every test, is held against it where it
//! is received; that it lists each refusal is a matter of unit tests, and `tests/schemathesis.sh` asks for much more.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::scene::{MAILER, READER};
use crate::support::description::{DESCRIPTION, judge, judge_as};
use crate::support::http::Connection;
use crate::support::writ::{Setup, Writ, get};

const METADATA: &str = "/.well-known/oauth-authorization-server";

fn service() -> Writ {
    Setup::new().client("mailer", MAILER).client("reader", READER).start()
}

/// A connection to the listener that serves `path`.
fn connection(writ: &Writ, path: &str) -> Connection {
    match path {
        "/livez" | "/readyz" | "/metrics" => Connection::plain(writ.site().endpoints().ops.unwrap()).unwrap(),
        _ => writ.workload("reader").connect().connection,
    }
}

#[test]
fn every_path_takes_the_methods_that_are_described_and_no_other() {
    let writ = service();
    let methods = ["get", "head", "post", "put", "delete", "patch", "options"];
    for (path, item) in DESCRIPTION["paths"].as_object().unwrap() {
        let mut connection = connection(&writ, path);
        let described: Vec<_> = methods.into_iter().filter(|method| item.get(method).is_some()).collect();
        for method in methods {
            let response = get(&mut connection, &method.to_uppercase(), path, &[]);
            assert_eq!(response.status != 405, described.contains(&method), "{method} {path}");
            let like = if described.contains(&method) { method } else { described[0] };
            judge(like, path, &response);
        }
    }
    let response = get(&mut connection(&writ, "/token"), "GET", "/tokens", &[]);
    assert_eq!(response.status, 404);
    judge_as(&DESCRIPTION["components"]["responses"]["NotFound"], &response);
}

/// R-META-01 to R-META-08
#[test]
fn the_metadata_have_the_members_that_are_described() {
    let writ = service();
    let metadata = writ.site().discover(METADATA, &[]).json();
    let schema = &DESCRIPTION["components"]["schemas"]["Metadata"];
    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(members(&schema["properties"]), members(&metadata));
    let required = schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
    assert_eq!(required.collect::<BTreeSet<_>>(), members(&metadata));
}

/// R-KEYS-06
#[test]
fn what_is_known_already_is_not_sent_again() {
    let writ = service();
    for path in ["/.well-known/jwks.json", METADATA] {
        let etag = writ.site().discover(path, &[]).header("etag").unwrap().to_owned();
        let response = writ.site().discover(path, &[("If-None-Match", &etag)]);
        assert_eq!(response.status, 304);
        judge("GET", path, &response);
    }
}
