//! The ring as a pure state machine: next, current, previous, historical, revoked.
//!
//! ```text
//!              introduce         promote            promote             promote            forget
//!   (made) ───────────────▶ next ───────▶ current ──────────▶ previous ─────────▶ historical ───────▶ (its kid)
//!   published:              yes           yes                 yes                 no                  no
//!   private half:           sealed        signs               destroyed           destroyed           destroyed
//! ```
//!
//! A key in any of these states can be revoked: it leaves the ring permanently, and its `kid` is remembered. Nothing here
//! reads a clock, a file or a random number. A transition takes the instant and the fresh key that it needs and returns a
//! new ring; until that is stored, the old one is in force.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::schedule::Retired;
use super::public::{Kid, PublicKey};
use super::seal::Sealed;
use writ_platform::clock::Timestamp;

mod find;
mod life;
mod schedule;
mod times;
mod transitions;

pub use self::find::{Found, VerifyingKey};
pub(crate) use self::life::KeyLife;
pub use self::life::KeyState;
pub use self::schedule::{LeftBehind, Schedule};
pub use self::times::{KeyTimes, KeyTimesError};
pub use self::transitions::{RevokeError, TooEarly};

/// Every key of this trust domain, by state. Exactly one signs at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ring {
    /// Increases by one with each transition.
    version: u64,
    /// Published, so that verifiers hold it before it signs.
    next: NextKey,
    /// The only key that signs.
    current: CurrentKey,
    /// Still published, because its tokens may be alive. `None` before the first rotation.
    previous: Option<RetiredKey>,
    /// Keys that are no longer published. Stored in separate records.
    #[serde(skip)]
    past: BTreeMap<Kid, PastKey>,
}

/// A key with both halves, the private one sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SigningKey {
    public: PublicKey,
    created_at: Timestamp,
    sealed: Sealed,
}

/// The key that will sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NextKey {
    #[serde(flatten)]
    key: SigningKey,
    /// The time since when it is certainly published.
    published_from: Timestamp,
}

/// The key that signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CurrentKey {
    #[serde(flatten)]
    key: SigningKey,
    signs_from: Timestamp,
    /// The planned end of its span, by the times in force while it signed. After a crash, this bounds the span of the key
    /// that was found.
    planned_until: Timestamp,
    #[serde(with = "times::seconds")]
    longest_lifetime: Duration,
}

/// A public key and the span in which its private half signed. The private half is destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetiredKey {
    public: PublicKey,
    created_at: Timestamp,
    signed: Span,
    /// The largest `max_lifetime` in force while it signed.
    #[serde(with = "times::seconds")]
    longest_lifetime: Duration,
}

/// A key that is not published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum PastKey {
    /// Validates expired tokens in redemption, and nothing else.
    Historical(RetiredKey),
    /// Never validates anything again.
    Revoked(RevokedKey),
    /// Past its retention: only its `kid` is known.
    Forgotten,
}

/// The remaining facts about a revoked key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RevokedKey {
    public: PublicKey,
    created_at: Timestamp,
    /// `None` if it never signed.
    signed: Option<Span>,
    revoked_at: Timestamp,
}

/// The seconds in which a key signed, both ends included: start rounded down, end rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Span {
    from: Timestamp,
    until: Timestamp,
}

/// A step that can be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// `current` has signed for its period, and `next` and `previous` have been published long enough.
    Promote,
    /// A historical key is past its retention.
    Forget,
}

impl Span {
    /// The span from `from` until `until`; one second if `until` is earlier, because a clock may step back and a span
    /// cannot.
    pub(crate) fn new(from: Timestamp, until: Timestamp) -> Self {
        Self { from, until: until.max(from) }
    }

    /// The first second.
    pub(crate) fn from(self) -> Timestamp {
        self.from
    }

    /// The last second.
    pub(crate) fn until(self) -> Timestamp {
        self.until
    }

    fn cut(self, end: Timestamp) -> Self {
        Self { from: self.from.min(end), until: self.until.min(end) }
    }
}

impl SigningKey {
    /// A key generated at `created_at`, with its sealed private half.
    pub(crate) fn new(public: PublicKey, created_at: Timestamp, sealed: Sealed) -> Self {
        Self { public, created_at, sealed }
    }

    /// The public half.
    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The sealed private half.
    pub(crate) fn sealed(&self) -> &Sealed {
        &self.sealed
    }

    fn is(&self, kid: &str) -> bool {
        self.public.kid().as_str() == kid
    }
}

impl NextKey {
    fn new(key: SigningKey, schedule: &Schedule) -> Self {
        Self { key, published_from: schedule.published_from }
    }
}

impl CurrentKey {
    fn new(key: SigningKey, schedule: &Schedule) -> Self {
        let Schedule { signs_from, planned_until, longest_lifetime, .. } = *schedule;
        Self { key, signs_from, planned_until, longest_lifetime }
    }
}

impl RetiredKey {
    fn is(&self, kid: &str) -> bool {
        self.public.kid().as_str() == kid
    }

    fn retained_until(&self, times: KeyTimes) -> Timestamp {
        self.signed.until + times.retention()
    }
}

impl PastKey {
    /// Whether `kid` can be the id of this key.
    pub(super) fn is(&self, kid: &Kid) -> bool {
        match self {
            Self::Historical(key) => key.public.kid() == kid,
            Self::Revoked(key) => key.public.kid() == kid,
            Self::Forgotten => true,
        }
    }
}

impl Ring {
    /// The ring of a first start: `current` signs at once, without lead, since no verifier has an older JWKS.
    pub(crate) fn first(current: SigningKey, next: SigningKey, times: KeyTimes, now: Timestamp) -> Self {
        let schedule = Schedule::first(times, now);
        let (next, current) = (NextKey::new(next, &schedule), CurrentKey::new(current, &schedule));
        Self { version: 1, next, current, previous: None, past: BTreeMap::new() }
    }

    /// Adds the past keys, which are stored separately; `None` if a key would then be in two states.
    #[must_use]
    pub(crate) fn with_past(self, past: BTreeMap<Kid, PastKey>) -> Option<Self> {
        let ring = Self { past, ..self };
        let published: Vec<&Kid> = ring.published().map(PublicKey::kid).collect();
        let apart = published.iter().enumerate().all(|(index, kid)| !published[..index].contains(kid));
        (apart && published.iter().all(|kid| !ring.past.contains_key(*kid))).then_some(ring)
    }

    /// Increases by one with each transition.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The key that signs.
    pub(crate) fn current(&self) -> &SigningKey {
        &self.current.key
    }

    /// The key that will sign.
    pub(crate) fn next(&self) -> &SigningKey {
        &self.next.key
    }

    /// The time since when `next` is certainly published.
    pub(crate) fn next_published_from(&self) -> Timestamp {
        self.next.published_from
    }

    /// The first second in which `current` signs.
    pub(crate) fn signs_from(&self) -> Timestamp {
        self.current.signs_from
    }

    /// The keys that are not published, by `kid`.
    pub(crate) fn past(&self) -> &BTreeMap<Kid, PastKey> {
        &self.past
    }

    /// The keys in the JWKS: next, current and, after the first rotation, previous (R-KEYS-03).
    pub(crate) fn published(&self) -> impl Iterator<Item = &PublicKey> {
        let previous = self.previous.as_ref().map(|key| &key.public);
        [&self.next.key.public, &self.current.key.public].into_iter().chain(previous)
    }

    /// The first step that is due at `now`; `None` if no step is due.
    pub(crate) fn due(&self, times: KeyTimes, now: Timestamp) -> Option<Step> {
        if self.promotion_due(times) <= now {
            Some(Step::Promote)
        } else {
            self.forget_due(times).is_some_and(|due| due <= now).then_some(Step::Forget)
        }
    }

    /// When the next step is due.
    pub(crate) fn next_due(&self, times: KeyTimes) -> Timestamp {
        let promotion = self.promotion_due(times);
        self.forget_due(times).map_or(promotion, |forget| forget.min(promotion))
    }

    /// The times of the keys in use.
    pub(crate) fn schedule(&self) -> Schedule {
        let CurrentKey { signs_from, planned_until, longest_lifetime, .. } = self.current;
        let previous = self.previous.as_ref();
        let previous = previous.map(|key| Retired { signed: key.signed, longest_lifetime: key.longest_lifetime });
        let published_from = self.next.published_from;
        Schedule { published_from, signs_from, planned_until, longest_lifetime, previous }
    }

    /// When `current` is due for replacement: after its period, but not before `next` may sign.
    pub(crate) fn promotion_due(&self, times: KeyTimes) -> Timestamp {
        self.schedule().promotion_due(times)
    }

    /// The end of the span of `current` if the service was down until `now`: the planned end, or the last event on record.
    pub(crate) fn end_of_span(&self, last_event: Timestamp, now: Timestamp) -> Timestamp {
        self.current.planned_until.max(last_event).min(now)
    }

    fn forget_due(&self, times: KeyTimes) -> Option<Timestamp> {
        self.historical().map(|key| key.retained_until(times) + Duration::from_secs(1)).min()
    }

    fn historical(&self) -> impl Iterator<Item = &RetiredKey> {
        self.past.values().filter_map(|key| match key {
            PastKey::Historical(key) => Some(key),
            PastKey::Revoked(_) | PastKey::Forgotten => None,
        })
    }
}

#[cfg(test)]
mod tests;
