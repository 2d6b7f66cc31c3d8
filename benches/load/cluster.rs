//! What a PostgreSQL cluster has used: CPU time of its processes, its log, its commits.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;

use crate::database::{Postgres, children};

/// How long idle connections keep their statistics to themselves at most, and a little more.
pub(crate) const SETTLING: Duration = Duration::from_millis(10_500);

/// So far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// CPU time of the primary.
    pub(crate) primary: Duration,
    /// CPU time of a standby, on average.
    pub(crate) standby: Duration,
    pub(crate) log: Log,
}

/// Of the primary, so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log {
    /// Bytes of the write-ahead log.
    pub(crate) bytes: u64,
    /// Transactions that wrote.
    pub(crate) commits: u64,
    /// Syncs of the log to the disk, of connections that were idle for [`SETTLING`].
    pub(crate) syncs: u64,
}

impl Usage {
    /// Before something is measured: what is asked of the primary is not counted.
    pub(crate) fn before(servers: &Postgres) -> Self {
        Self::cpu(servers, Log::read(servers))
    }

    /// After something was measured.
    pub(crate) fn after(servers: &Postgres) -> Self {
        let used = Self::cpu(servers, Log { bytes: 0, commits: 0, syncs: 0 });
        Self { log: Log::read(servers), ..used }
    }

    /// With a log that was read before.
    pub(crate) fn cpu(servers: &Postgres, log: Log) -> Self {
        let standbys = servers.standbys();
        let count = u32::try_from(standbys.len()).expect("a few").max(1);
        let standby = standbys.iter().map(|node| cpu_time(servers.process(*node))).sum::<Duration>() / count;
        Self { primary: cpu_time(servers.process(servers.primary())), standby, log }
    }

    /// Since then.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let log = Log {
            bytes: self.log.bytes - before.log.bytes,
            commits: self.log.commits - before.log.commits,
            syncs: self.log.syncs - before.log.syncs,
        };
        let (primary, standby) =
            (self.primary.saturating_sub(before.primary), self.standby.saturating_sub(before.standby));
        Self { primary, standby, log }
    }
}

impl Log {
    pub(crate) fn read(servers: &Postgres) -> Self {
        let row = servers.sql(
            "SELECT pg_current_wal_lsn() - '0/0', pg_snapshot_xmax(pg_current_snapshot()), wal_sync FROM pg_stat_wal",
        );
        let mut numbers = row.split('|').map(|text| text.parse().expect("a number"));
        let mut next = || numbers.next().expect("three numbers");
        Self { bytes: next(), commits: next(), syncs: next() }
    }
}

/// CPU time of a server: of its processes, and of those that have ended.
fn cpu_time(server: u32) -> Duration {
    let first = Pid::from_raw(server.cast_signed()).expect("a process");
    let running = children(first).into_iter().chain([first]).map(|process| {
        let path = format!("/proc/{}/schedstat", process.as_raw_nonzero());
        // It may have ended by now.
        let times = fs::read_to_string(path).unwrap_or_default();
        Duration::from_nanos(times.split(' ').next().and_then(|used| used.parse().ok()).unwrap_or(0))
    });
    running.sum::<Duration>() + cpu_time_of_ended(server)
}

fn cpu_time_of_ended(parent: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{parent}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name in parentheses").1.split(' ').collect();
    let ticks = |field: usize| fields[field].parse::<u64>().expect("a number");
    Duration::from_secs(ticks(13) + ticks(14)) / u32::try_from(rustix::param::clock_ticks_per_second()).expect("100")
}
