//! What the process may leave behind: no file for others, no core dump, no memory for a debugger, no payload of a panic.

use std::panic;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior, setrlimit, umask};
use tokio::signal::unix::{SignalKind, signal};

/// Files opened beside connections: logs, the store, outgoing connections.
const OTHER_FILES: u64 = 256;

/// Closes what would let secrets out of the process. To be called before the first thread or file.
///
/// # Errors
/// The system's own, where it denies one of these; none needs a privilege.
pub fn harden() -> std::io::Result<()> {
    umask(Mode::RWXG | Mode::RWXO);
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    log_panics();
    Ok(())
}

/// Raises the number of open files to what `connections` need, as far as the system allows.
///
/// Returns the connections that fit if they are fewer, so that the caller can say so.
pub fn admit_connections(connections: u64) -> Option<u64> {
    let wanted = connections.saturating_add(OTHER_FILES);
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX).min(wanted).max(limit.current.unwrap_or(u64::MAX));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum: limit.maximum }).is_ok();
    let have = if raised { allowed } else { limit.current.unwrap_or(u64::MAX) };
    (have < wanted).then(|| have.saturating_sub(OTHER_FILES))
}

/// A file that reaches the limit of the process is an error of the write then, as a full disk is, and not its end.
///
/// To be called within the runtime. Where the system does not have it, nothing is lost but that.
pub fn survive_file_limit() {
    // The handler stays when the stream of signals is dropped.
    let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
}

/// A panic leaves one line that says where. Its text may hold what a client sent, so it is not written.
fn log_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        tracing::error!(place = place.as_deref().unwrap_or("unknown"), "panic");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_suffices_is_no_news() {
        assert_eq!(admit_connections(1), None);
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        if hard < u64::MAX - OTHER_FILES {
            assert_eq!(admit_connections(hard), Some(hard - OTHER_FILES));
        }
    }
}
