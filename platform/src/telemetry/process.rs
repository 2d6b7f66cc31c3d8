//! The metrics of the process itself, as every Prometheus client library names them, read from `/proc`.

use std::fmt::Display;
use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

// Positions in `/proc/self/stat`, counted from the field after the command's name: proc(5) counts from 1, and that field is
// number 3.
const UTIME: usize = 14 - 3;
const STIME: usize = 15 - 3;
const NUM_THREADS: usize = 20 - 3;
const STARTTIME: usize = 22 - 3;
const VSIZE: usize = 23 - 3;
const RSS: usize = 24 - 3;

/// The `process_*` metrics in the Prometheus text format; unreadable ones are left out.
pub fn render() -> String {
    let stat = Stat::read();
    let number = |place| stat.as_ref().and_then(|stat| stat.number(place));
    let cpu = number(UTIME).zip(number(STIME)).map(|(user, system)| seconds(user + system));
    let started = boot_time().zip(number(STARTTIME)).map(|(boot, ticks)| boot + seconds(ticks));
    let resident = number(RSS).map(|pages| pages * page_size() as u64);
    // Reading the folder opens a descriptor itself.
    let open = fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1));
    let max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    [
        family("process_cpu_seconds_total", "counter", "CPU time spent in user and system mode, in seconds.", cpu),
        family("process_resident_memory_bytes", "gauge", "Memory that is in RAM, in bytes.", resident),
        family("process_virtual_memory_bytes", "gauge", "Address space in use, in bytes.", number(VSIZE)),
        family("process_start_time_seconds", "gauge", "When the process started, in seconds since 1970.", started),
        family("process_threads", "gauge", "Threads of the process.", number(NUM_THREADS)),
        family("process_open_fds", "gauge", "Open file descriptors, connections included.", open),
        family("process_max_fds", "gauge", "How many file descriptors may be open.", Some(max)),
    ]
    .concat()
}

fn family(name: &str, kind: &str, help: &str, value: Option<impl Display>) -> String {
    value.map(|value| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n")).unwrap_or_default()
}

/// `/proc/self/stat`.
struct Stat(String);

impl Stat {
    fn read() -> Option<Self> {
        fs::read_to_string("/proc/self/stat").ok().map(Self)
    }

    /// The field at this position. The command's name before it is in parentheses and may contain any character.
    fn number(&self, place: usize) -> Option<u64> {
        let (_, fields) = self.0.rsplit_once(')')?;
        fields.split_whitespace().nth(place)?.parse().ok()
    }
}

/// When the system booted, in seconds since 1970.
fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[expect(clippy::cast_precision_loss, reason = "2^52 ticks are a million years")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_after_a_command_of_any_name() {
        let mut fields: Vec<String> = (3..=52).map(|place| place.to_string()).collect();
        fields[0] = "S".into();
        let stat = Stat(format!("1 (a) b) {}", fields.join(" ")));
        assert_eq!((stat.number(UTIME), stat.number(STARTTIME), stat.number(RSS)), (Some(14), Some(22), Some(24)));
        assert_eq!(Stat("1 (a".into()).number(UTIME), None);
    }
}
