//! Whether a server may be relied upon: it accepts writes, what it acknowledges is on disk, and on a standby's too.

use tokio_postgres::Row;

use super::settings::Replication;

/// The columns from which [`Server::of`] reads; no table is needed. On a standby there is no current timeline.
pub(super) const COLUMNS: &str = "pg_is_in_recovery() AS is_standby,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS synchronous_standby_names,
    current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
    CASE WHEN pg_is_in_recovery() THEN 0
      ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END AS timeline";

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) is_standby: bool,
    pub(super) synchronous_commit: String,
    pub(super) synchronous_standby_names: String,
    pub(super) fsync: String,
    pub(super) full_page_writes: String,
    pub(super) timeline: i64,
}

/// Why a server may not be relied upon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum GuardError {
    #[error("it is a standby")]
    Standby,
    #[error(
        "a commit does not wait for a standby: {setting} is '{value}'; set synchronous_standby_names to at least \
         'ANY 1 (…)' and synchronous_commit to 'on', or accept a single server with store.replication = \"none\""
    )]
    NotReplicated { setting: &'static str, value: String },
    #[error("{setting} is '{value}', so that a crash can lose or damage records; set it to 'on'")]
    Unsafe { setting: &'static str, value: String },
}

impl Server {
    pub(super) fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            is_standby: row.try_get("is_standby")?,
            synchronous_commit: row.try_get("synchronous_commit")?,
            synchronous_standby_names: row.try_get("synchronous_standby_names")?,
            fsync: row.try_get("fsync")?,
            full_page_writes: row.try_get("full_page_writes")?,
            timeline: row.try_get("timeline")?,
        })
    }

    pub(super) fn check(&self, replication: Replication) -> Result<(), GuardError> {
        if self.is_standby {
            return Err(GuardError::Standby);
        }
        for (setting, value) in [("fsync", &self.fsync), ("full_page_writes", &self.full_page_writes)] {
            if value != "on" {
                return Err(GuardError::Unsafe { setting, value: value.clone() });
            }
        }
        match (replication, self.synchronous_commit.as_str()) {
            (_, "off") => {
                Err(GuardError::Unsafe { setting: "synchronous_commit", value: self.synchronous_commit.clone() })
            }
            (Replication::None, _) => Ok(()),
            // The server refuses names that wait for no standby, such as `ANY 0 (…)`.
            (Replication::Quorum, "on" | "remote_apply") if !self.synchronous_standby_names.trim().is_empty() => Ok(()),
            (Replication::Quorum, "on" | "remote_apply") => Err(GuardError::NotReplicated {
                setting: "synchronous_standby_names",
                value: self.synchronous_standby_names.clone(),
            }),
            (Replication::Quorum, _) => {
                Err(GuardError::NotReplicated { setting: "synchronous_commit", value: self.synchronous_commit.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(commit: &str, names: &str) -> Server {
        let on = || "on".to_owned();
        Server {
            is_standby: false,
            synchronous_commit: commit.to_owned(),
            synchronous_standby_names: names.to_owned(),
            fsync: on(),
            full_page_writes: on(),
            timeline: 1,
        }
    }

    #[test]
    fn a_quorum_is_demanded_unless_a_single_server_is_accepted() {
        for commit in ["on", "remote_apply"] {
            assert_eq!(server(commit, "ANY 1 (a, b)").check(Replication::Quorum), Ok(()));
        }
        for (commit, names) in [("on", ""), ("on", " "), ("local", "ANY 1 (a)"), ("remote_write", "ANY 1 (a)")] {
            let refused = server(commit, names).check(Replication::Quorum);
            assert!(matches!(refused, Err(GuardError::NotReplicated { .. })), "{commit} {names}");
            assert_eq!(server(commit, names).check(Replication::None), Ok(()));
        }
    }

    #[test]
    fn a_standby_or_a_server_that_does_not_sync_is_never_relied_upon() {
        for replication in [Replication::None, Replication::Quorum] {
            let standby = Server { is_standby: true, ..server("on", "ANY 1 (a)") };
            assert_eq!(standby.check(replication), Err(GuardError::Standby));
            let unsynced = [
                Server { fsync: "off".to_owned(), ..server("on", "ANY 1 (a)") },
                Server { full_page_writes: "off".to_owned(), ..server("on", "ANY 1 (a)") },
                server("off", "ANY 1 (a)"),
            ];
            for server in unsynced {
                assert!(matches!(server.check(replication), Err(GuardError::Unsafe { .. })), "{server:?}");
            }
        }
    }
}
