//! CPU time, throughput and latency of Writ beside two servers that do less (`benches/reference`), in one run.
//!
//! `cargo bench --bench load` measures everything, `cargo bench --bench load -- fresh-rs256 seen` only these rows of the
//! table, and `cargo bench --bench load -- soak` half an hour of mixed load. `docs/explanation/performance.md` describes the
//! method and the settings. `cargo bench --bench load -- instances` measures one to four instances over PostgreSQL, for
//! `docs/explanation/scale.md`.
#![expect(clippy::unwrap_used, dead_code, reason = "uses the harness of the tests")]

mod cluster;
#[path = "../../tests/support/postgres.rs"]
mod database;
#[path = "../../tests/support/delayed.rs"]
mod delayed;
mod generator;
mod growth;
mod instances;
mod loads;
mod process;
mod results;
#[path = "../../tests/support/instances.rs"]
mod shared;
mod site;
mod soak;
#[path = "../../tests/support/mod.rs"]
mod support;
mod verifier;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use generator::Outcome;
use growth::EXPERIMENTS;
use loads::{LOADS, Load, Material};
use process::{Cores, Process};
use results::{CPU, INSTANCE_ROWS, P50, P99, RATE, RESIDENT, ROWS, Results, Row, SLACK};
use site::{Kind, Server, Site};
use soak::Soak;

/// How much is measured.
struct Scale {
    is_quick: bool,
    rounds: u32,
    /// In one measurement.
    requests: usize,
    /// Records that are dropped at once.
    records: u64,
    cores: Cores,
}

impl Scale {
    /// From `BENCH` (`quick` or `full`), `BENCH_ROUNDS`, `BENCH_REQUESTS` and `BENCH_RECORDS`; otherwise these numbers of
    /// rounds and requests.
    fn choose(full: (u32, usize), quick: (u32, usize)) -> Self {
        let is_quick = std::env::var("BENCH").is_ok_and(|scale| scale == "quick");
        let (rounds, requests) = if is_quick { quick } else { full };
        let number = |name| std::env::var(name).ok().map(|text| text.parse::<u32>().expect("a number"));
        let requests = number("BENCH_REQUESTS").map_or(requests, |number| number.try_into().expect("a small number"));
        let records = number("BENCH_RECORDS").map_or(if is_quick { 100_000 } else { 1_000_000 }, u64::from);
        Self { is_quick, rounds: number("BENCH_ROUNDS").unwrap_or(rounds), requests, records, cores: Cores::choose() }
    }
}

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let mut results = Results::default();
    if names.first().is_some_and(|name| name == "instances") {
        let scale = Scale::choose((3, 10_000), (2, 2_000));
        instances::run(&scale, &names[1..], &mut results);
        report(&scale, &results, INSTANCE_ROWS, "instances.json");
        return;
    }
    let scale = Scale::choose((5, 30_000), (3, 8_000));
    if names == ["soak"] {
        Soak::choose().run(scale.cores, &mut results);
        report(&scale, &results, ROWS, "soak.json");
        return;
    }
    let wanted = wanted(&names);
    build_reference();
    measure_loads(&scale, &wanted, &mut results);
    for experiment in EXPERIMENTS.iter().filter(|experiment| wanted.contains(experiment.name)) {
        experiment.run(&scale, &mut results);
    }
    if wanted.contains("verifier") {
        verifier::run(&scale, &mut results);
    }
    report(&scale, &results, ROWS, "load.json");
}

/// The loads and experiments that the named rows need; all without names. A name may also be that of a load or of an
/// experiment.
fn wanted(names: &[String]) -> BTreeSet<&'static str> {
    let others = EXPERIMENTS.iter().map(|experiment| experiment.name).chain(["verifier"]);
    let all: Vec<&'static str> = LOADS.iter().map(|load| load.name).chain(others).collect();
    if names.is_empty() {
        return all.into_iter().collect();
    }
    let mut wanted = BTreeSet::new();
    for name in names {
        let of_row = ROWS.iter().filter(|row| row.name == name).flat_map(|row| row.value.keys());
        let of_row: Vec<_> = of_row.map(|key| key.measurement).collect();
        let is_part = |part: &&&str| {
            let group = |measurement: &&str| measurement.split('/').next() == Some(**part);
            ***part == *name || of_row.contains(*part) || of_row.iter().any(group)
        };
        let found: Vec<_> = all.iter().filter(is_part).copied().collect();
        let rows = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(" ");
        assert!(!found.is_empty(), "{name} is neither a row ({}) nor a measurement ({})", rows(), all.join(" "));
        wanted.extend(found);
    }
    if wanted.iter().any(|name| name.ends_with("/half-load")) {
        wanted.insert("ideal/rs256");
    }
    wanted
}

/// Builds `writ-reference` where `writ` was built, so that it is never older than its source.
fn build_reference() {
    let release = Path::new(env!("CARGO_BIN_EXE_writ")).parent().expect("a folder");
    let target = release.parent().expect("a folder");
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo
        .args(["build", "--quiet", "--profile", "bench", "--locked", "--package", "writ-reference", "--target-dir"])
        .arg(target);
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo").success(), "writ-reference builds");
}

/// Rounds in which every server is new and gets its loads, alternating with the others.
fn measure_loads(scale: &Scale, wanted: &BTreeSet<&'static str>, results: &mut Results) {
    let loads: Vec<&Load> = LOADS.iter().filter(|load| wanted.contains(load.name)).collect();
    if loads.is_empty() {
        return;
    }
    let site = Site::new(100, scale.cores);
    let material = Material::new(&site, scale.requests);
    for round in 1..=scale.rounds {
        eprintln!("round {round} of {}", scale.rounds);
        let servers: BTreeMap<Kind, Server> = loads.iter().map(|load| (load.server, site.start(load.server))).collect();
        note_resident("idle", &servers, results);
        let mut half_load = 0.0;
        for load in &loads {
            let server = &servers[&load.server];
            let (requests, endpoint) = (load.requests(&material, server), load.endpoint(&site, server));
            let (outcome, cpu) =
                measure(&site, &server.process, |begin| load.run(&endpoint, &requests, half_load, begin));
            let rate = record(load.name, &outcome, cpu, results);
            if load.name == "ideal/rs256" {
                half_load = rate / 2.0;
            }
        }
        note_resident("loaded", &servers, results);
    }
}

fn note_resident(when: &str, servers: &BTreeMap<Kind, Server>, results: &mut Results) {
    for (kind, server) in servers {
        results.add(&format!("{}/memory-{when}", kind.name()), RESIDENT, server.process.resident_mib());
    }
}

/// Runs a load on the generator's core; what it calls begins the measurement of the server's CPU time.
fn measure(
    site: &Site,
    process: &Process,
    run: impl FnOnce(&mut dyn FnMut()) -> Outcome + Send,
) -> (Outcome, Duration) {
    site.cores.on_generator(|| {
        let mut before = Duration::ZERO;
        let outcome = run(&mut || before = process.cpu_time());
        (outcome, process.cpu_time().saturating_sub(before))
    })
}

/// Adds what a load has shown to the results; the answers a second.
fn record(name: &str, outcome: &Outcome, cpu: Duration, results: &mut Results) -> f64 {
    let answers = f64::from(u32::try_from(outcome.latencies.len()).expect("some thousands"));
    results.add(name, CPU, micros(cpu) / answers);
    results.add(name, SLACK, 100.0 * (1.0 - cpu.as_secs_f64() / outcome.elapsed.as_secs_f64()));
    record_times(name, outcome.latencies.clone(), outcome.elapsed, results)
}

/// Adds how long each answer and all of them took to the results; the answers a second.
fn record_times(name: &str, mut latencies: Vec<Duration>, elapsed: Duration, results: &mut Results) -> f64 {
    let rate = f64::from(u32::try_from(latencies.len()).expect("some thousands")) / elapsed.as_secs_f64();
    latencies.sort_unstable();
    results.add(name, RATE, rate);
    results.add(name, P50, micros(latencies[latencies.len() / 2]));
    results.add(name, P99, micros(latencies[latencies.len() * 99 / 100]));
    rate
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Prints the table and writes the raw data to this file of `target/bench`.
fn report(scale: &Scale, results: &Results, rows: &[Row], file: &str) {
    let (table, verdicts) = results::verdicts(results, rows);
    println!("{}\n{table}", results.table());
    let folder = bench_folder();
    std::fs::create_dir_all(&folder).expect("target can be written");
    let raw = json!({
        "machine": machine(), "build": if cfg!(debug_assertions) { "debug" } else { "optimised" }, "time": support::now(), "rounds": scale.rounds, "requests": scale.requests,
        "measurements": results.json(), "rows": verdicts,
    });
    std::fs::write(folder.join(file), format!("{raw:#}\n")).expect("target can be written");
}

/// Processor and kernel.
fn machine() -> Value {
    let first = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(':').next().unwrap_or_default().trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    json!({"processor": first("/proc/cpuinfo", "model name"), "cores": cores, "kernel": first("/proc/sys/kernel/osrelease", "")})
}

/// `target/bench`.
fn bench_folder() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_writ")).ancestors().nth(2).expect("a target folder").join("bench")
}
