//! The metadata of the service (RFC 8414, RFC 8705 §5).

use serde::Serialize;

use crate::client::IdentityKind;
use crate::keys::SigningAlgorithm;
use crate::policy::PolicySet;
use crate::request::{CLIENT_CREDENTIALS, TOKEN_EXCHANGE, TYPE_PREFIX};

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

/// Subject token types that are taken here, without their prefix.
const SUBJECT_TOKEN_TYPES: [&str; 2] = ["access_token", "txn_token"];

#[derive(Serialize)]
struct Document<'a> {
    issuer: &'a str,
    token_endpoint: &'a str,
    jwks_uri: String,
    mtls_endpoint_aliases: Aliases<'a>,
    grant_types_supported: [&'static str; 2],
    token_endpoint_auth_methods_supported: Vec<&'static str>,
    /// There are none, but the member is required (R-META-04).
    response_types_supported: [&'static str; 0],
    txn_token_trust_domains_supported: [&'a str; 1],
    txn_token_subject_token_types_supported: Vec<String>,
    txn_token_signing_alg_values_supported: [&'static str; 1],
}

#[derive(Serialize)]
struct Aliases<'a> {
    token_endpoint: &'a str,
}

impl Settings {
    /// The document, with what the policies in force make true.
    #[expect(clippy::missing_panics_doc, reason = "text and lists of text always make JSON")]
    pub fn render(&self, policies: &PolicySet) -> Vec<u8> {
        let token_endpoint = format!("{}/token", self.issuer);
        let mut methods = vec!["tls_client_auth"];
        if policies.iter().any(|policy| policy.identity.kind() == IdentityKind::Thumbprints) {
            methods.push("self_signed_tls_client_auth");
        }
        let document = Document {
            issuer: &self.issuer,
            token_endpoint: &token_endpoint,
            jwks_uri: format!("{}/.well-known/jwks.json", self.discovery_url),
            mtls_endpoint_aliases: Aliases { token_endpoint: &token_endpoint },
            grant_types_supported: [TOKEN_EXCHANGE, CLIENT_CREDENTIALS],
            token_endpoint_auth_methods_supported: methods,
            response_types_supported: [],
            txn_token_trust_domains_supported: [&self.trust_domain],
            txn_token_subject_token_types_supported: SUBJECT_TOKEN_TYPES
                .map(|kind| format!("{TYPE_PREFIX}{kind}"))
                .to_vec(),
            txn_token_signing_alg_values_supported: [self.algorithm.as_str()],
        };
        serde_json::to_vec(&document).expect("text, and lists of text under fixed names, always make JSON")
    }
}
