//! What an operator may do while the service runs: over a Unix socket beside the store, mode 0600.
//!
//! One line of JSON asks, one line answers. The same commands run without the socket when no service has the store.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use writ_verifier::json::{self, Limits};

use writ_core::audit::{Audit, Event};
use writ_core::blocks::{Block, Blocks, BlocksError};
use writ_core::keys::listing::Export;
use writ_core::keys::{KeyRing, KeysError};
use writ_core::ledger::Ledger;
use writ_platform::clock::{Clock, Timestamp};

/// An export of ten years of daily keys is far smaller.
const LONGEST_LINE: u64 = 16 * 1024 * 1024;

/// A command takes no longer, a making of RSA keys included.
const PATIENCE: Duration = Duration::from_secs(60);

const SOCKET: &str = "admin.sock";

/// What an operator asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Every key and its life.
    KeysList,
    /// Promote `next` now, if it and `previous` have been published for long enough.
    KeysRotate,
    /// A key serves nothing any more.
    KeysRevoke {
        /// The key.
        kid: String,
    },
    /// The public halves and their lives.
    KeysExport,
    /// Adds exported public halves to the history.
    KeysImport {
        /// What `keys export` wrote.
        export: Export,
    },
    /// Whether records, files and private halves fit together.
    KeysVerify,
    /// Stops what `block` names.
    BlockAdd {
        /// What.
        block: Block,
        /// Until when; none: for good.
        until: Option<Timestamp>,
    },
    /// Lets it go on.
    BlockRemove {
        /// What was stopped.
        block: Block,
    },
    /// Every block.
    BlockList,
    /// Takes the present time as right.
    TrustClock,
}

impl Command {
    /// Whether it changes nothing.
    pub fn only_looks(&self) -> bool {
        matches!(self, Self::KeysList | Self::KeysExport | Self::KeysVerify | Self::BlockList)
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done; what there is to say.
    Done(Value),
    /// Not done, and this is why.
    No(String),
    /// It could not be tried.
    Failed(String),
}

/// Performs commands on the rooms of a running, or of no, service.
pub struct Admin {
    keys: Arc<KeyRing>,
    ledger: Arc<Ledger>,
    blocks: Arc<Blocks>,
    audit: Audit,
}

impl Admin {
    /// Commands act on these rooms; what they change is recorded in `audit`.
    pub fn new(keys: Arc<KeyRing>, ledger: Arc<Ledger>, blocks: Arc<Blocks>, audit: Audit) -> Self {
        Self { keys, ledger, blocks, audit }
    }

    /// Performs one command.
    pub async fn perform(&self, command: Command, now: Timestamp) -> Reply {
        let outcome = match command {
            Command::KeysList => Ok(json!({ "keys": self.keys.list() })),
            Command::KeysRotate => self.rotate(now).await,
            Command::KeysRevoke { kid } => self.revoke(&kid, now).await,
            Command::KeysExport => Ok(json!(self.keys.export())),
            Command::KeysImport { export } => self.import(export, now).await,
            Command::KeysVerify => self.verify().await,
            Command::BlockAdd { block, until } => self.add_block(block, until, now).await,
            Command::BlockRemove { block } => self.remove_block(&block).await,
            Command::BlockList => Ok(json!({ "blocks": self.blocks.list() })),
            Command::TrustClock => self.trust_clock(now).await,
        };
        outcome.map_or_else(|refused| refused, Reply::Done)
    }

    async fn rotate(&self, now: Timestamp) -> Result<Value, Reply> {
        self.record(self.keys.rotate(now).await.map_err(no_or_failed)?).await?;
        Ok(json!({ "keys": self.keys.list() }))
    }

    async fn revoke(&self, kid: &str, now: Timestamp) -> Result<Value, Reply> {
        self.record(self.keys.revoke(kid, now).await.map_err(no_or_failed)?).await?;
        Ok(json!({ "revoked": kid }))
    }

    async fn import(&self, export: Export, now: Timestamp) -> Result<Value, Reply> {
        let imported = self.keys.import(export, now).await.map_err(no_or_failed)?;
        Ok(json!({ "imported": imported }))
    }

    async fn verify(&self) -> Result<Value, Reply> {
        let problems: Vec<String> = self.keys.verify().await.iter().map(ToString::to_string).collect();
        if problems.is_empty() { Ok(json!({ "ok": true })) } else { Err(Reply::No(problems.join("\n"))) }
    }

    async fn add_block(&self, block: Block, until: Option<Timestamp>, now: Timestamp) -> Result<Value, Reply> {
        let added = self.blocks.add(block.clone(), until, now).await;
        // What is in force is on record, even if it may not last.
        if matches!(added, Ok(_) | Err(BlocksError::NotKept(_))) {
            self.record([Event::BlockAdded { block, until: until.map(Timestamp::epoch) }]).await?;
        }
        Ok(json!({ "added": added.map_err(block_no_or_failed)?.line() }))
    }

    async fn remove_block(&self, block: &Block) -> Result<Value, Reply> {
        let entry = self.blocks.remove(block).await.map_err(block_no_or_failed)?;
        let until = entry.until.map(Timestamp::epoch);
        self.record([Event::BlockRemoved { block: entry.block.clone(), until }]).await?;
        Ok(json!({ "removed": entry.line() }))
    }

    async fn trust_clock(&self, now: Timestamp) -> Result<Value, Reply> {
        self.keys.trust_clock(now).await.map_err(no_or_failed)?;
        self.ledger.trust_clock(now).await.map_err(|error| Reply::Failed(error.to_string()))?;
        self.record([Event::ClockTrusted { now: now.epoch() }]).await?;
        Ok(json!({ "now": now.to_string() }))
    }

    async fn record(&self, events: impl IntoIterator<Item = impl Into<Event>>) -> Result<(), Reply> {
        for event in events {
            let unrecorded = |error| Reply::Failed(format!("it is done, but not recorded: {error}"));
            self.audit.write(&event.into()).await.map_err(unrecorded)?;
        }
        Ok(())
    }

    /// Answers on `socket` until the task is dropped.
    pub async fn serve(self: Arc<Self>, socket: Socket, clock: Arc<Clock>) {
        loop {
            let Ok((stream, _)) = socket.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (admin, clock) = (Arc::clone(&self), Arc::clone(&clock));
            tokio::spawn(async move {
                // Whoever asked went away: there is nobody to tell.
                let _ = tokio::time::timeout(PATIENCE, admin.answer(stream, &clock)).await;
            });
        }
    }

    async fn answer(&self, mut stream: UnixStream, clock: &Clock) -> io::Result<()> {
        let mut line = String::new();
        let (reading, mut writing) = stream.split();
        BufReader::new(reading.take(LONGEST_LINE)).read_line(&mut line).await?;
        let reply = match json::from_str(&line, Limits::DOCUMENT) {
            Ok(command) => {
                let now = if matches!(command, Command::TrustClock) { clock.trust() } else { clock.now() };
                self.perform(command, now).await
            }
            Err(error) => Reply::Failed(format!("the service does not know this command: {error}")),
        };
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        writing.write_all(&line).await
    }
}

fn no_or_failed(error: KeysError) -> Reply {
    match error {
        KeysError::TooEarly(_) | KeysError::Revoke(_) | KeysError::Import(_) => Reply::No(error.to_string()),
        other => Reply::Failed(other.to_string()),
    }
}

fn block_no_or_failed(error: BlocksError) -> Reply {
    match error {
        BlocksError::NoSuch => Reply::No(error.to_string()),
        other => Reply::Failed(other.to_string()),
    }
}

/// The socket, removed when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds `<store>/admin.sock`. Whoever holds the store's lock may take the place of a socket left behind.
    ///
    /// # Errors
    /// The system's own.
    pub fn bind(store: &Path) -> io::Result<Self> {
        let path = socket_path(store);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = with_short_path(store, |path| UnixListener::bind(path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Gone already: just as well.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn socket_path(store: &Path) -> PathBuf {
    store.join(SOCKET)
}

/// Gives `act` a path of the socket that is short enough whatever the folder is called: the system takes about a hundred
/// bytes only.
fn with_short_path<T>(store: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let folder = std::fs::File::open(store)?;
    let link = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    act(&if link.exists() { link.join(SOCKET) } else { socket_path(store) })
}

fn connect(store: &Path) -> io::Result<UnixStream> {
    let stream = with_short_path(store, |path| std::os::unix::net::UnixStream::connect(path))?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Asks the service that has the store; `None` if none listens.
///
/// # Errors
/// The system's own, where a service listens and does not answer.
pub async fn ask(store: &Path, command: &Command) -> io::Result<Option<Reply>> {
    let mut stream = match connect(store) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(stream.take(LONGEST_LINE)).read_line(&mut answer).await?;
    json::from_str(&answer, Limits::DOCUMENT).map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt as _;

    use tempfile::TempDir;
    use zeroize::Zeroizing;

    use super::*;
    use writ_core::keys::ring::KeyTimes;
    use writ_core::keys::seal::SealingKeys;
    use writ_core::keys::{Settings, SigningAlgorithm};
    use writ_platform::telemetry::sink::Sink;
    use writ_platform::telemetry::{Format, Log};
    use writ_store::Store;

    /// A service's rooms that listen to commands.
    struct Scene {
        folder: TempDir,
        lines: Sink,
    }

    impl Scene {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), lines: Sink::default() }
        }

        fn path(&self) -> PathBuf {
            // Longer than the name of a socket may be.
            self.folder.path().join("d".repeat(120))
        }

        async fn serve(&self) {
            let store = Store::open(&writ_store::Settings { path: self.path() }).await.unwrap();
            let seconds = Duration::from_secs;
            let settings = Settings {
                algorithm: SigningAlgorithm::ES256,
                times: KeyTimes::new(seconds(1000), seconds(10), seconds(30), seconds(10_000)).unwrap(),
                sealing_key: PathBuf::new(),
                previous_sealing_keys: Vec::new(),
            };
            let sealing = SealingKeys::new(&Zeroizing::new([1; 32]), &[]).unwrap();
            let domain = "d.example".parse().unwrap();
            let opened = KeyRing::open(store.clone(), &settings, sealing, &domain, Timestamp::now()).await;
            let ledger = Ledger::open(store.clone()).await.unwrap();
            let blocks = Blocks::open(store).await.unwrap();
            let audit = Audit::new(Log::start(Format::Json, self.lines.clone()));
            let admin = Arc::new(Admin::new(Arc::new(opened.unwrap().0), Arc::new(ledger), Arc::new(blocks), audit));
            tokio::spawn(admin.serve(Socket::bind(&self.path()).unwrap(), Arc::new(Clock::start())));
        }

        async fn ask(&self, command: Command) -> Reply {
            ask(&self.path(), &command).await.unwrap().expect("somebody listens")
        }

        async fn keys(&self) -> Vec<Value> {
            match self.ask(Command::KeysList).await {
                Reply::Done(answer) => answer["keys"].as_array().unwrap().clone(),
                reply => panic!("{reply:?}"),
            }
        }
    }

    #[tokio::test]
    async fn only_its_owner_can_speak_to_the_socket() {
        let scene = Scene::new();
        scene.serve().await;
        let socket = std::fs::metadata(scene.path().join("admin.sock")).unwrap();
        assert!(socket.file_type().is_socket());
        assert_eq!(socket.permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(scene.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_key_is_revoked_while_the_service_runs() {
        let scene = Scene::new();
        scene.serve().await;
        let current = scene.keys().await.into_iter().find(|key| key["state"] == "current").unwrap();
        assert_eq!(current["alg"], "ES256");
        let revoke = || Command::KeysRevoke { kid: current["kid"].as_str().unwrap().to_owned() };
        assert!(matches!(scene.ask(revoke()).await, Reply::Done(_)));
        assert!(matches!(scene.ask(revoke()).await, Reply::No(_)), "twice is once too often");
        let states: Vec<_> = scene.keys().await.iter().map(|key| key["state"].clone()).collect();
        assert_eq!(states, ["next", "current", "revoked"]);
        assert_eq!(scene.lines.events(), ["key_revoked", "key_rotated", "key_created"]);
    }

    #[tokio::test]
    async fn a_rotation_that_comes_too_early_says_when_it_may_come() {
        let scene = Scene::new();
        scene.serve().await;
        assert!(matches!(scene.ask(Command::KeysRotate).await, Reply::No(why) if why.contains("from")));
        assert!(scene.lines.events().is_empty());
    }

    #[tokio::test]
    async fn a_trusted_clock_is_on_record() {
        let scene = Scene::new();
        scene.serve().await;
        assert!(matches!(scene.ask(Command::TrustClock).await, Reply::Done(_)));
        assert!(matches!(scene.ask(Command::KeysVerify).await, Reply::Done(_)));
        assert_eq!(scene.lines.events(), ["clock_trusted"]);
    }

    #[tokio::test]
    async fn what_is_no_command_is_answered() {
        let scene = Scene::new();
        scene.serve().await;
        for command in [
            r#"{"command":"format_disk"}"#,
            r#"{"command":"trust_clock","command":"trust_clock"}"#,
            r#"{"command":{"$serde_json::private::RawValue":"\"trust_clock\""}}"#,
            r#"{"command":"keys_import","export":{"keys":[{"$serde_json::private::RawValue":"{}"}]}}"#,
            r#"{"command":"trust_clock","x":{"$serde_json::private::Number":"1"}}"#,
        ] {
            let mut stream = connect(&scene.path()).unwrap();
            stream.write_all(format!("{command}\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(matches!(serde_json::from_str(&answer).unwrap(), Reply::Failed(_)), "{answer}");
        }
        assert!(scene.lines.events().is_empty());
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_nobody() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ask(folder.path(), &Command::KeysList).await.unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(folder.path().join("admin.sock")).unwrap());
        assert!(ask(folder.path(), &Command::KeysList).await.unwrap().is_none());
        drop(Socket::bind(folder.path()).unwrap());
        assert!(!folder.path().join("admin.sock").exists());
    }
}
