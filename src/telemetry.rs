//! What this program logs and counts: the parts that `WRIT_LOG` can name, and its metrics with their descriptions.

use writ_platform::telemetry::{self, Kind, Log, LogFilterError, LogParts, Metric, Metrics, MetricsError, TraceError};

const PARTS: LogParts = LogParts {
    crates: &CRATES,
    modules: &MODULES,
    // The first match counts: a part before the whole.
    renamed: &[
        ("writ::listener::exchange", "writ::server::peer"),
        ("writ::listener::guard", "writ::server::middleware"),
        ("writ::listener::server", "writ::server::listener"),
        ("writ::listener", "writ::server"),
        ("writ::metadata", "writ::server"),
        ("writ::response", "writ::server"),
        ("writ::admin", "writ::service"),
        ("writ::store::quiet", "writ::store::embedded::quiet"),
        ("writ::store::writer", "writ::store::embedded::writer"),
        ("writ_store::engine", "writ_store::embedded::engine"),
        ("writ_store::quiet", "writ_store::embedded::quiet"),
        ("writ_store::writer", "writ_store::embedded::writer"),
    ],
    default_filter: "info,actix_server=warn,actix_http=off",
};

/// Crates that write lines by `tracing`.
const CRATES: [&str; 14] = [
    "writ",
    "writ_core",
    "writ_outbound",
    "writ_platform",
    "writ_store",
    "writ_verifier",
    "actix_http",
    "actix_server",
    "actix_web",
    "h2",
    "hyper",
    "hyper_util",
    "reqwest",
    "tower",
];

/// Top-level modules of Writ's crates, and the modules below them that write lines.
const MODULES: [&str; 90] = [
    "writ",
    "writ::cli",
    "writ::cli::serve",
    "writ::config",
    "writ::server",
    "writ::server::handshake",
    "writ::server::http2",
    "writ::server::listener",
    "writ::server::listeners",
    "writ::server::middleware",
    "writ::server::peer",
    "writ::server::tls",
    "writ::service",
    "writ::service::files",
    "writ::service::handlers",
    "writ::service::maintenance",
    "writ::service::reload",
    "writ::service::shutdown",
    "writ::service::startup",
    "writ::telemetry",
    "writ_core",
    "writ_core::audit",
    "writ_core::blocks",
    "writ_core::claims",
    "writ_core::client",
    "writ_core::decision",
    "writ_core::endpoint",
    "writ_core::exchange",
    "writ_core::exchange_metrics",
    "writ_core::introspect",
    "writ_core::keys",
    "writ_core::keys::mirror",
    "writ_core::keys::rotation",
    "writ_core::ledger",
    "writ_core::lifetime",
    "writ_core::limits",
    "writ_core::pdp",
    "writ_core::permit",
    "writ_core::policy",
    "writ_core::refusal",
    "writ_core::request",
    "writ_core::subject",
    "writ_core::subject::introspection",
    "writ_core::subject::issuers",
    "writ_core::subject::issuers::keys",
    "writ_outbound",
    "writ_outbound::breaker",
    "writ_outbound::call",
    "writ_outbound::cause",
    "writ_outbound::endpoint",
    "writ_outbound::files",
    "writ_outbound::https",
    "writ_platform",
    "writ_platform::bounded",
    "writ_platform::clock",
    "writ_platform::completion",
    "writ_platform::deadline",
    "writ_platform::digest",
    "writ_platform::process",
    "writ_platform::secret_file",
    "writ_platform::shares",
    "writ_platform::suggest",
    "writ_platform::telemetry",
    "writ_platform::telemetry::output",
    "writ_platform::telemetry::span",
    "writ_platform::unique",
    "writ_platform::watch",
    "writ_store",
    "writ_store::blocks",
    "writ_store::clock",
    "writ_store::cluster",
    "writ_store::copy",
    "writ_store::embedded",
    "writ_store::embedded::engine",
    "writ_store::embedded::quiet",
    "writ_store::embedded::writer",
    "writ_store::folder",
    "writ_store::handles",
    "writ_store::ledger",
    "writ_store::no_postgres",
    "writ_store::portable",
    "writ_store::postgres",
    "writ_store::postgres::connection",
    "writ_store::postgres::health",
    "writ_store::postgres::heartbeat",
    "writ_store::postgres::pool",
    "writ_store::ring",
    "writ_verifier",
    "writ_verifier::remote",
    "writ_verifier::verifier",
];

/// Seconds; the target of an exchange is 10 ms.
const DURATION_BUCKETS: [f64; 12] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Every metric of the service except `process_*`.
const METRICS: [Metric; 17] = [
    Metric {
        kind: Kind::Counter,
        name: "writ_token_requests_total",
        help: "Requests to /token, by client, source of the subject, outcome (issued, refused, error) and reason.",
    },
    Metric {
        kind: Kind::Histogram(&DURATION_BUCKETS),
        name: "writ_token_request_duration_seconds",
        help: "Time from a request to /token to its outcome, in seconds.",
    },
    Metric {
        kind: Kind::Gauge,
        name: "writ_signing_key_age_seconds",
        help: "Seconds since the current signing key began to sign.",
    },
    Metric { kind: Kind::Gauge, name: "writ_keys", help: "Keys of the ring, by state." },
    Metric {
        kind: Kind::Counter,
        name: "writ_jwks_fetch_total",
        help: "Fetches of a subject issuer's keys, by outcome (ok, unchanged, error).",
    },
    Metric {
        kind: Kind::Counter,
        name: "writ_pdp_requests_total",
        help: "Requests to the external decision point, by outcome (allowed, denied, unavailable).",
    },
    Metric {
        kind: Kind::Counter,
        name: "writ_introspection_total",
        help: "Introspection requests to subject issuers, by outcome.",
    },
    Metric {
        kind: Kind::Counter,
        name: "writ_store_errors_total",
        help: "Reads and writes of the store that failed, by operation.",
    },
    Metric {
        kind: Kind::Counter,
        name: "writ_policy_reload_total",
        help: "Changed policies that were put in force (ok) or refused (rejected).",
    },
    Metric { kind: Kind::Gauge, name: "writ_policies_info", help: "1 for the digest of the policies in force." },
    Metric {
        kind: Kind::Counter,
        name: "writ_tls_handshakes_total",
        help: "TLS handshakes, by outcome (ok, or the name of the alert).",
    },
    Metric {
        kind: Kind::Gauge,
        name: "writ_tls_certificate_expiry_seconds",
        help: "Seconds until the server certificate expires.",
    },
    Metric {
        kind: Kind::Gauge,
        name: "writ_crl_expiry_seconds",
        help: "Seconds until the first of the revocation lists is out of date.",
    },
    Metric {
        kind: Kind::Counter,
        name: "writ_tls_reload_total",
        help: "Changed certificates, trust and revocation lists that were put in force (ok) or refused (rejected).",
    },
    Metric {
        kind: Kind::Gauge,
        name: "writ_ledger_records",
        help: "Records of the ledger, by kind (tokens, uses, single_use).",
    },
    Metric {
        kind: Kind::Gauge,
        name: "writ_ledger_ready",
        help: "1 once the ledger is proven whole; 0 while a start still checks it, and refuses redemptions.",
    },
    Metric { kind: Kind::Gauge, name: "writ_build_info", help: "1 for the version that runs." },
];

/// Checks a value of `WRIT_LOG`.
pub(crate) fn check_log_filter(text: &str) -> Result<(), LogFilterError> {
    telemetry::log_filter(text, &PARTS).map(drop)
}

/// Sends diagnostic lines to `log`, filtered by `WRIT_LOG`.
pub(crate) fn trace_to(log: &Log) -> Result<(), TraceError> {
    telemetry::trace_to(log, &PARTS)
}

pub(crate) fn install_metrics() -> Result<Metrics, MetricsError> {
    let metrics = Metrics::install(&METRICS)?;
    // `increase()` sees the first event of a counter only if the counter existed before it.
    for outcome in ["ok", "rejected"] {
        metrics::counter!("writ_policy_reload_total", "outcome" => outcome).absolute(0);
        metrics::counter!("writ_tls_reload_total", "outcome" => outcome).absolute(0);
    }
    metrics::gauge!("writ_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn former_names_of_parts_are_accepted() {
        let former = "admin audit blocks claims cli cli::serve client clock config endpoint exchange introspect keys \
            keys::mirror keys::rotation ledger limits listener listener::exchange listener::guard listener::handshake \
            listener::http2 listener::server listener::tls metadata outbound policy process refusal request response \
            service store store::quiet store::writer subject subject::introspection subject::issuers telemetry \
            telemetry::output";
        for name in former.split_whitespace() {
            assert_eq!(check_log_filter(&format!("writ::{name}=debug")), Ok(()), "{name}");
        }
        assert_eq!(check_log_filter("writ_store::writer=debug,writ_store::engine=info"), Ok(()));
        assert!(check_log_filter("writ::listner=debug").is_err());
    }

    /// Every top-level module, and every file that writes lines.
    #[test]
    fn the_modules_that_a_filter_can_name_are_those_of_the_source() {
        fn collect(folder: &Path, name: &str, depth: u32, found: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let stem = path.file_stem().unwrap().to_str().unwrap();
                let part = if stem == "lib" { name.to_owned() } else { format!("{name}::{stem}") };
                if path.is_dir() {
                    collect(&path, &part, depth + 1, found);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let levels = ["trace", "debug", "info", "warn", "error"];
                let writes = levels.iter().any(|level| {
                    text.contains(&format!("tracing::{level}!(")) || text.contains(&format!("tracing::{level}_span!("))
                });
                if writes || (depth == 0 && name != "writ_verifier" && !["lib", "main"].contains(&stem)) {
                    found.insert(part);
                }
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let crates = ["", "core", "outbound", "platform", "store", "verifier"];
        let mut found = BTreeSet::new();
        for name in crates {
            let package = if name.is_empty() { "writ".to_owned() } else { format!("writ_{name}") };
            collect(&root.join(name).join("src"), &package, 0, &mut found);
            found.insert(package);
        }
        assert_eq!(found.into_iter().collect::<Vec<_>>(), MODULES);
    }

    #[test]
    fn the_metrics_are_those_of_the_reference_page() {
        let page = include_str!("../docs/reference/metrics-and-logs.md");
        let (_, table) = page.split_once("## Metrics").unwrap();
        let rows = table.split("\n## ").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
        let names = rows.filter_map(|row| row.split(" |").next()).flat_map(|cell| cell.split("`, `"));
        let mut documented: Vec<&str> = names.map(|name| name.trim_matches('`')).collect();
        let of_process = telemetry::process::render();
        let of_process = of_process.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let mut described: Vec<&str> = METRICS.iter().map(|metric| metric.name).chain(of_process).collect();
        documented.sort_unstable();
        described.sort_unstable();
        assert_eq!(documented, described);
    }
}
