//! Tries all orders of events within bounds, and finds the mistakes that were planted.

use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};
use writ_core::keys::ring::KeyTimes;
use writ_model::properties::{CACHED, MAX_USES, NOTHING_LOST, PUBLISHED, REPEATABLE};
use writ_model::system::{Bounds, Mistake, System};

const NO_EVENTS: Bounds = Bounds {
    ticks: 0,
    redemptions: 0,
    promotions: 0,
    crashes: 0,
    leaves: 0,
    losses: 0,
    node_deaths: 0,
    restarts: 0,
    fail_overs: 0,
    heartbeats: false,
};

/// In instants, which are the seconds of the service.
fn times(rotation_period: u64, jwks_max_age: u64, max_lifetime: u64) -> KeyTimes {
    let [rotation_period, jwks_max_age, max_lifetime] =
        [rotation_period, jwks_max_age, max_lifetime].map(Duration::from_secs);
    KeyTimes::new(rotation_period, jwks_max_age, max_lifetime, Duration::ZERO).expect("times that fit together")
}

fn system(bounds: Bounds) -> System {
    System { max_uses: 1, times: times(6, 1, 2), lease: Duration::from_secs(2), bounds, mistake: None }
}

/// Visits every state, or every one that so many events reach.
fn check(name: &str, system: System, events: Option<usize>) {
    let started = Instant::now();
    let checker = system.checker().threads(2).finish_when(HasDiscoveries::AnyFailures);
    let checker = match events {
        Some(events) => checker.target_max_depth(events + 1).spawn_bfs().join(),
        None => checker.spawn_bfs().join(),
    };
    println!(
        "{name}: {} states, {} transitions, {} events deep{}, in {:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth() - 1,
        if events.is_none() { ", where no state is left" } else { "" },
        started.elapsed()
    );
    for property in system.properties() {
        match (property.expectation, checker.discovery(property.name)) {
            (Expectation::Always, Some(path)) => panic!("{}: {path}", property.name),
            (Expectation::Sometimes, None) => assert!(events.is_some(), "never: {}", property.name),
            _ => {}
        }
    }
}

/// Three redemptions by two clients through two instances, while an instance dies, an answer is lost, a node dies, the
/// primary is restarted, and a standby is promoted.
#[test]
fn no_crash_and_no_fail_over_grants_a_use_too_many_or_loses_one() {
    let events =
        Bounds { redemptions: 3, crashes: 1, losses: 1, node_deaths: 1, restarts: 1, fail_overs: 1, ..NO_EVENTS };
    check("one use", system(events), None);
    let events = Bounds { crashes: 0, restarts: 0, ticks: 1, ..events };
    check("two uses", System { max_uses: 2, ..system(events) }, None);
}

/// Two promotions, as early as they are possible, while an instance is cut off for any time, dies, leaves, or loses an answer.
#[test]
fn no_token_is_signed_by_a_key_that_a_ready_instance_does_not_publish() {
    let events = Bounds { promotions: 2, heartbeats: true, ..NO_EVENTS };
    check("ring, answers lost", system(Bounds { ticks: 4, losses: 1, ..events }), None);
    let events_and_death = system(Bounds { ticks: 4, crashes: 1, ..events });
    check("ring, instances dying", System { times: times(4, 1, 3), ..events_and_death }, None);
    check("ring, instances leaving", system(Bounds { ticks: 4, leaves: 1, ..events }), None);
    check("ring, cut off", System { times: times(3, 1, 2), ..system(Bounds { ticks: 5, ..events }) }, None);
    check("ring, long caches", System { times: times(8, 3, 1), ..system(Bounds { ticks: 5, ..events }) }, None);
}

const EVERYTHING: Bounds = Bounds {
    ticks: 2,
    redemptions: 2,
    promotions: 1,
    crashes: 1,
    leaves: 0,
    losses: 1,
    node_deaths: 1,
    restarts: 1,
    fail_overs: 1,
    heartbeats: true,
};

/// Everything together, as far as it can be tried in seconds.
#[test]
fn ledger_and_ring_hold_together() {
    check("everything", system(EVERYTHING), Some(7));
}

/// The same with more events, and more time.
#[test]
#[ignore = "takes minutes and gigabytes of memory"]
fn ledger_and_ring_hold_together_for_longer() {
    let events = Bounds { ticks: 6, promotions: 3, heartbeats: true, ..NO_EVENTS };
    check("ring, cut off", System { times: times(3, 1, 2), ..system(events) }, None);
    check("ring, long caches", System { times: times(8, 3, 1), ..system(Bounds { promotions: 2, ..events }) }, None);
    check("ring, answers lost", system(Bounds { losses: 1, ..events }), None);
    let events_and_death = system(Bounds { ticks: 5, promotions: 2, crashes: 1, ..events });
    check("ring, instances dying", System { times: times(5, 1, 4), ..events_and_death }, None);
    let events = Bounds { redemptions: 3, ticks: 2, promotions: 0, heartbeats: false, ..EVERYTHING };
    check("one use, with time", system(events), None);
    check("everything", system(EVERYTHING), Some(8));
}

/// Finds the shortest run that violates a property.
fn find(mistake: Mistake, property: &'static str, system: System) {
    let system = System { mistake: Some(mistake), ..system };
    let found = (1..=20).find_map(|depth| {
        let checker = system.checker().finish_when(HasDiscoveries::AnyOf([property].into()));
        checker.target_max_depth(depth).spawn_bfs().join().discovery(property)
    });
    let path = found.unwrap_or_else(|| panic!("{mistake:?} is not found"));
    println!("{mistake:?} violates: {property}\n{path}");
}

#[test]
fn a_count_after_signing_is_found() {
    find(Mistake::CountAfterSigning, MAX_USES, system(Bounds { redemptions: 2, ..NO_EVENTS }));
}

#[test]
fn a_retry_that_counts_is_found() {
    find(Mistake::RetryCounts, REPEATABLE, system(Bounds { redemptions: 2, ..NO_EVENTS }));
}

#[test]
fn a_promotion_without_fencing_is_found() {
    let events = Bounds { redemptions: 2, fail_overs: 1, ..NO_EVENTS };
    find(Mistake::PromotionWithoutFencing, MAX_USES, system(events));
    find(Mistake::PromotionWithoutFencing, NOTHING_LOST, system(events));
}

#[test]
fn a_cancelled_commit_that_counts_is_found() {
    let events = Bounds { redemptions: 2, fail_overs: 1, ..NO_EVENTS };
    find(Mistake::CancelledCommitCounts, NOTHING_LOST, system(events));
}

#[test]
fn a_repeat_that_only_reads_is_found() {
    let events = Bounds { redemptions: 2, restarts: 1, fail_overs: 1, ..NO_EVENTS };
    find(Mistake::RepeatOnlyReads, NOTHING_LOST, system(events));
}

#[test]
fn a_promotion_without_announcement_is_found() {
    let events = Bounds { ticks: 5, promotions: 2, heartbeats: true, ..NO_EVENTS };
    find(Mistake::PromotionWithoutAnnouncement, PUBLISHED, system(events));
}

#[test]
fn an_ended_lease_that_is_forgotten_is_found() {
    let events = Bounds { ticks: 5, promotions: 2, heartbeats: true, ..NO_EVENTS };
    find(Mistake::EndedLeaseIsForgotten, PUBLISHED, system(events));
}

#[test]
fn a_span_that_is_not_prolonged_is_found() {
    let events = Bounds { ticks: 5, promotions: 2, heartbeats: true, ..NO_EVENTS };
    find(Mistake::SpanNotProlonged, PUBLISHED, System { times: times(4, 1, 3), ..system(events) });
}

#[test]
fn a_lease_before_following_is_found() {
    let events = Bounds { ticks: 5, promotions: 2, heartbeats: true, ..NO_EVENTS };
    find(Mistake::LeaseBeforeFollowing, PUBLISHED, System { times: times(3, 1, 2), ..system(events) });
}

#[test]
fn a_restart_that_forgets_what_was_signed_is_found() {
    let events = Bounds { ticks: 4, promotions: 2, crashes: 1, heartbeats: true, ..NO_EVENTS };
    find(Mistake::RestartForgets, PUBLISHED, system(events));
}

#[test]
fn a_leaving_instance_that_is_forgotten_is_found() {
    let events = Bounds { ticks: 3, promotions: 2, leaves: 1, heartbeats: true, ..NO_EVENTS };
    find(Mistake::LeavingIsForgotten, CACHED, System { times: times(6, 1, 1), ..system(events) });
}
