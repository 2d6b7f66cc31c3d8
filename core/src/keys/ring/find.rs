//! Looks up the `kid` of a token: which key it is, and when it signed.

use std::time::Duration;

use super::{KeyLife, KeyState, PublicKey, RetiredKey, Ring};
use writ_platform::clock::Timestamp;

/// The result of looking up a `kid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A key in the JWKS: next, current or previous.
    Published(VerifyingKey),
    /// A key that validates tokens for redemption only.
    Historical(VerifyingKey),
    /// A revoked key, which validates nothing.
    Revoked,
    /// A key of this ring that is past its retention.
    Forgotten,
    /// Never a key of this ring.
    Unknown,
}

/// A key of this ring, with the facts needed for verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    /// The public half.
    pub public: PublicKey,
    /// The state of the key.
    pub state: KeyState,
    /// The maximum lifetime of tokens that this key signed.
    pub(crate) max_lifetime: Duration,
    /// The first second in which it signed; `None` for `next`.
    signs_from: Option<Timestamp>,
    /// The last second in which it signed; `None` while it signs.
    signs_until: Option<Timestamp>,
}

impl VerifyingKey {
    /// The first second in which it signed; `None` for `next`.
    pub(crate) fn signs_from(&self) -> Option<Timestamp> {
        self.signs_from
    }

    /// The last second in which it signed; `None` while it signs.
    pub(crate) fn signs_until(&self) -> Option<Timestamp> {
        self.signs_until
    }

    /// Whether `iat` is in the key's span, for tests; `SignedBy::signed_within` checks tokens (R-DELAY-09).
    #[cfg(test)]
    pub(crate) fn signed_at(&self, iat: Timestamp) -> bool {
        self.signs_from.is_some_and(|from| from <= iat) && self.signs_until.is_none_or(|until| iat <= until)
    }

    fn waiting(public: PublicKey) -> Self {
        let max_lifetime = Duration::ZERO;
        Self { public, state: KeyState::Next, max_lifetime, signs_from: None, signs_until: None }
    }

    fn signing(key: RetiredKey) -> Self {
        Self { signs_until: None, ..Self::retired(key, KeyState::Current) }
    }

    fn retired(key: RetiredKey, state: KeyState) -> Self {
        Self {
            public: key.public,
            state,
            max_lifetime: key.longest_lifetime,
            signs_from: Some(key.signed.from()),
            signs_until: Some(key.signed.until()),
        }
    }
}

impl Ring {
    /// Looks up a key by its `kid`.
    pub(crate) fn find(&self, kid: &str) -> Found {
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
