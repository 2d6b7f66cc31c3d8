//! A connection to the server that accepts writes. It counts only after the guard, the history and the schema were
//! checked on it; the first warning on it makes every later answer unknown.

use std::error::Error as _;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{try_join, try_join5};
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{AsyncMessage, Client, Config, Row, Statement};
use writ_platform::secret_file;
use zeroize::Zeroizing;

use super::guard::{GuardError, Server};
use super::history::{History, Position, WentBack};
use super::outcome::{Outcome, classify};
use super::schema;
use super::settings::{Address, Credentials, Settings};
use super::statements::Statements;
use super::tls::{Pem, Tls};
use crate::portable::{Incoming, Outgoing};

/// How long connecting, TLS, login and all checks may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);

/// Warnings must arrive whatever a role's settings are: one of them is the only sign that a commit did not wait for its
/// standbys. Nothing of ours is cancelled by the server while it commits; a lock is not waited for longer than a second.
/// Each statement finds its rows by their keys, whatever the size of a table was when its plan was made.
const OPTIONS: &str = "-c client_min_messages=warning -c lock_timeout=1s -c idle_in_transaction_session_timeout=5s \
    -c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed -c jit=off \
    -c plan_cache_mode=force_generic_plan -c enable_hashjoin=off -c enable_mergejoin=off -c enable_seqscan=off";

/// Opens connections.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) settings: Settings,
    pub(super) statements: Statements,
    /// Notified when another instance has changed the ring or the kill switch.
    pub(super) hint: Arc<Notify>,
    history: Mutex<History>,
    /// Whether records that were moved, or not all received, may be read.
    is_for_copy: bool,
    /// Drives all connections: requests come from other runtimes, which may end.
    runtime: Handle,
}

/// A connection that may be relied upon.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) prepared: Prepared,
    pub(super) position: Position,
    /// How many statements wait for their answer.
    pub(super) in_flight: AtomicUsize,
    is_poisoned: Arc<AtomicBool>,
}

/// The statements that requests wait for, and the heartbeat.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) redeem: Statement,
    pub(super) redeem_several: Statement,
    pub(super) record: Statement,
    pub(super) record_several: Statement,
    pub(super) use_up: Statement,
    pub(super) beat: Statement,
}

/// Why one server cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum HostError {
    #[error("{0}")]
    Files(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error("its schema {schema} {what}; run `writ store migrate`")]
    Schema { schema: String, what: String },
    #[error("its records were moved to {to} by `writ store copy`: serve that one")]
    Moved { to: String },
    #[error("its records are an unfinished copy of {from}: run `writ store copy` again")]
    Unfinished { from: String },
    #[error("it has gone back in time: {0}; if it is right all the same (a restored backup), see `writ store repair`")]
    WentBack(WentBack),
}

/// Why no server can be used: the reason of each, by its address.
#[derive(Debug, Clone)]
pub(super) struct NoServer(pub(super) Vec<(String, HostError)>);

impl HostError {
    /// Whether it remains until an operator changes something.
    pub(super) fn is_permanent(&self) -> bool {
        match self {
            Self::Files(_)
            | Self::Refused(_)
            | Self::Schema { .. }
            | Self::Moved { .. }
            | Self::Unfinished { .. }
            | Self::WentBack(_) => true,
            Self::Guard(error) => *error != GuardError::Standby,
            Self::Unreachable(_) => false,
        }
    }

    fn of(error: &tokio_postgres::Error) -> Self {
        match error.code() {
            Some(code) if classify(Some(code)) == Outcome::Refused => Self::Refused(describe(error)),
            _ => Self::Unreachable(describe(error)),
        }
    }
}

impl NoServer {
    /// A replaced primary is refused although another server is about to take over: wait while any server may yet come.
    pub(super) fn is_permanent(&self) -> bool {
        self.0.iter().any(|(_, error)| error.is_permanent() && !matches!(error, HostError::WentBack(_)))
            || self.0.iter().all(|(_, error)| error.is_permanent())
    }

    pub(super) fn was_moved(&self) -> bool {
        self.0.iter().any(|(_, error)| matches!(error, HostError::Moved { .. }))
    }

    pub(super) fn went_back(&self) -> bool {
        self.0.iter().any(|(_, error)| matches!(error, HostError::WentBack(_)))
    }
}

impl std::fmt::Display for NoServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (host, error)) in self.0.iter().enumerate() {
            write!(f, "{}{host}: {error}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// An error with its causes, on one line.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(refused) = error.as_db_error() {
        return format!("{} ({})", refused.message(), refused.code().code());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl Connector {
    pub(super) fn new(settings: Settings, history: History) -> Self {
        Self {
            statements: Statements::new(&settings.schema),
            settings,
            hint: Arc::new(Notify::new()),
            history: Mutex::new(history),
            is_for_copy: false,
            runtime: Handle::current(),
        }
    }

    /// The same for `writ store copy`.
    pub(super) fn for_copy(settings: Settings, history: History) -> Self {
        Self { is_for_copy: true, ..Self::new(settings, history) }
    }

    /// Connects to all servers side by side; the first that may be relied upon is used.
    pub(super) async fn connect(&self) -> Result<Connection, NoServer> {
        let hosts = self.settings.address.hosts();
        let keys = match Keys::read(&self.settings.ca, &self.settings.credentials).await {
            Ok(keys) => keys,
            Err(what) => return Err(NoServer(vec![("files".to_owned(), HostError::Files(what))])),
        };
        let mut attempts = FuturesUnordered::new();
        for (host, port) in hosts {
            let attempt = timeout(CONNECT_TIMEOUT, self.connect_to(host, *port, &keys));
            attempts.push(async move {
                let late = |_| Err(HostError::Unreachable("no answer in time".to_owned()));
                (format!("{host}:{port}"), attempt.await.unwrap_or_else(late))
            });
        }
        let mut errors = Vec::new();
        while let Some((name, outcome)) = attempts.next().await {
            match outcome {
                Ok(connection) => return Ok(connection),
                Err(error) => errors.push((name, error)),
            }
        }
        errors.sort_by(|(one, _), (other, _)| one.cmp(other));
        Err(NoServer(errors))
    }

    async fn connect_to(&self, host: &str, port: u16, keys: &Keys) -> Result<Connection, HostError> {
        // Read before the database is asked, which may be further by the time of its answer.
        let history = self.history().clone();
        let is_poisoned = Arc::new(AtomicBool::new(false));
        let address = &self.settings.address;
        let (client, connection) = log_in(address, host, port, keys).await?;
        self.runtime.spawn(drive(connection, Arc::clone(&is_poisoned), Arc::clone(&self.hint)));
        let unreachable = |error: tokio_postgres::Error| HostError::of(&error);
        let row = client.query_one(&self.statements.guard, &[]).await.map_err(unreachable)?;
        let server = Server::of(&row).map_err(unreachable)?;
        server.check(self.settings.replication)?;
        let position = self.position(&client, server.timeline, &history).await?;
        let several =
            try_join(client.prepare(&self.statements.redeem_several), client.prepare(&self.statements.record_several));
        let (redeem, record, use_up, beat, (redeem_several, record_several)) = try_join5(
            client.prepare(&self.statements.redeem),
            client.prepare(&self.statements.record),
            client.prepare(&self.statements.use_up),
            client.prepare(&self.statements.beat),
            several,
        )
        .await
        .map_err(unreachable)?;
        let prepared = Prepared { redeem, redeem_several, record, record_several, use_up, beat };
        Ok(Connection { client, prepared, position, in_flight: AtomicUsize::new(0), is_poisoned })
    }

    /// The schema's version must be this program's, and the installation that of before.
    async fn position(&self, client: &Client, timeline: i64, history: &History) -> Result<Position, HostError> {
        let schema = |what: String| HostError::Schema { schema: self.settings.schema.as_str().to_owned(), what };
        let row = client.query_one(&self.statements.admit, &[]).await.map_err(|error| match error.code() {
            Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME | &SqlState::UNDEFINED_COLUMN) => {
                schema("is missing".to_owned())
            }
            _ => HostError::of(&error),
        })?;
        let unreadable = |error: tokio_postgres::Error| HostError::of(&error);
        let version: i32 = row.try_get("schema_version").map_err(unreadable)?;
        if version != schema::VERSION {
            return Err(schema(format!("has version {version}; this program needs version {}", schema::VERSION)));
        }
        if !self.is_for_copy {
            copied(&row).map_err(unreadable)?.map_or(Ok(()), Err)?;
        }
        let position = Position {
            system: row.try_get("system").map_err(unreadable)?,
            accepted_at: row.try_get("accepted_at").map_err(unreadable)?,
            timeline,
            beat: row.try_get("beat").map_err(unreadable)?,
        };
        let installation: Option<&str> = row.try_get("installation").map_err(unreadable)?;
        history.check(&position, installation).map_err(HostError::WentBack)?;
        Ok(position)
    }

    /// Takes note of the position of an acknowledged heartbeat, on disk first if it is more than a further one.
    pub(super) async fn admit(&self, found: Position) -> Result<(), HostError> {
        let next = {
            let mut history = self.history();
            if let Some(seen) = history.seen {
                seen.check(&found).map_err(HostError::WentBack)?;
            }
            if history.seen.is_some_and(|seen| seen.is_same_history(&found)) {
                history.seen = Some(found);
                return Ok(());
            }
            History { seen: Some(found), ..history.clone() }
        };
        self.write(next).await.map_err(|error| HostError::Files(error.to_string()))?;
        self.history().seen = Some(found);
        Ok(())
    }

    /// Remembers the installation in the database.
    pub(super) async fn remember(&self, installation: &str) -> std::io::Result<()> {
        let next = {
            let history = self.history();
            if history.installation.as_deref() == Some(installation) {
                return Ok(());
            }
            History { installation: Some(installation.to_owned()), ..history.clone() }
        };
        self.write(next).await?;
        self.history().installation = Some(installation.to_owned());
        Ok(())
    }

    /// Writes what the instance remembers to its folder.
    pub(super) async fn save(&self) -> std::io::Result<()> {
        let history = self.history().clone();
        self.write(history).await
    }

    async fn write(&self, history: History) -> std::io::Result<()> {
        let folder = self.settings.path.clone();
        spawn_blocking(move || history.write(&folder)).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        // It is replaced field by field, each consistent by itself, even if the lock is poisoned.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(work)
    }

    /// Whether a connection is to the server on which the last heartbeat was acknowledged.
    pub(super) fn is_current(&self, connection: &Connection) -> bool {
        self.history().seen.is_some_and(|seen| seen.is_same_history(&connection.position))
    }
}

impl Connection {
    /// Whether an answer on it counts.
    pub(super) fn is_sound(&self) -> bool {
        !self.is_poisoned.load(Ordering::SeqCst) && !self.client.is_closed()
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.is_poisoned.load(Ordering::SeqCst)
    }
}

/// Why the records may not be served: they were moved, or not all of them were received.
fn copied(row: &Row) -> Result<Option<HostError>, tokio_postgres::Error> {
    let (is_receiving, incoming): (bool, Option<&str>) = (row.try_get("is_receiving")?, row.try_get("incoming")?);
    let outgoing: Option<&str> = row.try_get("outgoing")?;
    let unknown = || "another store".to_owned();
    if let Some(mark) = outgoing {
        let to = serde_json::from_str(mark).map_or_else(|_| unknown(), |Outgoing { to, .. }| to);
        return Ok(Some(HostError::Moved { to }));
    }
    let from = || incoming.and_then(|mark| serde_json::from_str(mark).ok()).map(|Incoming { from, .. }| from);
    Ok(is_receiving.then(|| HostError::Unfinished { from: from().unwrap_or_else(unknown) }))
}

/// The files with which a role authenticates, as they are now.
pub(super) struct Keys {
    tls: Tls,
    password: Option<Zeroizing<Vec<u8>>>,
}

impl Keys {
    /// # Errors
    /// The problem of a file, as a clause that begins with the setting.
    pub(super) async fn read(ca: &std::path::Path, credentials: &Credentials) -> Result<Self, String> {
        let (ca, credentials) = (ca.to_owned(), credentials.clone());
        let read = spawn_blocking(move || Self::read_blocking(&ca, &credentials)).await;
        read.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn read_blocking(ca: &std::path::Path, credentials: &Credentials) -> Result<Self, String> {
        let read = |key: &str, path: &std::path::Path| {
            std::fs::read(path).map_err(|error| format!("store.{key}: {}: {error}", path.display()))
        };
        let secret = |key: &str, path: &std::path::Path| {
            secret_file::read(path).map_err(|error| format!("store.{key}: {error}"))
        };
        let ca = read("ca", ca)?;
        let chain = match &credentials.certificate {
            Some((chain, key)) => Some((read("certificate", chain)?, secret("private_key", key)?)),
            None => None,
        };
        let identity = chain.as_ref().map(|(chain, key)| (chain.as_slice(), key.as_slice()));
        let password = credentials.password.as_deref().map(|path| secret("password_file", path)).transpose()?;
        Ok(Self { tls: Tls::new(&Pem { ca: &ca, identity })?, password })
    }
}

/// A connection to one server, before any check of it.
async fn log_in(address: &Address, host: &str, port: u16, keys: &Keys) -> Result<(Client, impl Drive), HostError> {
    let mut config = Config::new();
    config
        .host(host)
        .port(port)
        .user(address.user())
        .dbname(address.database())
        .application_name("writ")
        .options(OPTIONS)
        .ssl_mode(SslMode::Require)
        .channel_binding(ChannelBinding::Prefer)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(Duration::from_secs(5))
        .keepalives_idle(Duration::from_secs(5));
    if let Some(password) = &keys.password {
        config.password(password.trim_ascii_end());
    }
    config.connect(keys.tls.clone()).await.map_err(|error| HostError::of(&error))
}

/// A connection that has to be driven for its client to get answers.
pub(super) trait Drive: Send + 'static {
    /// Polls for the next message that is no answer.
    fn poll(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>>;
}

impl<S, T> Drive for tokio_postgres::Connection<S, T>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn poll(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>> {
        self.poll_message(context)
    }
}

/// Drives a connection until it ends.
async fn drive(mut connection: impl Drive, is_poisoned: Arc<AtomicBool>, hint: Arc<Notify>) {
    while let Some(message) = poll_fn(|context| connection.poll(context)).await {
        match message {
            // By its severity, because the text follows the server's language.
            Ok(AsyncMessage::Notice(notice)) => {
                if !matches!(
                    notice.parsed_severity(),
                    Some(Severity::Notice | Severity::Info | Severity::Log | Severity::Debug)
                ) {
                    is_poisoned.store(true, Ordering::SeqCst);
                    tracing::warn!(
                        code = notice.code().code(),
                        message = notice.message(),
                        "a warning of the database"
                    );
                }
            }
            Ok(AsyncMessage::Notification(_)) => hint.notify_one(),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = describe(&error), "a connection to the database has ended");
                break;
            }
        }
    }
}

/// A bare connection for the owner's statements: nothing is checked on it but that the server accepts writes.
pub(super) async fn connect_as_owner(
    address: &Address,
    ca: &std::path::Path,
    credentials: &Credentials,
) -> Result<Client, NoServer> {
    let keys = Keys::read(ca, credentials).await;
    let keys = keys.map_err(|what| NoServer(vec![("files".to_owned(), HostError::Files(what))]))?;
    let mut errors = Vec::new();
    for (host, port) in address.hosts() {
        let attempt = async {
            let (client, connection) = log_in(address, host, *port, &keys).await?;
            tokio::spawn(drive(connection, Arc::default(), Arc::default()));
            let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.map_err(|e| HostError::of(&e))?;
            if row.try_get(0).map_err(|e| HostError::of(&e))? { Err(GuardError::Standby.into()) } else { Ok(client) }
        };
        let late = |_| Err(HostError::Unreachable("no answer in time".to_owned()));
        match timeout(CONNECT_TIMEOUT, attempt).await.unwrap_or_else(late) {
            Ok(client) => return Ok(client),
            Err(error) => errors.push((format!("{host}:{port}"), error)),
        }
    }
    Err(NoServer(errors))
}
