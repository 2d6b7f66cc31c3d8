//! Fixtures for the tests of subject tokens: an issuer, a client, and the claims of a valid token.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::settings::{AccessTokenProfile, IssuerSettings, KeySource};
use crate::client::{Identity, IdentityKind};
use crate::policy::{ClientPolicy, PolicySet};
use crate::request::Source;
use writ_platform::clock::Timestamp;

pub(super) const NOW: Timestamp = Timestamp::from_epoch(1_793_000_000);
pub(super) const SKEW: Duration = Duration::from_secs(10);
pub(super) const ISSUER: &str = "https://login.example";

pub(super) fn settings(issuer: &str, keys: KeySource) -> IssuerSettings {
    IssuerSettings {
        issuer: issuer.to_owned(),
        keys,
        audience: vec!["https://api.example".to_owned(), "https://api2.example".to_owned()],
        algorithms: vec![Algorithm::ES256],
        token_types: vec![Source::AccessToken],
        access_token_profile: AccessTokenProfile::Rfc9068,
        id_token_audience: Vec::new(),
        subject_claim: "sub".to_owned(),
        scope_claim: "scope".to_owned(),
        subject_prefix: String::new(),
        scopes: Vec::new(),
        jwks_stale: Duration::from_secs(86_400),
        ca: None,
        introspection: None,
    }
}

pub(super) fn client() -> ClientPolicy {
    ClientPolicy {
        client_id: "gateway".parse().unwrap(),
        description: None,
        identity: Identity::parse(IdentityKind::SanUri, "spiffe://d.example/gateway").unwrap(),
        subject: "svc:gateway".parse().unwrap(),
        introspect: false,
        subject_token_audience: Vec::new(),
        vouches_for_bound_tokens: false,
        opaque_tokens_from: None,
        keys: None,
        purposes: Vec::new(),
    }
}

pub(super) fn policies() -> PolicySet {
    PolicySet::new(vec![client()], String::new())
}

/// The claims of a valid RFC 9068 token.
pub(super) fn good() -> Value {
    json!({
        "iss": ISSUER, "sub": "alice", "aud": "https://api.example", "client_id": "web", "jti": "1",
        "iat": NOW.epoch() - 5, "exp": NOW.epoch() + 300, "scope": "trade.stocks mail"
    })
}
