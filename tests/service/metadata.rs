//! What the service says of itself (CONTRACT 5; area META).

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::scene::{self, MAILER, READER};
use crate::support::ISSUER;
use crate::support::workload::TOKEN_EXCHANGE;
use crate::support::writ::{Setup, Writ};

const PATH: &str = "/.well-known/oauth-authorization-server";

fn metadata(writ: &Writ) -> Value {
    writ.site().discover(PATH, &[]).json()
}

fn texts(value: &Value) -> BTreeSet<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// R-META-01, R-META-09
#[test]
fn the_metadata_are_json_to_be_kept_for_a_while() {
    let writ = Setup::new().client("mailer", MAILER).set("tokens.jwks_max_age", "7m").start();
    let response = writ.site().discover(PATH, &[]);
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type").map(|text| text.split(';').next()), Some(Some("application/json")));
    assert_eq!(response.header("cache-control"), Some("public, max-age=420"));
}

/// R-META-01 to R-META-08: this and nothing else.
#[test]
fn the_metadata_say_what_is_there_and_nothing_else() {
    let writ = scene::mailer();
    let endpoint = |path: &str| format!("{ISSUER}{path}");
    let (token, introspection) = (endpoint("/token"), endpoint("/introspect"));
    let mut metadata = metadata(&writ);
    for list in ["grant_types_supported", "txn_token_subject_token_types_supported"] {
        metadata[list].as_array_mut().unwrap().sort_by_key(ToString::to_string);
    }
    let types = ["access_token", "id_token", "jwt", "self_signed", "txn_token", "unsigned_json"];
    assert_eq!(
        metadata,
        json!({
            "issuer": ISSUER,
            "token_endpoint": token,
            "introspection_endpoint": introspection,
            "jwks_uri": "https://localhost:8444/.well-known/jwks.json",
            "mtls_endpoint_aliases": {"token_endpoint": token, "introspection_endpoint": introspection},
            "grant_types_supported": ["client_credentials", TOKEN_EXCHANGE],
            "token_endpoint_auth_methods_supported": ["tls_client_auth"],
            "introspection_endpoint_auth_methods_supported": ["tls_client_auth"],
            "response_types_supported": [],
            "txn_token_trust_domains_supported": ["trust-domain.example"],
            "txn_token_subject_token_types_supported":
                types.map(|kind| format!("urn:ietf:params:oauth:token-type:{kind}")),
            "txn_token_signing_alg_values_supported": ["ES256"],
        })
    );
}

/// R-META-03, R-META-07, as soon as it is true.
#[test]
fn self_signed_certificates_are_announced_where_a_policy_takes_them() {
    let writ = Setup::new().client("reader", READER).start();
    let methods = |metadata: &Value| {
        ["token_endpoint_auth_methods_supported", "introspection_endpoint_auth_methods_supported"]
            .map(|name| texts(&metadata[name]).into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(methods(&metadata(&writ)), [vec!["tls_client_auth"], vec!["tls_client_auth"]]);
    let thumbprint = URL_SAFE_NO_PAD.encode([7; 32]);
    let policy = format!("client_id = \"mailer\"\nself_signed_tls_client_auth_x5t_s256 = [\"{thumbprint}\"]\n{MAILER}");
    writ.change_policy("mailer.toml", Some(&policy));
    let both = vec!["self_signed_tls_client_auth", "tls_client_auth"];
    assert_eq!(methods(&metadata(&writ)), [both.clone(), both]);
}

/// R-META-02, R-META-05: what a client finds there is where it gets on.
#[test]
fn the_endpoints_are_those_that_answer() {
    let writ = Setup::new().client("reader", READER).start();
    let metadata = metadata(&writ);
    let mut session = writ.workload("reader").connect();
    for name in ["token_endpoint", "introspection_endpoint"] {
        let path = metadata["mtls_endpoint_aliases"][name].as_str().unwrap().strip_prefix(ISSUER).unwrap();
        session.get("GET", path).refused(405, "invalid_request", "method_not_allowed");
    }
}

/// CONTRACT 6: without a discovery listener the keys are at the issuer.
#[test]
fn the_metadata_point_to_the_issuer_where_discovery_is_off() {
    let mut setup = Setup::new().client("mailer", MAILER).set("listen.discovery", "off");
    setup.unset("listen.discovery_url");
    let writ = setup.start();
    let metadata = writ.workload("mailer").connect().get("GET", PATH).response.json();
    assert_eq!(metadata["jwks_uri"], format!("{ISSUER}/.well-known/jwks.json"));
}
