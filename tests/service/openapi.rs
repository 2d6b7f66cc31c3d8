//! Whether the service answers as `docs/openapi.json` says. That the document lists every refusal is a matter of unit
//! tests; `tests/schemathesis.sh` asks for much more than is asked here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::scene::{MAILER, READER};
use crate::support::http::{Connection, Response};
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ, get};

fn description() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// What `$ref` leads to.
fn followed<'a>(description: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => description.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

#[track_caller]
fn fits(description: &Value, schema: &Value, value: &Value) {
    let schema = json!({"allOf": [schema], "components": description["components"]});
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let wrong: Vec<_> = validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{value}: {wrong:?}");
}

/// The answer is one that the description has: its status, its headers, its body.
#[track_caller]
fn judge(description: &Value, operation: &Value, response: &Response) {
    let described = &operation["responses"][response.status.to_string()];
    assert!(described.is_object(), "{} is not described: {}", response.status, response.text());
    let described = followed(description, described);
    for (name, header) in described["headers"].as_object().unwrap() {
        let value = response.header(&name.to_lowercase()).unwrap_or_else(|| panic!("no {name}"));
        let schema = &followed(description, header)["schema"];
        let number = value.parse::<u64>().ok().filter(|_| schema["type"] == "integer");
        fits(description, schema, &number.map_or(json!(value), Value::from));
    }
    let Some(content) = described["content"].as_object() else {
        assert!(response.body.is_empty(), "{}", response.text());
        return;
    };
    let media = response.header("content-type").unwrap().split(';').next().unwrap();
    let schema = &content[media]["schema"];
    let body = if schema["type"] == "string" { json!(response.text()) } else { response.json() };
    fits(description, schema, &body);
}

fn service() -> Writ {
    Setup::new().client("mailer", MAILER).client("reader", READER).start()
}

/// A connection to the listener that serves `path`.
fn connection(writ: &Writ, path: &str) -> Connection {
    let endpoints = writ.site().endpoints();
    match path {
        "/livez" | "/readyz" | "/metrics" => Connection::plain(endpoints.ops.unwrap()).unwrap(),
        _ => writ.workload("reader").connect().connection,
    }
}

#[test]
fn every_path_takes_the_methods_that_are_described_and_no_other() {
    let (writ, description) = (service(), description());
    let methods = ["get", "head", "post", "put", "delete", "patch", "options"];
    for (path, item) in description["paths"].as_object().unwrap() {
        let mut connection = connection(&writ, path);
        let described: Vec<_> = methods.into_iter().filter(|method| item.get(method).is_some()).collect();
        for method in methods {
            let response = get(&mut connection, &method.to_uppercase(), path, &[]);
            assert_eq!(response.status != 405, described.contains(&method), "{method} {path}");
            if method != "head" {
                let like = if described.contains(&method) { method } else { described[0] };
                judge(&description, &item[like], &response);
            }
        }
    }
    let response = get(&mut connection(&writ, "/token"), "GET", "/tokens", &[]);
    assert_eq!(response.status, 404);
    let not_found = json!({"responses": {"404": {"$ref": "#/components/responses/NotFound"}}});
    judge(&description, &not_found, &response);
}

#[test]
fn tokens_and_refusals_look_as_described() {
    let (writ, description) = (service(), description());
    let operation = &description["paths"]["/token"]["post"];
    let request = Form::client_credentials("mailbox.deliver");
    for (client, form, status) in [
        ("mailer", request.clone(), 200),
        ("mailer", request.clone().set("requested_subject", "bob@trust-domain.example"), 200),
        ("mailer", request.clone().set("scope", "mailbox.empty"), 400),
        ("mailer", request.clone().set("audience", "elsewhere.example"), 400),
        ("mailer", request.clone().without("grant_type"), 400),
        ("reader", request.clone().set("client_id", "mailer"), 401),
        ("nobody", request.clone(), 401),
    ] {
        let answer = writ.workload(client).token(&form);
        assert_eq!(answer.status(), status);
        judge(&description, operation, &answer.response);
    }
    judge(&description, operation, &writ.workload("mailer").post(&[], b"").response);
    judge(&description, operation, &writ.workload("mailer").post(&[], &[b'a'; 65 * 1024]).response);
}

#[test]
fn what_is_said_of_tokens_looks_as_described() {
    let (writ, description) = (service(), description());
    let operation = &description["paths"]["/introspect"]["post"];
    let token = writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued().token;
    for (client, token, status) in
        [("reader", &*token, 200), ("reader", "x", 200), ("reader", "", 400), ("mailer", "x", 403)]
    {
        let answer = writ.workload(client).introspect(token);
        assert_eq!(answer.status(), status);
        judge(&description, operation, &answer.response);
    }
}

/// R-META-01 to R-META-08
#[test]
fn the_metadata_have_the_members_that_are_described() {
    let (writ, description) = (service(), description());
    let metadata = writ.site().discover("/.well-known/oauth-authorization-server", &[]).json();
    let schema = &description["components"]["schemas"]["Metadata"];
    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(members(&schema["properties"]), members(&metadata));
    let required: BTreeSet<_> =
        schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(required, members(&metadata).iter().map(String::as_str).collect());
}

/// R-KEYS-06
#[test]
fn what_is_known_already_is_not_sent_again() {
    let (writ, description) = (service(), description());
    for path in ["/.well-known/jwks.json", "/.well-known/oauth-authorization-server"] {
        let etag = writ.site().discover(path, &[]).header("etag").unwrap().to_owned();
        let response = writ.site().discover(path, &[("If-None-Match", &etag)]);
        assert_eq!(response.status, 304);
        judge(&description, &description["paths"][path]["get"], &response);
    }
}
