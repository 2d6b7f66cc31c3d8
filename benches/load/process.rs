//! Server processes on a core of their own, and what they used.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The core of the servers, and that of the load generator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) generator: usize,
}

impl Cores {
    /// The last two cores that this process may use, or those in `BENCH_CORES` ("server,generator").
    pub(crate) fn choose() -> Self {
        if let Ok(text) = std::env::var("BENCH_CORES") {
            let parsed = text.split_once(',').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
            let (server, generator) = parsed.expect("BENCH_CORES is two numbers with a comma between them");
            return Self { server, generator };
        }
        let allowed = sched_getaffinity(None).expect("the affinity of this process");
        let mut cores = (0..CpuSet::MAX_CPU).rev().filter(|&core| allowed.is_set(core));
        match (cores.next(), cores.next()) {
            (Some(generator), Some(server)) => Self { server, generator },
            _ => panic!("two cores are needed: one for the server and one for the load generator"),
        }
    }

    /// Runs `work` on the core of the generator.
    pub(crate) fn on_generator<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        on(self.generator, work)
    }

    /// Runs `work` on the server's core. A process that it starts inherits that, and sees one core when it counts its
    /// workers.
    pub(crate) fn on_server<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        on(self.server, work)
    }
}

fn on<T: Send>(core: usize, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let pinned = || {
            pin(core);
            work()
        };
        scope.spawn(pinned).join().expect("does not panic")
    })
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).expect("a core that may be used");
}

fn spawn(cores: Cores, command: &mut Command) -> Child {
    cores.on_server(|| command.spawn()).expect("the executable starts")
}

/// A server that runs, until it is dropped.
pub(crate) struct Process {
    child: Child,
    started: Instant,
    /// The CPU time of each thread that was ever seen, in nanoseconds.
    threads: Mutex<BTreeMap<PathBuf, u64>>,
}

/// Where the standard output of a server goes.
pub(crate) enum Output<'a> {
    /// Into a new file.
    File(&'a Path),
    /// Into a pipe that a thread on the generator's core empties.
    Pipe,
}

impl Process {
    /// Starts a server; the line of its output that `is_ready` accepts, once it is there.
    pub(crate) fn start(
        mut command: Command,
        output: &Output<'_>,
        cores: Cores,
        is_ready: fn(&str) -> bool,
    ) -> (Self, String) {
        let started = Instant::now();
        match output {
            Output::File(path) => {
                command.stdout(File::create(path).expect("a file for the log"));
                let mut process = Self::new(spawn(cores, &mut command), started);
                let ready = process.follow(path, is_ready);
                (process, ready)
            }
            Output::Pipe => {
                let mut process = Self::new(spawn(cores, command.stdout(Stdio::piped())), started);
                let mut lines = BufReader::new(process.child.stdout.take().expect("piped"));
                let mut line = String::new();
                while !is_ready(&line) {
                    line.clear();
                    assert!(lines.read_line(&mut line).expect("a pipe can be read") > 0, "the server ended");
                }
                std::thread::spawn(move || {
                    pin(cores.generator);
                    let mut chunk = vec![0; 256 * 1024];
                    // A collector of logs that is busy is not woken for each line.
                    while lines.get_mut().read(&mut chunk).is_ok_and(|length| length > 0) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                (process, line)
            }
        }
    }

    fn new(child: Child, started: Instant) -> Self {
        Self { child, started, threads: Mutex::default() }
    }

    /// Reads a growing file until a line is accepted.
    fn follow(&mut self, path: &Path, is_ready: fn(&str) -> bool) -> String {
        let mut lines = BufReader::new(File::open(path).expect("the log"));
        let mut line = String::new();
        loop {
            let length = lines.read_line(&mut line).expect("the log can be read");
            if line.ends_with('\n') {
                if is_ready(&line) {
                    return line;
                }
                line.clear();
            } else if length == 0 {
                let has_ended = self.child.try_wait().expect("a child of ours").is_some();
                let log = || fs::read_to_string(path).unwrap_or_default();
                assert!(!has_ended, "the server ended: {}", log());
                assert!(self.age() < PATIENCE, "the server does not become ready: {}", log());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Stops the server as an operator would.
    pub(crate) fn terminate(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }

    /// Since it was started.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// CPU time so far, of all threads, in user and kernel mode. `/proc/PID/stat` would say the same in steps of 10 ms, which
    /// is too coarse.
    pub(crate) fn cpu_time(&self) -> Duration {
        let mut threads = self.threads.lock().expect("no one panics with it");
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs") {
            let path = thread.expect("it runs").path();
            // It may have ended by now; what it had used is known from the last time.
            let Ok(times) = fs::read_to_string(path.join("schedstat")) else { continue };
            let used = times.split(' ').next().and_then(|used| used.parse().ok()).expect("nanoseconds");
            threads.insert(path, used);
        }
        Duration::from_nanos(threads.values().sum())
    }

    /// Resident memory, in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        self.child.wait().expect("a child of ours");
    }
}
