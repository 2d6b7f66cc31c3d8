//! Single transitions, and properties of every reachable ring under any behaviour of the clock.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use super::*;
use crate::keys::SigningAlgorithm;
use crate::keys::public::Material;

const START: u64 = 1_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_epoch(START + seconds)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Rotation 100, JWKS 10, lifetime 30, retention 1000.
fn times() -> KeyTimes {
    KeyTimes::new(seconds(100), seconds(10), seconds(30), seconds(1000)).unwrap()
}

/// A key that exists in name only.
fn key(number: u64, created_at: Timestamp) -> SigningKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    let material = Material::Okp { x: URL_SAFE_NO_PAD.encode(bytes) };
    let public = PublicKey::new(SigningAlgorithm::EdDSA, material).unwrap();
    SigningKey::new(public, created_at, String::new().try_into().unwrap())
}

fn kid(number: u64) -> String {
    key(number, at(0)).public.kid().to_string()
}

/// Key 1 signs, key 2 is next.
fn first() -> Ring {
    Ring::first(key(1, at(0)), key(2, at(0)), times(), at(0))
}

fn promoted(ring: &Ring, fresh: u64, now: u64) -> Ring {
    ring.promote(key(fresh, at(now)), times(), at(now), at(now)).unwrap()
}

fn state(ring: &Ring, number: u64) -> Option<KeyState> {
    let kid = kid(number);
    ring.lives().find(|life| life.kid().as_str() == kid).map(|life| life.state())
}

#[test]
fn the_first_key_signs_at_once_and_gives_way_after_its_period() {
    let ring = first();
    assert_eq!(ring.due(times(), at(99)), None);
    assert_eq!(ring.next_due(times()), at(100));
    assert_eq!(ring.due(times(), at(100)), Some(Step::Promote));
    let ring = promoted(&ring, 3, 100);
    assert_eq!([1, 2, 3].map(|n| state(&ring, n)), [KeyState::Previous, KeyState::Current, KeyState::Next].map(Some));
    assert_eq!(ring.due(times(), at(100)), None);
}

/// R-KEYS-02, R-KEYS-10
#[test]
fn a_key_becomes_historical_then_only_a_name() {
    let mut ring = first();
    for round in 1..=2 {
        ring = promoted(&ring, 2 + round, 100 * round);
    }
    assert_eq!(state(&ring, 1), Some(KeyState::Historical));
    assert_eq!(ring.forget(times(), at(1100)), Ring { version: ring.version + 1, ..ring.clone() });
    ring.current.signs_from = at(1099);
    assert_eq!(ring.next_due(times()), at(1101));
    assert_eq!(ring.due(times(), at(1101)), Some(Step::Forget));
    let ring = ring.forget(times(), at(1101));
    assert_eq!(ring.find(&kid(1)), Found::Forgotten);
    assert_eq!(ring.find(&kid(9)), Found::Unknown);
    assert_eq!(ring.due(times(), at(1101)), None);
}

#[test]
fn rotation_by_hand_waits_for_the_lead_of_next() {
    let ring = first();
    let early = ring.promote(key(3, at(10)), times(), at(10), at(10));
    assert_eq!(early, Err(TooEarly { from: at(11) }));
    promoted(&ring, 3, 11);
}

#[test]
fn rotation_by_hand_waits_until_the_tokens_of_previous_are_gone_everywhere() {
    let ring = promoted(&first(), 3, 11);
    let early = ring.promote(key(4, at(50)), times(), at(50), at(50));
    assert_eq!(early, Err(TooEarly { from: at(11 + 30 + 10) }));
    promoted(&ring, 4, 51);
}

#[test]
fn after_days_of_downtime_one_promotion_is_enough_and_no_span_covers_the_downtime() {
    let ring = first();
    let (last_event, now) = (at(40), at(10_000));
    let end = ring.end_of_span(last_event, now);
    let ring = ring.promote(key(3, now), times(), end, now).unwrap();
    assert_eq!(ring.due(times(), now), None);
    let Found::Published(old) = ring.find(&kid(1)) else { panic!("previous is published") };
    assert!(old.signed_at(at(0)) && old.signed_at(at(100)));
    assert!(!old.signed_at(at(101)));
    let Found::Published(new) = ring.find(&kid(2)) else { panic!("current is published") };
    assert!(!new.signed_at(at(9_999)) && new.signed_at(now));
}

#[test]
fn a_span_found_after_a_crash_reaches_to_the_last_recorded_event_but_not_beyond_now() {
    let ring = first();
    assert_eq!(ring.end_of_span(at(120), at(200)), at(120));
    assert_eq!(ring.end_of_span(at(120), at(110)), at(110));
}

#[test]
fn revoking_current_promotes_next_without_lead() {
    let ring = first().revoke(&kid(1), key(3, at(5)), times(), at(5)).unwrap();
    assert_eq!([1, 2, 3].map(|n| state(&ring, n)), [KeyState::Revoked, KeyState::Current, KeyState::Next].map(Some));
    assert_eq!(ring.signs_from(), at(5));
    assert_eq!(ring.revoke(&kid(1), key(4, at(6)), times(), at(6)), Err(RevokeError::Already));
    assert_eq!(ring.revoke("kid", key(4, at(6)), times(), at(6)), Err(RevokeError::Unknown));
}

#[test]
fn revoking_next_replaces_it_and_puts_off_the_rotation_for_its_lead() {
    let ring = first().revoke(&kid(2), key(3, at(95)), times(), at(95)).unwrap();
    assert_eq!([1, 2, 3].map(|n| state(&ring, n)), [KeyState::Current, KeyState::Revoked, KeyState::Next].map(Some));
    assert_eq!(ring.next_due(times()), at(106));
    assert_eq!(ring.end_of_span(at(0), at(1000)), at(106));
}

#[test]
fn revoking_previous_and_historical_keys_leaves_the_others() {
    let ring = promoted(&promoted(&first(), 3, 100), 4, 200);
    for number in [1, 2] {
        let ring = ring.revoke(&kid(number), key(9, at(210)), times(), at(210)).unwrap();
        assert_eq!(ring.find(&kid(number)), Found::Revoked);
        assert_eq!([3, 4].map(|n| state(&ring, n)), [KeyState::Current, KeyState::Next].map(Some));
        assert_eq!(state(&ring, 9), None);
    }
}

#[test]
fn a_longer_lifetime_is_on_record_before_the_key_signs_under_it() {
    let longer = KeyTimes::new(seconds(200), seconds(10), seconds(60), seconds(1000)).unwrap();
    let shorter = KeyTimes::new(seconds(50), seconds(10), seconds(20), seconds(1000)).unwrap();
    let ring = first();
    assert_eq!(ring.adjust(times(), at(20)), None);
    assert_eq!(ring.adjust(shorter, at(20)), None);
    let ring = ring.adjust(longer, at(20)).unwrap();
    assert_eq!(ring.current.longest_lifetime, seconds(60));
    assert_eq!(ring.end_of_span(at(0), at(1000)), at(200));
    assert_eq!(ring.adjust(longer, at(20)), None);
}

/// stored, and cut off before it was published.
#[test]
fn a_start_within_the_lead_of_next_restarts_it() {
    let ring = first().adjust(times(), at(10)).unwrap();
    assert_eq!(ring.schedule().rotatable_from(times()), at(10 + 10 + 1));
    assert_eq!(ring.adjust(times(), at(11)), None);
}

/// By a clock that is five seconds behind, and with a token that lives as long as it may.
#[test]
fn an_instance_that_was_cut_off_signs_with_previous_for_no_longer_than_its_period_and_the_age_of_a_jwks() {
    assert_eq!(first().schedule().overdue_after(times(), false), at(110));
    let ring = promoted(&first(), 3, 50);
    assert_eq!(ring.schedule().previous_in_use_until(at(50), times(), seconds(5)), Some(at(110 + 5 + 30 + 1)));
    let later = promoted(&ring, 4, 100);
    assert_eq!(later.schedule().previous_in_use_until(at(49), times(), seconds(5)), None, "it never had that key");
}

#[test]
fn a_clock_that_went_wrong_is_forgiven_by_the_operator() {
    let ring = promoted(&first(), 3, 1_000_000);
    let ring = ring.trust_clock(times(), at(50));
    assert_eq!((ring.signs_from(), ring.next_due(times())), (at(50), at(150)));
    let Found::Published(old) = ring.find(&kid(1)) else { panic!("previous is published") };
    assert!(old.signed_at(at(50)) && !old.signed_at(at(51)));
}

#[test]
fn a_rebuilt_ring_publishes_the_last_signer_and_keeps_the_rest_as_it_was() {
    let ring = promoted(&promoted(&first(), 3, 100), 4, 200);
    let ring = ring.revoke(&kid(1), key(9, at(210)), times(), at(210)).unwrap();
    let rebuilt = Ring::rebuilt(ring.lives(), key(10, at(250)), key(11, at(250)), times(), at(250));
    assert_eq!(
        [1, 2, 3, 4, 10, 11].map(|n| state(&rebuilt, n)),
        [
            Some(KeyState::Revoked),
            Some(KeyState::Historical),
            Some(KeyState::Previous),
            None,
            Some(KeyState::Current),
            Some(KeyState::Next)
        ]
    );
    let Found::Published(last) = rebuilt.find(&kid(3)) else { panic!("previous is published") };
    assert!(last.signed_at(at(250)) && !last.signed_at(at(251)));
}

#[test]
fn imported_keys_join_the_history_and_change_nothing_that_is_here() {
    let other = promoted(&first(), 3, 100);
    let ring = Ring::first(key(11, at(300)), key(3, at(300)), times(), at(300));
    let (ring, added) = ring.import(other.lives(), at(310));
    assert_eq!(added, 2);
    assert_eq!(
        [1, 2, 3, 11].map(|n| state(&ring, n)),
        [KeyState::Historical, KeyState::Historical, KeyState::Next, KeyState::Current].map(Some)
    );
}

#[test]
fn a_ring_reads_back_as_it_was_written() {
    let ring = promoted(&promoted(&first(), 3, 100), 4, 200);
    let read: Ring = serde_json::from_slice(&serde_json::to_vec(&ring).unwrap()).unwrap();
    assert_eq!(read.with_past(ring.past.clone()), Some(ring));
}

#[test]
fn a_key_in_two_states_is_refused() {
    let ring = first();
    let past = BTreeMap::from([(ring.next.key.public.kid().clone(), PastKey::Forgotten)]);
    assert_eq!(ring.clone().with_past(past), None);
    assert_eq!(
        Ring { next: NextKey::new(ring.current.key.clone(), &ring.schedule()), ..ring }.with_past(BTreeMap::new()),
        None
    );
}

/// An event in the life of a ring.
#[derive(Debug, Clone)]
enum Event {
    /// The clock moves on, the service signs, the timer asks.
    Run(u64),
    /// The clock moves on while the service is down; it catches up.
    Down(u64),
    /// The clock steps back.
    Back(u64),
    Rotate,
    /// Revokes the n-th key, counted round.
    Revoke(usize),
    Trust,
}

fn event() -> impl Strategy<Value = Event> {
    let jump = || prop_oneof![8 => 0..150_u64, 1 => 0..3_000_u64, 1 => 0..100_000_000_u64];
    prop_oneof![
        10 => jump().prop_map(Event::Run),
        2 => jump().prop_map(Event::Down),
        2 => (0..5_000_u64).prop_map(Event::Back),
        2 => Just(Event::Rotate),
        2 => any::<usize>().prop_map(Event::Revoke),
        1 => Just(Event::Trust),
    ]
}

/// A ring with the observations of an outside observer.
struct World {
    ring: Ring,
    times: KeyTimes,
    now: Timestamp,
    made: u64,
    /// Keys that are no longer published.
    gone: BTreeSet<String>,
    /// Tokens: the key that signed, and when.
    tokens: Vec<(String, Timestamp)>,
}

impl World {
    fn new(times: KeyTimes) -> Self {
        let ring = Ring::first(key(1, at(0)), key(2, at(0)), times, at(0));
        Self { ring, times, now: at(0), made: 2, gone: BTreeSet::new(), tokens: Vec::new() }
    }

    fn fresh(&mut self) -> SigningKey {
        self.made += 1;
        key(self.made, self.now)
    }

    fn sign(&mut self) {
        self.tokens.push((self.ring.current().public().kid().to_string(), self.now.max(self.ring.signs_from())));
    }

    fn last_event(&self) -> Timestamp {
        self.tokens.iter().map(|(_, iat)| *iat).max().unwrap_or(at(0))
    }

    /// Drops tokens that were signed while the clock was wrong.
    fn forget_the_future(&mut self) {
        self.tokens.retain(|(_, iat)| *iat <= self.now);
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Run(by) => {
                self.now = self.now + seconds(by);
                self.sign();
                self.tend(self.now.max(self.last_event()));
            }
            Event::Down(by) => {
                self.now = self.now + seconds(by);
                self.forget_the_future();
                self.tend(self.ring.end_of_span(self.last_event(), self.now));
                self.follow(self.ring.adjust(self.times, self.now).unwrap_or(self.ring.clone()));
            }
            Event::Back(by) => self.now = self.now - seconds(by),
            Event::Rotate => {
                let fresh = self.fresh();
                let end = self.now.max(self.last_event());
                let rotated = self.ring.promote(fresh, self.times, end, self.now);
                assert_eq!(rotated.is_ok(), self.ring.schedule().rotatable_from(self.times) <= self.now);
                let times = self.ring.schedule().promote(self.times, end, self.now);
                assert_eq!(rotated.as_ref().map(Ring::schedule), times.as_ref().copied());
                self.follow(rotated.unwrap_or(self.ring.clone()));
            }
            Event::Revoke(pick) => self.revoke(pick),
            Event::Trust => {
                self.forget_the_future();
                self.follow(self.ring.trust_clock(self.times, self.now));
            }
        }
        self.sign();
    }

    /// Takes each due step once, and never the same step twice.
    fn tend(&mut self, end: Timestamp) {
        if self.ring.due(self.times, self.now) == Some(Step::Promote) {
            let fresh = self.fresh();
            self.follow(self.ring.promote(fresh, self.times, end, self.now).unwrap());
            assert_ne!(self.ring.due(self.times, self.now), Some(Step::Promote), "twice");
        }
        while self.ring.due(self.times, self.now) == Some(Step::Forget) {
            self.follow(self.ring.forget(self.times, self.now));
        }
        assert_eq!(self.ring.due(self.times, self.now), None);
        assert!(self.ring.next_due(self.times) > self.now);
    }

    fn revoke(&mut self, pick: usize) {
        let lives: Vec<_> = self.ring.lives().collect();
        let life = &lives[pick % lives.len()];
        let fresh = self.fresh();
        match self.ring.revoke(life.kid().as_str(), fresh, self.times, self.now) {
            Ok(ring) => {
                self.follow(ring);
                assert_eq!(self.ring.find(life.kid().as_str()), Found::Revoked);
            }
            Err(error) => {
                let expected = match life.state() {
                    KeyState::Revoked => RevokeError::Already,
                    _ => RevokeError::Forgotten,
                };
                assert_eq!(error, expected);
            }
        }
    }

    fn follow(&mut self, ring: Ring) {
        let published = |ring: &Ring| ring.published().map(|key| key.kid().to_string()).collect::<BTreeSet<_>>();
        let (before, after) = (published(&self.ring), published(&ring));
        self.gone.extend(before.difference(&after).cloned());
        assert!(self.gone.is_disjoint(&after), "a key has come back");
        for life in self.ring.lives() {
            assert!(ring.knows_still(&life), "{life:?} was lost");
        }
        self.ring = ring;
    }

    fn check(&self) {
        let ring = &self.ring;
        assert!(ring.clone().with_past(ring.past.clone()).is_some(), "a key in two places");
        let mut spans: Vec<Span> =
            ring.lives().filter(|l| l.state() != KeyState::Current).filter_map(|l| l.signed()).collect();
        spans.sort_by_key(|span| (span.from, span.until));
        assert!(spans.iter().all(|span| span.from <= span.until), "a negative span");
        assert!(spans.windows(2).all(|pair| pair[0].until <= pair[1].from), "spans overlap: {spans:?}");
        assert!(spans.iter().all(|span| span.until <= ring.signs_from()), "a retired key signs");
        for (kid, iat) in &self.tokens {
            match ring.find(kid) {
                Found::Published(key) | Found::Historical(key) => assert!(key.signed_at(*iat), "{kid} at {iat}"),
                Found::Revoked | Found::Forgotten => {}
                Found::Unknown => panic!("{kid} was lost"),
            }
        }
    }
}

impl Ring {
    /// Whether a successor ring has lost nothing of `life`.
    fn knows_still(&self, life: &KeyLife) -> bool {
        let found = self.find(life.kid().as_str());
        match life.state() {
            KeyState::Revoked => found == Found::Revoked,
            KeyState::Forgotten => found == Found::Forgotten,
            KeyState::Historical => !matches!(found, Found::Unknown | Found::Published(_)),
            _ => found != Found::Unknown,
        }
    }
}

proptest! {
    #[test]
    fn the_invariants_hold_after_any_sequence_of_events(
        events in prop::collection::vec(event(), 1..60),
        (slack, jwks, lifetime, retention) in (0..200_u64, 1..50_u64, 1..50_u64, 1..2_000_u64),
    ) {
        let times = KeyTimes::new(seconds(lifetime + jwks + slack), seconds(jwks), seconds(lifetime), seconds(retention));
        let mut world = World::new(times.unwrap());
        for event in &events {
            world.happen(event);
            world.check();
        }
    }

    /// R-KEYS-04, as seen by a client that only fetches the JWKS, while the clock is right and no key is revoked.
    #[test]
    fn keys_are_published_before_they_sign_and_for_as_long_as_their_tokens_live(
        steps in prop::collection::vec((0..80_u64, any::<bool>()), 1..80),
    ) {
        let mut world = World::new(times());
        let mut first_seen = BTreeMap::from([(kid(2), at(0))]);
        for (by, by_hand) in steps {
            let before = world.ring.clone();
            world.happen(&if by_hand { Event::Rotate } else { Event::Run(by) });
            for public in world.ring.published() {
                first_seen.entry(public.kid().to_string()).or_insert(world.now);
            }
            let signer = world.ring.current().public().kid().to_string();
            prop_assert!(signer == kid(1) || first_seen[&signer] + seconds(10) < world.now);
            let left = before.published().filter(|old| world.ring.published().all(|new| new != *old));
            for gone in left {
                let last = world.tokens.iter().rfind(|(kid, _)| kid == gone.kid().as_str());
                prop_assert!(last.is_none_or(|(_, iat)| *iat + seconds(30 + 10) <= world.now));
            }
        }
    }
}
