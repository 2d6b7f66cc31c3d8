//! Whether lines can be written: what the thread that writes them meets, and what can be seen from outside.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat, fstatvfs};
use rustix::process::geteuid;
use tokio::sync::mpsc;

use super::Line;

/// How often it is looked at, and after each failure.
const LOOK: Duration = Duration::from_millis(500);

/// A line that takes longer waits for a reader that does not read.
const STALLED_AFTER: Duration = Duration::from_secs(2);

/// How lines fare. Shared by those who send them, the thread that writes them and the one that watches.
#[derive(Debug, Clone, Default)]
pub(super) struct Condition(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    /// Where nobody tries again, a failure says nothing about the next line.
    is_watched: bool,
    /// Since when a write has been under way.
    writing_since: Option<Instant>,
    /// Why the last write failed.
    failure: Option<String>,
    /// Why the next one would.
    obstacle: Option<&'static str>,
    /// Lines that were not written since that was last told.
    lost: u64,
}

impl Condition {
    /// What keeps lines from being written.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.state();
        if !state.is_watched {
            return None;
        }
        let stalled = state.writing_since.is_some_and(|since| since.elapsed() > STALLED_AFTER);
        let stalled = stalled.then(|| "its reader does not read".to_owned());
        state.failure.clone().or(state.obstacle.map(str::to_owned)).or(stalled)
    }

    pub(super) fn begin(&self) {
        self.state().writing_since = Some(Instant::now());
    }

    /// What came of writing so many lines; the last failure is forgotten with the first success.
    pub(super) fn end(&self, outcome: &std::io::Result<()>, lines: usize) {
        let mut state = self.state();
        state.writing_since = None;
        state.failure = outcome.as_ref().err().map(ToString::to_string);
        if outcome.is_err() {
            state.lost += lines as u64;
            self.0.1.notify_all();
        }
    }

    pub(super) fn lose(&self) {
        self.state().lost += 1;
    }

    /// Looks after `output` for as long as the process runs: tries it again after a failure, and says on standard error
    /// when it fails and when it works again.
    pub(super) fn watch(self, output: OwnedFd, lines: mpsc::Sender<Line>) {
        self.state().is_watched = true;
        thread::spawn(move || {
            let (mut was_well, mut full_since) = (true, None);
            loop {
                self.wait(was_well);
                self.state().obstacle = obstacle(&output, &mut full_since);
                if !was_well && self.state().failure.is_some() {
                    // An empty line. If the queue is full the thread has enough to try.
                    let _ = lines.try_send(Line { text: Vec::new(), written: None });
                }
                let trouble = self.trouble();
                // Whatever becomes of these words, what they are about goes on.
                match &trouble {
                    Some(why) if was_well => {
                        let _ =
                            writeln!(std::io::stderr(), "writ: the log cannot be written ({why}): no token is issued");
                    }
                    None if !was_well => {
                        let _ = writeln!(std::io::stderr(), "writ: the log can be written again");
                        let lost = std::mem::take(&mut self.state().lost);
                        tracing::warn!(lost, "the log could not be written for a while; so many lines are missing");
                    }
                    _ => {}
                }
                was_well = trouble.is_none();
            }
        });
    }

    /// Until it is to be looked at: at once if a write fails while all `was_well`.
    fn wait(&self, was_well: bool) {
        let is_news = |state: &mut State| !(was_well && state.failure.is_some());
        // A poisoned lock is no reason to look more often.
        drop(self.0.1.wait_timeout_while(self.state(), LOOK, is_news));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What can be seen without writing.
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
        return (since.elapsed() > STALLED_AFTER).then_some("its reader does not read");
    }
    *full_since = None;
    is_full(output).then_some("the disk is full")
}

/// Whether it is a file for which there is no block left.
fn is_full(output: &OwnedFd) -> bool {
    let is_file = fstat(output).is_ok_and(|file| FileType::from_raw_mode(file.st_mode) == FileType::RegularFile);
    is_file
        && fstatvfs(output).is_ok_and(|disk| {
            // Some file systems have no blocks to count; some blocks are for root alone.
            let left = if geteuid().is_root() { disk.f_bfree } else { disk.f_bavail };
            disk.f_blocks > 0 && left == 0
        })
}

/// `output` as a file of its own: without the buffer of the standard library, and what is closed is found so.
pub(super) fn unbuffered(output: impl AsFd) -> std::io::Result<(File, OwnedFd)> {
    let ours = output.as_fd().try_clone_to_owned()?;
    Ok((File::from(ours.try_clone()?), ours))
}
