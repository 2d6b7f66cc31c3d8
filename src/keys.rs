//! The key ring: signs claims, and knows which retired key may have signed a token.

use std::path::PathBuf;

use self::ring::KeyTimes;

pub mod public;
pub mod ring;
pub mod seal;
pub mod signing;

/// How keys are made, kept and replaced.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What new keys sign with.
    pub algorithm: SigningAlgorithm,
    /// When keys change.
    pub times: KeyTimes,
    /// The file with the key that seals private halves at rest.
    pub sealing_key: PathBuf,
    /// Files with sealing keys that are still read.
    pub previous_sealing_keys: Vec<PathBuf>,
}

/// How Txn-Tokens are signed (R-KEYS-01).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
    /// RSA PKCS#1 v1.5 with SHA-256, 2048 bits.
    RS256,
    /// RSA-PSS with SHA-256, 2048 bits.
    PS256,
}
