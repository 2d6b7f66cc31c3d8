//! CPU time, throughput and latency of Writ beside two servers that do less (`benches/reference`), in one run.
//!
//! `cargo bench --bench load` measures everything, `cargo bench --bench load -- fresh-rs256 seen` only these rows of the
//! table. `docs/explanation/performance.md` describes the method and the settings.
#![expect(clippy::unwrap_used, dead_code, reason = "uses the harness of the tests")]

mod generator;
mod loads;
mod process;
mod results;
mod site;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use loads::{LOADS, Load, Material};
use process::Cores;
use results::{CPU, P50, P99, RATE, ROWS, Results};
use site::{Kind, Server, Site};

/// How much is measured.
struct Scale {
    rounds: u32,
    /// In one measurement.
    requests: usize,
}

impl Scale {
    /// From `BENCH` (`quick` or `full`), `BENCH_ROUNDS` and `BENCH_REQUESTS`.
    fn choose() -> Self {
        let is_quick = std::env::var("BENCH").is_ok_and(|scale| scale == "quick");
        let (rounds, requests) = if is_quick { (3, 8_000) } else { (5, 30_000) };
        let number = |name| std::env::var(name).ok().map(|text| text.parse::<u32>().expect("a number"));
        let requests = number("BENCH_REQUESTS").map_or(requests, |number| number.try_into().expect("a small number"));
        Self { rounds: number("BENCH_ROUNDS").unwrap_or(rounds), requests }
    }
}

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = wanted(&names);
    build_reference();
    let (scale, cores) = (Scale::choose(), Cores::choose());
    let mut results = Results::default();
    let site = Site::new(100, cores);
    let material = Material::new(&site, scale.requests);
    for round in 1..=scale.rounds {
        eprintln!("round {round} of {}", scale.rounds);
        measure_loads(&site, &material, &wanted, &mut results);
    }
    report(&results);
}

/// The measurements that the named rows need; all without names. A name may also be that of a measurement.
fn wanted(names: &[String]) -> BTreeSet<&'static str> {
    let all = || LOADS.iter().map(|load| load.name);
    if names.is_empty() {
        return all().collect();
    }
    let mut wanted = BTreeSet::new();
    for name in names {
        let rows = ROWS.iter().filter(|row| row.name == name).flat_map(|row| row.value.keys());
        let found: Vec<_> = rows.map(|key| key.measurement).chain(all().filter(|load| load == name)).collect();
        if found.is_empty() {
            let rows: Vec<_> = ROWS.iter().map(|row| row.name).collect();
            panic!(
                "no row or measurement is called {name}; rows: {}; measurements: {}",
                rows.join(" "),
                all().collect::<Vec<_>>().join(" ")
            );
        }
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
        .args(["build", "--quiet", "--release", "--locked", "--package", "writ-reference", "--target-dir"])
        .arg(target);
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo").success(), "writ-reference builds");
}

/// One round: every load on a new process.
fn measure_loads(site: &Site, material: &Material<'_>, wanted: &BTreeSet<&'static str>, results: &mut Results) {
    let loads: Vec<&Load> = LOADS.iter().filter(|load| wanted.contains(load.name)).collect();
    let servers: BTreeMap<Kind, Server> = loads.iter().map(|load| (load.server, site.start(load.server))).collect();
    let mut half_load = 0.0;
    for load in loads {
        let server = &servers[&load.server];
        let requests = load.requests(material);
        let (outcome, cpu) = site.cores.on_generator(|| {
            let mut before = Duration::ZERO;
            let outcome = load.run(server, &requests, half_load, || before = server.process.cpu_time());
            (outcome, server.process.cpu_time().saturating_sub(before))
        });
        let answers = f64::from(u32::try_from(outcome.latencies.len()).expect("a few thousand"));
        let rate = answers / outcome.elapsed.as_secs_f64();
        if load.name == "ideal/rs256" {
            half_load = rate / 2.0;
        }
        let mut latencies = outcome.latencies;
        latencies.sort_unstable();
        results.add(load.name, CPU, micros(cpu) / answers);
        results.add(load.name, RATE, rate);
        results.add(load.name, P50, micros(latencies[latencies.len() / 2]));
        results.add(load.name, P99, micros(latencies[latencies.len() * 99 / 100]));
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Prints the table and writes the raw data to `target/bench/load.json`.
fn report(results: &Results) {
    let (table, verdicts) = results::verdicts(results);
    println!("{}\n{table}", results.table());
    let folder = bench_folder();
    std::fs::create_dir_all(&folder).expect("target can be written");
    let raw = json!({"measurements": results.json(), "rows": verdicts});
    std::fs::write(folder.join("load.json"), format!("{raw:#}\n")).expect("target can be written");
}

/// `target/bench`.
fn bench_folder() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_writ")).ancestors().nth(2).expect("a target folder").join("bench")
}
