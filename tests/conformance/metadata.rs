//! What the service says of itself (area META).

use serde_json::{Value, json};

use crate::support::ISSUER;
use crate::support::workload::{Form, TOKEN_EXCHANGE};
use crate::support::writ::{Setup, Writ};

const PATH: &str = "/.well-known/oauth-authorization-server";

const MAILER: &str = r#"
introspect = true
[[purpose]]
scope = "mailbox.deliver"
accept = ["client_credentials"]
"#;

/// The members that RFC 8414 and RFC 8705 know.
const STANDARD: [&str; 9] = [
    "issuer",
    "token_endpoint",
    "introspection_endpoint",
    "jwks_uri",
    "mtls_endpoint_aliases",
    "grant_types_supported",
    "token_endpoint_auth_methods_supported",
    "introspection_endpoint_auth_methods_supported",
    "response_types_supported",
];

fn start() -> Writ {
    Setup::new().client("mailer", MAILER).start()
}

fn metadata(writ: &Writ) -> Value {
    writ.site().discover(PATH, &[]).json()
}

/// R-META-01
#[test]
fn metadata_are_at_the_well_known_path() {
    let writ = start();
    assert_eq!(writ.site().discover(PATH, &[]).status, 200);
    // An issuer has no path here (CONTRACT 6), so there is no second place.
    Setup::new().set("issuer", "https://localhost:8443/path").run(&["check"]).exits(2).says("issuer");
    assert_eq!(writ.site().discover(&format!("{PATH}/path"), &[]).status, 404);
}

/// R-META-02
#[test]
fn the_issuer_is_the_https_url_of_the_tokens() {
    let writ = start();
    assert_eq!(metadata(&writ)["issuer"], ISSUER);
    let issued = writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued();
    assert_eq!(issued.claims["iss"], ISSUER);
    for issuer in ["http://localhost:8443", "https://localhost:8443?x=1", "https://localhost:8443#x"] {
        Setup::new().set("issuer", issuer).run(&["check"]).exits(2).says("issuer");
    }
}

/// R-META-03
#[test]
fn endpoints_grants_and_methods_are_named_and_only_those_there_are() {
    let metadata = metadata(&start());
    assert_eq!(metadata["token_endpoint"], format!("{ISSUER}/token"));
    assert_eq!(metadata["jwks_uri"], "https://localhost:8444/.well-known/jwks.json");
    for absent in
        ["authorization_endpoint", "registration_endpoint", "token_endpoint_auth_signing_alg_values_supported"]
    {
        assert_eq!(metadata.get(absent), None, "{absent}");
    }
    let mut grants = metadata["grant_types_supported"].as_array().unwrap().clone();
    grants.sort_by_key(ToString::to_string);
    assert_eq!(grants, [json!("client_credentials"), json!(TOKEN_EXCHANGE)]);
    assert_eq!(metadata["token_endpoint_auth_methods_supported"], json!(["tls_client_auth"]));
}

/// R-META-03
#[test]
fn self_signed_certificates_are_a_method_where_a_policy_takes_them() {
    let thumbprint = "A".repeat(43);
    let policy = format!("client_id = \"pinned\"\nself_signed_tls_client_auth_x5t_s256 = [\"{thumbprint}\"]\n");
    let writ = Setup::new().policy("pinned.toml", &policy).start();
    let methods = metadata(&writ)["token_endpoint_auth_methods_supported"].clone();
    assert!(methods.as_array().unwrap().contains(&json!("self_signed_tls_client_auth")), "{methods}");
}

/// R-META-04
#[test]
fn there_are_no_response_types_and_the_member_says_so() {
    assert_eq!(metadata(&start())["response_types_supported"], json!([]));
}

/// R-META-05
#[test]
fn the_mtls_aliases_name_the_endpoints_that_want_a_certificate() {
    let writ = start();
    let aliases = metadata(&writ)["mtls_endpoint_aliases"].clone();
    let endpoint = |path: &str| format!("{ISSUER}{path}");
    assert_eq!(
        aliases,
        json!({"token_endpoint": endpoint("/token"), "introspection_endpoint": endpoint("/introspect")})
    );
    let mut session = writ.workload("mailer").connect();
    for alias in aliases.as_object().unwrap().values() {
        let path = alias.as_str().unwrap().strip_prefix(ISSUER).unwrap();
        session.get("GET", path).refused(405, "invalid_request", "method_not_allowed");
    }
    assert!(writ.stranger().try_connect().and_then(|mut session| session.connection.receive()).is_err());
}

/// R-META-06: Txn-Tokens are never bound to a certificate, and there are no others.
#[test]
fn no_token_is_said_to_be_bound_to_a_certificate() {
    let writ = start();
    let name = "tls_client_certificate_bound_access_tokens";
    assert!(metadata(&writ).get(name).is_none_or(|bound| *bound == json!(false)));
    let issued = writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued();
    assert_eq!(issued.claims.get("cnf"), None);
}

/// R-META-07
#[test]
fn introspection_is_announced_and_purposes_are_not() {
    let metadata = metadata(&start());
    assert_eq!(metadata["introspection_endpoint"], format!("{ISSUER}/introspect"));
    assert_eq!(metadata["introspection_endpoint_auth_methods_supported"], json!(["tls_client_auth"]));
    for absent in ["introspection_endpoint_auth_signing_alg_values_supported", "scopes_supported"] {
        assert_eq!(metadata.get(absent), None, "{absent}");
    }
    assert!(!metadata.to_string().contains("mailbox.deliver"));
}

/// R-META-08
#[test]
fn own_members_have_a_prefix_and_redemption_is_not_told() {
    let batch = "[[purpose]]\nscope = \"mailbox.deliver\"\naccept = [\"expired_txn_token\"]\n\
                 [purpose.redemption]\nissued_to = [\"mailer\"]\nmax_age = \"1d\"\n";
    let metadata = metadata(&Setup::new().client("mailer", MAILER).client("batch", batch).start());
    assert_eq!(metadata["txn_token_trust_domains_supported"], json!(["trust-domain.example"]));
    assert_eq!(metadata["txn_token_signing_alg_values_supported"], json!(["ES256"]));
    let types = metadata["txn_token_subject_token_types_supported"].as_array().unwrap();
    assert!(types.contains(&json!("urn:ietf:params:oauth:token-type:access_token")), "{types:?}");
    assert!(!types.contains(&json!("urn:ietf:params:oauth:token-type:refresh_token")), "{types:?}");
    let mut own = metadata.as_object().unwrap().keys().filter(|name| !STANDARD.contains(&name.as_str()));
    assert!(own.all(|name| name.starts_with("txn_token_") && !name.contains("redemption")), "{metadata}");
}

/// R-META-09
#[test]
fn metadata_are_cacheable_json_over_tls() {
    let writ = Setup::new().client("mailer", MAILER).set("tokens.jwks_max_age", "7m").start();
    let response = writ.site().discover(PATH, &[]);
    assert_eq!((response.status, response.header("cache-control")), (200, Some("public, max-age=420")));
    assert!(response.header("content-type").unwrap().starts_with("application/json"));
}

/// R-META-09: what workloads are told.
#[test]
fn the_documentation_says_where_workloads_take_their_configuration_from() {
    let text = include_str!("../../docs/how-to/run-in-production.md");
    assert!(text.contains("list of instances"), "a section for workloads");
}
