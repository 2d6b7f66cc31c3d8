//! Each second one statement proves that the database is well: its own commit waits for the standbys. It renews the
//! instance's lease, moves the shared clock, and finds new versions of the key ring and the kill switch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_postgres::Row;
use writ_platform::clock::Timestamp;

use super::connection::{Connection, NoServer, describe};
use super::guard::Server;
use super::health::{Beat, LEASE};
use super::history::Position;
use super::pool::{Pool, Values};
use crate::cluster::{Peers, Served, Versions};
use crate::ledger::LedgerCounts;

const INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two heartbeats, however many hints arrive.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
const BEAT_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_DELAY: Duration = Duration::from_millis(200);
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an instance may serve an older version of the ring than is on record before it gives up its lease.
const MAX_BEHIND: Duration = Duration::from_secs(5);
/// How many heartbeats pass before the instance's file is written again.
const SAVE_EVERY: u64 = 5;
/// How many heartbeats pass between two estimates of the number of records.
const COUNT_EVERY: u64 = 15;
/// How many heartbeats pass before coming partitions are made again.
const WEEKS_EVERY: u64 = 3600;

/// One instance, as the others see it.
#[derive(Debug)]
pub(super) struct Heartbeat {
    pub(super) pool: Arc<Pool>,
    /// Its row's key.
    pub(super) id: String,
    pub(super) name: String,
    /// Whether it announces itself; a command does not.
    pub(super) is_instance: bool,
    announced: Mutex<Announced>,
    /// Notified to end it.
    pub(super) stop: Notify,
}

/// What this instance says about itself.
#[derive(Debug, Default)]
struct Announced {
    /// `None` before it serves anything.
    served: Option<Served>,
    /// Since when a later version of the ring is on record than it serves.
    behind_since: Option<Instant>,
}

impl Announced {
    /// Whether the instance renews its lease at `now`: one that cannot follow the ring gives it up, so that the others do
    /// not wait for it.
    fn has_lease(&mut self, recorded: Versions, now: Instant) -> bool {
        let Some(served) = self.served else { return false };
        if served.versions.ring == recorded.ring {
            self.behind_since = None;
            return true;
        }
        now.duration_since(*self.behind_since.get_or_insert(now)) < MAX_BEHIND
    }
}

impl Heartbeat {
    pub(super) fn new(pool: Arc<Pool>, id: String, name: String, is_instance: bool) -> Self {
        Self { pool, id, name, is_instance, announced: Mutex::default(), stop: Notify::new() }
    }

    /// Announces what this instance has in force, with its next heartbeat.
    pub(super) fn serve(&self, served: Served) {
        self.announced().served = Some(served);
        self.pool.connector.hint.notify_one();
    }

    fn announced(&self) -> MutexGuard<'_, Announced> {
        // It is replaced field by field, each consistent by itself, even if the lock is poisoned.
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Beats until it is stopped; then an instance leaves, so that the others do not wait for it.
    pub(super) async fn run(self: Arc<Self>, first: Connection) {
        let mut connection = Some(first);
        loop {
            if let Some(connection) = &connection {
                tokio::select! {
                    () = self.stop.notified() => return self.leave(connection).await,
                    () = self.beat_on(connection) => {}
                }
            }
            let connect = async {
                sleep(RECONNECT_DELAY).await;
                self.pool.connector.connect().await
            };
            let connected = tokio::select! {
                () = self.stop.notified() => return,
                connected = connect => connected,
            };
            connection = connected.inspect_err(|error| self.disconnected(error)).ok();
        }
    }

    /// On the connection of the heartbeats: one that is on its way comes first, and cannot bring the instance back.
    async fn leave(&self, connection: &Connection) {
        if self.is_instance {
            let lead = self.announced().served.unwrap_or_default().lead.as_secs();
            let lead = i64::try_from(lead).unwrap_or(i64::MAX);
            let values: Values<'_> = &[&self.id, &lead];
            let leave = connection.client.execute(&self.pool.connector.statements.leave, values);
            // Otherwise the others wait, as for one that was cut off.
            let _ = timeout(LEAVE_TIMEOUT, leave).await;
        }
    }

    fn disconnected(&self, error: &NoServer) {
        metrics::counter!("writ_store_errors_total", "operation" => "heartbeat").increment(1);
        self.pool.health.fail(&error.to_string());
        if error.was_moved() {
            self.pool.health.set_moved(error.to_string());
        }
    }

    /// Beats on one connection until it fails.
    async fn beat_on(&self, connection: &Connection) {
        let failed = |what: String| {
            metrics::counter!("writ_store_errors_total", "operation" => "heartbeat").increment(1);
            self.pool.health.fail(&what);
        };
        // A hint only: without it, a change is found a second later.
        match timeout(BEAT_TIMEOUT, connection.client.batch_execute("LISTEN writ")).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return failed(describe(&error)),
            Err(_) => return failed("no answer in time".to_owned()),
        }
        for number in 0_u64.. {
            let sent = Instant::now();
            if let Err(what) = self.beat(connection, sent).await {
                return failed(what);
            }
            self.keep_house(connection, number).await;
            let hint = async {
                sleep(MIN_INTERVAL).await;
                self.pool.connector.hint.notified().await;
            };
            let _ = timeout_at((sent + INTERVAL).into(), hint).await;
        }
    }

    /// One heartbeat.
    ///
    /// # Errors
    /// The reason for the log.
    pub(super) async fn beat(&self, connection: &Connection, sent: Instant) -> Result<(), String> {
        let (in_force, has_lease) = {
            let mut announced = self.announced();
            let recorded = *self.pool.health.versions().borrow();
            (announced.served.unwrap_or_default(), self.is_instance && announced.has_lease(recorded, sent))
        };
        let as_signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (ring, blocks) = (as_signed(in_force.versions.ring), as_signed(in_force.versions.blocks));
        let next_for = as_signed(Timestamp::now().since(in_force.next_since).as_secs());
        let lease = LEASE.as_secs_f64();
        let values: Values<'_> = &[&self.id, &self.name, &ring, &blocks, &lease, &has_lease, &next_for];
        let query = connection.client.query_one(&connection.prepared.beat, values);
        let row = match timeout(BEAT_TIMEOUT, query).await {
            Err(_) => return Err("a heartbeat was not acknowledged in time".to_owned()),
            Ok(_) if connection.is_poisoned() => return Err("the database warned of a heartbeat".to_owned()),
            Ok(row) => row.map_err(|error| describe(&error))?,
        };
        let connector = &self.pool.connector;
        let read = |error: tokio_postgres::Error| error.to_string();
        let server = Server::of(&row).map_err(read)?;
        server.check(connector.settings.replication).map_err(|error| error.to_string())?;
        let position = position(&row, &server).map_err(read)?;
        connector.admit(position).await.map_err(|error| error.to_string())?;
        let beat = found(&row, sent, has_lease, in_force.versions.ring).map_err(read)?;
        self.pool.health.succeed(beat);
        Ok(())
    }

    /// What is done every now and then; failures are found by the next heartbeat.
    async fn keep_house(&self, connection: &Connection, number: u64) {
        let statements = &self.pool.connector.statements;
        if number % SAVE_EVERY == SAVE_EVERY - 1
            && let Err(error) = self.pool.connector.save().await
        {
            tracing::warn!(%error, "what this instance remembers of the database could not be written");
        }
        if number.is_multiple_of(COUNT_EVERY)
            && let Ok(Ok(row)) = timeout(BEAT_TIMEOUT, connection.client.query_one(&statements.counts, &[])).await
            && let Ok(counts) = counts(&row)
        {
            self.pool.health.set_counts(counts);
        }
        if number.is_multiple_of(WEEKS_EVERY) {
            let _ = timeout(BEAT_TIMEOUT, self.pool.make_weeks()).await;
            let _ = timeout(BEAT_TIMEOUT, connection.client.execute(&statements.forget_instances, &[])).await;
        }
    }
}

fn position(row: &Row, server: &Server) -> Result<Position, tokio_postgres::Error> {
    Ok(Position {
        system: row.try_get("system")?,
        accepted_at: row.try_get("accepted_at")?,
        timeline: server.timeline,
        beat: row.try_get("beat")?,
    })
}

fn found(row: &Row, sent: Instant, has_lease: bool, served_ring: u64) -> Result<Beat, tokio_postgres::Error> {
    let number = |column| Ok::<_, tokio_postgres::Error>(row.try_get::<_, Option<i64>>(column)?.map(unsigned));
    let versions =
        Versions { ring: unsigned(row.try_get("ring_version")?), blocks: unsigned(row.try_get("blocks_version")?) };
    Ok(Beat {
        sent,
        last_event: Timestamp::from_epoch(unsigned(row.try_get("last_event")?)),
        versions,
        has_lease,
        is_current: versions.ring == served_ring,
        peers: Peers {
            ring: versions.ring,
            oldest_ring: number("oldest_ring")?,
            next_for: number("next_for")?.map(Duration::from_secs),
            cut_off_at: number("cut_off_at")?.map(Timestamp::from_epoch),
            was_behind: row.try_get("was_behind")?,
        },
    })
}

fn counts(row: &Row) -> Result<LedgerCounts, tokio_postgres::Error> {
    Ok(LedgerCounts {
        tokens: unsigned(row.try_get("tokens")?),
        uses: unsigned(row.try_get("uses")?),
        single_use: unsigned(row.try_get("single_use")?),
    })
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_cannot_follow_the_ring_gives_up_its_lease() {
        let (begin, recorded) = (Instant::now(), Versions { ring: 2, blocks: 0 });
        let mut announced = Announced::default();
        assert!(!announced.has_lease(recorded, begin), "it serves nothing yet");
        announced.served = Some(Served { versions: recorded, ..Served::default() });
        assert!(announced.has_lease(recorded, begin));
        let later = Versions { ring: 3, ..recorded };
        assert!(announced.has_lease(later, begin) && announced.has_lease(later, begin + MAX_BEHIND / 2));
        assert!(!announced.has_lease(later, begin + MAX_BEHIND));
        announced.served = Some(Served { versions: later, ..Served::default() });
        assert!(announced.has_lease(later, begin + MAX_BEHIND));
    }
}
