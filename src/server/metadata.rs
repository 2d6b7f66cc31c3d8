//! The metadata of the service (RFC 8414, RFC 8705 §5).

use serde::Serialize;

use writ_core::client::IdentityKind;
use writ_core::keys::SigningAlgorithm;
use writ_core::policy::PolicySet;
use writ_core::request::{CLIENT_CREDENTIALS, TOKEN_EXCHANGE, subject_token_types};

/// What the metadata say that does not change while the service runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `iss`, and the base of the addresses.
    pub issuer: String,
    /// The base of the JWKS' address.
    pub discovery_url: String,
    /// The trust domain.
    pub trust_domain: String,
    /// What tokens are signed with.
    pub algorithm: SigningAlgorithm,
}

/// What is true of the service and nothing else: no endpoint, grant or method that is not there, and no purposes, which
/// are nobody's business.
#[derive(Serialize)]
struct Document<'a> {
    issuer: &'a str,
    #[serde(flatten)]
    endpoints: &'a Endpoints,
    jwks_uri: String,
    /// All endpoints ask for a certificate, so these are the same ones (RFC 8705 §5).
    mtls_endpoint_aliases: &'a Endpoints,
    grant_types_supported: [&'static str; 2],
    token_endpoint_auth_methods_supported: &'a [&'static str],
    introspection_endpoint_auth_methods_supported: &'a [&'static str],
    /// There are none, but the member is required (R-META-04).
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
    /// The document, with what the policies in force make true.
    #[expect(clippy::missing_panics_doc, reason = "text and lists of text always make JSON")]
    pub fn render(&self, policies: &PolicySet) -> Vec<u8> {
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
