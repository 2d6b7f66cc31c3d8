//! The condition of the output: the outcome of each write, and what can be observed without writing.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat, fstatvfs};
use rustix::process::geteuid;

/// How often the output is checked, and retried after a failure.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A write that takes longer means that the reader has stopped.
const STALLED_AFTER: Duration = Duration::from_secs(2);

/// The condition of the output, shared by callers, the writing thread and the monitoring thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Condition(Arc<(Mutex<State>, Condvar)>);

/// How much of a line was written at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtOnce {
    Written,
    /// Its rest is the first that the thread will write.
    Begun,
    NotBegun,
}

#[derive(Debug, Default)]
struct State {
    /// Whether a monitor retries. Without one, a failure does not predict the next write.
    is_monitored: bool,
    /// When the current write began.
    writing_since: Option<Instant>,
    /// Why the last write failed.
    last_error: Option<String>,
    /// Why the next write would fail.
    obstacle: Option<&'static str>,
    /// Whether the output has taken anything since the last check.
    has_taken: bool,
    /// Lines lost since the last report of such a loss.
    lost: u64,
    /// The rest of a line of which the output took only the beginning.
    rest: Vec<u8>,
}

impl Condition {
    /// Why lines cannot be written, if they cannot.
    pub(super) fn failure(&self) -> Option<String> {
        self.state().failure().map(str::to_owned)
    }

    /// Whether lines cannot be written.
    pub(super) fn is_failing(&self) -> bool {
        self.state().failure().is_some()
    }

    /// Begins a write of the thread; returns what it must write first.
    pub(super) fn begin_write(&self) -> Vec<u8> {
        let mut state = self.state();
        state.writing_since = Some(Instant::now());
        std::mem::take(&mut state.rest)
    }

    /// Writes `line` by `write`, which does not wait, unless the thread is writing or the output fails.
    pub(super) fn write_at_once(&self, line: &[u8], write: impl FnOnce(&[u8]) -> std::io::Result<usize>) -> AtOnce {
        let mut state = self.state();
        if state.writing_since.is_some() || !state.rest.is_empty() || state.failure().is_some() {
            return AtOnce::NotBegun;
        }
        // The thread meets the same error, and reports it.
        let Ok(written) = write(line) else { return AtOnce::NotBegun };
        state.has_taken = true;
        match line.get(written..) {
            None | Some([]) => AtOnce::Written,
            Some(rest) if written > 0 => {
                state.rest = rest.to_vec();
                AtOnce::Begun
            }
            Some(_) => AtOnce::NotBegun,
        }
    }

    /// Records the outcome of writing `lines` lines.
    pub(super) fn end_write(&self, outcome: &std::io::Result<()>, lines: usize) {
        let mut state = self.state();
        state.writing_since = None;
        state.has_taken |= outcome.is_ok();
        state.last_error = outcome.as_ref().err().map(ToString::to_string);
        if outcome.is_err() {
            state.lost += lines as u64;
            self.0.1.notify_all();
        }
    }

    pub(super) fn count_lost(&self) {
        self.state().lost += 1;
    }

    /// Monitors `output` for as long as the process runs: retries it after a failure, and reports on standard error when
    /// it fails and when it works again. `probe` queues an empty line.
    pub(super) fn monitor(self, output: OwnedFd, probe: impl Fn() + Send + 'static) {
        self.state().is_monitored = true;
        thread::spawn(move || {
            let (mut was_ok, mut full_since) = (true, None);
            loop {
                self.wait(was_ok);
                if std::mem::take(&mut self.state().has_taken) {
                    full_since = None; // a slow reader keeps it full, but has not stopped
                }
                self.state().obstacle = obstacle(&output, &mut full_since);
                if !was_ok && self.state().last_error.is_some() {
                    probe();
                }
                let failure = self.failure();
                self.report(was_ok, failure.as_deref());
                was_ok = failure.is_none();
            }
        });
    }

    /// Reports on standard error that the output failed or recovered. If that fails too, there is no other place to report.
    fn report(&self, was_ok: bool, failure: Option<&str>) {
        match failure {
            Some(why) if was_ok => {
                let _ = writeln!(std::io::stderr(), "writ: the log cannot be written ({why}): no token is issued");
            }
            None if !was_ok => {
                let _ = writeln!(std::io::stderr(), "writ: the log can be written again");
                let lost = std::mem::take(&mut self.state().lost);
                tracing::warn!(lost, "the log could not be written for a while: lines are missing");
            }
            _ => {}
        }
    }

    /// Waits for the next check, which comes at once if a write fails while the output `was_ok`.
    fn wait(&self, was_ok: bool) {
        let may_wait = |state: &mut State| !(was_ok && state.last_error.is_some());
        // A poisoned lock only shortens the wait.
        drop(self.0.1.wait_timeout_while(self.state(), CHECK_INTERVAL, may_wait));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn failure(&self) -> Option<&str> {
        if !self.is_monitored {
            return None;
        }
        let is_stalled = self.writing_since.is_some_and(|since| since.elapsed() > STALLED_AFTER);
        self.last_error.as_deref().or(self.obstacle).or(is_stalled.then_some("its reader has stopped reading"))
    }
}

/// Why a write would fail or block, as far as that can be found without writing.
fn obstacle(output: &OwnedFd, full_since: &mut Option<Instant>) -> Option<&'static str> {
    let mut polled = [PollFd::new(output, PollFlags::OUT)];
    let seen = match poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => polled[0].revents(),
        Err(_) => return None,
    };
    if seen.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
        return Some("its reader is gone");
    }
    if !seen.contains(PollFlags::OUT) {
        let since = *full_since.get_or_insert_with(Instant::now);
        return (since.elapsed() > STALLED_AFTER).then_some("its reader has stopped reading");
    }
    *full_since = None;
    is_full(output).then_some("the disk is full")
}

/// Whether `output` is a file on a full disk.
fn is_full(output: &OwnedFd) -> bool {
    let is_file = fstat(output).is_ok_and(|file| FileType::from_raw_mode(file.st_mode) == FileType::RegularFile);
    is_file
        && fstatvfs(output).is_ok_and(|disk| {
            // Some file systems do not count blocks; some blocks are reserved for root.
            let left = if geteuid().is_root() { disk.f_bfree } else { disk.f_bavail };
            disk.f_blocks > 0 && left == 0
        })
}

/// `output` without the buffer of the standard library, which ignores a closed descriptor.
pub(super) fn unbuffered(output: impl AsFd) -> std::io::Result<(File, OwnedFd)> {
    let ours = output.as_fd().try_clone_to_owned()?;
    Ok((File::from(ours.try_clone()?), ours))
}
