//! Operators' commands on the key ring, the kill switch and the clock.
//!
//! A running service performs them for the command line over a Unix socket (`socket`, `protocol`); where no service
//! has the store open, the command line performs them itself.

mod protocol;
mod socket;

use std::sync::Arc;

use serde_json::{Value, json};

pub use self::protocol::{Command, Reply};
pub(crate) use self::socket::Socket;
pub use self::socket::send;
use writ_core::audit::{Audit, Event};
use writ_core::blocks::{Block, Blocks, BlocksError};
use writ_core::keys::listing::Export;
use writ_core::keys::{KeyRing, KeysError};
use writ_core::ledger::Ledger;
use writ_platform::clock::Timestamp;

/// Performs commands, within a running service or without one.
pub(crate) struct Admin {
    keys: Arc<KeyRing>,
    ledger: Arc<Ledger>,
    blocks: Arc<Blocks>,
    audit: Audit,
}

impl Admin {
    /// Every change is recorded in `audit`.
    pub(crate) fn new(keys: Arc<KeyRing>, ledger: Arc<Ledger>, blocks: Arc<Blocks>, audit: Audit) -> Self {
        Self { keys, ledger, blocks, audit }
    }

    pub(crate) async fn perform(&self, command: Command, now: Timestamp) -> Reply {
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
        outcome.map_or_else(|reply| reply, Reply::Done)
    }

    async fn rotate(&self, now: Timestamp) -> Result<Value, Reply> {
        self.record(self.keys.rotate(now).await.map_err(refused_or_failed)?).await?;
        Ok(json!({ "keys": self.keys.list() }))
    }

    async fn revoke(&self, kid: &str, now: Timestamp) -> Result<Value, Reply> {
        self.record(self.keys.revoke(kid, now).await.map_err(refused_or_failed)?).await?;
        Ok(json!({ "revoked": kid }))
    }

    async fn import(&self, export: Export, now: Timestamp) -> Result<Value, Reply> {
        let imported = self.keys.import(export, now).await.map_err(refused_or_failed)?;
        Ok(json!({ "imported": imported }))
    }

    async fn verify(&self) -> Result<Value, Reply> {
        let problems: Vec<String> = self.keys.verify().await.iter().map(ToString::to_string).collect();
        if problems.is_empty() { Ok(json!({ "ok": true })) } else { Err(Reply::Refused(problems.join("\n"))) }
    }

    async fn add_block(&self, block: Block, until: Option<Timestamp>, now: Timestamp) -> Result<Value, Reply> {
        let added = self.blocks.add(block.clone(), until, now).await;
        // A block that is in force is recorded, even if a crash may lose it.
        if matches!(added, Ok(_) | Err(BlocksError::NotKept(_))) {
            self.record([Event::BlockAdded { block, until: until.map(Timestamp::epoch) }]).await?;
        }
        Ok(json!({ "added": added.map_err(block_refused_or_failed)?.line() }))
    }

    async fn remove_block(&self, block: &Block) -> Result<Value, Reply> {
        let entry = self.blocks.remove(block).await.map_err(block_refused_or_failed)?;
        let until = entry.until.map(Timestamp::epoch);
        self.record([Event::BlockRemoved { block: entry.block.clone(), until }]).await?;
        Ok(json!({ "removed": entry.line() }))
    }

    async fn trust_clock(&self, now: Timestamp) -> Result<Value, Reply> {
        self.keys.trust_clock(now).await.map_err(refused_or_failed)?;
        self.ledger.trust_clock(now).await.map_err(|error| Reply::Failed(error.to_string()))?;
        self.record([Event::ClockTrusted { now: now.epoch() }]).await?;
        Ok(json!({ "now": now.to_string() }))
    }

    async fn record(&self, events: impl IntoIterator<Item = impl Into<Event<'static>>>) -> Result<(), Reply> {
        for event in events {
            let unrecorded = |error| Reply::Failed(format!("the command was performed, but not recorded: {error}"));
            self.audit.write(&event.into()).await.map_err(unrecorded)?;
        }
        Ok(())
    }
}

fn refused_or_failed(error: KeysError) -> Reply {
    match error {
        KeysError::TooEarly(_) | KeysError::LeftBehind(_) | KeysError::Revoke(_) | KeysError::Import(_) => {
            Reply::Refused(error.to_string())
        }
        other => Reply::Failed(other.to_string()),
    }
}

fn block_refused_or_failed(error: BlocksError) -> Reply {
    match error {
        BlocksError::NoSuch => Reply::Refused(error.to_string()),
        other => Reply::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    use std::path::PathBuf;
    use std::time::Duration;

    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use zeroize::Zeroizing;

    use super::*;
    use writ_core::keys::ring::KeyTimes;
    use writ_core::keys::seal::SealingKeys;
    use writ_core::keys::{Settings, SigningAlgorithm};
    use writ_platform::clock::Clock;
    use writ_platform::telemetry::sink::Sink;
    use writ_platform::telemetry::{Format, Log};
    use writ_store::Store;

    /// A store with a service's admin socket.
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
            let store = Store::open(&writ_store::Settings::Sled { path: self.path() }).await.unwrap();
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
            tokio::spawn(Socket::bind(&self.path()).unwrap().serve(admin, Arc::new(Clock::start())));
        }

        async fn send(&self, command: Command) -> Reply {
            send(&self.path(), &command).await.unwrap().expect("a service listens")
        }

        async fn keys(&self) -> Vec<Value> {
            match self.send(Command::KeysList).await {
                Reply::Done(answer) => answer["keys"].as_array().unwrap().clone(),
                reply => panic!("{reply:?}"),
            }
        }
    }

    #[tokio::test]
    async fn only_its_owner_can_use_the_socket() {
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
        assert!(matches!(scene.send(revoke()).await, Reply::Done(_)));
        assert!(matches!(scene.send(revoke()).await, Reply::Refused(_)), "revoked already");
        let states: Vec<_> = scene.keys().await.iter().map(|key| key["state"].clone()).collect();
        assert_eq!(states, ["next", "current", "revoked"]);
        assert_eq!(scene.lines.events(), ["key_revoked", "key_rotated", "key_created"]);
    }

    #[tokio::test]
    async fn an_early_rotation_is_refused_with_the_time_from_which_it_is_allowed() {
        let scene = Scene::new();
        scene.serve().await;
        assert!(matches!(scene.send(Command::KeysRotate).await, Reply::Refused(why) if why.contains("from")));
        assert!(scene.lines.events().is_empty());
    }

    #[tokio::test]
    async fn a_trusted_clock_is_recorded() {
        let scene = Scene::new();
        scene.serve().await;
        assert!(matches!(scene.send(Command::TrustClock).await, Reply::Done(_)));
        assert!(matches!(scene.send(Command::KeysVerify).await, Reply::Done(_)));
        assert_eq!(scene.lines.events(), ["clock_trusted"]);
    }

    #[tokio::test]
    async fn an_unknown_command_is_answered() {
        let scene = Scene::new();
        scene.serve().await;
        for command in [
            r#"{"command":"format_disk"}"#,
            r#"{"command":"trust_clock","command":"trust_clock"}"#,
            r#"{"command":{"$serde_json::private::RawValue":"\"trust_clock\""}}"#,
            r#"{"command":"keys_import","export":{"keys":[{"$serde_json::private::RawValue":"{}"}]}}"#,
            r#"{"command":"trust_clock","x":{"$serde_json::private::Number":"1"}}"#,
        ] {
            let mut stream = socket::connect(&scene.path()).unwrap();
            stream.write_all(format!("{command}\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(matches!(serde_json::from_str(&answer).unwrap(), Reply::Failed(_)), "{answer}");
        }
        assert!(scene.lines.events().is_empty());
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_no_service() {
        let folder = tempfile::tempdir().unwrap();
        assert!(send(folder.path(), &Command::KeysList).await.unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(folder.path().join("admin.sock")).unwrap());
        assert!(send(folder.path(), &Command::KeysList).await.unwrap().is_none());
        drop(Socket::bind(folder.path()).unwrap());
        assert!(!folder.path().join("admin.sock").exists());
    }
}
