//! What was measured, what it should be, and how both are shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// One value of a measurement, for instance `cpu_us` of `writ/seen`.
#[derive(Debug, Clone, Copy)]
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

/// Resident memory, in MiB.
pub(crate) const RESIDENT: &str = "resident_mib";
/// From the start of the process to the first token, in ms.
pub(crate) const START: &str = "start_ms";
/// From the start of the process to the first token that must be on record, in ms.
pub(crate) const WHOLE: &str = "ledger_ready_ms";
/// Share of a core that a server without requests uses, in percent.
pub(crate) const IDLE: &str = "idle_percent";
/// Share of its core that the server leaves unused under load, in percent.
pub(crate) const SLACK: &str = "slack_percent";

// Of several instances over a database; CPU time, bytes and commits are those of a request, or of an idle second.

/// CPU time of the primary, in µs.
pub(crate) const PRIMARY: &str = "primary_us";
/// CPU time of each standby, in µs.
pub(crate) const STANDBY: &str = "standby_us";
/// Bytes of the write-ahead log, or of a record.
pub(crate) const BYTES: &str = "bytes";
/// Transactions that write.
pub(crate) const COMMITS: &str = "commits";
/// Syncs of the write-ahead log a commit.
pub(crate) const SYNCS: &str = "syncs_per_commit";
/// Connections of all instances to the database.
pub(crate) const CONNECTIONS: &str = "connections";
/// The slowest request before records were dropped, in ms.
pub(crate) const BEFORE: &str = "before_ms";
/// The slowest request while records were dropped, in ms.
pub(crate) const DURING: &str = "during_ms";
/// The largest difference between the two, in ms.
pub(crate) const SLOWER: &str = "slower_ms";
/// How long dropping took, in ms.
pub(crate) const TOOK: &str = "took_ms";

/// Every value of every round, by measurement and metric.
#[derive(Default)]
pub(crate) struct Results(BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>);

impl Results {
    pub(crate) fn add(&mut self, measurement: &str, metric: &'static str, value: f64) {
        self.0.entry(measurement.to_owned()).or_default().entry(metric).or_default().push(value);
    }

    /// Gives a measurement a second name.
    pub(crate) fn copy(&mut self, measurement: &str, name: &str) {
        if let Some(values) = self.0.get(measurement).cloned() {
            self.0.insert(name.to_owned(), values);
        }
    }

    /// The median of all rounds.
    pub(crate) fn median(&self, key: Key) -> Option<f64> {
        Some(median(self.0.get(key.measurement)?.get(key.metric)?))
    }

    /// Medians, a measurement a line.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for (measurement, metrics) in &self.0 {
            let values: Vec<_> =
                metrics.iter().map(|(metric, values)| format!("{metric} {}", figure(median(values)))).collect();
            writeln!(text, "{measurement:26} {}", values.join("  ")).expect("a string takes it");
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        json!(self.0)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// Something to prove.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) value: Expression,
    pub(crate) target: Target,
    pub(crate) unit: &'static str,
}

/// Which values are good.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// It is only shown.
    None,
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::None => true,
        }
    }

    /// The limit with its sign, and alone.
    fn limit(self) -> (&'static str, Option<f64>) {
        match self {
            Self::AtMost(most) => ("≤", Some(most)),
            Self::AtLeast(least) => ("≥", Some(least)),
            Self::None => ("", None),
        }
    }
}

/// A value that follows from medians.
pub(crate) enum Expression {
    One(Key),
    Ratio(Key, Key),
    /// (first - second) / (third - fourth).
    RatioOfDifferences([Key; 4]),
}

impl Expression {
    pub(crate) fn keys(&self) -> Vec<Key> {
        match self {
            Self::One(key) => vec![*key],
            Self::Ratio(a, b) => vec![*a, *b],
            Self::RatioOfDifferences(keys) => keys.to_vec(),
        }
    }

    fn of(&self, results: &Results) -> Option<f64> {
        match self {
            Self::One(key) => results.median(*key),
            Self::Ratio(a, b) => Some(results.median(*a)? / results.median(*b)?),
            Self::RatioOfDifferences([a, b, c, d]) => {
                Some((results.median(*a)? - results.median(*b)?) / (results.median(*c)? - results.median(*d)?))
            }
        }
    }
}

const fn key(measurement: &'static str, metric: &'static str) -> Key {
    Key { measurement, metric }
}

const fn one(name: &'static str, what: &'static str, key: Key, target: f64, unit: &'static str) -> Row {
    Row { name, what, value: Expression::One(key), target: Target::AtMost(target), unit }
}

const fn ratio(name: &'static str, what: &'static str, value: Key, against: Key, target: f64) -> Row {
    Row { name, what, value: Expression::Ratio(value, against), target: Target::AtMost(target), unit: "×" }
}

/// A request that is refused, against the same request accepted.
const fn refusal(name: &'static str, what: &'static str, measurement: &'static str) -> Row {
    ratio(name, what, key(measurement, CPU), key("writ/fresh-rs256", CPU), 1.0)
}

/// What the printed table shows, in this order, each with its target.
pub(crate) const ROWS: &[Row] = &[
    ratio("fresh-rs256", "fresh RS256 token: CPU against ideal", FRESH, IDEAL, 1.25),
    ratio(
        "fresh-es256",
        "fresh ES256 token: CPU against ideal/ES256",
        key("writ/fresh-es256", CPU),
        key("ideal/es256", CPU),
        1.2,
    ),
    ratio("seen", "token seen before: CPU against ideal", key("writ/seen", CPU), IDEAL, 0.85),
    ratio(
        "client-credentials",
        "client_credentials: CPU against ideal",
        key("writ/client-credentials", CPU),
        IDEAL,
        0.85,
    ),
    ratio("half-load", "p99 at half load against ideal", key("writ/half-load", P99), key("ideal/half-load", P99), 1.2),
    Row {
        name: "new-connection",
        what: "new connection less its request: CPU against null",
        value: Expression::RatioOfDifferences([
            key("writ/new-connection", CPU),
            key("writ/client-credentials", CPU),
            key("null/new-connection", CPU),
            key("null/request", CPU),
        ]),
        target: Target::AtMost(1.1),
        unit: "×",
    },
    refusal("refused-purpose", "purpose not allowed: CPU against accepted", "writ/refused-purpose"),
    refusal("refused-scope", "malformed scope: CPU against accepted", "writ/refused-scope"),
    refusal("refused-parameter", "missing parameter: CPU against accepted", "writ/refused-parameter"),
    refusal("refused-audience", "unknown audience: CPU against accepted", "writ/refused-audience"),
    refusal("refused-client", "unknown client: CPU against accepted", "writ/refused-client"),
    refusal("refused-signature", "invalid signature: CPU against accepted", "writ/refused-signature"),
    refusal("refused-expired", "expired token: CPU against accepted", "writ/refused-expired"),
    refusal("refused-grant", "scope not granted: CPU against accepted", "writ/refused-grant"),
    ratio("redemption", "redemption, 32 clients: CPU against an exchange", key("writ/redemption", CPU), FRESH, 1.5),
    one("redemption-slack", "core left unused by 32 redeeming clients", key("writ/redemption", SLACK), 10.0, "%"),
    ratio(
        "policies-cpu",
        "10,000 policies against 10: CPU a request",
        key("policies/10000", CPU),
        key("policies/10", CPU),
        1.05,
    ),
    one("policies-idle", "10,000 policies: CPU without requests", key("policies/10000", IDLE), 0.5, "%"),
    one("policies-start", "10,000 policies: start to first token", key("policies/10000", START), 500.0, "ms"),
    ratio(
        "history-cpu",
        "4,000 historical keys against 4: CPU a request",
        key("history/4000", CPU),
        key("history/4", CPU),
        1.05,
    ),
    one("memory-idle", "resident, idle", key("writ/memory-idle", RESIDENT), 20.0, "MiB"),
    one("ledger-memory", "1,000,000 ledger records: resident after load", key("ledger/full", RESIDENT), 96.0, "MiB"),
    one("ledger-start", "1,000,000 ledger records: start to first token", key("ledger/full", START), 300.0, "ms"),
    ratio(
        "verify",
        "verifier: verify against raw ES256 verification",
        key("verifier/verify", CPU),
        key("verifier/raw-es256", CPU),
        1.1,
    ),
    one("verify-again", "verifier: a token verified before", key("verifier/verify-again", CPU), 3.0, "µs"),
];

const FRESH: Key = key("writ/fresh-rs256", CPU);
const IDEAL: Key = key("ideal/rs256", CPU);

/// The same for several instances.
pub(crate) const INSTANCE_ROWS: &[Row] = &[
    against_inserts("insert-8", "8 at once: redemptions a second against INSERTs", 8, RATE, Target::AtLeast(0.7)),
    against_inserts("insert-32", "32 at once: redemptions a second against INSERTs", 32, RATE, Target::AtLeast(0.6)),
    against_inserts("insert-8-p99", "8 at once: p99 against INSERTs", 8, P99, Target::None),
    against_inserts("insert-32-p99", "32 at once: p99 against INSERTs", 32, P99, Target::None),
    Row {
        target: Target::None,
        ..ratio(
            "redemption-cpu",
            "redemption: CPU of the instance against sled",
            key("instances/1/redemption/32", CPU),
            key("sled/redemption/32", CPU),
            1.0,
        )
    },
    Row {
        target: Target::None,
        ..one("drop-before", "slowest request before records are dropped", key("drop", BEFORE), 0.0, "ms")
    },
    Row {
        target: Target::None,
        ..one("drop-during", "slowest request while records are dropped", key("drop", DURING), 0.0, "ms")
    },
    one("drop", "the same, largest difference of all rounds", key("drop", SLOWER), 250.0, "ms"),
];

/// Redemptions through the store against INSERTs of one row.
const fn against_inserts(
    name: &'static str,
    what: &'static str,
    at_once: u32,
    metric: &'static str,
    target: Target,
) -> Row {
    let (store, insert) = if at_once == 8 { ("store/8", "insert/8") } else { ("store/32", "insert/32") };
    Row { name, what, value: Expression::Ratio(key(store, metric), key(insert, metric)), target, unit: "×" }
}

/// The rows of the table that could be computed, as text and as JSON.
pub(crate) fn verdicts(results: &Results, rows: &[Row]) -> (String, Value) {
    let mut text = format!("{:20} {:52} {:>10} {:>10}  verdict\n", "row", "what", "measured", "target");
    let mut all = Vec::new();
    for row in rows {
        let Some(value) = row.value.of(results) else { continue };
        let (is_met, (sign, limit)) = (row.target.is_met(value), row.target.limit());
        let verdict = match limit {
            None => "",
            Some(_) if is_met => "met",
            Some(_) => "missed",
        };
        let measured = format!("{} {}", figure(value), row.unit);
        let target = limit.map(|limit| format!("{sign} {limit} {}", row.unit)).unwrap_or_default();
        writeln!(text, "{:20} {:52} {measured:>10} {target:>10}  {verdict}", row.name, row.what)
            .expect("a string takes it");
        all.push(json!({
            "row": row.name, "what": row.what, "measured": value, "target": limit, "unit": row.unit, "met": is_met,
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
