//! What an instance remembers of the database, so that it notices one that has gone back in time.
//!
//! A restored backup, a promoted asynchronous standby or a replaced primary that came back lacks what was acknowledged.
//! Each heartbeat raises `beat`, and each promotion raises the timeline: neither may ever fall. Only an operator can
//! accept a database that lacks something (`writ store repair`), which sets `accepted_at` to a later time.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::OpenError;
use crate::folder::{io_error, write_file};

/// What identifies a state of the database, in the order in which it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// The identifier of the database cluster; a new one is initialised with another.
    pub(super) system: i64,
    /// When an operator last accepted the database as it is, in milliseconds since 1970; 0: never.
    pub(super) accepted_at: i64,
    /// The timeline of its log; each promotion begins a new one.
    pub(super) timeline: i64,
    /// The number of the last heartbeat of any instance.
    pub(super) beat: i64,
}

/// The database lacks what it once had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WentBack {
    #[error("it is not the database cluster of before")]
    OtherSystem,
    #[error("it belongs to another installation, or to none")]
    Installation,
    #[error("its acceptance by an operator is missing")]
    Acceptance,
    #[error("its timeline is {found} and was {seen}")]
    Timeline { found: i64, seen: i64 },
    #[error("its last heartbeat is {found} and was {seen}")]
    Beat { found: i64, seen: i64 },
}

impl Position {
    /// Whether a database at `found` has everything that it had at this position.
    pub(super) fn check(&self, found: &Self) -> Result<(), WentBack> {
        if found.accepted_at > self.accepted_at {
            return Ok(());
        }
        if found.system != self.system {
            Err(WentBack::OtherSystem)
        } else if found.accepted_at < self.accepted_at {
            Err(WentBack::Acceptance)
        } else if found.timeline < self.timeline {
            Err(WentBack::Timeline { found: found.timeline, seen: self.timeline })
        } else if found.beat < self.beat {
            Err(WentBack::Beat { found: found.beat, seen: self.beat })
        } else {
            Ok(())
        }
    }

    /// Whether the positions differ in the number of the heartbeat at most.
    pub(super) fn is_same_history(&self, other: &Self) -> bool {
        (self.system, self.accepted_at, self.timeline) == (other.system, other.accepted_at, other.timeline)
    }
}

/// The file of an instance: its identity and the last position that it has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    /// The identifier of this instance.
    pub(super) instance: String,
    /// The installation in the database; `None` before the first start.
    pub(super) installation: Option<String>,
    /// The last position; `None` before the first connection.
    pub(super) seen: Option<Position>,
}

impl History {
    /// Whether a database at `found` with this installation has everything that it had when it was last seen.
    pub(super) fn check(&self, found: &Position, installation: Option<&str>) -> Result<(), WentBack> {
        let Some(seen) = &self.seen else { return Ok(()) };
        seen.check(found)?;
        let is_known = self.installation.is_none() || self.installation.as_deref() == installation;
        if is_known || found.accepted_at > seen.accepted_at { Ok(()) } else { Err(WentBack::Installation) }
    }

    /// Reads the file in the instance's folder; a new identity if there is none.
    pub(super) fn read(folder: &Path) -> Result<Self, OpenError> {
        let path = file(folder);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|_| OpenError::Foreign { path, what: "is not what an instance of Writ writes".to_owned() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self { instance: Uuid::new_v4().to_string(), installation: None, seen: None })
            }
            Err(source) => Err(io_error(&path, source)),
        }
    }

    /// Writes the file; durable on return.
    pub(super) fn write(&self, folder: &Path) -> std::io::Result<()> {
        write_file(&file(folder), &serde_json::to_vec(self)?)
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("postgres.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Position = Position { system: 7, accepted_at: 100, timeline: 3, beat: 500 };

    #[test]
    fn a_position_may_only_grow() {
        assert_eq!(SEEN.check(&SEEN), Ok(()));
        assert_eq!(SEEN.check(&Position { timeline: 4, beat: 501, ..SEEN }), Ok(()));
        let timeline = Position { timeline: 2, beat: 900, ..SEEN };
        assert_eq!(SEEN.check(&timeline), Err(WentBack::Timeline { found: 2, seen: 3 }));
        let beat = Position { timeline: 9, beat: 499, ..SEEN };
        assert_eq!(SEEN.check(&beat), Err(WentBack::Beat { found: 499, seen: 500 }));
        assert_eq!(SEEN.check(&Position { system: 8, ..SEEN }), Err(WentBack::OtherSystem));
        assert_eq!(SEEN.check(&Position { accepted_at: 99, ..SEEN }), Err(WentBack::Acceptance));
    }

    #[test]
    fn what_an_operator_accepted_later_may_be_anything() {
        assert_eq!(SEEN.check(&Position { system: 8, accepted_at: 101, timeline: 1, beat: 0 }), Ok(()));
    }

    #[test]
    fn another_installation_is_refused_unless_an_operator_accepted_it() {
        let history = History { instance: "n".to_owned(), installation: Some("i".to_owned()), seen: Some(SEEN) };
        assert_eq!(history.check(&SEEN, Some("i")), Ok(()));
        assert_eq!(history.check(&SEEN, Some("j")), Err(WentBack::Installation));
        assert_eq!(history.check(&SEEN, None), Err(WentBack::Installation));
        assert_eq!(history.check(&Position { accepted_at: 101, ..SEEN }, None), Ok(()));
    }

    #[test]
    fn a_history_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let fresh = History::read(folder.path()).unwrap();
        assert_eq!((&fresh.installation, fresh.seen), (&None, None));
        let known = History { installation: Some("i".to_owned()), seen: Some(SEEN), ..fresh };
        known.write(folder.path()).unwrap();
        assert_eq!(History::read(folder.path()).unwrap(), known);
        std::fs::write(file(folder.path()), b"{}").unwrap();
        assert!(matches!(History::read(folder.path()), Err(OpenError::Foreign { .. })));
    }
}
