//! The settings of a valid `writ.toml`, for each module.

use std::time::Duration;

use writ_core::subject::settings::IssuerSettings;
use writ_core::{claims, keys, limits};
use writ_verifier::TrustDomain;

use super::document::Places;
use super::policy;
use crate::server;

/// All settings of one service, consistent with each other: a file with an error yields none.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// `aud` of every Txn-Token.
    pub(crate) trust_domain: TrustDomain,
    /// `iss`, `aud` of self-signed subject tokens, and the base of the service's addresses: `https://host:port`.
    pub(crate) issuer: String,
    /// The base of the address of the JWKS, for the metadata.
    pub(crate) discovery_url: String,
    /// Addresses, TLS and bounds of the listeners.
    pub(crate) listener: server::Settings,
    /// The claims that are the same in every token.
    pub(crate) claims: claims::Settings,
    /// How far the clocks of subject issuers may differ; at most two minutes (R-SUBJ-06).
    pub(crate) clock_skew: Duration,
    /// How long verifiers may cache the JWKS and the metadata.
    pub(crate) jwks_max_age: Duration,
    /// Algorithm, rotation and sealing of the signing keys.
    pub(crate) keys: keys::Settings,
    /// The folder of the store.
    pub(crate) store: writ_store::Settings,
    /// The folder of the policies, and the limits on what they may allow.
    pub(crate) policies: policy::Settings,
    pub(crate) limits: limits::Settings,
    pub(crate) pdp: Option<writ_outbound::Settings>,
    /// The issuers of the tokens that are exchanged.
    pub(crate) subject_issuers: Vec<IssuerSettings>,
    /// The line of each key, for problems of the files that the keys name.
    pub(crate) places: Places,
}
