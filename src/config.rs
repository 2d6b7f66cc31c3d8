//! `writ.toml` → settings that can work.
//!
//! Each room defines its own `Settings`; they are read, checked against one another and handed out here. A [`Config`]
//! exists only if nothing in the file is wrong; all that is wrong is told in one run.

mod certificate;
pub mod document;
pub mod environment;
pub mod file;
pub mod files;
mod issuer;
pub mod policy;
pub mod problem;

use std::path::Path;
use std::time::Duration;

pub use problem::{Problem, Severity};
use writ_verifier::TrustDomain;

use self::document::Places;
use writ_core::subject::issuers;
use writ_core::{claims, keys, limits};

use crate::server;

/// All settings of one service.
#[derive(Debug, Clone)]
pub struct Config {
    /// `aud` of every Txn-Token.
    pub trust_domain: TrustDomain,
    /// `iss`, `aud` of self-signed subject tokens, and the base of the service's addresses: `https://host:port`.
    pub issuer: String,
    /// The base of the address of the JWKS, for the metadata.
    pub discovery_url: String,
    /// Where and how the service listens.
    pub listener: server::Settings,
    /// What is the same in every token.
    pub claims: claims::Settings,
    /// How far the clocks of subject issuers may differ; at most two minutes (R-SUBJ-06).
    pub clock_skew: Duration,
    /// How long verifiers may keep the JWKS and the metadata.
    pub jwks_max_age: Duration,
    /// The ceiling of every lifetime.
    pub max_lifetime: Duration,
    /// How keys are made, kept and replaced.
    pub keys: keys::Settings,
    /// Where the records are.
    pub store: writ_store::Settings,
    /// Where the policies are, and what they may say.
    pub policies: policy::file::Settings,
    /// How many requests a client may make.
    pub limits: limits::Settings,
    /// Who may still say no to what the policies allow.
    pub pdp: Option<writ_outbound::Settings>,
    /// Who signs the tokens that are exchanged.
    pub subject_issuers: Vec<issuers::Settings>,
    /// Where each key stands in the file, for complaints about the files that it names.
    pub places: Places,
}

impl Config {
    /// Reads the file at `path`; variables of `environment` that name a setting stand in for what it says. With the
    /// settings come the warnings.
    ///
    /// # Errors
    /// Everything that is wrong, warnings too.
    pub fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let reading = file::read(path, environment);
        match reading.config {
            Some(config) => Ok((*config, reading.problems)),
            None => Err(reading.problems),
        }
    }
}
