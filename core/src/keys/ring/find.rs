//! What the `kid` of a token means: which key, and when it signed.

use std::time::Duration;

use super::{KeyLife, KeyState, PublicKey, RetiredKey, Ring};
use writ_platform::clock::Timestamp;

/// What a `kid` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// In the JWKS: next, current or previous.
    Published(VerifyingKey),
    /// For redemption only.
    Historical(VerifyingKey),
    /// Revoked: validates nothing.
    Revoked,
    /// Ours, past its retention.
    Forgotten,
    /// Never ours.
    Unknown,
}

/// A key of ours, as one who verifies needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    /// The public half.
    pub public: PublicKey,
    /// Where in its life the key is.
    pub state: KeyState,
    /// The longest that a token lives which this key signed.
    pub longest_lifetime: Duration,
    /// The first second in which it signed; none for `next`.
    signs_from: Option<Timestamp>,
    /// The last second in which it signed; none while it signs.
    signs_until: Option<Timestamp>,
}

impl VerifyingKey {
    /// The first second in which it signed; none for `next`.
    pub fn signs_from(&self) -> Option<Timestamp> {
        self.signs_from
    }

    /// The last second in which it signed; none while it signs.
    pub fn signs_until(&self) -> Option<Timestamp> {
        self.signs_until
    }

    /// Whether the key signed at `iat`. A token from outside its span is forged (R-DELAY-09).
    pub fn signed_at(&self, iat: Timestamp) -> bool {
        self.signs_from.is_some_and(|from| from <= iat) && self.signs_until.is_none_or(|until| iat <= until)
    }

    fn waiting(public: PublicKey) -> Self {
        let longest_lifetime = Duration::ZERO;
        Self { public, state: KeyState::Next, longest_lifetime, signs_from: None, signs_until: None }
    }

    fn signing(key: RetiredKey) -> Self {
        Self { signs_until: None, ..Self::retired(key, KeyState::Current) }
    }

    fn retired(key: RetiredKey, state: KeyState) -> Self {
        Self {
            public: key.public,
            state,
            longest_lifetime: key.longest_lifetime,
            signs_from: Some(key.signed.from()),
            signs_until: Some(key.signed.until()),
        }
    }
}

impl Ring {
    /// What `kid` means here.
    pub fn find(&self, kid: &str) -> Found {
        match self.life(kid) {
            Some(KeyLife::Next { public, .. }) => Found::Published(VerifyingKey::waiting(public)),
            Some(KeyLife::Current(key)) => Found::Published(VerifyingKey::signing(key)),
            Some(KeyLife::Previous(key)) => Found::Published(VerifyingKey::retired(key, KeyState::Previous)),
            Some(KeyLife::Historical(key)) => Found::Historical(VerifyingKey::retired(key, KeyState::Historical)),
            Some(KeyLife::Revoked(_)) => Found::Revoked,
            Some(KeyLife::Forgotten { .. }) => Found::Forgotten,
            None => Found::Unknown,
        }
    }
}
