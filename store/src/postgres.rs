//! The PostgreSQL engine: one primary that accepts writes, and, for a quorum, standbys that each commit waits for. Any
//! number of instances share it.
//!
//! - `settings`, `tls`, `connection`: where the servers are; a connection counts once the guard and the history held.
//! - `guard`, `history`, `outcome`: pure decisions about a server, its past, and an answer.
//! - `heartbeat`, `health`: the proof each second that commits are durable; leases; the versions on record.
//! - `pool`: repeats a statement until its outcome is known; `batch`: one statement for several requests.
//! - `ledger`, `ring`, `blocks`, `clock`: the operations, each one statement of `statements`.
//! - `schema`: the tables.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use writ_platform::clock::Timestamp;

use self::connection::{Connection, Connector, NoServer, connect_as_owner, describe};
use self::health::Health;
use self::heartbeat::Heartbeat;
use self::history::History;
use self::pool::{Pool, Values};
use crate::OpenError;
use crate::cluster::{Served, Versions};
use crate::folder::{self, Lock};

pub(crate) mod blocks;
pub(crate) mod clock;
pub(crate) mod copy;
pub(crate) mod ledger;
pub(crate) mod ring;

mod batch;
mod connection;
mod guard;
mod health;
mod heartbeat;
mod history;
mod outcome;
mod pool;
mod schema;
mod settings;
mod statements;
mod tls;

pub use self::settings::{Address, Credentials, Replication, SchemaName, SettingError, Settings};

/// Whether this build has the engine.
pub const IS_BUILT: bool = true;

/// How long a start waits for a database that cannot be reached yet, or whose fail-over is under way.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is checked whether the others know of this instance.
const JOIN_INTERVAL: Duration = Duration::from_millis(10);
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// An open database; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Postgres(Arc<Open>);

#[derive(Debug)]
struct Open {
    settings: Settings,
    pool: Arc<Pool>,
    ledger: ledger::Ledger,
    heartbeat: Arc<Heartbeat>,
    /// The task of the heartbeats.
    beating: Mutex<Option<JoinHandle<()>>>,
    /// The instance's folder is its own until this is closed.
    lock: Mutex<Option<Lock>>,
}

/// How the store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// As an instance of the service, which the others wait for while its lease lasts.
    Instance,
    /// For one command; it does not create the first key ring.
    Command,
}

impl Postgres {
    pub(crate) async fn open(settings: &Settings, role: Role) -> Result<Self, OpenError> {
        let (lock, history) = own_folder(settings).await?;
        let id = history.instance.clone();
        let connector = Arc::new(Connector::new(settings.clone(), history));
        let pool = Arc::new(Pool::new(connector, Arc::new(Health::new())));
        let is_instance = role == Role::Instance;
        let heartbeat = Arc::new(Heartbeat::new(Arc::clone(&pool), id, host_name(), is_instance));
        let connection = first_beat(&heartbeat).await?;
        let has_ring = pool.health.versions().borrow().ring > 0;
        if !has_ring && role == Role::Command {
            return Err(OpenError::Database("it holds no key ring; `writ serve` creates it".to_owned()));
        }
        if !has_ring && folder::has_key_files(&settings.path).map_err(|e| folder::io_error(&settings.path, e))? {
            let what = "there are key files, but no records in the database".to_owned();
            return Err(OpenError::Damaged { path: settings.path.clone(), what });
        }
        let beating = Mutex::new(Some(pool.connector.spawn(Arc::clone(&heartbeat).run(connection))));
        if timeout(START_TIMEOUT, pool.make_weeks()).await.is_err() {
            return Err(OpenError::Database(pool.reason()));
        }
        let (settings, ledger, lock) = (settings.clone(), ledger::Ledger::new(&pool), Mutex::new(Some(lock)));
        Ok(Self(Arc::new(Open { settings, pool, ledger, heartbeat, beating, lock })))
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0.settings.path
    }

    /// Whether this instance holds its lease, so that others wait for it.
    pub(crate) fn is_well(&self) -> bool {
        self.0.pool.health.holds_lease()
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.0.pool.health.check().is_ok()
    }

    pub(crate) fn versions(&self) -> watch::Receiver<Versions> {
        self.0.pool.health.versions()
    }

    pub(crate) fn serve(&self, served: Served) {
        self.0.heartbeat.serve(served);
    }

    pub(crate) async fn join(&self) -> Result<(), OpenError> {
        let joined = async {
            while !self.is_well() {
                sleep(JOIN_INTERVAL).await;
            }
        };
        timeout(START_TIMEOUT, joined).await.map_err(|_| OpenError::Database(self.0.pool.reason()))
    }

    /// Waits until the records were moved to another store.
    pub(crate) async fn moved(&self) -> OpenError {
        OpenError::Database(self.0.pool.health.moved().await)
    }

    pub(crate) fn ring(&self) -> ring::Ring {
        ring::Ring::new(Arc::clone(&self.0.pool), self.0.heartbeat.id.clone())
    }

    pub(crate) fn ledger(&self) -> ledger::Ledger {
        self.0.ledger.clone()
    }

    pub(crate) fn blocks(&self) -> blocks::Blocks {
        blocks::Blocks::new(Arc::clone(&self.0.pool))
    }

    pub(crate) fn clock(&self) -> clock::Clock {
        clock::Clock::new(Arc::clone(&self.0.pool))
    }

    pub(crate) async fn close(self) {
        let Open { pool, heartbeat, beating, lock, .. } = &*self.0;
        heartbeat.stop.notify_one();
        let beating = beating.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(beating) = beating {
            let _ = beating.await; // it ends within a second
        }
        pool.health.close();
        pool.clear();
        if let Err(error) = pool.connector.save().await {
            tracing::warn!(%error, "what this instance remembers of the database could not be written");
        }
        drop(lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.heartbeat.stop.notify_one();
    }
}

/// Takes the instance's folder, and reads what it remembers.
async fn own_folder(settings: &Settings) -> Result<(Lock, History), OpenError> {
    let path = settings.path.clone();
    let owned = spawn_blocking(move || {
        folder::prepare(&path)?;
        let lock = Lock::acquire(&path)?;
        folder::remove_drafts(&path)?;
        Ok((lock, History::read(&path)?))
    });
    let failed = |error| Err(folder::io_error(&settings.path, std::io::Error::other(error)));
    owned.await.unwrap_or_else(failed)
}

/// Connects, and has one heartbeat acknowledged: from then on the database is known to be well.
async fn first_beat(heartbeat: &Heartbeat) -> Result<Connection, OpenError> {
    let connector = &heartbeat.pool.connector;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let failed = match connector.connect().await {
            Err(error) if error.is_permanent() => return Err(refused(&error)),
            Err(error) => refused(&error),
            Ok(connection) => match heartbeat.beat(&connection, Instant::now()).await {
                Ok(()) => return Ok(connection),
                Err(what) => OpenError::Database(what),
            },
        };
        if Instant::now() > deadline {
            return Err(failed);
        }
        sleep(RETRY_DELAY).await;
    }
}

fn refused(error: &NoServer) -> OpenError {
    if error.went_back() { OpenError::WentBack(error.to_string()) } else { OpenError::Database(error.to_string()) }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A time as the tables hold it.
fn signed(time: Timestamp) -> i64 {
    i64::try_from(time.epoch()).unwrap_or(i64::MAX)
}

/// The SQL that an administrator and then the owner run; for those who do not let [`migrate`] do the latter.
pub fn schema_sql(settings: &Settings, owner: &str) -> (String, String) {
    schema::both(settings, owner)
}

/// Creates the tables, or brings them to this version. It can be repeated.
///
/// # Errors
/// [`OpenError::Database`].
pub async fn migrate(settings: &Settings, owner: &str, credentials: &Credentials) -> Result<(), OpenError> {
    let address = settings.address.with_user(owner.to_owned());
    let client = connect_as_owner(&address, &settings.ca, credentials).await;
    let client = client.map_err(|error| OpenError::Database(error.to_string()))?;
    let sql = format!("BEGIN;\n{}COMMIT;", schema::owner(&settings.schema, settings.address.user()));
    client.batch_execute(&sql).await.map_err(|error| OpenError::Database(describe(&error)))
}

/// Accepts a database that has gone back in time. Unless its `ledger` is trusted, no use from before now is granted.
/// Returns that time.
///
/// # Errors
/// [`OpenError`].
pub async fn accept(settings: &Settings, is_ledger_trusted: bool) -> Result<Timestamp, OpenError> {
    let (_lock, history) = own_folder(settings).await?;
    let forgotten = History { seen: None, installation: None, ..history };
    let connector = Connector::new(settings.clone(), forgotten);
    let connection = connector.connect().await.map_err(|error| OpenError::Database(error.to_string()))?;
    let loses_uses = !is_ledger_trusted;
    let values: Values<'_> = &[&loses_uses];
    let accepted = connection.client.query_one(&connector.statements.accept, values);
    let failed = |error: tokio_postgres::Error| OpenError::Database(describe(&error));
    let row = match timeout(START_TIMEOUT, accepted).await {
        Ok(row) => row.map_err(failed)?,
        Err(_) => return Err(OpenError::Database("it did not answer in time; run the command again".to_owned())),
    };
    if connection.is_poisoned() {
        return Err(OpenError::Database("it warned of its own answer; run the command again".to_owned()));
    }
    let last_event: i64 = row.try_get("last_event").map_err(failed)?;
    Ok(Timestamp::from_epoch(u64::try_from(last_event).unwrap_or(0)))
}
