//! What was measured, what it should be, and how both are shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// One value of one measurement in one round, for instance `cpu_us` of `writ/seen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) measurement: &'static str,
    pub(crate) metric: &'static str,
}

/// CPU time of the server a request, in µs.
pub(crate) const CPU: &str = "cpu_us";
/// Answers a second, with the server on one core.
pub(crate) const RATE: &str = "per_second";
/// Median latency, in µs.
pub(crate) const P50: &str = "p50_us";
/// 99th percentile of the latency, in µs.
pub(crate) const P99: &str = "p99_us";

/// Every value of every round.
#[derive(Default)]
pub(crate) struct Results(BTreeMap<Key, Vec<f64>>);

impl Results {
    pub(crate) fn add(&mut self, measurement: &'static str, metric: &'static str, value: f64) {
        self.0.entry(Key { measurement, metric }).or_default().push(value);
    }

    /// The median of all rounds.
    pub(crate) fn median(&self, key: Key) -> Option<f64> {
        let mut values = self.0.get(&key)?.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        Some(if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) })
    }

    /// Medians, a measurement a line.
    pub(crate) fn table(&self) -> String {
        let mut lines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for &key in self.0.keys() {
            let value = self.median(key).unwrap_or_default();
            lines.entry(key.measurement).or_default().push(format!("{} {}", key.metric, figure(value)));
        }
        let mut text = String::new();
        for (measurement, values) in lines {
            writeln!(text, "{measurement:24} {}", values.join("  ")).expect("a string takes it");
        }
        text
    }

    /// Every value of every round, by measurement and metric.
    pub(crate) fn json(&self) -> Value {
        let mut all = json!({});
        for (key, values) in &self.0 {
            all[key.measurement][key.metric] = json!(values);
        }
        all
    }
}

/// Something to prove.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) value: Expression,
    /// The largest value that is good.
    pub(crate) target: f64,
    pub(crate) unit: &'static str,
}

/// A value that follows from medians.
pub(crate) enum Expression {
    Ratio(Key, Key),
}

impl Expression {
    pub(crate) fn keys(&self) -> Vec<Key> {
        match self {
            Self::Ratio(a, b) => vec![*a, *b],
        }
    }

    fn of(&self, results: &Results) -> Option<f64> {
        match self {
            Self::Ratio(a, b) => Some(results.median(*a)? / results.median(*b)?),
        }
    }
}

const fn cpu(measurement: &'static str) -> Key {
    Key { measurement, metric: CPU }
}

const fn cpu_ratio(
    name: &'static str,
    what: &'static str,
    measurement: &'static str,
    against: &'static str,
    target: f64,
) -> Row {
    Row { name, what, value: Expression::Ratio(cpu(measurement), cpu(against)), target, unit: "×" }
}

/// The table.
pub(crate) const ROWS: &[Row] = &[
    cpu_ratio("fresh-rs256", "fresh RS256 token, CPU against ideal", "writ/fresh-rs256", "ideal/rs256", 1.25),
    cpu_ratio("fresh-es256", "fresh ES256 token, CPU against ideal/ES256", "writ/fresh-es256", "ideal/es256", 1.2),
    cpu_ratio("seen", "token seen before, CPU against ideal/RS256", "writ/seen", "ideal/rs256", 0.85),
    cpu_ratio(
        "client-credentials",
        "client_credentials, CPU against ideal/RS256",
        "writ/client-credentials",
        "ideal/rs256",
        0.85,
    ),
    Row {
        name: "half-load",
        what: "p99 at half load against ideal",
        value: Expression::Ratio(
            Key { measurement: "writ/half-load", metric: P99 },
            Key { measurement: "ideal/half-load", metric: P99 },
        ),
        target: 1.2,
        unit: "×",
    },
];

/// The rows of the table that could be computed, as text and as JSON.
pub(crate) fn verdicts(results: &Results) -> (String, Value) {
    let mut text = format!("{:20} {:52} {:>10} {:>10}  verdict\n", "row", "what", "measured", "target");
    let mut all = Vec::new();
    for row in ROWS {
        let Some(value) = row.value.of(results) else { continue };
        let is_met = value <= row.target;
        let verdict = if is_met { "met" } else { "missed" };
        let (measured, target) = (format!("{} {}", figure(value), row.unit), format!("≤ {} {}", row.target, row.unit));
        writeln!(text, "{:20} {:52} {measured:>10} {target:>10}  {verdict}", row.name, row.what)
            .expect("a string takes it");
        all.push(json!({
            "row": row.name, "what": row.what, "measured": value, "target": row.target, "unit": row.unit, "met": is_met,
        }));
    }
    (text, json!(all))
}

/// Three significant digits.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
