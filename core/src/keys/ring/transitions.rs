//! Transitions: each returns the ring that follows.

use super::{
    CurrentKey, KeyTimes, Kid, NextKey, PastKey, RetiredKey, RevokedKey, Ring, Schedule, Sealed, SigningKey, Span,
};
use writ_platform::clock::Timestamp;

/// The number of keys that one step may forget, so that it fits into one transaction of the store.
const MAX_FORGOTTEN_AT_ONCE: usize = 50;

/// `next` or `previous` has not been published long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the keys were not published for long enough; rotation is possible from {from}")]
pub struct TooEarly {
    /// The first second in which rotation is possible.
    pub from: Timestamp,
}

/// Why a key cannot be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// Never a key of this ring.
    #[error("there is no key with this kid")]
    Unknown,
    /// The key is already revoked.
    #[error("the key is already revoked")]
    Already,
    /// The key is past its retention, so it validates nothing.
    #[error("the key is past its retention and no longer validates anything")]
    Forgotten,
}

impl Ring {
    /// `next` signs from `now`, `current` stopped at `end` and becomes `previous`, `previous` becomes historical, and
    /// `fresh` is introduced as `next`.
    pub(crate) fn promote(
        &self,
        fresh: SigningKey,
        times: KeyTimes,
        end: Timestamp,
        now: Timestamp,
    ) -> Result<Self, TooEarly> {
        let schedule = self.schedule().promote(times, end, now)?;
        let mut ring = self.following();
        let retired = ring.hand_over(fresh, &schedule).retire(end);
        if let Some(key) = ring.previous.replace(retired) {
            ring.past.insert(key.public.kid().clone(), PastKey::Historical(key));
        }
        Ok(ring)
    }

    /// Revokes the key with this `kid`. If it was `current` or `next`, its successor takes its place at once, without lead,
    /// and `fresh` is introduced (R-KEYS-09).
    pub(crate) fn revoke(
        &self,
        kid: &str,
        fresh: SigningKey,
        times: KeyTimes,
        now: Timestamp,
    ) -> Result<Self, RevokeError> {
        let mut ring = self.following();
        let revoked = ring.take_out(kid, fresh, times, now)?;
        ring.past.insert(revoked.public.kid().clone(), PastKey::Revoked(revoked));
        ring.replan(times);
        Ok(ring)
    }

    fn take_out(
        &mut self,
        kid: &str,
        fresh: SigningKey,
        times: KeyTimes,
        now: Timestamp,
    ) -> Result<RevokedKey, RevokeError> {
        if self.next.key.is(kid) {
            let schedule = Schedule { published_from: now, ..self.schedule() };
            return Ok(std::mem::replace(&mut self.next, NextKey::new(fresh, &schedule)).key.revoke(now));
        }
        if self.current.key.is(kid) {
            let schedule = self.schedule().hand_over(times, now, now);
            return Ok(self.hand_over(fresh, &schedule).retire(now).revoke(now));
        }
        if let Some(retired) = self.previous.take_if(|key| key.is(kid)) {
            return Ok(retired.revoke(now));
        }
        match self.past.remove(kid) {
            Some(PastKey::Historical(retired)) => Ok(retired.revoke(now)),
            Some(PastKey::Revoked(_)) => Err(RevokeError::Already),
            Some(PastKey::Forgotten) => Err(RevokeError::Forgotten),
            None => Err(RevokeError::Unknown),
        }
    }

    /// Forgets historical keys past their retention, except for their `kid`. If there are many, some wait for the next
    /// step.
    #[must_use]
    pub(crate) fn forget(&self, times: KeyTimes, now: Timestamp) -> Self {
        let mut ring = self.following();
        let is_over = |key: &&mut PastKey| matches!(key, PastKey::Historical(key) if key.retained_until(times) < now);
        for key in ring.past.values_mut().filter(is_over).take(MAX_FORGOTTEN_AT_ONCE) {
            *key = PastKey::Forgotten;
        }
        ring
    }

    /// The ring to record before `current` signs under `times`: with its maximum lifetime and the planned end of its span.
    /// The service may have stopped before it published `next`, so a start within the lead of `next` restarts the lead, but
    /// only within the first one. `None` if nothing changes.
    pub(crate) fn adjust(&self, times: KeyTimes, now: Timestamp) -> Option<Self> {
        let mut ring = self.following();
        if now < ring.next.key.created_at + times.lead() {
            ring.next.published_from = ring.next.published_from.max(now);
        }
        ring.current.longest_lifetime = ring.current.longest_lifetime.max(times.max_lifetime());
        ring.replan(times);
        ((&ring.next, &ring.current) != (&self.next, &self.current)).then_some(ring)
    }

    /// Whether what is recorded of `current` holds until `until`: no promotion is due before, the planned end of its span
    /// is later, and its maximum lifetime is that of `times`.
    pub(crate) fn covers(&self, times: KeyTimes, now: Timestamp, until: Timestamp) -> bool {
        self.current.signs_from <= now
            && until < self.promotion_due(times).min(self.current.planned_until)
            && times.max_lifetime() <= self.current.longest_lifetime
    }

    /// The same keys with their private halves sealed again.
    pub(crate) fn reseal<E>(&self, seal: impl Fn(&SigningKey) -> Result<Sealed, E>) -> Result<Self, E> {
        let mut ring = self.following();
        ring.next.key.sealed = seal(&self.next.key)?;
        ring.current.key.sealed = seal(&self.current.key)?;
        Ok(ring)
    }

    /// Extends the recorded span of `kid` until `last`, if it is that of `previous`. `None` if nothing changes.
    pub(crate) fn prolong(&self, kid: &Kid, last: Timestamp) -> Option<Self> {
        self.previous.as_ref().filter(|key| key.is(kid.as_str()))?;
        self.prolong_previous(last)
    }

    /// Extends the recorded span of `previous` until `last`. `None` if nothing changes.
    pub(crate) fn prolong_previous(&self, last: Timestamp) -> Option<Self> {
        let mut ring = self.following();
        ring.previous.as_mut()?.signed = self.schedule().prolong(last)?.previous?.signed;
        Some(ring)
    }

    /// Cuts all times to `now`, because an operator has checked the clock: later times came from a wrong one.
    #[must_use]
    pub(crate) fn trust_clock(&self, times: KeyTimes, now: Timestamp) -> Self {
        let mut ring = self.following();
        ring.next.cut(now);
        ring.current.cut(now);
        if let Some(retired) = &mut ring.previous {
            retired.cut(now);
        }
        ring.past.values_mut().for_each(|key| key.cut(now));
        ring.replan(times);
        ring
    }

    pub(super) fn following(&self) -> Self {
        Self { version: self.version + 1, ..self.clone() }
    }

    /// `next` becomes `current`; the former `current` is returned.
    fn hand_over(&mut self, fresh: SigningKey, schedule: &Schedule) -> CurrentKey {
        let promoted = std::mem::replace(&mut self.next, NextKey::new(fresh, schedule)).key;
        std::mem::replace(&mut self.current, CurrentKey::new(promoted, schedule))
    }

    /// Moves the planned end, but only to a later time: the key may have signed under the old plan.
    pub(super) fn replan(&mut self, times: KeyTimes) {
        self.current.planned_until = self.schedule().replanned(times).planned_until;
    }
}

impl SigningKey {
    /// Destroys the private half of a key that never signed.
    fn revoke(self, now: Timestamp) -> RevokedKey {
        RevokedKey { public: self.public, created_at: self.created_at, signed: None, revoked_at: now }
    }

    fn cut(&mut self, now: Timestamp) {
        self.created_at = self.created_at.min(now);
    }
}

impl NextKey {
    fn cut(&mut self, now: Timestamp) {
        self.key.cut(now);
        self.published_from = self.published_from.min(now);
    }
}

impl CurrentKey {
    /// Destroys the private half.
    pub(super) fn retire(self, end: Timestamp) -> RetiredKey {
        let signed = Span::new(self.signs_from, end);
        let SigningKey { public, created_at, .. } = self.key;
        RetiredKey { public, created_at, signed, longest_lifetime: self.longest_lifetime }
    }

    fn cut(&mut self, now: Timestamp) {
        self.key.cut(now);
        self.signs_from = self.signs_from.min(now);
        self.planned_until = self.planned_until.min(now);
    }
}

impl RetiredKey {
    fn revoke(self, now: Timestamp) -> RevokedKey {
        let Self { public, created_at, signed, .. } = self;
        RevokedKey { public, created_at, signed: Some(signed), revoked_at: now }
    }

    fn cut(&mut self, now: Timestamp) {
        self.created_at = self.created_at.min(now);
        self.signed = self.signed.cut(now);
    }
}

impl PastKey {
    fn cut(&mut self, now: Timestamp) {
        match self {
            Self::Historical(key) => key.cut(now),
            Self::Revoked(key) => key.cut(now),
            Self::Forgotten => {}
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
