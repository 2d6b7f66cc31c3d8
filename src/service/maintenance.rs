//! Maintenance: key rotation, removal of expired records, recovery of the store, clock steps, histograms.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;

use writ_core::audit::{Audit, Event};
use writ_core::blocks::Blocks;
use writ_core::keys::KeyRing;
use writ_core::keys::event::KeyEvent;
use writ_core::ledger::Ledger;
use writ_platform::clock::{Clock, HumanDuration, Timestamp};
use writ_platform::telemetry::Metrics;
use writ_store::Store;

/// How often the store and the clock are checked.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often expired records of ledger and kill switch are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// How soon changes of another instance are put in force again after a failure.
const FOLLOW_RETRY: Duration = Duration::from_millis(250);

const HISTOGRAM_INTERVAL: Duration = Duration::from_secs(5);

/// Takes each step of the key ring when it is due, and records it.
pub(super) async fn rotate_keys(keys: Arc<KeyRing>, clock: Arc<Clock>, audit: Audit) {
    let (sender, mut events) = mpsc::unbounded_channel();
    let timer = async { keys.run(&clock, |event| drop(sender.send(event))).await };
    let recorder = async {
        while let Some(event) = events.recv().await {
            record(&audit, event).await;
        }
    };
    tokio::join!(timer, recorder);
}

/// The step cannot be undone; a log that cannot be written stops tokens, not rotation.
async fn record(audit: &Audit, event: KeyEvent) {
    if let Err(error) = audit.write(&Event::from(event)).await {
        tracing::error!(%error, "a change of the key ring could not be recorded");
    }
}

/// Puts changes of the key ring and the kill switch in force that other instances have made, and announces what is in
/// force. Over a store of one instance there are none.
pub(super) async fn follow_others(
    store: Store,
    keys: Arc<KeyRing>,
    blocks: Arc<Blocks>,
    clock: Arc<Clock>,
    audit: Audit,
) {
    let Some(mut versions) = store.versions() else { return std::future::pending().await };
    let mut refreshed = None;
    loop {
        let recorded = *versions.borrow_and_update();
        let followed = async {
            if recorded.ring != keys.served(recorded.blocks).versions.ring {
                for event in keys.follow(clock.now()).await.map_err(|error| error.to_string())? {
                    record(&audit, event).await;
                }
            }
            if refreshed != Some(recorded.blocks) {
                blocks.refresh().await.map_err(|error| error.to_string())?;
                refreshed = Some(recorded.blocks);
            }
            Ok::<_, String>(())
        };
        match followed.await {
            Ok(()) => {
                store.serve(keys.served(recorded.blocks));
                if versions.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(error, "changes of another instance could not be put in force");
                sleep(FOLLOW_RETRY).await;
            }
        }
    }
}

/// Keeps samples from piling up in memory while no one scrapes the metrics.
pub(super) async fn drain_histograms(metrics: Metrics) {
    loop {
        sleep(HISTOGRAM_INTERVAL).await;
        metrics.drain_histograms();
    }
}

/// Checks the store and the clock every second, and sweeps ledger and kill switch every hour.
pub(super) struct Upkeep {
    pub(super) store: Store,
    pub(super) ledger: Arc<Ledger>,
    pub(super) keys: Arc<KeyRing>,
    pub(super) blocks: Arc<Blocks>,
    pub(super) clock: Arc<Clock>,
}

impl Upkeep {
    pub(super) async fn run(self) {
        let mut last_sweep: Option<Instant> = None;
        let mut clock_ahead = None;
        loop {
            let now = self.clock.now();
            clock_ahead = self.log_clock_step(clock_ahead);
            if self.ledger.is_whole()
                && self.clock.is_settled()
                && last_sweep.is_none_or(|last| last.elapsed() >= SWEEP_INTERVAL)
            {
                if self.sweep(now).await {
                    last_sweep = Some(Instant::now());
                }
            } else if !self.store.is_well() {
                // A failed store accepts no other writes, so only this probe can find that it works again.
                if let Err(error) = self.ledger.probe(now).await {
                    tracing::warn!(%error, "the store is still unavailable");
                }
            }
            sleep(UPKEEP_INTERVAL).await;
        }
    }

    /// False if expired records are left.
    async fn sweep(&self, now: Timestamp) -> bool {
        if let Err(error) = self.ledger.expire(self.keys.oldest_signature(), now).await {
            tracing::warn!(%error, "the ledger could not be swept");
            return false;
        }
        // Removing a block too early would let blocked requests through: wait a full interval after a start or a clock step.
        if self.clock.steady_for() >= SWEEP_INTERVAL
            && let Err(error) = self.blocks.expire(now).await
        {
            tracing::warn!(%error, "the kill switch could not be swept");
            return false;
        }
        true
    }

    /// Logs once that the clock has stepped ahead, and once that it counts as right again.
    fn log_clock_step(&self, before: Option<Duration>) -> Option<Duration> {
        let ahead = self.clock.ahead();
        match (before, ahead) {
            (None, Some(by)) => tracing::error!(
                by = %HumanDuration(by),
                "the clock has stepped ahead: for an hour no record is dropped and no key forgotten; keys rotate by the earlier time until the step has lasted 15 s or `writ store trust-clock` accepts it"
            ),
            (Some(_), None) => {
                tracing::warn!("the clock is back, or its step is accepted: keys rotate by it");
            }
            _ => {}
        }
        ahead
    }
}
