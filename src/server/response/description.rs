//! `docs/openapi.json` says what the code does: every refusal at its status and no other, every route and no other.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{HttpRefusal, http, refusal};
use writ_core::refusal::samples::all;
use writ_core::request::{Form, TokenRequest, subject_token_types};

/// Status, `error` and `reason`.
type Row = (u16, String, String);

fn description() -> Value {
    serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap()
}

/// Every refusal of the listener, one of each cause.
fn all_of_http() -> Vec<HttpRefusal> {
    // A match, so that a new one cannot be left out.
    let next = |refusal: &HttpRefusal| match refusal {
        HttpRefusal::NotFound => Some(HttpRefusal::MethodNotAllowed("POST")),
        HttpRefusal::MethodNotAllowed("POST") => Some(HttpRefusal::MethodNotAllowed("GET, HEAD")),
        HttpRefusal::MethodNotAllowed(_) => Some(HttpRefusal::RequestTimeout),
        HttpRefusal::RequestTimeout => Some(HttpRefusal::BodyTooLarge),
        HttpRefusal::BodyTooLarge => Some(HttpRefusal::MediaTypeUnsupported),
        HttpRefusal::MediaTypeUnsupported => Some(HttpRefusal::CertificateRefused),
        HttpRefusal::CertificateRefused => Some(HttpRefusal::Internal),
        HttpRefusal::Internal => Some(HttpRefusal::Overloaded),
        HttpRefusal::Overloaded => Some(HttpRefusal::ShuttingDown),
        HttpRefusal::ShuttingDown => None,
    };
    std::iter::successors(Some(HttpRefusal::NotFound), next).collect()
}

/// What the code can answer.
fn given() -> BTreeSet<Row> {
    let rooms = all().into_iter().map(|cause| {
        let code = cause.code();
        (refusal(&cause).status().as_u16(), code.error.to_owned(), code.reason.to_owned())
    });
    let listener = all_of_http()
        .into_iter()
        .map(|cause| (http(cause).status().as_u16(), cause.error().to_owned(), cause.reason().to_owned()));
    rooms.chain(listener).collect()
}

fn texts(schema: &Value) -> Vec<String> {
    let one = schema["const"].as_str();
    let many = schema["enum"].as_array().into_iter().flatten().map(|text| text.as_str().unwrap());
    one.into_iter().chain(many).map(str::to_owned).collect()
}

/// What `$ref` leads to.
fn followed<'a>(description: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => description.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

/// The refusals that one answer may be: `allOf` the error and a table of `error` and `reason`.
fn rows_of(description: &Value, status: &str, answer: &Value) -> Vec<Row> {
    let answer = followed(description, answer);
    let schema = followed(description, &answer["content"]["application/json"]["schema"]);
    let Some(table) = schema["allOf"].as_array().filter(|parts| parts[0]["$ref"] == "#/components/schemas/Error")
    else {
        return Vec::new();
    };
    let alternatives = table[1]["oneOf"].as_array().cloned().unwrap_or_else(|| vec![table[1].clone()]);
    let mut rows = Vec::new();
    for alternative in alternatives {
        for error in texts(&alternative["properties"]["error"]) {
            let reasons = texts(&alternative["properties"]["reason"]);
            rows.extend(reasons.into_iter().map(|reason| (status.parse().unwrap(), error.clone(), reason)));
        }
    }
    assert!(!rows.is_empty(), "{status}: {schema}");
    rows
}

fn rows(description: &Value, path: &str, method: &str) -> Vec<Row> {
    let answers = description["paths"][path][method]["responses"].as_object().unwrap();
    answers.iter().flat_map(|(status, answer)| rows_of(description, status, answer)).collect()
}

/// CONTRACT 3.6
#[test]
fn every_refusal_is_described_at_its_status_and_no_other() {
    let description = description();
    let mut described: BTreeSet<Row> = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in ["get", "post"].into_iter().filter(|method| item.get(method).is_some()) {
            let rows = rows(&description, path, method);
            let distinct: BTreeSet<_> = rows.iter().cloned().collect();
            assert_eq!(distinct.len(), rows.len(), "{path} lists a refusal twice");
            described.extend(distinct);
        }
    }
    described.extend(rows_of(&description, "404", &description["components"]["responses"]["NotFound"]));
    assert_eq!(described, given());

    let error = &description["components"]["schemas"]["Error"]["properties"];
    let listed = |name: &str| texts(&error[name]).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(listed("error"), described.iter().map(|(_, error, _)| error.clone()).collect());
    assert_eq!(listed("reason"), described.into_iter().map(|(_, _, reason)| reason).collect());
}

/// CONTRACT 3.6, 4
#[test]
fn each_endpoint_has_the_refusals_that_it_can_give() {
    let description = description();
    let reasons = |path: &str| {
        let rows = rows(&description, path, "post").into_iter();
        rows.map(|(_, _, reason)| reason).collect::<BTreeSet<_>>()
    };
    let mut all: BTreeSet<_> = given().into_iter().map(|(_, _, reason)| reason).collect();
    all.remove("not_found");
    let token = reasons("/token");
    assert_eq!(all.difference(&token).collect::<Vec<_>>(), ["introspection_not_allowed"]);
    // What needs a subject token, a purpose or the store is no matter of introspection.
    let introspection = reasons("/introspect");
    assert!(introspection.is_subset(&all) && introspection.contains("introspection_not_allowed"));
    let foreign = ["subject_", "redemption_", "scope_", "purpose_", "pdp_", "details_", "store_", "source_"];
    let strange = introspection.iter().find(|reason| foreign.iter().any(|kind| reason.starts_with(kind)));
    assert_eq!(strange, None);
}

#[test]
fn every_route_is_described_and_no_other() {
    let sources = [include_str!("../exchange.rs"), include_str!("../discovery.rs"), include_str!("../ops.rs")];
    // A path is a string that begins with a slash.
    let routes: BTreeSet<_> = sources
        .iter()
        .map(|source| source.split("#[cfg(test)]").next().unwrap())
        .flat_map(|source| source.split('"').skip(1).step_by(2))
        .filter(|text| text.starts_with('/'))
        .collect();
    let description = description();
    let described: BTreeSet<_> = description["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(described, routes);
}

#[test]
fn every_example_is_as_described() {
    let description = description();
    let check = |schema: &Value, example: &Value| {
        let schema = serde_json::json!({"allOf": [schema], "components": description["components"]});
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let wrong: Vec<_> = validator.iter_errors(example).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{example}: {wrong:?}");
    };
    let mut count = 0;
    let mut visit = vec![&description];
    while let Some(value) = visit.pop() {
        if let Some(schema) = value.get("schema") {
            let named = value["examples"].as_object().into_iter().flat_map(|examples| examples.values());
            for example in named.map(|example| &example["value"]).chain(value.get("example")) {
                check(schema, example);
                count += 1;
            }
        }
        if value.get("type").is_some() {
            value["examples"].as_array().into_iter().flatten().for_each(|example| check(value, example));
        }
        visit.extend(value.as_object().into_iter().flat_map(|members| members.values()));
        visit.extend(value.as_array().into_iter().flatten());
    }
    assert!(count > 15, "{count} examples");
}

#[test]
fn every_refusal_in_the_examples_is_in_our_words() {
    // A time is any time.
    let plain = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0");
    let rooms = all().into_iter().map(|cause| (cause.code().reason, plain(&cause.description())));
    let listener = all_of_http().into_iter().map(|cause| (cause.reason(), plain(&cause.to_string())));
    let ours: BTreeSet<_> = rooms.chain(listener).collect();
    let description = description();
    for answer in description["components"]["responses"].as_object().unwrap().values() {
        let content = &answer["content"]["application/json"];
        let named = content["examples"].as_object().into_iter().flat_map(|examples| examples.values());
        for example in named.map(|example| &example["value"]).chain(content.get("example")) {
            let words = (example["reason"].as_str().unwrap(), plain(example["error_description"].as_str().unwrap()));
            assert!(ours.contains(&words), "{words:?}");
        }
    }
}

/// CONTRACT 3.1
#[test]
fn every_request_in_the_examples_is_one() {
    let description = description();
    let content =
        &description["paths"]["/token"]["post"]["requestBody"]["content"]["application/x-www-form-urlencoded"];
    for example in content["examples"].as_object().unwrap().values() {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let parameters = example["value"].as_object().unwrap();
        form.extend_pairs(parameters.iter().map(|(name, value)| (name, value.as_str().unwrap())));
        let form = Form::parse(form.finish().as_bytes()).unwrap();
        TokenRequest::parse(&form, &"trust-domain.example".parse().unwrap()).unwrap();
    }
    let types = &description["components"]["schemas"]["TokenExchangeRequest"]["properties"]["subject_token_type"];
    let described: BTreeSet<_> = texts(types).into_iter().collect();
    assert_eq!(described, subject_token_types().into_iter().collect());
}

#[test]
fn the_description_is_that_of_this_version() {
    assert_eq!(description()["info"]["version"], env!("CARGO_PKG_VERSION"));
}
