//! Process hardening (umask, no core dumps, no debugger access, no panic messages in the log) and resource limits.

use std::panic;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior, setrlimit, umask};
use tokio::signal::unix::{SignalKind, signal};

/// File descriptors needed besides connections: logs, the store, outgoing connections.
const OTHER_FILES: u64 = 256;

/// Prevents secrets from leaving the process. Call it before the first thread or file is created.
///
/// # Errors
/// [`std::io::Error`] if the system denies a step, none of which needs a privilege.
pub fn harden() -> std::io::Result<()> {
    umask(Mode::RWXG | Mode::RWXO);
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    log_panics();
    Ok(())
}

/// Raises the limit on open files for this number of connections, as far as the system allows.
///
/// Returns the number of connections that fit, if that is fewer.
pub fn admit_connections(connections: u64) -> Option<u64> {
    let wanted = connections.saturating_add(OTHER_FILES);
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX).min(wanted).max(limit.current.unwrap_or(u64::MAX));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum: limit.maximum }).is_ok();
    let have = if raised { allowed } else { limit.current.unwrap_or(u64::MAX) };
    (have < wanted).then(|| have.saturating_sub(OTHER_FILES))
}

/// Makes a write beyond the file size limit an error, like a full disk, instead of the end of the process (SIGXFSZ).
///
/// Call it within a Tokio runtime. It does nothing if the signal cannot be handled.
pub fn survive_file_limit() {
    // The handler stays installed when the stream of signals is dropped.
    let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
}

/// Logs where a panic happened. Its message may contain what a client sent, so it is not logged.
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
    fn a_sufficient_limit_is_not_reported() {
        assert_eq!(admit_connections(1), None);
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        if hard < u64::MAX - OTHER_FILES {
            assert_eq!(admit_connections(hard), Some(hard - OTHER_FILES));
        }
    }
}
