//! The settings by which policies are read and checked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use writ_core::policy::condition::{Condition, ConditionError};
use writ_core::policy::schema::Schema;
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
pub(super) type ReadNamed<'a> = &'a (dyn Fn(&Path) -> Result<Vec<u8>, String> + Sync);

/// What all policies of one folder are read with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) settings: &'a Settings,
    pub(super) read: ReadNamed<'a>,
    pub(super) compiled: &'a Compiled,
}

/// What was compiled already: many policies name the same schema, or have the same condition.
#[derive(Default)]
pub(super) struct Compiled {
    schemas: Mutex<HashMap<PathBuf, Arc<Schema>>>,
    conditions: Mutex<HashMap<String, Arc<Condition>>>,
}

impl Compiled {
    pub(super) fn schema(&self, path: &Path, read: ReadNamed<'_>) -> Result<Arc<Schema>, String> {
        let known = || self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(schema) = known().get(path) {
            return Ok(Arc::clone(schema));
        }
        let schema = Arc::new(Schema::parse(&read(path)?).map_err(|cause| cause.to_string())?);
        known().insert(path.to_owned(), Arc::clone(&schema));
        Ok(schema)
    }

    pub(super) fn condition(&self, source: &str) -> Result<Arc<Condition>, ConditionError> {
        let known = || self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(condition) = known().get(source) {
            return Ok(Arc::clone(condition));
        }
        let condition = Arc::new(Condition::compile(source)?);
        known().insert(source.to_owned(), Arc::clone(&condition));
        Ok(condition)
    }
}
