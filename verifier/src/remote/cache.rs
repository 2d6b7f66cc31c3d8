//! The cached key set and the decision when to fetch. No I/O; the time is an argument.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use tokio::time::Instant;

use super::fetch::{FetchError, Fetched};
use super::settings::{FetchOutcome, Settings};
use crate::jwks::{Candidates, KeySet, NoKey};

/// Limits on the `max-age` of a publisher.
const MAX_AGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// The first pause after a failure while no key set is usable; it doubles up to the cool-down.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Minimum cool-down, so that no setting causes a tight loop of failing fetches.
const MIN_COOL_DOWN: Duration = Duration::from_millis(100);

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key is not published: a fetch that started after the lookup did not contain it.
    #[error("the key is not published")]
    Unknown,
    /// The cached set does not contain the key, and the cool-down forbids another fetch now. The key may have been
    /// published since the last fetch.
    #[error("the key is not in the cached key set, and it is too soon to fetch the set again")]
    CoolingDown {
        /// Time until a lookup can start another fetch.
        retry_after: Duration,
    },
    /// The key is published, but must not be used with the token's algorithm.
    #[error("the algorithm does not fit the key")]
    Unfit,
    /// No usable key set is cached, and the keys cannot be fetched. The token may be valid.
    #[error("the keys cannot be fetched")]
    Unavailable,
}

impl From<NoKey> for KeyError {
    fn from(no_key: NoKey) -> Self {
        match no_key {
            NoKey::Unknown => Self::Unknown,
            NoKey::Unfit => Self::Unfit,
        }
    }
}

/// The outcome of one step of the cache.
pub(super) struct Step<T> {
    /// Whether the caller must start a fetch now.
    pub(super) start_fetch: bool,
    pub(super) result: T,
}

/// The result of a lookup; `None` if the caller must wait for the fetch in progress and repeat the lookup.
pub(super) type LookupResult = Option<Result<Candidates, KeyError>>;

pub(super) struct Cache {
    cool_down: Duration,
    default_max_age: Duration,
    max_stale: Duration,
    cached: Option<CachedSet>,
    /// When the fetch in progress started.
    fetch_started: Option<Instant>,
    last_fetch: Option<LastFetch>,
    /// When an unknown key ID last caused a fetch.
    last_forced: Option<Instant>,
}

/// The last key set that was fetched successfully.
struct CachedSet {
    keys: KeySet,
    etag: Option<String>,
    max_age: Duration,
    /// Start of the fetch that returned or confirmed the set. The set shows no later state of the publisher.
    as_of: Instant,
}

/// The last fetch that ended.
#[derive(Clone, Copy)]
struct LastFetch {
    ended: Instant,
    /// Number of consecutive failures; 0 if this fetch succeeded.
    failures: u32,
}

impl Cache {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            cool_down: settings.cool_down.clamp(MIN_COOL_DOWN, *MAX_AGE.end()),
            default_max_age: settings.default_max_age,
            max_stale: settings.max_stale,
            cached: None,
            fetch_started: None,
            last_fetch: None,
            last_forced: None,
        }
    }

    fn is_fetching(&self) -> bool {
        self.fetch_started.is_some()
    }

    /// Whether a lookup should wait for the fetch in progress. After a failure it should not: it would be blocked for
    /// the whole timeout of the next attempt.
    fn is_worth_waiting(&self) -> bool {
        self.is_fetching() && self.failures() == 0
    }

    /// The `ETag` of the cached set.
    pub(super) fn etag(&self) -> Option<String> {
        self.cached.as_ref().and_then(|cached| cached.etag.clone())
    }

    /// Answers a lookup that was first made at `requested_at`.
    pub(super) fn look_up(
        &mut self,
        kid: Option<&str>,
        algorithm: Algorithm,
        requested_at: Instant,
        now: Instant,
    ) -> Step<LookupResult> {
        let found = self.usable_set(now).map(|cached| cached.keys.find(kid, algorithm));
        match found {
            // Without `kid` the reason is that the set has several keys; a fetch does not change that.
            Some(Err(NoKey::Unknown)) if kid.is_some() => self.look_up_unknown(requested_at, now),
            Some(known) => {
                let is_overdue = self.is_overdue(now);
                let start_fetch = self.start_fetch_if(self.is_due(now), now);
                let wait = is_overdue && self.is_worth_waiting();
                Step { start_fetch, result: (!wait).then(|| known.map_err(KeyError::from)) }
            }
            None => {
                let may_fetch = !self.has_fetched_since(requested_at) && self.is_due(now);
                let start_fetch = self.start_fetch_if(may_fetch, now);
                Step { start_fetch, result: (!self.is_worth_waiting()).then_some(Err(KeyError::Unavailable)) }
            }
        }
    }

    pub(super) fn refresh_if_due(&mut self, now: Instant) -> Step<()> {
        Step { start_fetch: self.start_fetch_if(self.is_due(now), now), result: () }
    }

    /// Records the outcome of the fetch in progress, and returns when the next fetch is due.
    pub(super) fn finish_fetch(
        &mut self,
        fetched: Result<Fetched, FetchError>,
        now: Instant,
    ) -> (FetchOutcome, Instant) {
        let as_of = self.fetch_started.take().unwrap_or(now);
        let outcome = match fetched {
            Ok(Fetched::New { keys, etag, max_age }) => {
                self.cached = Some(CachedSet { keys, etag, max_age: self.limit_max_age(max_age), as_of });
                FetchOutcome::Ok
            }
            Ok(Fetched::Unchanged { max_age }) => {
                let max_age = self.limit_max_age(max_age);
                if let Some(cached) = &mut self.cached {
                    (cached.max_age, cached.as_of) = (max_age, as_of);
                }
                FetchOutcome::Unchanged
            }
            Err(_) => FetchOutcome::Error,
        };
        let failures = match outcome {
            FetchOutcome::Error => self.failures().saturating_add(1),
            FetchOutcome::Ok | FetchOutcome::Unchanged => 0,
        };
        self.last_fetch = Some(LastFetch { ended: now, failures });
        (outcome, self.next_due(now))
    }

    /// A lookup of a key that the cached set does not contain. Only a fetch that started after the lookup proves that the
    /// key does not exist, because it may have been published since the last fetch. Random key IDs must not cause a
    /// fetch each, so during the cool-down the result is [`KeyError::CoolingDown`].
    fn look_up_unknown(&mut self, requested_at: Instant, now: Instant) -> Step<LookupResult> {
        let failed_since = self.has_fetched_since(requested_at) && self.failures() > 0;
        if self.cached.as_ref().is_some_and(|cached| cached.as_of >= requested_at) {
            return Step { start_fetch: false, result: Some(Err(KeyError::Unknown)) };
        }
        let allowed_from =
            self.last_forced.map_or(now, |forced| forced + self.cool_down).max(self.next_attempt_after_failure(now));
        let start_fetch = !failed_since && self.start_fetch_if(now >= allowed_from, now);
        if start_fetch {
            self.last_forced = Some(now);
        }
        let error = match self.failures() {
            0 => KeyError::CoolingDown { retry_after: allowed_from.duration_since(now) },
            _ => KeyError::Unavailable,
        };
        Step { start_fetch, result: (!self.is_worth_waiting()).then_some(Err(error)) }
    }

    /// Marks a fetch as started if it is wanted and no fetch is in progress.
    fn start_fetch_if(&mut self, wanted: bool, now: Instant) -> bool {
        let starts = wanted && !self.is_fetching();
        if starts {
            self.fetch_started = Some(now);
        }
        starts
    }

    /// The cached set, unless it is stale.
    fn usable_set(&self, now: Instant) -> Option<&CachedSet> {
        self.cached.as_ref().filter(|cached| now.duration_since(cached.as_of) < self.max_stale)
    }

    fn has_fetched_since(&self, instant: Instant) -> bool {
        self.last_fetch.is_some_and(|last| last.ended >= instant)
    }

    fn failures(&self) -> u32 {
        self.last_fetch.map_or(0, |last| last.failures)
    }

    /// Whether the set has reached its maximum age and a fetch is allowed.
    fn is_due(&self, now: Instant) -> bool {
        now >= self.next_due(now)
    }

    fn next_due(&self, now: Instant) -> Instant {
        let max_age_reached = self.cached.as_ref().map_or(now, |cached| cached.as_of + cached.max_age);
        max_age_reached.max(self.next_attempt_after_failure(now))
    }

    /// The earliest time of another fetch; `now` if the last fetch did not fail.
    fn next_attempt_after_failure(&self, now: Instant) -> Instant {
        match self.last_fetch {
            Some(LastFetch { ended, failures: 1.. }) if self.usable_set(now).is_some() => ended + self.cool_down,
            Some(LastFetch { ended, failures: failures @ 1.. }) => {
                let doubled = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16));
                ended + doubled.min(self.cool_down)
            }
            _ => now,
        }
    }

    /// Whether no fetch was attempted for so long that the background refresh cannot have run, for example because the
    /// runtime was suspended.
    fn is_overdue(&self, now: Instant) -> bool {
        let (Some(cached), Some(last)) = (&self.cached, self.last_fetch) else { return false };
        now >= last.ended + 2 * cached.max_age.max(self.cool_down)
    }

    fn limit_max_age(&self, max_age: Option<Duration>) -> Duration {
        let most = (*MAX_AGE.end()).min(self.max_stale / 2).max(*MAX_AGE.start());
        max_age.unwrap_or(self.default_max_age).clamp(*MAX_AGE.start(), most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::settings::Location;
    use crate::signer::{Signer, jwks};

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);
    const ES256: Algorithm = Algorithm::ES256;

    /// A cache and a clock that the test advances.
    struct Scene {
        cache: Cache,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let location = Location::Discovery { issuer: "https://login.example".into() };
            Self { cache: Cache::new(&Settings::new(location)), now: Instant::now() }
        }

        /// A cache with key `a`, fetched now, with a maximum age of 5 minutes.
        fn with_key_a() -> Self {
            let mut scene = Self::new();
            assert!(scene.look_up("a").start_fetch);
            scene.succeed(&["a"]);
            scene
        }

        fn advance(&mut self, seconds: u32) -> &mut Self {
            self.now += seconds * SECOND;
            self
        }

        /// A new lookup.
        fn look_up(&mut self, kid: &str) -> Step<LookupResult> {
            self.now += Duration::from_millis(1);
            self.cache.look_up(Some(kid), ES256, self.now, self.now)
        }

        /// Repeats a lookup that was first made `earlier` seconds ago.
        fn look_up_again(&mut self, kid: &str, earlier: u32) -> Step<LookupResult> {
            self.cache.look_up(Some(kid), ES256, self.now - earlier * SECOND, self.now)
        }

        fn succeed(&mut self, kids: &[&str]) -> (FetchOutcome, Instant) {
            let keys: Vec<_> = kids.iter().map(|kid| Signer::new(kid, ES256).jwk()).collect();
            let keys = KeySet::parse(&jwks(&keys)).unwrap();
            self.finish(Ok(Fetched::New { keys, etag: None, max_age: None }))
        }

        fn fail(&mut self) -> (FetchOutcome, Instant) {
            self.finish(Err(FetchError::Timeout))
        }

        fn finish(&mut self, fetched: Result<Fetched, FetchError>) -> (FetchOutcome, Instant) {
            assert!(self.cache.is_fetching());
            self.now += Duration::from_millis(1);
            self.cache.finish_fetch(fetched, self.now)
        }
    }

    fn error(step: &Step<LookupResult>) -> Option<KeyError> {
        step.result.as_ref().and_then(|result| result.as_ref().err().copied())
    }

    fn is_found(step: &Step<LookupResult>) -> bool {
        matches!(step.result, Some(Ok(_)))
    }

    #[test]
    fn the_first_lookup_starts_a_fetch_and_all_wait_for_it() {
        let mut scene = Scene::new();
        let first = scene.look_up("a");
        assert!(first.start_fetch && first.result.is_none());
        let second = scene.look_up("b");
        assert!(!second.start_fetch && second.result.is_none());
        scene.advance(1).succeed(&["a"]);
        assert!(is_found(&scene.look_up_again("a", 1)));
        let unknown = scene.look_up_again("b", 1);
        assert!(unknown.start_fetch && unknown.result.is_none(), "it may have been published since that fetch began");
        scene.advance(1).succeed(&["a"]);
        let unknown = scene.look_up_again("b", 2);
        assert_eq!(
            (unknown.start_fetch, error(&unknown)),
            (false, Some(KeyError::Unknown)),
            "that fetch started after the lookup"
        );
    }

    /// R-SUBJ-04: a key that was published after the last fetch is found as soon as the cool-down allows, and until then
    /// is not reported as unknown. One fetch is made, however many other key IDs are looked up.
    #[test]
    fn a_new_key_in_a_cool_down_is_not_called_unknown() {
        let mut scene = Scene::with_key_a();
        assert!(scene.advance(60).look_up("x").start_fetch);
        scene.succeed(&["a"]);
        assert_eq!(
            error(&scene.look_up_again("x", 1)),
            Some(KeyError::Unknown),
            "a fetch since then does not contain it"
        );
        let again = error(&scene.look_up("x"));
        assert_eq!(again, Some(KeyError::CoolingDown { retry_after: 29 * SECOND + MS * 998 }));
        let mut fetches = 0;
        for second in 1..=28 {
            for name in ["new", "y", "z"] {
                let step = scene.look_up(name);
                fetches += u32::from(step.start_fetch);
                let Some(KeyError::CoolingDown { retry_after }) = error(&step) else { panic!("{second}: {name}") };
                assert!(retry_after <= (30 - second + 1) * SECOND && retry_after >= (30 - second - 1) * SECOND);
            }
            scene.advance(1);
        }
        assert_eq!(fetches, 0);
        assert!(scene.advance(2).look_up("z").start_fetch, "a lookup of any key starts it");
        assert!(scene.look_up("new").result.is_none(), "the lookup waits");
        scene.succeed(&["a", "new"]);
        assert!(is_found(&scene.look_up("new")));
        let last = error(&scene.look_up_again("z", 0));
        assert_eq!(last, Some(KeyError::CoolingDown { retry_after: 29 * SECOND + MS * 997 }));
    }

    /// A lookup during a fetch starts another fetch if that one does not return the key.
    #[test]
    fn a_fetch_that_started_before_the_lookup_does_not_prove_absence() {
        let mut scene = Scene::with_key_a();
        assert!(scene.advance(300).look_up("a").start_fetch, "the set has reached its maximum age");
        assert!(scene.advance(1).look_up("new").result.is_none());
        scene.advance(1).succeed(&["a"]);
        let step = scene.look_up_again("new", 2);
        assert!(step.start_fetch && step.result.is_none());
        scene.succeed(&["a", "new"]);
        assert!(is_found(&scene.look_up_again("new", 2)));
    }

    /// a publisher that hangs delays only the lookups before the first timeout.
    #[test]
    fn no_lookup_waits_for_a_fetch_after_a_failure() {
        let mut scene = Scene::new();
        assert!(scene.look_up("a").result.is_none());
        scene.advance(5).fail();
        let second = scene.advance(1).look_up("a");
        assert_eq!((second.start_fetch, error(&second)), (true, Some(KeyError::Unavailable)));
        assert_eq!(error(&scene.look_up("b")), Some(KeyError::Unavailable));
        scene.succeed(&["a"]);
        assert!(is_found(&scene.look_up("a")));
        let unknown = scene.advance(60).look_up("b");
        assert!(unknown.start_fetch && unknown.result.is_none(), "lookups wait again after a success");
    }

    ///
    #[test]
    fn at_the_maximum_age_one_fetch_starts_and_no_lookup_waits() {
        let mut scene = Scene::with_key_a();
        assert!(!scene.advance(299).look_up("a").start_fetch);
        let first = scene.advance(1).look_up("a");
        assert!(first.start_fetch && is_found(&first));
        for _ in 0..1000 {
            let step = scene.look_up("a");
            assert!(!step.start_fetch && is_found(&step));
        }
    }

    /// A-073, R-SUBJ-04: at least 30 s between two fetches for unknown keys.
    #[test]
    fn a_storm_of_unknown_keys_fetches_once_a_cool_down_even_if_that_fails() {
        let mut scene = Scene::with_key_a();
        let mut fetches = 0;
        for number in 0..10_000_u64 {
            if scene.look_up(&format!("x{number}")).start_fetch {
                fetches += 1;
                scene.fail();
            }
            assert!(is_found(&scene.look_up("a")), "tokens with a known key are verified");
            scene.now += Duration::from_millis(4);
        }
        assert_eq!(fetches, 2, "in 60 seconds");
    }

    ///
    #[test]
    fn a_key_is_unknown_only_if_a_fresh_set_does_not_contain_it() {
        let mut scene = Scene::with_key_a();
        let first = scene.advance(60).look_up("b");
        assert!(first.start_fetch && first.result.is_none());
        scene.advance(1).fail();
        assert_eq!(error(&scene.look_up_again("b", 1)), Some(KeyError::Unavailable));
        assert_eq!(error(&scene.advance(10).look_up("b")), Some(KeyError::Unavailable), "during the cool-down");
        assert!(scene.advance(30).look_up("b").start_fetch);
        scene.advance(1).succeed(&["a"]);
        assert_eq!(error(&scene.look_up_again("b", 2)), Some(KeyError::Unknown));
        let later = error(&scene.advance(10).look_up("b"));
        assert!(matches!(later, Some(KeyError::CoolingDown { .. })), "{later:?}: it may have been published since");
    }

    /// A-069, R-SUBJ-04
    #[test]
    fn known_keys_serve_past_their_age_until_they_are_stale() {
        let mut scene = Scene::with_key_a();
        for _ in 0..(24 * 60 - 1) {
            let step = scene.advance(60).look_up("a");
            assert!(is_found(&step));
            if step.start_fetch {
                scene.fail();
            }
        }
        let stale = scene.advance(60).look_up("a");
        assert_eq!((stale.start_fetch, error(&stale)), (true, Some(KeyError::Unavailable)));
        scene.fail();
        assert_eq!(error(&scene.look_up("a")), Some(KeyError::Unavailable));
    }

    ///
    #[test]
    fn a_key_that_was_withdrawn_stops_at_the_next_fetch() {
        let mut scene = Scene::with_key_a();
        scene.advance(300);
        assert!(scene.cache.refresh_if_due(scene.now).start_fetch, "without a lookup");
        scene.succeed(&["b"]);
        assert!(scene.look_up("a").result.is_none(), "it may be published again: one forced fetch");
        scene.succeed(&["b"]);
        assert_eq!(error(&scene.look_up_again("a", 1)), Some(KeyError::Unknown));
        assert!(is_found(&scene.look_up("b")));
    }

    /// no background refresh ran in the meantime.
    #[test]
    fn a_set_without_background_refresh_is_fetched_before_use() {
        let mut scene = Scene::with_key_a();
        let late = scene.advance(601).look_up("a");
        assert!(late.start_fetch && late.result.is_none());
        scene.advance(1).fail();
        assert!(is_found(&scene.look_up_again("a", 1)), "the publisher is unreachable: the old set stays in use");
    }

    ///
    #[test]
    fn an_algorithm_that_does_not_fit_causes_no_fetch() {
        let mut scene = Scene::with_key_a();
        scene.advance(60);
        let step = scene.cache.look_up(Some("a"), Algorithm::RS256, scene.now, scene.now);
        assert_eq!((step.start_fetch, error(&step)), (false, Some(KeyError::Unfit)));
    }

    ///
    #[test]
    fn without_a_key_set_the_pauses_grow_up_to_the_cool_down() {
        let mut scene = Scene::new();
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            assert!(scene.look_up("a").start_fetch);
            let (outcome, due) = scene.fail();
            assert_eq!((outcome, due - scene.now), (FetchOutcome::Error, pause * SECOND));
            assert_eq!(error(&scene.look_up("a")), Some(KeyError::Unavailable));
            scene.advance(pause);
        }
        assert!(scene.look_up("a").start_fetch);
        scene.succeed(&["a"]);
        assert!(is_found(&scene.look_up("a")));
    }

    #[test]
    fn an_unchanged_set_counts_as_fetched() {
        let mut scene = Scene::with_key_a();
        assert!(scene.advance(300).look_up("a").start_fetch);
        let (outcome, due) = scene.finish(Ok(Fetched::Unchanged { max_age: Some(60 * SECOND) }));
        assert_eq!(outcome, FetchOutcome::Unchanged);
        assert!(due <= scene.now + 60 * SECOND && due > scene.now + 59 * SECOND);
        assert!(is_found(&scene.look_up("a")));
    }

    #[test]
    fn the_max_age_of_a_publisher_is_limited() {
        let mut cache = Scene::new().cache;
        assert_eq!(cache.limit_max_age(None), 300 * SECOND);
        assert_eq!(cache.limit_max_age(Some(Duration::ZERO)), SECOND);
        assert_eq!(cache.limit_max_age(Some(Duration::MAX)), 12 * 3600 * SECOND, "half of max_stale");
        cache.max_stale = Duration::MAX;
        assert_eq!(cache.limit_max_age(Some(Duration::MAX)), 24 * 3600 * SECOND);
        cache.max_stale = SECOND;
        assert_eq!(cache.limit_max_age(Some(60 * SECOND)), SECOND);
    }
}
