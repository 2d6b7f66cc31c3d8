//! The ring as a pure state machine: next, current, previous, historical, revoked.
//!
//! ```text
//!              introduce         promote            promote             promote            forget
//!   (made) ───────────────▶ next ───────▶ current ──────────▶ previous ─────────▶ historical ───────▶ (its kid)
//!   published:              yes           yes                 yes                 no                  no
//!   private half:           sealed        signs               destroyed           destroyed           destroyed
//! ```
//!
//! A key in any of these states may be revoked: it leaves the ring for good, and its name is remembered. Nothing here
//! reads a clock, a file or a random number. A transition takes the instant and the fresh key that it needs and gives
//! a new ring; until that is stored, the old one is in force.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::public::{Kid, PublicKey};
use super::seal::Sealed;
use crate::clock::Timestamp;

mod life;
mod times;

pub use self::life::{KeyLife, KeyState};
pub use self::times::{KeyTimes, KeyTimesError};

/// Creation times are rounded down: a second more, and the key was published for as long as it says.
const ROUNDING: Duration = Duration::from_secs(1);

/// How many keys one step may forget, so that it fits into one change of the store.
const AT_ONCE: usize = 50;

/// Every key of this trust domain, in its place. There is always exactly one that signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Grows by one with each transition.
    version: u64,
    /// Published, so that verifiers hold it before it signs.
    next: SigningKey,
    /// The only key that signs.
    current: CurrentKey,
    /// Still published: its tokens are alive. None before the first rotation.
    previous: Option<RetiredKey>,
    /// What is not published any more, or never again. Kept in records of its own.
    #[serde(skip)]
    past: BTreeMap<Kid, PastKey>,
}

/// A key with both halves, the private one sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    public: PublicKey,
    created_at: Timestamp,
    sealed: Sealed,
}

/// The key that signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentKey {
    #[serde(flatten)]
    key: SigningKey,
    signs_from: Timestamp,
    /// When it is to stop, by the times in force while it signed: so much of its span is known to whoever finds the
    /// ring after a crash.
    planned_until: Timestamp,
    #[serde(with = "times::seconds")]
    longest_lifetime: Duration,
}

/// A public key and the span in which its private half signed. No private half is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredKey {
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
pub enum PastKey {
    /// Validates expired tokens in redemption, and nothing else.
    Historical(RetiredKey),
    /// Validates nothing, for ever.
    Revoked(RevokedKey),
    /// Past its retention: only its name is known.
    Forgotten,
}

/// What is remembered of a revoked key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedKey {
    public: PublicKey,
    created_at: Timestamp,
    /// None if it never signed.
    signed: Option<Span>,
    revoked_at: Timestamp,
}

/// The whole seconds in which a key signed, the last one included: start rounded down, end up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    from: Timestamp,
    until: Timestamp,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `current` has signed for its period, and `next` and `previous` were published for long enough.
    Promote,
    /// A historical key is past its retention.
    Forget,
}

/// `next` or `previous` has not been published for long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the keys were not published for long enough; rotation is possible from {from}")]
pub struct TooEarly {
    /// When it is possible.
    pub from: Timestamp,
}

/// Why a key cannot be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// Never a key of this ring.
    #[error("there is no key of this name")]
    Unknown,
    /// Nothing changes.
    #[error("the key is revoked already")]
    Already,
    /// Nothing is left that it could validate.
    #[error("the key is past its retention and validates nothing any more")]
    Forgotten,
}

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
    /// The first second in which it signed; none for `next`.
    signs_from: Option<Timestamp>,
    /// The last second in which it signed; none while it signs.
    signs_until: Option<Timestamp>,
    /// The longest that a token lives which this key signed.
    pub longest_lifetime: Duration,
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
}

impl Span {
    /// From `from` until `until`, or just one second if that is earlier: clocks step back, spans do not.
    pub fn new(from: Timestamp, until: Timestamp) -> Self {
        Self { from, until: until.max(from) }
    }

    /// The first second.
    pub fn from(self) -> Timestamp {
        self.from
    }

    /// The last second.
    pub fn until(self) -> Timestamp {
        self.until
    }

    fn cut(self, end: Timestamp) -> Self {
        Self { from: self.from.min(end), until: self.until.min(end) }
    }
}

impl SigningKey {
    /// A key made at `created_at`, with its private half under seal.
    pub fn new(public: PublicKey, created_at: Timestamp, sealed: Sealed) -> Self {
        Self { public, created_at, sealed }
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The private half under seal.
    pub fn sealed(&self) -> &Sealed {
        &self.sealed
    }

    fn is(&self, kid: &str) -> bool {
        self.public.kid().as_str() == kid
    }
}

impl CurrentKey {
    fn new(key: SigningKey, signs_from: Timestamp, times: KeyTimes) -> Self {
        let planned_until = signs_from + times.rotation_period();
        Self { key, signs_from, planned_until, longest_lifetime: times.max_lifetime() }
    }

    /// Destroys the private half.
    fn retire(self, end: Timestamp) -> RetiredKey {
        let signed = Span::new(self.signs_from, end);
        let SigningKey { public, created_at, .. } = self.key;
        RetiredKey { public, created_at, signed, longest_lifetime: self.longest_lifetime }
    }
}

impl RetiredKey {
    fn revoke(self, now: Timestamp) -> PastKey {
        let Self { public, created_at, signed, .. } = self;
        PastKey::Revoked(RevokedKey { public, created_at, signed: Some(signed), revoked_at: now })
    }

    fn retained_until(&self, times: KeyTimes) -> Timestamp {
        self.signed.until + times.retention()
    }

    fn cut(&mut self, now: Timestamp) {
        self.created_at = self.created_at.min(now);
        self.signed = self.signed.cut(now);
    }
}

impl PastKey {
    /// Whether this can be the key named `kid`.
    pub(super) fn is(&self, kid: &Kid) -> bool {
        match self {
            Self::Historical(key) => key.public.kid() == kid,
            Self::Revoked(key) => key.public.kid() == kid,
            Self::Forgotten => true,
        }
    }
}

impl RevokedKey {
    fn cut(&mut self, now: Timestamp) {
        self.created_at = self.created_at.min(now);
        self.revoked_at = self.revoked_at.min(now);
        self.signed = self.signed.map(|span| span.cut(now));
    }
}

/// What the ring holds, and what is due.
impl Ring {
    /// The first start: `current` signs at once, without lead, since nobody holds an older JWKS.
    pub fn first(current: SigningKey, next: SigningKey, times: KeyTimes, now: Timestamp) -> Self {
        let current = CurrentKey::new(current, now, times);
        Self { version: 1, next, current, previous: None, past: BTreeMap::new() }
    }

    /// The same ring with the keys of its past, which are stored apart; `None` if a key would then be in two places.
    #[must_use]
    pub fn with_past(self, past: BTreeMap<Kid, PastKey>) -> Option<Self> {
        let ring = Self { past, ..self };
        let published: Vec<&Kid> = ring.published().map(PublicKey::kid).collect();
        let apart = published.iter().enumerate().all(|(index, kid)| !published[..index].contains(kid));
        (apart && published.iter().all(|kid| !ring.past.contains_key(*kid))).then_some(ring)
    }

    /// Grows with each transition.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The key that signs.
    pub fn current(&self) -> &SigningKey {
        &self.current.key
    }

    /// The key that will sign.
    pub fn next(&self) -> &SigningKey {
        &self.next
    }

    /// Since when `current` signs.
    pub fn signs_from(&self) -> Timestamp {
        self.current.signs_from
    }

    /// The keys that are not published, by name.
    pub fn past(&self) -> &BTreeMap<Kid, PastKey> {
        &self.past
    }

    /// What the JWKS holds: next, current and, once there is one, previous (R-KEYS-03).
    pub fn published(&self) -> impl Iterator<Item = &PublicKey> {
        let previous = self.previous.as_ref().map(|key| &key.public);
        [&self.next.public, &self.current.key.public].into_iter().chain(previous)
    }

    /// The first step that is due at `now`; none when the ring is as it should be.
    pub fn due(&self, times: KeyTimes, now: Timestamp) -> Option<Step> {
        if self.promotion_due(times) <= now {
            Some(Step::Promote)
        } else {
            self.forget_due(times).is_some_and(|due| due <= now).then_some(Step::Forget)
        }
    }

    /// When the next step is due.
    pub fn next_due(&self, times: KeyTimes) -> Timestamp {
        let promotion = self.promotion_due(times);
        self.forget_due(times).map_or(promotion, |forget| forget.min(promotion))
    }

    /// When `current` gives way: after its period, and not before its successor can follow.
    pub fn promotion_due(&self, times: KeyTimes) -> Timestamp {
        (self.current.signs_from + times.rotation_period()).max(self.rotatable_from(times))
    }

    /// From when `next` may sign and `previous` need not be published any more (R-KEYS-04).
    pub fn rotatable_from(&self, times: KeyTimes) -> Timestamp {
        let led = self.next.created_at + times.jwks_max_age() + ROUNDING;
        let trailed = self.previous.as_ref().map(|key| key.signed.until + key.longest_lifetime + times.jwks_max_age());
        trailed.map_or(led, |trailed| trailed.max(led))
    }

    /// When the span of `current` ended, if the service was down until `now`: as planned, or with the last event that
    /// is on record.
    pub fn ended(&self, last_event: Timestamp, now: Timestamp) -> Timestamp {
        self.current.planned_until.max(last_event).min(now)
    }

    /// What `kid` means here.
    pub fn find(&self, kid: &str) -> Found {
        if self.next.is(kid) {
            return Found::Published(self.next_life());
        }
        if self.current.key.is(kid) {
            return Found::Published(self.current_life());
        }
        if let Some(previous) = self.previous.as_ref().filter(|key| key.public.kid().as_str() == kid) {
            return Found::Published(previous.verifying(KeyState::Previous));
        }
        match self.past.get(kid) {
            Some(PastKey::Historical(key)) => Found::Historical(key.verifying(KeyState::Historical)),
            Some(PastKey::Revoked(_)) => Found::Revoked,
            Some(PastKey::Forgotten) => Found::Forgotten,
            None => Found::Unknown,
        }
    }

    fn next_life(&self) -> VerifyingKey {
        VerifyingKey {
            public: self.next.public.clone(),
            state: KeyState::Next,
            signs_from: None,
            signs_until: None,
            longest_lifetime: Duration::ZERO,
        }
    }

    fn current_life(&self) -> VerifyingKey {
        VerifyingKey {
            public: self.current.key.public.clone(),
            state: KeyState::Current,
            signs_from: Some(self.current.signs_from),
            signs_until: None,
            longest_lifetime: self.current.longest_lifetime,
        }
    }

    fn forget_due(&self, times: KeyTimes) -> Option<Timestamp> {
        self.historical().map(|key| key.retained_until(times) + ROUNDING).min()
    }

    fn historical(&self) -> impl Iterator<Item = &RetiredKey> {
        self.past.values().filter_map(|key| match key {
            PastKey::Historical(key) => Some(key),
            PastKey::Revoked(_) | PastKey::Forgotten => None,
        })
    }
}

impl RetiredKey {
    fn verifying(&self, state: KeyState) -> VerifyingKey {
        VerifyingKey {
            public: self.public.clone(),
            state,
            signs_from: Some(self.signed.from),
            signs_until: Some(self.signed.until),
            longest_lifetime: self.longest_lifetime,
        }
    }
}

/// Transitions: each gives the ring that follows.
impl Ring {
    /// `next` signs from `now`, `current` stopped at `end` and becomes `previous`, `previous` becomes historical, and
    /// `fresh` is introduced as `next`.
    pub fn promote(
        &self,
        fresh: SigningKey,
        times: KeyTimes,
        end: Timestamp,
        now: Timestamp,
    ) -> Result<Self, TooEarly> {
        let from = self.rotatable_from(times);
        if now < from {
            return Err(TooEarly { from });
        }
        let mut ring = self.following();
        let retired = ring.hand_over(fresh, times, end, now);
        if let Some(key) = ring.previous.replace(retired) {
            ring.past.insert(key.public.kid().clone(), PastKey::Historical(key));
        }
        Ok(ring)
    }

    /// The key named `kid` validates nothing any more. In the place of `current` or `next` its successor steps at
    /// once, lead or no lead, and `fresh` is introduced (R-KEYS-09).
    pub fn revoke(&self, kid: &str, fresh: SigningKey, times: KeyTimes, now: Timestamp) -> Result<Self, RevokeError> {
        let mut ring = self.following();
        let (kid, revoked) = if ring.next.is(kid) {
            let SigningKey { public, created_at, .. } = std::mem::replace(&mut ring.next, fresh);
            (public.kid().clone(), PastKey::Revoked(RevokedKey { public, created_at, signed: None, revoked_at: now }))
        } else if ring.current.key.is(kid) {
            let retired = ring.hand_over(fresh, times, now, now);
            (retired.public.kid().clone(), retired.revoke(now))
        } else if let Some(retired) = ring.previous.take_if(|key| key.public.kid().as_str() == kid) {
            (retired.public.kid().clone(), retired.revoke(now))
        } else {
            match ring.past.remove_entry(kid) {
                Some((kid, PastKey::Historical(retired))) => (kid, retired.revoke(now)),
                Some((_, PastKey::Revoked(_))) => return Err(RevokeError::Already),
                Some((_, PastKey::Forgotten)) => return Err(RevokeError::Forgotten),
                None => return Err(RevokeError::Unknown),
            }
        };
        ring.past.insert(kid, revoked);
        ring.replan(times);
        Ok(ring)
    }

    /// Of historical keys past their retention only the names remain. Those beyond [`AT_ONCE`] wait for the next step.
    #[must_use]
    pub fn forget(&self, times: KeyTimes, now: Timestamp) -> Self {
        let mut ring = self.following();
        let is_over = |key: &&mut PastKey| matches!(key, PastKey::Historical(key) if key.retained_until(times) < now);
        for key in ring.past.values_mut().filter(is_over).take(AT_ONCE) {
            *key = PastKey::Forgotten;
        }
        ring
    }

    /// What must be on record before `current` signs under `times`: its longest lifetime and the planned end of its
    /// span. `None` if that is so.
    pub fn adjust(&self, times: KeyTimes) -> Option<Self> {
        let mut ring = self.following();
        ring.current.longest_lifetime = ring.current.longest_lifetime.max(times.max_lifetime());
        ring.replan(times);
        (ring.current != self.current).then_some(ring)
    }

    /// The same keys with their private halves sealed anew.
    pub fn reseal<E>(&self, seal: impl Fn(&SigningKey) -> Result<Sealed, E>) -> Result<Self, E> {
        let mut ring = self.following();
        ring.next.sealed = seal(&self.next)?;
        ring.current.key.sealed = seal(&self.current.key)?;
        Ok(ring)
    }

    /// An operator has checked that it is `now`: what lies beyond came of a wrong clock and is cut to it.
    #[must_use]
    pub fn trust_clock(&self, times: KeyTimes, now: Timestamp) -> Self {
        let mut ring = self.following();
        ring.next.created_at = ring.next.created_at.min(now);
        ring.current.key.created_at = ring.current.key.created_at.min(now);
        ring.current.signs_from = ring.current.signs_from.min(now);
        ring.current.planned_until = ring.current.signs_from;
        if let Some(retired) = &mut ring.previous {
            retired.cut(now);
        }
        for key in ring.past.values_mut() {
            match key {
                PastKey::Historical(retired) => retired.cut(now),
                PastKey::Revoked(revoked) => revoked.cut(now),
                PastKey::Forgotten => {}
            }
        }
        ring.replan(times);
        ring
    }

    /// It has turned out that `kid` signed until `last`, later than is on record. `None` if nothing changes.
    pub fn prolong(&self, kid: &Kid, last: Timestamp) -> Option<Self> {
        let mut ring = self.following();
        let previous = ring.previous.as_mut().filter(|key| key.public.kid() == kid && key.signed.until < last)?;
        previous.signed.until = last;
        Some(ring)
    }

    fn following(&self) -> Self {
        Self { version: self.version + 1, ..self.clone() }
    }

    /// `next` becomes `current`; what was current comes back without its private half. Where the clock has stepped
    /// back, the successor begins where the predecessor ended.
    fn hand_over(&mut self, fresh: SigningKey, times: KeyTimes, end: Timestamp, now: Timestamp) -> RetiredKey {
        let promoted = std::mem::replace(&mut self.next, fresh);
        let end = end.max(self.current.signs_from);
        let current = CurrentKey::new(promoted, now.max(end), times);
        let retired = std::mem::replace(&mut self.current, current).retire(end);
        self.replan(times);
        retired
    }

    /// A plan is only ever put off: the key may have signed by the old one.
    fn replan(&mut self, times: KeyTimes) {
        self.current.planned_until = self.current.planned_until.max(self.promotion_due(times));
    }
}

#[cfg(test)]
mod tests;
