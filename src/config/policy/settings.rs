//! The settings by which policies are read and checked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use writ_core::request::Source;

/// The folder of the policies, and the settings that limit what they may allow.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder with one file a client.
    pub directory: PathBuf,
    /// The lifetime of tokens whose purpose has none.
    pub default_lifetime: Duration,
    /// The upper bound of every lifetime.
    pub max_lifetime: Duration,
    /// How long historical public keys are kept: what can be redeemed must be younger.
    pub retention: Duration,
    /// The kinds of token that some subject issuer is configured for.
    pub outside_sources: Vec<Source>,
    /// The subject issuers that can be asked about opaque access tokens.
    pub introspecting_issuers: Vec<String>,
    /// Whether there is an external decision point.
    pub pdp: bool,
}

impl Settings {
    /// Whether some client can use this source: an outside one needs an issuer.
    pub(super) fn has(&self, source: Source) -> bool {
        !source.is_outside() || self.outside_sources.contains(&source)
    }
}

/// Reads a file that a policy names, or says why it cannot be read.
pub(super) type ReadNamed<'a> = &'a dyn Fn(&Path) -> Result<Vec<u8>, String>;

#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) settings: &'a Settings,
    pub(super) read: ReadNamed<'a>,
}
