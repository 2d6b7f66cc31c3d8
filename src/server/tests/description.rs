//! The descriptions of the API say what the code does: `docs/openapi.json` and the error table of
//! `docs/reference/http-api.md` have every refusal at its status and every route, and no other.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::server::response::{HttpRefusal, http};
use crate::server::routes::{Methods, Route};
use writ_core::refusal::Reason;
use writ_core::refusal::samples::all;
use writ_core::request::{Form, TokenRequest, subject_token_types};

/// Status, `error` and `reason`.
type Row = (u16, String, String);

fn description() -> Value {
    serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap()
}

/// Every refusal of the listener, one of each cause.
fn all_of_listener() -> Vec<HttpRefusal> {
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

/// The error table of the code.
fn table() -> BTreeSet<Row> {
    let row = |reason: &Reason| (reason.status(), reason.error().as_str().to_owned(), reason.as_str().to_owned());
    Reason::ALL.iter().map(row).collect()
}

#[test]
fn every_refusal_of_the_listener_is_answered_as_the_table_says() {
    for refusal in all_of_listener() {
        assert_eq!(http(refusal).status().as_u16(), refusal.reason().status(), "{refusal}");
    }
    let given: BTreeSet<_> = all_of_listener().into_iter().map(HttpRefusal::reason).collect();
    assert!(Reason::ALL.iter().filter(|reason| reason.is_listeners_own()).all(|own| given.contains(own)));
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
    assert_eq!(described, table());

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
    let mut all: BTreeSet<_> = table().into_iter().map(|(_, _, reason)| reason).collect();
    all.remove("not_found");
    let token = reasons("/token");
    assert_eq!(all.difference(&token).collect::<Vec<_>>(), ["introspection_not_allowed"]);
    // Introspection needs no subject token, purpose or store.
    let introspection = reasons("/introspect");
    assert!(introspection.is_subset(&all) && introspection.contains("introspection_not_allowed"));
    let foreign = ["subject_", "redemption_", "scope_", "purpose_", "pdp_", "details_", "store_", "source_"];
    let strange = introspection.iter().find(|reason| foreign.iter().any(|kind| reason.starts_with(kind)));
    assert_eq!(strange, None);
}

#[test]
fn every_route_is_described_with_its_methods_and_no_other() {
    let routes = Route::ALL.iter().map(|route| {
        let methods = match route.methods() {
            Methods::Post => vec!["post"],
            Methods::GetAndHead => vec!["get", "head"],
        };
        (route.path().to_owned(), methods.into_iter().map(str::to_owned).collect())
    });
    let is_method = |name: &&String| !matches!(name.as_str(), "servers" | "parameters");
    let description = description();
    let described = description["paths"].as_object().unwrap().iter().map(|(path, item)| {
        let methods = item.as_object().unwrap().keys().filter(is_method).cloned();
        (path.clone(), methods.collect::<BTreeSet<_>>())
    });
    assert_eq!(described.collect::<BTreeMap<_, _>>(), routes.collect());
}

/// The rows of the table under "Errors": status, error, reasons. In a cell with several statuses they belong to the reasons
/// in turn; a status in parentheses after a reason is that reason's own.
fn rows_of_reference(page: &str) -> BTreeSet<Row> {
    let is_name = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let mut rows = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| 4") || line.starts_with("| 5")) {
        let [statuses, error, reasons] = line.trim_matches('|').split('|').collect::<Vec<_>>()[..] else {
            panic!("three columns: {line}")
        };
        let statuses: Vec<u16> = statuses.split(',').map(|status| status.trim().parse().unwrap()).collect();
        let error = error.trim().trim_matches('`').to_owned();
        // Names are in backticks, each perhaps followed by its own status.
        let parts: Vec<_> = reasons.split('`').collect();
        for (number, pair) in parts[1..].chunks(2).enumerate() {
            let own = pair.get(1).and_then(|text| text.trim().strip_prefix('(')?.get(..3)?.parse().ok());
            let status = own.unwrap_or(statuses[number.min(statuses.len() - 1)]);
            if is_name(pair[0]) {
                rows.insert((status, error.clone(), pair[0].to_owned()));
            }
        }
    }
    rows
}

#[test]
fn the_reference_has_the_error_table_of_the_code() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/http-api.md");
    assert_eq!(rows_of_reference(&std::fs::read_to_string(page).unwrap()), table());
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
fn every_refusal_in_the_examples_has_the_words_of_the_code() {
    // A time is any time.
    let plain = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0");
    let flows = all().into_iter().map(|cause| (cause.reason().as_str(), plain(&cause.description())));
    let listener = all_of_listener().into_iter().map(|cause| (cause.reason().as_str(), plain(&cause.to_string())));
    let of_code: BTreeSet<_> = flows.chain(listener).collect();
    let description = description();
    for answer in description["components"]["responses"].as_object().unwrap().values() {
        let content = &answer["content"]["application/json"];
        let named = content["examples"].as_object().into_iter().flat_map(|examples| examples.values());
        for example in named.map(|example| &example["value"]).chain(content.get("example")) {
            let words = (example["reason"].as_str().unwrap(), plain(example["error_description"].as_str().unwrap()));
            assert!(of_code.contains(&words), "{words:?}");
        }
    }
}

/// CONTRACT 3.1
#[test]
fn every_request_in_the_examples_is_valid() {
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
