//! The life of one key, without its private half: the basis of listings, key files and rebuilt rings.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CurrentKey, KeyTimes, Kid, PastKey, PublicKey, RetiredKey, RevokedKey, Ring, SigningKey, Span};
use writ_platform::clock::Timestamp;

/// The state in the life of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Published, does not sign yet.
    Next,
    /// Signs.
    Current,
    /// Published, no longer signs.
    Previous,
    /// Not published, validates tokens for redemption.
    Historical,
    /// Validates nothing.
    Revoked,
    /// Past its retention; only its `kid` is known.
    Forgotten,
}

impl KeyState {
    /// The states of keys of which more than the `kid` is known.
    pub const KNOWN: [Self; 5] = [Self::Next, Self::Current, Self::Previous, Self::Historical, Self::Revoked];

    /// The name in metrics, listings and records.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Current => "current",
            Self::Previous => "previous",
            Self::Historical => "historical",
            Self::Revoked => "revoked",
            Self::Forgotten => "forgotten",
        }
    }
}

/// Everything that is known of one key, except its private half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum KeyLife {
    /// Has never signed.
    Next {
        /// The public half.
        public: PublicKey,
        /// When it was generated.
        created_at: Timestamp,
    },
    /// Signs. The end of its span is the planned one.
    Current(RetiredKey),
    /// Published, no longer signs.
    Previous(RetiredKey),
    /// Not published, validates tokens for redemption.
    Historical(RetiredKey),
    /// Validates nothing.
    Revoked(RevokedKey),
    /// Past its retention.
    Forgotten {
        /// The only remaining fact.
        kid: Kid,
    },
}

impl KeyLife {
    /// A key that signed elsewhere.
    pub(crate) fn historical(public: PublicKey, signed: Span, longest_lifetime: Duration) -> Self {
        Self::Historical(RetiredKey { public, created_at: signed.from, signed, longest_lifetime })
    }

    /// A key that was revoked elsewhere, known since `now`.
    pub(crate) fn revoked(public: PublicKey, signed: Option<Span>, now: Timestamp) -> Self {
        let created_at = signed.map_or(now, Span::from);
        Self::Revoked(RevokedKey { public, created_at, signed, revoked_at: now })
    }

    /// The key id, known of every key.
    pub(crate) fn kid(&self) -> &Kid {
        match self {
            Self::Forgotten { kid } => kid,
            Self::Next { public, .. } => public.kid(),
            Self::Current(key) | Self::Previous(key) | Self::Historical(key) => key.public.kid(),
            Self::Revoked(key) => key.public.kid(),
        }
    }

    /// The state of the key.
    pub(crate) fn state(&self) -> KeyState {
        match self {
            Self::Next { .. } => KeyState::Next,
            Self::Current(_) => KeyState::Current,
            Self::Previous(_) => KeyState::Previous,
            Self::Historical(_) => KeyState::Historical,
            Self::Revoked(_) => KeyState::Revoked,
            Self::Forgotten { .. } => KeyState::Forgotten,
        }
    }

    /// The public half; `None` for a forgotten key.
    pub(crate) fn public(&self) -> Option<&PublicKey> {
        match self {
            Self::Forgotten { .. } => None,
            Self::Next { public, .. } => Some(public),
            Self::Current(key) | Self::Previous(key) | Self::Historical(key) => Some(&key.public),
            Self::Revoked(key) => Some(&key.public),
        }
    }

    /// When it was generated; `None` for a forgotten key.
    pub(crate) fn created_at(&self) -> Option<Timestamp> {
        match self {
            Self::Forgotten { .. } => None,
            Self::Next { created_at, .. } => Some(*created_at),
            Self::Current(key) | Self::Previous(key) | Self::Historical(key) => Some(key.created_at),
            Self::Revoked(key) => Some(key.created_at),
        }
    }

    /// The span in which it signed; for `current` until the planned end.
    pub(crate) fn signed(&self) -> Option<Span> {
        match self {
            Self::Next { .. } | Self::Forgotten { .. } => None,
            Self::Current(key) | Self::Previous(key) | Self::Historical(key) => Some(key.signed),
            Self::Revoked(key) => key.signed,
        }
    }
}

impl Ring {
    /// The life of every key: first the published ones, then the past.
    pub(crate) fn lives(&self) -> impl Iterator<Item = KeyLife> {
        let past = self.past.iter().map(|(kid, key)| key.life(kid));
        [self.next.key.life(), self.current.life()].into_iter().chain(self.previous_life()).chain(past)
    }

    /// The life of the key with this `kid`; `None` if it was never in this ring.
    pub(crate) fn life(&self, kid: &str) -> Option<KeyLife> {
        if self.next.key.is(kid) {
            Some(self.next.key.life())
        } else if self.current.key.is(kid) {
            Some(self.current.life())
        } else {
            let past = || self.past.get_key_value(kid).map(|(kid, key)| key.life(kid));
            self.previous_life().filter(|life| life.kid().as_str() == kid).or_else(past)
        }
    }

    fn previous_life(&self) -> Option<KeyLife> {
        self.previous.clone().map(KeyLife::Previous)
    }

    /// A ring that starts at `now` with the known lives of earlier keys: the one that signed last stays published as
    /// `previous`, the others that signed become historical, revoked and forgotten ones stay so.
    pub(crate) fn rebuilt(
        lives: impl IntoIterator<Item = KeyLife>,
        current: SigningKey,
        next: SigningKey,
        times: KeyTimes,
        now: Timestamp,
    ) -> Self {
        let (past, mut retired) = past_and_retired(lives, now);
        let mut ring = Self { past, ..Self::first(current, next, times, now) };
        retired.sort_by_key(|key| key.signed.from);
        ring.previous = retired.pop();
        ring.past.extend(retired.into_iter().map(|key| (key.public.kid().clone(), PastKey::Historical(key))));
        ring.replan(times);
        ring
    }

    /// Adds keys from elsewhere to the history; keys that are already in the ring are not changed. Also returns the number
    /// of added keys.
    #[must_use]
    pub(crate) fn import(&self, lives: impl IntoIterator<Item = KeyLife>, now: Timestamp) -> (Self, usize) {
        let mut ring = self.following();
        let strangers = lives.into_iter().filter(|life| self.life(life.kid().as_str()).is_none());
        let (past, retired) = past_and_retired(strangers, now);
        ring.past.extend(past);
        ring.past.extend(retired.into_iter().map(|key| (key.public.kid().clone(), PastKey::Historical(key))));
        let added = ring.past.len() - self.past.len();
        (ring, added)
    }
}

impl SigningKey {
    fn life(&self) -> KeyLife {
        KeyLife::Next { public: self.public.clone(), created_at: self.created_at }
    }
}

impl CurrentKey {
    fn life(&self) -> KeyLife {
        KeyLife::Current(self.clone().retire(self.planned_until))
    }
}

impl PastKey {
    fn life(&self, kid: &Kid) -> KeyLife {
        match self.clone() {
            Self::Historical(key) => KeyLife::Historical(key),
            Self::Revoked(key) => KeyLife::Revoked(key),
            Self::Forgotten => KeyLife::Forgotten { kid: kid.clone() },
        }
    }
}

/// Splits lives into past keys, and keys that signed and may still validate tokens. Keys that never signed are dropped.
fn past_and_retired(
    lives: impl IntoIterator<Item = KeyLife>,
    now: Timestamp,
) -> (BTreeMap<Kid, PastKey>, Vec<RetiredKey>) {
    let (mut past, mut retired) = (BTreeMap::new(), Vec::new());
    for life in lives {
        match life {
            KeyLife::Next { .. } => {}
            KeyLife::Current(key) | KeyLife::Previous(key) | KeyLife::Historical(key) => {
                retired.push(RetiredKey { signed: key.signed.cut(now), ..key });
            }
            KeyLife::Revoked(key) => {
                past.insert(key.public.kid().clone(), PastKey::Revoked(key));
            }
            KeyLife::Forgotten { kid } => {
                past.insert(kid, PastKey::Forgotten);
            }
        }
    }
    (past, retired)
}
