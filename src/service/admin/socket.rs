//! `admin.sock`, a Unix socket in the folder of the store with mode 0600: a service answers on it, commands connect to it.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use writ_verifier::json::{self, Limits};

use super::Admin;
use super::protocol::{Command, MAX_LINE, Reply};
use writ_platform::clock::Clock;

const NAME: &str = "admin.sock";

/// The slowest command, which generates RSA keys, takes less.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// After the system has refused a connection, for instance because no file descriptor is free.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The listening socket; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Replaces a socket left behind by a service that crashed: only the holder of the store's lock may call this.
    pub(crate) fn bind(store: &Path) -> io::Result<Self> {
        let path = socket_path(store);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = with_short_path(store, |path| UnixListener::bind(path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers until the task is dropped.
    pub(crate) async fn serve(self, admin: Arc<Admin>, clock: Arc<Clock>) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                sleep(ACCEPT_BACKOFF).await;
                continue;
            };
            let (admin, clock) = (Arc::clone(&admin), Arc::clone(&clock));
            tokio::spawn(async move {
                // If the operator has disconnected, no one is left to receive the error.
                let _ = timeout(COMMAND_TIMEOUT, answer(stream, &admin, &clock)).await;
            });
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may have been removed already.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, admin: &Admin, clock: &Clock) -> io::Result<()> {
    let mut line = String::new();
    let (reading, mut writing) = stream.split();
    BufReader::new(reading.take(MAX_LINE)).read_line(&mut line).await?;
    let reply = match json::from_str(&line, Limits::DOCUMENT) {
        Ok(command) => {
            let now = if matches!(command, Command::TrustClock) { clock.trust() } else { clock.now() };
            admin.perform(command, now).await
        }
        Err(error) => Reply::Failed(format!("the service does not know this command: {error}")),
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    writing.write_all(&line).await
}

/// Has `command` performed by the service that runs on this store; `None` if no service runs.
///
/// # Errors
/// [`io::Error`]: a service listens but does not answer.
pub async fn send(store: &Path, command: &Command) -> io::Result<Option<Reply>> {
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
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer).await?;
    json::from_str(&answer, Limits::DOCUMENT).map(Some).map_err(io::Error::other)
}

pub(super) fn connect(store: &Path) -> io::Result<UnixStream> {
    let stream = with_short_path(store, |path| std::os::unix::net::UnixStream::connect(path))?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Calls `act` with a short path of the socket: the system limits one to about a hundred bytes, and the store's folder
/// may have a longer name.
fn with_short_path<T>(store: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let folder = std::fs::File::open(store)?;
    let link = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    act(&if link.exists() { link.join(NAME) } else { socket_path(store) })
}

fn socket_path(store: &Path) -> PathBuf {
    store.join(NAME)
}
