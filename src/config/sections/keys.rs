//! `[keys]`: algorithm, rotation and sealing of the signing keys.

use std::path::PathBuf;
use std::time::Duration;

use writ_core::keys::SigningAlgorithm;
use writ_core::keys::ring::KeyTimes;

use super::tokens::Tokens;
use crate::config::document::Section;

pub(crate) struct Keys {
    pub(crate) algorithm: SigningAlgorithm,
    pub(crate) retention: Duration,
    /// `None` if the times contradict each other.
    pub(crate) times: Option<KeyTimes>,
    pub(crate) sealing: PathBuf,
    pub(crate) previous_sealing: Vec<PathBuf>,
}

const ALGORITHMS: [(&str, SigningAlgorithm); 5] = [
    ("ES256", SigningAlgorithm::ES256),
    ("ES384", SigningAlgorithm::ES384),
    ("EdDSA", SigningAlgorithm::EdDSA),
    ("RS256", SigningAlgorithm::RS256),
    ("PS256", SigningAlgorithm::PS256),
];

pub(crate) fn read(keys: &mut Section<'_>, tokens: &Tokens) -> Keys {
    let rotation_period = keys.or_default("rotation_period", Section::duration);
    let retention = keys.or_default("retention", Section::duration);
    let times = KeyTimes::new(rotation_period, tokens.jwks_max_age, tokens.max_lifetime, retention);
    if let Err(cause) = &times {
        keys.error("rotation_period", cause);
    }
    Keys {
        algorithm: keys.or_default("algorithm", |keys, key| keys.choice(key, &ALGORITHMS)),
        retention,
        times: times.ok(),
        sealing: keys.or_default("sealing_key", Section::path),
        previous_sealing: keys.or_default("previous_sealing_keys", Section::paths),
    }
}
