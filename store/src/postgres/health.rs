//! What the heartbeats have found: whether the database is well, whether this instance holds its lease, and which
//! versions of the key ring and the kill switch are on record.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use writ_platform::clock::Timestamp;

use crate::cluster::{Peers, Versions};
use crate::ledger::LedgerCounts;

/// How long a heartbeat gives an instance its lease, by the database's clock.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// For how long an instance itself counts on it, by its own monotonic clock.
const OWN_LEASE: Duration = Duration::from_secs(9);
/// The last heartbeat proves for this long that the database is well: two intervals, and the deadline of one.
const PROOF: Duration = Duration::from_secs(4);

/// Shared by the heartbeat, which writes it, and all operations.
#[derive(Debug)]
pub(super) struct Health {
    state: Mutex<State>,
    versions: watch::Sender<Versions>,
    /// Why the records are served elsewhere, once that is known.
    moved: watch::Sender<Option<String>>,
    last_event: AtomicU64,
    tokens: AtomicU64,
    uses: AtomicU64,
    single_use: AtomicU64,
}

#[derive(Debug)]
struct State {
    is_closed: bool,
    /// Why no statement may start; `None` if one may.
    fault: Option<String>,
    /// When the last heartbeat that succeeded was sent.
    proven_at: Option<Instant>,
    /// Until when this instance holds the lease of that heartbeat.
    lease_until: Option<Instant>,
    peers: Peers,
}

/// What a heartbeat found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beat {
    pub(super) sent: Instant,
    pub(super) last_event: Timestamp,
    pub(super) versions: Versions,
    /// Whether it renewed the lease.
    pub(super) has_lease: bool,
    /// Whether it announced the version of the ring that is on record.
    pub(super) is_current: bool,
    pub(super) peers: Peers,
}

impl State {
    fn holds_lease(&self) -> bool {
        !self.is_closed && self.lease_until.is_some_and(|until| Instant::now() < until)
    }
}

impl Health {
    pub(super) fn new() -> Self {
        let state = State {
            is_closed: false,
            fault: Some("no heartbeat yet".to_owned()),
            proven_at: None,
            lease_until: None,
            peers: Peers::default(),
        };
        Self {
            state: Mutex::new(state),
            versions: watch::Sender::new(Versions::default()),
            moved: watch::Sender::new(None),
            last_event: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            uses: AtomicU64::new(0),
            single_use: AtomicU64::new(0),
        }
    }

    pub(super) fn succeed(&self, beat: Beat) {
        let recovered = {
            let mut state = self.state();
            state.proven_at = Some(beat.sent);
            // A lease begins only with the ring on record: until then others may have promoted a key that this instance
            // does not publish. Once it is held they wait, so that it can be renewed with the ring before.
            if beat.has_lease && (beat.is_current || state.holds_lease()) {
                state.lease_until = Some(beat.sent + OWN_LEASE);
            }
            state.peers = beat.peers;
            state.fault.take()
        };
        self.last_event.store(beat.last_event.epoch(), Ordering::Release);
        self.versions.send_if_modified(|versions| std::mem::replace(versions, beat.versions) != beat.versions);
        if recovered.is_some() {
            tracing::info!("the database is available");
        }
    }

    pub(super) fn fail(&self, reason: &str) {
        let mut state = self.state();
        if state.fault.as_deref() != Some(reason) {
            tracing::error!(%reason, "the database is unavailable");
            state.fault = Some(reason.to_owned());
        }
    }

    /// Notes that the records are served elsewhere from now on.
    pub(super) fn set_moved(&self, reason: String) {
        self.moved.send_replace(Some(reason));
    }

    /// Waits until that is so; the reason.
    pub(super) async fn moved(&self) -> String {
        let mut moved = self.moved.subscribe();
        let reason = moved.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    /// Nothing starts any more.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
    }

    /// # Errors
    /// Why no statement may start.
    pub(super) fn check(&self) -> Result<(), String> {
        let state = self.state();
        match (&state.fault, state.proven_at) {
            _ if state.is_closed => Err("it is closed".to_owned()),
            (Some(fault), _) => Err(fault.clone()),
            (None, Some(at)) if at.elapsed() < PROOF => Ok(()),
            (None, _) => Err("the database does not answer".to_owned()),
        }
    }

    pub(super) fn holds_lease(&self) -> bool {
        self.state().holds_lease()
    }

    pub(super) fn peers(&self) -> Peers {
        self.state().peers
    }

    pub(super) fn last_event(&self) -> Timestamp {
        Timestamp::from_epoch(self.last_event.load(Ordering::Acquire))
    }

    /// Notes an event that was recorded besides the heartbeats.
    pub(super) fn set_last_event(&self, time: Timestamp) {
        self.last_event.store(time.epoch(), Ordering::Release);
    }

    pub(super) fn versions(&self) -> watch::Receiver<Versions> {
        self.versions.subscribe()
    }

    pub(super) fn counts(&self) -> LedgerCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LedgerCounts { tokens: read(&self.tokens), uses: read(&self.uses), single_use: read(&self.single_use) }
    }

    pub(super) fn set_counts(&self, counts: LedgerCounts) {
        self.tokens.store(counts.tokens, Ordering::Relaxed);
        self.uses.store(counts.uses, Ordering::Relaxed);
        self.single_use.store(counts.single_use, Ordering::Relaxed);
    }

    /// It is replaced field by field, each consistent by itself, even if the lock is poisoned.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_begins_with_the_ring_on_record_and_is_renewed_with_the_one_before() {
        let beat = |sent: Instant, is_current: bool| Beat {
            sent,
            last_event: Timestamp::default(),
            versions: Versions { ring: 2, blocks: 0 },
            has_lease: true,
            is_current,
            peers: Peers::default(),
        };
        let (health, now) = (Health::new(), Instant::now());
        health.succeed(beat(now, false));
        assert!(!health.holds_lease());
        health.succeed(beat(now, true));
        assert!(health.holds_lease());
        let lapsed = |health: &Health| health.state().lease_until = Some(now);
        health.succeed(beat(now + Duration::from_secs(1), false));
        assert_eq!(health.state().lease_until, Some(now + Duration::from_secs(1) + OWN_LEASE));
        lapsed(&health);
        health.succeed(beat(now, false));
        assert!(!health.holds_lease(), "it was cut off meanwhile");
    }
}
