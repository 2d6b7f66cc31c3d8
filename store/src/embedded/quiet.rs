//! Turns sled's panics, which some kinds of damage cause, into error messages.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::thread;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic in it becomes its message and is not printed.
///
/// After a panic, the values that `work` used must not be used again.
pub(super) fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    install_hook();
    let outer = QUIET.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(outer);
    outcome.map_err(|payload| message(payload.as_ref()))
}

/// The hook is global to the process; this one forwards every panic that is not sled's.
fn install_hook() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if is_sled_thread() {
                tracing::error!(reason = message(panic.payload()), "a thread of sled has ended");
            } else if !QUIET.get() {
                others(panic);
            }
        }));
    });
}

/// Whether this is one of sled's threads. They are never joined; the operation that they served fails and reports the
/// error.
fn is_sled_thread() -> bool {
    thread::current().name().is_some_and(|name| name.starts_with("sled-io-") || name == "log flusher")
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("sled gave up: {}", text.and_then(|text| text.lines().next()).unwrap_or("no reason given"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_becomes_its_first_line() {
        assert_eq!(quietly(|| 1), Ok(1));
        assert_eq!(quietly(|| panic!("torn page {}\nmore", 7)), Err::<(), _>("sled gave up: torn page 7".to_owned()));
        assert!(!QUIET.get());
    }
}
