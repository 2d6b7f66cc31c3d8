//! `docs/openapi.json`, and whether an answer is one that it has.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::http::Response;

pub(crate) static DESCRIPTION: LazyLock<Value> = LazyLock::new(|| {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    serde_json::from_slice(&fs::read(file).expect("the description")).expect("JSON")
});

/// The schemas that were needed so far.
static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);

/// The answer to a request to `path` is one that is described: its status, its headers, its body.
#[track_caller]
pub(crate) fn validate(method: &str, path: &str, response: &Response) {
    let method = method.to_lowercase();
    let status = response.status.to_string();
    let described = &DESCRIPTION["paths"][path][&method]["responses"][&status];
    assert!(described.is_object(), "{method} {path} {status} is not described: {}", response.text());
    validate_as(described, response);
}

/// The answer is this one of the description.
#[track_caller]
pub(crate) fn validate_as(described: &'static Value, response: &Response) {
    let described = followed(described);
    for (name, header) in described["headers"].as_object().expect("headers") {
        let value = response.header(&name.to_lowercase()).unwrap_or_else(|| panic!("no {name}"));
        let schema = &followed(header)["schema"];
        let number = value.parse::<u64>().ok().filter(|_| schema["type"] == "integer");
        fits(schema, &number.map_or(json!(value), Value::from));
    }
    let Some(content) = described["content"].as_object().filter(|_| !response.body.is_empty()) else {
        assert!(response.body.is_empty(), "{}", response.text());
        return;
    };
    let media = response.header("content-type").and_then(|text| text.split(';').next()).unwrap_or_default();
    let schema = &content[media]["schema"];
    let body = if schema["type"] == "string" { json!(response.text()) } else { response.json() };
    fits(schema, &body);
}

/// What `$ref` leads to.
fn followed(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => DESCRIPTION.pointer(pointer).expect("a reference leads to something"),
        None => value,
    }
}

#[track_caller]
fn fits(schema: &Value, value: &Value) {
    let validator =
        Arc::clone(VALIDATORS.lock().expect("nobody panics").entry(schema.to_string()).or_insert_with(|| {
            let schema = json!({"allOf": [schema], "components": DESCRIPTION["components"]});
            Arc::new(jsonschema::draft202012::new(&schema).expect("a schema"))
        }));
    let wrong: Vec<_> = validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{value} is not as described: {wrong:?}");
}
