//! What is known of the keys, and when to fetch: pure, the time is an argument.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use tokio::time::Instant;

use super::fetch::{FetchError, Fetched};
use super::{FetchOutcome, KeyError, Settings};
use crate::jwks::{KeySet, NoKey, VerificationKey};

/// Bounds of what a publisher may ask for.
const MAX_AGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// The first pause after a failure while there are no keys at all; it doubles up to the cool-down.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// No setting makes a failing publisher be asked in a tight loop.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// What a question leads to.
pub(super) struct Next<T> {
    /// The caller starts a fetch now.
    pub(super) fetch: bool,
    pub(super) answer: T,
}

/// A key or none; `None` is to wait for the fetch that is under way, and to ask again.
pub(super) type Answer = Option<Result<Arc<VerificationKey>, KeyError>>;

pub(super) struct Cache {
    cool_down: Duration,
    default_max_age: Duration,
    max_stale: Duration,
    held: Option<Held>,
    flight: Option<Flight>,
    last: Option<Last>,
    forced: Option<Instant>,
}

/// The last good set.
struct Held {
    keys: KeySet,
    tag: Option<String>,
    max_age: Duration,
    /// When the fetch that brought or confirmed it began: it cannot be newer than that.
    as_of: Instant,
}

struct Flight {
    began: Instant,
}

/// The last fetch that ended.
#[derive(Clone, Copy)]
struct Last {
    ended: Instant,
    /// How many have failed in a row; 0: it was successful.
    failures: u32,
}

impl Cache {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            cool_down: settings.cool_down.clamp(LEAST_PAUSE, *MAX_AGE.end()),
            default_max_age: settings.default_max_age,
            max_stale: settings.max_stale,
            held: None,
            flight: None,
            last: None,
            forced: None,
        }
    }

    fn in_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// The `ETag` of the set that is held.
    pub(super) fn tag(&self) -> Option<String> {
        self.held.as_ref().and_then(|held| held.tag.clone())
    }

    /// Answers a question that was asked at `asked`.
    pub(super) fn look(
        &mut self,
        kid: Option<&str>,
        algorithm: Algorithm,
        asked: Instant,
        now: Instant,
    ) -> Next<Answer> {
        let found = self.serving(now).map(|held| held.keys.find(kid, algorithm).cloned());
        match found {
            Some(Err(NoKey::Unknown)) => self.unknown(asked, now),
            Some(known) => {
                let neglected = self.neglected(now);
                let fetch = self.begin_if(self.due(now), now);
                let wait = neglected && self.in_flight();
                Next { fetch, answer: (!wait).then(|| known.map_err(KeyError::from)) }
            }
            None => {
                let fetch = self.begin_if(!self.ended_since(asked) && self.due(now), now);
                Next { fetch, answer: (!self.in_flight()).then_some(Err(KeyError::Unavailable)) }
            }
        }
    }

    /// Time has passed; nobody asks.
    pub(super) fn tick(&mut self, now: Instant) -> Next<()> {
        Next { fetch: self.begin_if(self.due(now), now), answer: () }
    }

    /// Takes the outcome of the fetch; tells when the next is due.
    pub(super) fn conclude(&mut self, fetched: Result<Fetched, FetchError>, now: Instant) -> (FetchOutcome, Instant) {
        let as_of = self.flight.take().map_or(now, |flight| flight.began);
        let outcome = match fetched {
            Ok(Fetched::New { keys, tag, max_age }) => {
                self.held = Some(Held { keys, tag, max_age: self.bounded(max_age), as_of });
                FetchOutcome::Ok
            }
            Ok(Fetched::Unchanged { max_age }) => {
                let max_age = self.bounded(max_age);
                if let Some(held) = &mut self.held {
                    (held.max_age, held.as_of) = (max_age, as_of);
                }
                FetchOutcome::Unchanged
            }
            Err(_) => FetchOutcome::Error,
        };
        let failures = match outcome {
            FetchOutcome::Error => self.failures().saturating_add(1),
            FetchOutcome::Ok | FetchOutcome::Unchanged => 0,
        };
        self.last = Some(Last { ended: now, failures });
        (outcome, self.next_due(now))
    }

    /// The set lacks the key. Only a fresh answer can tell whether it exists.
    fn unknown(&mut self, asked: Instant, now: Instant) -> Next<Answer> {
        let asked_since = self.ended_since(asked);
        let cooled = self.forced.is_none_or(|forced| now >= forced + self.cool_down);
        let fetch = !asked_since && self.begin_if(cooled && now >= self.not_before(now), now);
        if fetch {
            self.forced = Some(now);
        }
        let verdict = if self.failures() == 0 { KeyError::Unknown } else { KeyError::Unavailable };
        let answered = asked_since || !self.in_flight();
        Next { fetch, answer: answered.then_some(Err(verdict)) }
    }

    fn begin_if(&mut self, wanted: bool, now: Instant) -> bool {
        let begins = wanted && !self.in_flight();
        if begins {
            self.flight = Some(Flight { began: now });
        }
        begins
    }

    fn serving(&self, now: Instant) -> Option<&Held> {
        self.held.as_ref().filter(|held| now.duration_since(held.as_of) < self.max_stale)
    }

    fn ended_since(&self, asked: Instant) -> bool {
        self.last.is_some_and(|last| last.ended >= asked)
    }

    fn failures(&self) -> u32 {
        self.last.map_or(0, |last| last.failures)
    }

    /// Whether the set is to be fetched again for its age.
    fn due(&self, now: Instant) -> bool {
        now >= self.next_due(now)
    }

    fn next_due(&self, now: Instant) -> Instant {
        let aged = self.held.as_ref().map_or(now, |held| held.as_of + held.max_age);
        aged.max(self.not_before(now))
    }

    /// Until then a failure is not followed by another fetch.
    fn not_before(&self, now: Instant) -> Instant {
        match self.last {
            Some(Last { ended, failures: 1.. }) if self.serving(now).is_some() => ended + self.cool_down,
            Some(Last { ended, failures: failures @ 1.. }) => {
                let doubled = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16));
                ended + doubled.min(self.cool_down)
            }
            _ => now,
        }
    }

    /// No fetch has even been tried for so long that nobody can have kept the set fresh (a runtime that stood still).
    fn neglected(&self, now: Instant) -> bool {
        let (Some(held), Some(last)) = (&self.held, self.last) else { return false };
        now >= last.ended + 2 * held.max_age.max(self.cool_down)
    }

    fn bounded(&self, max_age: Option<Duration>) -> Duration {
        let most = (*MAX_AGE.end()).min(self.max_stale / 2).max(*MAX_AGE.start());
        max_age.unwrap_or(self.default_max_age).clamp(*MAX_AGE.start(), most)
    }
}
