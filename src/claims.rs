//! Grant and instant → the claims of a Txn-Token.

use writ_verifier::TrustDomain;

/// What is the same in every token (`[tokens]`).
#[derive(Debug, Clone)]
pub struct Settings {
    /// `aud`.
    pub trust_domain: TrustDomain,
    /// `iss`.
    pub issuer: String,
    /// Whether `iss` is written.
    pub include_iss: bool,
    /// The longest token that is issued, in bytes.
    pub max_size: usize,
    /// How often a transaction's token may be replaced.
    pub max_replacements: u32,
}
