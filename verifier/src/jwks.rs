//! JWK sets (RFC 7517 §5): the public keys that may verify tokens.
//!
//! A set comes from another party, so each key is parsed on its own: an unusable key is skipped and reported by
//! [`KeySet::left_out`], and the usable keys remain in use. Only a text that is not a JSON object with one array `keys`
//! makes the whole set unusable.

mod jwk;
mod key;

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::{Limits, Members};
use crate::jws::Jws;

pub use self::jwk::JwkError;
pub use self::key::VerificationKey;

/// The maximum length of a key set in bytes: 1 MiB.
pub const DOCUMENT_MAX: usize = 1 << 20;

/// The maximum number of keys that are read from one set, usable or not; the rest is skipped.
pub const KEYS_MAX: usize = 1000;

/// The maximum number of keys of one type that may share a `kid`: each of them is tried on a token that names it.
pub const SHARED_KID_MAX: usize = 4;

/// How many unusable keys a message lists individually.
const LISTED_MAX: usize = 10;

/// Why a document is not a usable key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// The document is longer than [`DOCUMENT_MAX`].
    #[error("the key set is longer than 1 MiB")]
    TooLong,
    /// The document is not JSON, or not an object with one array `keys`.
    #[error("not a JWK set: a JSON object with an array `keys`")]
    Form,
    /// The set contains no usable key. The text lists the unusable keys with the reason for each.
    #[error("the key set has no usable key{0}")]
    Nothing(String),
}

/// A key of a set that is not used, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Index in the array `keys`, from 0.
    pub index: usize,
    /// `kid` of the key, if it is a string.
    pub kid: Option<String>,
    /// Why the key is not used.
    pub why: JwkError,
}

/// `keys[INDEX] (kid KID): REASON`. The publisher chooses the `kid`, so it is escaped and cut after 64 characters.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys[{}]", self.index)?;
        if let Some(kid) = &self.kid {
            let cut: String = kid.chars().take(64).collect();
            let more = if cut.len() < kid.len() { "…" } else { "" };
            write!(f, " (kid {}{more})", cut.escape_debug())?;
        }
        write!(f, ": {}", self.why)
    }
}

/// One line that lists the first [`LISTED_MAX`] keys with their reasons, and counts the rest.
fn describe<'a>(left_out: impl Iterator<Item = &'a LeftOut> + Clone) -> String {
    let mut parts: Vec<_> = left_out.clone().take(LISTED_MAX).map(ToString::to_string).collect();
    let more = left_out.skip(LISTED_MAX).count();
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    parts.join("; ")
}

/// Why a set has no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// No key has this `kid`; or the token has no `kid`, and the set does not have exactly one key.
    #[error("the key is not in the set")]
    Unknown,
    /// Keys with this `kid` exist, but none of them may be used with the token's algorithm.
    #[error("the algorithm does not fit the key")]
    Unfit,
}

/// The keys that may have signed a token: more than one only if the set has several keys with the same `kid`.
#[derive(Debug, Clone)]
pub struct Candidates(Vec<Arc<VerificationKey>>);

impl Candidates {
    /// Whether one of the keys verifies the signature of `jws`, with an algorithm that this key allows.
    pub fn verify(&self, jws: &Jws<'_>) -> bool {
        self.find_signer(jws).is_some()
    }

    /// The key that verifies the signature of `jws`, with an algorithm that this key allows.
    pub fn find_signer(&self, jws: &Jws<'_>) -> Option<&Arc<VerificationKey>> {
        self.0.iter().find(|key| key.verify_jws(jws))
    }

    /// Whether `key` itself is one of the keys. A key of another set is not, even if it is equal.
    pub fn contains(&self, key: &Arc<VerificationKey>) -> bool {
        self.0.iter().any(|candidate| Arc::ptr_eq(candidate, key))
    }
}

impl From<VerificationKey> for Candidates {
    fn from(key: VerificationKey) -> Self {
        Self(vec![Arc::new(key)])
    }
}

/// The usable keys of a JWK set; at least one.
#[derive(Debug, Clone)]
pub struct KeySet {
    keys: Vec<Arc<VerificationKey>>,
    left_out: Vec<LeftOut>,
}

impl KeySet {
    /// Parses a JWK set. Keys that cannot be used are skipped; see [`KeySet::left_out`].
    ///
    /// # Errors
    /// [`JwksError`] if the document is too long, is not a JWK set, or contains no usable key.
    pub fn parse(document: &[u8]) -> Result<Self, JwksError> {
        #[derive(Deserialize)]
        struct Document<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        if document.len() > DOCUMENT_MAX {
            return Err(JwksError::TooLong);
        }
        let text = std::str::from_utf8(document).map_err(|_| JwksError::Form)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text); // RFC 8259 §8.1
        // The derived deserializer would also accept an array.
        let document: Document<'_> = Some(text)
            .filter(|text| text.trim_start().starts_with('{'))
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or(JwksError::Form)?;
        let mut set = Self { keys: Vec::new(), left_out: Vec::new() };
        for (index, jwk) in document.keys.iter().take(KEYS_MAX).enumerate() {
            set.add(index, jwk.get());
        }
        if document.keys.len() > KEYS_MAX {
            set.left_out.push(LeftOut { index: KEYS_MAX, kid: None, why: JwkError::TooMany });
        }
        if set.keys.is_empty() {
            let reasons = describe(set.left_out.iter());
            return Err(JwksError::Nothing(if reasons.is_empty() { reasons } else { format!(": {reasons}") }));
        }
        Ok(set)
    }

    /// The keys for a token with this `kid` and `alg`. A token without `kid` matches only a set with exactly one key.
    ///
    /// # Errors
    /// [`NoKey`] if no key matches, or if none of the matching keys allows `algorithm`.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Candidates, NoKey> {
        let matches_kid = |key: &&Arc<VerificationKey>| match kid {
            Some(kid) => key.kid() == Some(kid),
            None => self.keys.len() == 1,
        };
        let mut matching = self.keys.iter().filter(matches_kid).peekable();
        matching.peek().ok_or(NoKey::Unknown)?;
        let fitting: Vec<_> = matching.filter(|key| key.fits(algorithm)).cloned().collect();
        if fitting.is_empty() { Err(NoKey::Unfit) } else { Ok(Candidates(fitting)) }
    }

    /// The usable keys in the order of the document.
    pub fn keys(&self) -> impl Iterator<Item = &VerificationKey> {
        self.keys.iter().map(AsRef::as_ref)
    }

    /// One line for the log: the keys that are not used, each with the reason. `None` if every key is used, apart from
    /// those for certificates ([`JwkError::Certificates`]).
    pub fn left_out(&self) -> Option<String> {
        let unexpected = self.left_out.iter().filter(|left_out| left_out.why != JwkError::Certificates);
        Some(describe(unexpected)).filter(|text| !text.is_empty())
    }

    fn add(&mut self, index: usize, jwk: &str) {
        let members = Members::parse(jwk, Limits::DEFAULT);
        let kid = members.as_ref().ok().and_then(|members| members.get("kid"));
        let key = members.map_err(|_| JwkError::Form).and_then(|members| VerificationKey::from_members(&members));
        let key = key.and_then(|key| {
            let sharing = self.keys.iter().filter(|other| other.shares_kid_with(&key)).count();
            let is_crowded = key.kid().is_some() && sharing >= SHARED_KID_MAX;
            if is_crowded { Err(JwkError::Crowded) } else { Ok(key) }
        });
        match key {
            Ok(key) => {
                if !self.keys.iter().any(|other| key.is_duplicate_of(other)) {
                    self.keys.push(Arc::new(key));
                }
            }
            Err(why) => self.left_out.push(LeftOut { index, kid, why }),
        }
    }
}

#[cfg(test)]
mod tests;
