//! What a sound `writ.toml` says: the settings of every module.

use std::time::Duration;

use writ_core::subject::settings::IssuerSettings;
use writ_core::{claims, keys, limits};
use writ_verifier::TrustDomain;

use super::document::Places;
use super::policy;
use crate::server;

/// All settings of one service. They fit one another: a file with an error makes none.
#[derive(Debug, Clone)]
pub struct Config {
    /// `aud` of every Txn-Token.
    pub trust_domain: TrustDomain,
    /// `iss`, `aud` of self-signed subject tokens, and the base of the service's addresses: `https://host:port`.
    pub issuer: String,
    /// The base of the address of the JWKS, for the metadata.
    pub discovery_url: String,
    /// Addresses, TLS and bounds of the listeners.
    pub listener: server::Settings,
    /// What is the same in every token.
    pub claims: claims::Settings,
    /// How far the clocks of subject issuers may differ; at most two minutes (R-SUBJ-06).
    pub clock_skew: Duration,
    /// How long verifiers may keep the JWKS and the metadata.
    pub jwks_max_age: Duration,
    /// The upper bound of every lifetime.
    pub max_lifetime: Duration,
    /// How keys are made, kept and replaced.
    pub keys: keys::Settings,
    /// Where the records are.
    pub store: writ_store::Settings,
    /// Where the policies are, and what they may say.
    pub policies: policy::Settings,
    /// How many requests a client may make.
    pub limits: limits::Settings,
    /// The external decision point.
    pub pdp: Option<writ_outbound::Settings>,
    /// The issuers of the tokens that are exchanged.
    pub subject_issuers: Vec<IssuerSettings>,
    /// Where each key stands in the file, for problems of the files that it names.
    pub(crate) places: Places,
}
