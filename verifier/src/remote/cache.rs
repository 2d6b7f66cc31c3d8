//! What is known of the keys, and when to fetch: pure, the time is an argument.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use tokio::time::Instant;

use super::fetch::{FetchError, Fetched};
use super::{FetchOutcome, KeyError, Settings};
use crate::jwks::{Candidates, KeySet, NoKey};

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
pub(super) type Answer = Option<Result<Candidates, KeyError>>;

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

    /// Whether the fetch under way may be waited for. After a failure nobody does: who waited would be kept for the
    /// whole time of the next.
    fn is_promising(&self) -> bool {
        self.in_flight() && self.failures() == 0
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
        let found = self.serving(now).map(|held| held.keys.find(kid, algorithm));
        match found {
            // Without a `kid` it is the set that has too many keys, which no fetch is made for.
            Some(Err(NoKey::Unknown)) if kid.is_some() => self.unknown(asked, now),
            Some(known) => {
                let neglected = self.neglected(now);
                let fetch = self.begin_if(self.due(now), now);
                let wait = neglected && self.is_promising();
                Next { fetch, answer: (!wait).then(|| known.map_err(KeyError::from)) }
            }
            None => {
                let fetch = self.begin_if(!self.ended_since(asked) && self.due(now), now);
                Next { fetch, answer: (!self.is_promising()).then_some(Err(KeyError::Unavailable)) }
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

    /// The set lacks the key. Only an answer that is newer than the question can tell whether it exists: it may have been
    /// published since the last fetch began. What names keys at random must not cause a fetch each, so until the
    /// cool-down is over that cannot be told.
    fn unknown(&mut self, asked: Instant, now: Instant) -> Next<Answer> {
        let failed_since = self.ended_since(asked) && self.failures() > 0;
        if self.held.as_ref().is_some_and(|held| held.as_of >= asked) {
            return Next { fetch: false, answer: Some(Err(KeyError::Unknown)) };
        }
        let cooled = self.forced.map_or(now, |forced| forced + self.cool_down).max(self.not_before(now));
        let fetch = !failed_since && self.begin_if(now >= cooled, now);
        if fetch {
            self.forced = Some(now);
        }
        let verdict = match self.failures() {
            0 => KeyError::CoolingDown { retry_after: cooled.duration_since(now) },
            _ => KeyError::Unavailable,
        };
        Next { fetch, answer: (!self.is_promising()).then_some(Err(verdict)) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::Location;
    use crate::signer::{Signer, jwks};

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);
    const ES256: Algorithm = Algorithm::ES256;

    /// A cache and a clock that the test moves.
    struct Scene {
        cache: Cache,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let location = Location::Discovery { issuer: "https://login.example".into() };
            Self { cache: Cache::new(&Settings::new(location)), now: Instant::now() }
        }

        /// With key `a` fetched just now, to be kept for 5 minutes.
        fn fetched() -> Self {
            let mut scene = Self::new();
            assert!(scene.ask("a").fetch);
            scene.brings(&["a"]);
            scene
        }

        fn pass(&mut self, seconds: u32) -> &mut Self {
            self.now += seconds * SECOND;
            self
        }

        /// A new question.
        fn ask(&mut self, kid: &str) -> Next<Answer> {
            self.now += Duration::from_millis(1);
            self.cache.look(Some(kid), ES256, self.now, self.now)
        }

        /// The question asked `earlier` seconds ago, once more.
        fn ask_again(&mut self, kid: &str, earlier: u32) -> Next<Answer> {
            self.cache.look(Some(kid), ES256, self.now - earlier * SECOND, self.now)
        }

        fn brings(&mut self, kids: &[&str]) -> (FetchOutcome, Instant) {
            let keys: Vec<_> = kids.iter().map(|kid| Signer::new(kid, ES256).jwk()).collect();
            let keys = KeySet::parse(&jwks(&keys)).unwrap();
            self.ends(Ok(Fetched::New { keys, tag: None, max_age: None }))
        }

        fn fails(&mut self) -> (FetchOutcome, Instant) {
            self.ends(Err(FetchError::Timeout))
        }

        fn ends(&mut self, fetched: Result<Fetched, FetchError>) -> (FetchOutcome, Instant) {
            assert!(self.cache.in_flight());
            self.now += Duration::from_millis(1);
            self.cache.conclude(fetched, self.now)
        }
    }

    fn refusal(next: &Next<Answer>) -> Option<KeyError> {
        next.answer.as_ref().and_then(|answer| answer.as_ref().err().copied())
    }

    fn served(next: &Next<Answer>) -> bool {
        matches!(next.answer, Some(Ok(_)))
    }

    #[test]
    fn the_first_question_starts_a_fetch_and_all_wait_for_it() {
        let mut scene = Scene::new();
        let first = scene.ask("a");
        assert!(first.fetch && first.answer.is_none());
        let second = scene.ask("b");
        assert!(!second.fetch && second.answer.is_none());
        scene.pass(1).brings(&["a"]);
        assert!(served(&scene.ask_again("a", 1)));
        let unknown = scene.ask_again("b", 1);
        assert!(unknown.fetch && unknown.answer.is_none(), "it may have been published since that fetch began");
        scene.pass(1).brings(&["a"]);
        let unknown = scene.ask_again("b", 2);
        assert_eq!((unknown.fetch, refusal(&unknown)), (false, Some(KeyError::Unknown)), "the answer is newer");
    }

    /// R-SUBJ-04: a key that was published after the last fetch is found as soon as the cool-down allows, and until then
    /// nobody says that it does not exist; however many other names are asked for meanwhile, one fetch is made.
    #[test]
    fn a_new_key_in_a_cool_down_is_not_called_unknown() {
        let mut scene = Scene::fetched();
        assert!(scene.pass(60).ask("x").fetch);
        scene.brings(&["a"]);
        assert_eq!(refusal(&scene.ask_again("x", 1)), Some(KeyError::Unknown), "a fetch since then lacks it");
        let again = refusal(&scene.ask("x"));
        assert_eq!(again, Some(KeyError::CoolingDown { retry_after: 29 * SECOND + MS * 998 }));
        let mut fetches = 0;
        for second in 1..=28 {
            for name in ["new", "y", "z"] {
                let next = scene.ask(name);
                fetches += u32::from(next.fetch);
                let Some(KeyError::CoolingDown { retry_after }) = refusal(&next) else { panic!("{second}: {name}") };
                assert!(retry_after <= (30 - second + 1) * SECOND && retry_after >= (30 - second - 1) * SECOND);
            }
            scene.pass(1);
        }
        assert_eq!(fetches, 0);
        assert!(scene.pass(2).ask("z").fetch, "anybody's question will do");
        assert!(scene.ask("new").answer.is_none(), "it is awaited");
        scene.brings(&["a", "new"]);
        assert!(served(&scene.ask("new")));
        let last = refusal(&scene.ask_again("z", 0));
        assert_eq!(last, Some(KeyError::CoolingDown { retry_after: 29 * SECOND + MS * 997 }));
    }

    /// A key that is asked for while a fetch is under way gets one of its own, if that one does not bring it.
    #[test]
    fn an_answer_that_began_before_the_question_is_none_to_it() {
        let mut scene = Scene::fetched();
        assert!(scene.pass(300).ask("a").fetch, "for its age");
        assert!(scene.pass(1).ask("new").answer.is_none());
        scene.pass(1).brings(&["a"]);
        let next = scene.ask_again("new", 2);
        assert!(next.fetch && next.answer.is_none());
        scene.brings(&["a", "new"]);
        assert!(served(&scene.ask_again("new", 2)));
    }

    /// a publisher that hangs keeps only those waiting who asked before anybody could know.
    #[test]
    fn nobody_waits_for_a_fetch_that_follows_a_failure() {
        let mut scene = Scene::new();
        assert!(scene.ask("a").answer.is_none());
        scene.pass(5).fails();
        let second = scene.pass(1).ask("a");
        assert_eq!((second.fetch, refusal(&second)), (true, Some(KeyError::Unavailable)));
        assert_eq!(refusal(&scene.ask("b")), Some(KeyError::Unavailable));
        scene.brings(&["a"]);
        assert!(served(&scene.ask("a")));
        let unknown = scene.pass(60).ask("b");
        assert!(unknown.fetch && unknown.answer.is_none(), "what has worked may be waited for");
    }

    ///
    #[test]
    fn when_the_set_has_aged_one_fetch_starts_and_nobody_waits() {
        let mut scene = Scene::fetched();
        assert!(!scene.pass(299).ask("a").fetch);
        let first = scene.pass(1).ask("a");
        assert!(first.fetch && served(&first));
        for _ in 0..1000 {
            let next = scene.ask("a");
            assert!(!next.fetch && served(&next));
        }
    }

    /// A-073, R-SUBJ-04: 30 s between two fetches that unknown keys ask for.
    #[test]
    fn a_storm_of_unknown_keys_fetches_once_a_cool_down_even_if_that_fails() {
        let mut scene = Scene::fetched();
        let mut fetches = 0;
        for number in 0..10_000_u64 {
            if scene.ask(&format!("x{number}")).fetch {
                fetches += 1;
                scene.fails();
            }
            assert!(served(&scene.ask("a")), "good tokens are unharmed");
            scene.now += Duration::from_millis(4);
        }
        assert_eq!(fetches, 2, "60 seconds of storm");
    }

    ///
    #[test]
    fn a_key_is_unknown_only_if_a_fresh_answer_lacks_it() {
        let mut scene = Scene::fetched();
        let asked = scene.pass(60).ask("b");
        assert!(asked.fetch && asked.answer.is_none());
        scene.pass(1).fails();
        assert_eq!(refusal(&scene.ask_again("b", 1)), Some(KeyError::Unavailable));
        assert_eq!(refusal(&scene.pass(10).ask("b")), Some(KeyError::Unavailable), "in the cool-down");
        assert!(scene.pass(30).ask("b").fetch);
        scene.pass(1).brings(&["a"]);
        assert_eq!(refusal(&scene.ask_again("b", 2)), Some(KeyError::Unknown));
        let later = refusal(&scene.pass(10).ask("b"));
        assert!(matches!(later, Some(KeyError::CoolingDown { .. })), "{later:?}: it may be there by now");
    }

    /// A-069, R-SUBJ-04
    #[test]
    fn known_keys_serve_past_their_age_until_they_are_stale() {
        let mut scene = Scene::fetched();
        for _ in 0..(24 * 60 - 1) {
            let next = scene.pass(60).ask("a");
            assert!(served(&next));
            if next.fetch {
                scene.fails();
            }
        }
        let stale = scene.pass(60).ask("a");
        assert_eq!((stale.fetch, refusal(&stale)), (true, Some(KeyError::Unavailable)));
        scene.fails();
        assert_eq!(refusal(&scene.ask("a")), Some(KeyError::Unavailable));
    }

    ///
    #[test]
    fn a_key_that_was_withdrawn_stops_at_the_next_fetch() {
        let mut scene = Scene::fetched();
        scene.pass(300);
        assert!(scene.cache.tick(scene.now).fetch, "without any question");
        scene.brings(&["b"]);
        assert!(scene.ask("a").answer.is_none(), "it may have come back: one forced fetch");
        scene.brings(&["b"]);
        assert_eq!(refusal(&scene.ask_again("a", 1)), Some(KeyError::Unknown));
        assert!(served(&scene.ask("b")));
    }

    /// nothing ran in the meantime, so the set is as old as it looks.
    #[test]
    fn a_set_that_nobody_kept_fresh_is_not_relied_on() {
        let mut scene = Scene::fetched();
        let late = scene.pass(601).ask("a");
        assert!(late.fetch && late.answer.is_none());
        scene.pass(1).fails();
        assert!(served(&scene.ask_again("a", 1)), "the publisher is away: the old set serves");
    }

    ///
    #[test]
    fn an_algorithm_that_does_not_fit_causes_no_fetch() {
        let mut scene = Scene::fetched();
        scene.pass(60);
        let next = scene.cache.look(Some("a"), Algorithm::RS256, scene.now, scene.now);
        assert_eq!((next.fetch, refusal(&next)), (false, Some(KeyError::Unfit)));
    }

    ///
    #[test]
    fn without_any_keys_the_pauses_grow_up_to_the_cool_down() {
        let mut scene = Scene::new();
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            assert!(scene.ask("a").fetch);
            let (outcome, due) = scene.fails();
            assert_eq!((outcome, due - scene.now), (FetchOutcome::Error, pause * SECOND));
            assert_eq!(refusal(&scene.ask("a")), Some(KeyError::Unavailable));
            scene.pass(pause);
        }
        assert!(scene.ask("a").fetch);
        scene.brings(&["a"]);
        assert!(served(&scene.ask("a")));
    }

    #[test]
    fn an_unchanged_set_is_as_good_as_a_new_one() {
        let mut scene = Scene::fetched();
        assert!(scene.pass(300).ask("a").fetch);
        let (outcome, due) = scene.ends(Ok(Fetched::Unchanged { max_age: Some(60 * SECOND) }));
        assert_eq!(outcome, FetchOutcome::Unchanged);
        assert!(due <= scene.now + 60 * SECOND && due > scene.now + 59 * SECOND);
        assert!(served(&scene.ask("a")));
    }

    #[test]
    fn the_age_that_a_publisher_asks_for_has_bounds() {
        let mut cache = Scene::new().cache;
        assert_eq!(cache.bounded(None), 300 * SECOND);
        assert_eq!(cache.bounded(Some(Duration::ZERO)), SECOND);
        assert_eq!(cache.bounded(Some(Duration::MAX)), 12 * 3600 * SECOND, "half the time until it is stale");
        cache.max_stale = Duration::MAX;
        assert_eq!(cache.bounded(Some(Duration::MAX)), 24 * 3600 * SECOND);
        cache.max_stale = SECOND;
        assert_eq!(cache.bounded(Some(60 * SECOND)), SECOND);
    }
}
