//! The times of the keys in use: when one may sign, and how long the one before it is published. All that decides a
//! rotation, without the keys themselves.

use std::time::Duration;

use super::{KeyTimes, Span, TooEarly};
use writ_platform::clock::Timestamp;
use writ_store::cluster::Peers;

/// The times of `next`, `current` and `previous`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// Since when `next` is certainly published.
    pub(super) published_from: Timestamp,
    /// The first second in which `current` signs.
    pub(super) signs_from: Timestamp,
    /// The planned end of its span.
    pub(super) planned_until: Timestamp,
    /// The largest `max_lifetime` in force while it signs.
    pub(super) longest_lifetime: Duration,
    /// `None` before the first promotion.
    pub(super) previous: Option<Retired>,
}

/// The times of a key that signs no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Retired {
    pub(super) signed: Span,
    pub(super) longest_lifetime: Duration,
}

/// Why a promotion would leave an instance behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeftBehind {
    /// An instance does not publish the next key yet, or not for long enough.
    #[error("an instance has not published the next key for long enough; try again later")]
    NotPublished,
    /// An instance that was cut off from the store may still sign with the previous key, which would leave the JWKS.
    #[error(
        "an instance was cut off from the store and may sign with the previous key until {until}; try again after that"
    )]
    MayStillSign {
        /// The first second in which no valid token of it is left.
        until: Timestamp,
    },
}

impl Schedule {
    /// Of the ring of a first start: `current` signs at once, without lead, since no verifier has an older JWKS.
    pub fn first(times: KeyTimes, now: Timestamp) -> Self {
        Self {
            published_from: now,
            signs_from: now,
            planned_until: now + times.rotation_period(),
            longest_lifetime: times.max_lifetime(),
            previous: None,
        }
    }

    /// When `current` is due for replacement: after its period, but not before `next` may sign.
    pub fn promotion_due(&self, times: KeyTimes) -> Timestamp {
        (self.signs_from + times.rotation_period()).max(self.rotatable_from(times))
    }

    /// The time from which `next` may sign and `previous` need no longer be published (R-KEYS-04).
    pub fn rotatable_from(&self, times: KeyTimes) -> Timestamp {
        let led = self.published_from + times.lead();
        let trailed = self.previous.map(|key| key.signed.until + key.longest_lifetime + times.jwks_max_age());
        trailed.map_or(led, |trailed| trailed.max(led))
    }

    /// The last second in which `current` signs if no successor can be stored: a period longer than planned; or only
    /// `jwks_max_age` longer than a period, while other instances may promote its successor and do not wait for this one.
    pub fn overdue_after(&self, times: KeyTimes, holds_lease: bool) -> Timestamp {
        if holds_lease {
            self.promotion_due(times) + times.rotation_period()
        } else {
            alone_until(self.signs_from, times)
        }
    }

    /// `next` signs from `now`, `current` stopped at `end` and becomes `previous`, and a key made at `now` is introduced.
    ///
    /// # Errors
    /// [`TooEarly`] with the time from which it is possible.
    pub fn promote(&self, times: KeyTimes, end: Timestamp, now: Timestamp) -> Result<Self, TooEarly> {
        let from = self.rotatable_from(times);
        if now < from { Err(TooEarly { from }) } else { Ok(self.hand_over(times, end, now).replanned(times)) }
    }

    /// The same at any time. If the clock has stepped back, the span of the successor begins where that of its predecessor
    /// ended.
    pub(super) fn hand_over(&self, times: KeyTimes, end: Timestamp, now: Timestamp) -> Self {
        let signed = Span::new(self.signs_from, end);
        let retired = Retired { signed, longest_lifetime: self.longest_lifetime };
        let signs_from = now.max(signed.until);
        Self { published_from: now, previous: Some(retired), ..Self::first(times, signs_from) }
    }

    /// The planned end is moved, but only to a later time: the key may have signed under the old plan.
    pub(super) fn replanned(self, times: KeyTimes) -> Self {
        Self { planned_until: self.planned_until.max(self.promotion_due(times)), ..self }
    }

    /// `previous` signed until `last`, because an instance learned of its promotion only then. `None` if nothing changes.
    pub fn prolong(&self, last: Timestamp) -> Option<Self> {
        let previous = self.previous.filter(|key| key.signed.until < last)?;
        let signed = Span { until: last, ..previous.signed };
        Some(Self { previous: Some(Retired { signed, ..previous }), ..*self })
    }

    /// Since when an instance that starts at `now` publishes `next`, which no verifier then lacks that asks it: before it was
    /// started, it may have published an older JWKS.
    pub fn published_since(&self, peers: Option<Peers>, now: Timestamp) -> Timestamp {
        let next_for = peers.and_then(|peers| peers.next_for);
        next_for.map_or(self.published_from, |time| self.published_from.max(now - time))
    }

    /// Whether a promotion of the ring of this version leaves no instance behind: each, this one since `next_since`, has
    /// published `next` for `jwks_max_age`, so that no verifier has an older JWKS, and none that was cut off from the store
    /// can still sign with `previous`, which leaves the JWKS. What was known of the others before this ring was on record
    /// says nothing about that. The clocks of two instances may be `apart` by so much.
    ///
    /// # Errors
    /// [`LeftBehind`].
    pub fn check_instances(
        &self,
        version: u64,
        next_since: Timestamp,
        peers: Option<Peers>,
        times: KeyTimes,
        apart: Duration,
        now: Timestamp,
    ) -> Result<(), LeftBehind> {
        if now < next_since + times.lead() {
            return Err(LeftBehind::NotPublished);
        }
        let Some(peers) = peers else { return Ok(()) };
        let is_behind = peers.oldest_ring.is_some_and(|oldest| oldest < version);
        if peers.ring < version || is_behind || peers.next_for.is_some_and(|time| time < times.lead()) {
            return Err(LeftBehind::NotPublished);
        }
        match peers.cut_off_at.and_then(|at| self.previous_in_use_until(at, times, apart)) {
            Some(until) if now < until => Err(LeftBehind::MayStillSign { until }),
            _ => Ok(()),
        }
    }

    /// Until when tokens signed with `previous` may be valid that come from an instance whose lease ended at `cut_off_at`
    /// and which has no newer ring. `None` if `previous` began to sign only after that.
    pub(super) fn previous_in_use_until(
        &self,
        cut_off_at: Timestamp,
        times: KeyTimes,
        apart: Duration,
    ) -> Option<Timestamp> {
        let previous = self.previous.filter(|key| cut_off_at >= key.signed.from)?;
        let last = alone_until(previous.signed.from, times) + apart;
        Some(last + previous.longest_lifetime + Duration::from_secs(1))
    }
}

/// Until when a key signs on an instance without a lease. By the period, and not by the planned end, which is not known of a
/// retired key and may be later: those who wait compute the same time.
fn alone_until(signs_from: Timestamp, times: KeyTimes) -> Timestamp {
    signs_from + times.rotation_period() + times.jwks_max_age()
}
