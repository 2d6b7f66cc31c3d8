//! The files by which a store knows that it was moved, or is a copy: it opens in neither case before the move is complete.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use writ_platform::bounded;

use crate::OpenError;
use crate::folder::{io_error, require_file, write_file};
use crate::portable::{Incoming, Outgoing};

/// What the file of a copy says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Received {
    /// Whether anything of it is missing.
    pub(super) is_receiving: bool,
    pub(super) incoming: Incoming,
}

/// Refuses a store that was moved, or is not yet complete. The caller holds the lock.
pub(super) fn check(store: &Path) -> Result<(), OpenError> {
    if let Some(Outgoing { to, .. }) = outgoing(store)? {
        return Err(OpenError::Moved { store: store.display().to_string(), to });
    }
    match received(store)? {
        Some(Received { is_receiving: true, incoming }) => {
            Err(OpenError::Unfinished { store: store.display().to_string(), from: incoming.from })
        }
        _ => Ok(()),
    }
}

pub(super) fn outgoing(store: &Path) -> Result<Option<Outgoing>, OpenError> {
    read(&outgoing_file(store))
}

/// Marks a store as moved; durable on return.
pub(super) fn set_outgoing(store: &Path, outgoing: &Outgoing) -> Result<(), OpenError> {
    write(&outgoing_file(store), outgoing)
}

pub(super) fn received(store: &Path) -> Result<Option<Received>, OpenError> {
    read(&received_file(store))
}

/// Durable on return.
pub(super) fn set_received(store: &Path, received: &Received) -> Result<(), OpenError> {
    write(&received_file(store), received)
}

fn outgoing_file(store: &Path) -> PathBuf {
    store.join("moved.json")
}

fn received_file(store: &Path) -> PathBuf {
    store.join("copy.json")
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, OpenError> {
    require_file(path)?;
    let foreign =
        |_| OpenError::Foreign { path: path.to_owned(), what: "is not what `writ store copy` writes".to_owned() };
    match bounded::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(foreign),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error(path, source)),
    }
}

fn write(path: &Path, mark: &impl Serialize) -> Result<(), OpenError> {
    let bytes = serde_json::to_vec(mark).map_err(|error| io_error(path, error.into()))?;
    write_file(path, &bytes).map_err(|source| io_error(path, source))
}
