//! Settings and policies → the metadata document of the service (RFC 8414, RFC 8705 §5).

use serde::Serialize;

use writ_core::client::IdentityKind;
use writ_core::keys::SigningAlgorithm;
use writ_core::policy::PolicySet;
use writ_core::request::{CLIENT_CREDENTIALS, TOKEN_EXCHANGE, subject_token_types};

/// The parts of the metadata that do not change while the service runs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `issuer`, and the base URL of the endpoints.
    pub(crate) issuer: String,
    /// The base URL of the JWKS.
    pub(crate) discovery_url: String,
    pub(crate) trust_domain: String,
    pub(crate) algorithm: SigningAlgorithm,
}

/// Only endpoints, grants and methods that the service has. Purposes are not published.
#[derive(Serialize)]
struct Document<'a> {
    issuer: &'a str,
    #[serde(flatten)]
    endpoints: &'a Endpoints,
    jwks_uri: String,
    /// The same ones, since every endpoint requires a certificate (RFC 8705 §5).
    mtls_endpoint_aliases: &'a Endpoints,
    grant_types_supported: [&'static str; 2],
    token_endpoint_auth_methods_supported: &'a [&'static str],
    introspection_endpoint_auth_methods_supported: &'a [&'static str],
    /// None, but the member is required (R-META-04).
    response_types_supported: [&'static str; 0],
    txn_token_trust_domains_supported: [&'a str; 1],
    txn_token_subject_token_types_supported: Vec<String>,
    txn_token_signing_alg_values_supported: [&'static str; 1],
}

#[derive(Serialize)]
struct Endpoints {
    token_endpoint: String,
    introspection_endpoint: String,
}

impl Settings {
    /// The document; its authentication methods depend on the policies in force.
    pub(crate) fn render(&self, policies: &PolicySet) -> Vec<u8> {
        let endpoints = Endpoints {
            token_endpoint: format!("{}/token", self.issuer),
            introspection_endpoint: format!("{}/introspect", self.issuer),
        };
        let mut methods = vec!["tls_client_auth"];
        if policies.iter().any(|policy| policy.identity.kind() == IdentityKind::Thumbprints) {
            methods.push("self_signed_tls_client_auth");
        }
        let document = Document {
            issuer: &self.issuer,
            endpoints: &endpoints,
            jwks_uri: format!("{}/.well-known/jwks.json", self.discovery_url),
            mtls_endpoint_aliases: &endpoints,
            grant_types_supported: [TOKEN_EXCHANGE, CLIENT_CREDENTIALS],
            token_endpoint_auth_methods_supported: &methods,
            introspection_endpoint_auth_methods_supported: &methods,
            response_types_supported: [],
            txn_token_trust_domains_supported: [&self.trust_domain],
            txn_token_subject_token_types_supported: subject_token_types(),
            txn_token_signing_alg_values_supported: [self.algorithm.as_str()],
        };
        serde_json::to_vec(&document).expect("text, and lists of text under fixed names, always make JSON")
    }
}
