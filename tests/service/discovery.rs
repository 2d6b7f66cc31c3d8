//! The discovery documents: metadata and key set, as documents (CONTRACT 2, 5; area META; R-KEYS-06). How keys come
//! and go is tested in `keys`.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::scene::{self, MAILER, READER};
use crate::support::ISSUER;
use crate::support::http::Connection;
use crate::support::workload::{TOKEN_EXCHANGE, tls_config};
use crate::support::writ::{Setup, Writ, get};

const PATH: &str = "/.well-known/oauth-authorization-server";
const JWKS: &str = "/.well-known/jwks.json";

fn metadata(writ: &Writ) -> Value {
    writ.site().discover(PATH, &[]).json()
}

fn texts(value: &Value) -> BTreeSet<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// R-META-01, R-META-09: an issuer has no path (CONTRACT 6), so there is one place only.
#[test]
fn the_metadata_are_cacheable_json_at_the_well_known_path() {
    let writ = Setup::new().client("mailer", MAILER).set("tokens.jwks_max_age", "7m").start();
    let response = writ.site().discover(PATH, &[]);
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type").map(|text| text.split(';').next()), Some(Some("application/json")));
    assert_eq!(response.header("cache-control"), Some("public, max-age=420"));
    assert_eq!(writ.site().discover(&format!("{PATH}/path"), &[]).status, 404);
}

/// R-META-01 to R-META-08: neither purposes, nor redemption, nor tokens bound to certificates.
#[test]
fn the_metadata_have_exactly_these_members() {
    let writ = scene::delayed("").client("mailer", MAILER).start();
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

/// R-META-03, R-META-07
#[test]
fn self_signed_certificates_are_announced_where_a_policy_accepts_them() {
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

/// R-META-02, R-META-05: a client reaches the endpoints under the names in the metadata.
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

/// CONTRACT 2: discovery is on the exchange listener too.
#[test]
fn the_exchange_listener_serves_the_discovery_documents() {
    let writ = scene::mailer();
    let mut session = writ.workload("mailer").connect();
    let jwks = session.get("GET", "/.well-known/jwks.json").response;
    assert_eq!((jwks.status, jwks.header("content-type")), (200, Some("application/jwk-set+json")));
    let metadata = session.get("GET", "/.well-known/oauth-authorization-server").response;
    assert_eq!(metadata.json()["issuer"], crate::support::ISSUER);
}

/// CONTRACT 2
#[test]
fn discovery_answers_head_and_refuses_other_methods() {
    let writ = scene::shared_mailer();
    let connect = || {
        let address = writ.site().endpoints().discovery.unwrap();
        Connection::tls(address, &tls_config(&writ.site().ca, None)).unwrap()
    };
    for path in ["/.well-known/jwks.json", "/.well-known/oauth-authorization-server"] {
        let head = get(&mut connect(), "HEAD", path, &[]);
        assert_eq!((head.status, head.body.len()), (200, 0));
        let post = get(&mut connect(), "DELETE", path, &[]);
        assert_eq!((post.status, post.json()["reason"].as_str()), (405, Some("method_not_allowed")));
        assert!(post.header("allow").unwrap().contains("GET"));
    }
    let token = get(&mut connect(), "GET", "/token", &[]);
    assert_eq!((token.status, token.json()["reason"].as_str()), (404, Some("not_found")));
    assert_eq!(token.header("cache-control"), Some("no-store"));
}

/// R-KEYS-03, R-KEYS-06
#[test]
fn the_key_set_is_a_jwk_set_of_public_members() {
    let writ = scene::mailer();
    let response = writ.site().discover(JWKS, &[]); // TLS without a client certificate
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/jwk-set+json")));
    let document = response.json();
    assert_eq!(document.as_object().unwrap().keys().collect::<Vec<_>>(), ["keys"]);
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2, "current and next");
    for key in keys {
        let names: BTreeSet<&str> = key.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x", "y"].into());
        assert_eq!((&key["kty"], &key["use"], &key["alg"]), (&json!("EC"), &json!("sig"), &json!("ES256")));
    }
}

/// R-KEYS-06, CONTRACT 5
#[test]
fn the_key_set_is_cacheable_and_conditional() {
    let writ = Setup::new().client("mailer", MAILER).set("tokens.jwks_max_age", "7m").start();
    let first = writ.site().discover(JWKS, &[]);
    assert_eq!(first.header("cache-control"), Some("public, max-age=420"));
    assert_eq!(first.header("pragma"), None);
    let etag = first.header("etag").unwrap();
    assert!(etag.trim_start_matches("W/").starts_with('"'), "{etag}");
    for value in [etag, &format!("\"other\", {etag}"), "*"] {
        let again = writ.site().discover(JWKS, &[("If-None-Match", value)]);
        assert_eq!((again.status, again.header("etag"), again.body.len()), (304, Some(etag), 0), "{value}");
    }
    assert_eq!(writ.site().discover(JWKS, &[("If-None-Match", "\"other\"")]).status, 200);
}

/// R-KEYS-06
#[test]
fn the_key_set_is_not_served_without_tls() {
    let writ = scene::shared_mailer();
    let mut plain = Connection::plain(writ.site().endpoints().discovery.unwrap()).unwrap();
    let request = format!("GET {JWKS} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(plain.send(request.as_bytes()).and_then(|()| plain.receive()).is_err());
}
