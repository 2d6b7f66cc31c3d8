//! Log lines and metrics: how they are written, in one place.
//!
//! One thread owns standard output. Diagnostic lines are handed to it and forgotten; a line that must not be lost, such
//! as an audit event, is waited for ([`Log::write`]). The queue is bounded: a reader that stops reading costs
//! diagnostics, never memory, and never an unrecorded token.

use std::env::VarError;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use self::output::Condition;
use crate::suggest::did_you_mean;

mod output;
mod process;
#[cfg(any(test, feature = "testing"))]
pub mod sink;

/// Lines that wait for standard output.
const QUEUE: usize = 4096;

/// How long an audit line may take to reach standard output.
const PATIENCE: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line, for programs.
    Json,
    /// Plain text, for people.
    Text,
}

/// A line could not be written: nobody may act as if it had been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be written")]
pub struct LogError;

/// The way to standard output; clones share it.
#[derive(Debug, Clone)]
pub struct Log {
    lines: mpsc::Sender<Line>,
    format: Format,
    condition: Condition,
}

#[derive(Debug)]
struct Line {
    text: Vec<u8>,
    written: Option<oneshot::Sender<()>>,
}

impl Log {
    /// Starts the thread that writes to `output`.
    pub fn start(format: Format, output: impl Write + Send + 'static) -> Self {
        let (lines, queue) = mpsc::channel(QUEUE);
        let condition = Condition::default();
        let written = condition.clone();
        std::thread::spawn(move || write_lines(queue, output, &written));
        Self { lines, format, condition }
    }

    /// The same for an output that is looked after as long as the process runs: that it fails is found out even while
    /// nothing is to be written, and that it works again.
    ///
    /// # Errors
    /// The system's own, if there is no such output.
    pub fn start_watched(format: Format, output: impl AsFd) -> io::Result<Self> {
        let (file, watched) = output::unbuffered(output)?;
        let log = Self::start(format, file);
        log.condition.clone().watch(watched, log.lines.clone());
        Ok(log)
    }

    /// Refuses if it is known that no line can be written.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn check(&self) -> Result<(), LogError> {
        self.condition.trouble().map_or(Ok(()), |_| Err(LogError))
    }

    /// How lines look.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Writes one line; when this returns it has left the process.
    ///
    /// # Errors
    /// [`LogError`] if it could not be written within five seconds.
    pub async fn write(&self, text: String) -> Result<(), LogError> {
        self.through(one_line(&text)).await
    }

    /// Waits until the lines before this moment have left the process.
    ///
    /// # Errors
    /// [`LogError`] if they could not be written within five seconds.
    pub async fn flush(&self) -> Result<(), LogError> {
        self.through(Vec::new()).await
    }

    async fn through(&self, text: Vec<u8>) -> Result<(), LogError> {
        let (written, done) = oneshot::channel();
        let line = Line { text, written: Some(written) };
        let through = async {
            self.lines.send(line).await.map_err(|_| LogError)?;
            done.await.map_err(|_| LogError)
        };
        tokio::time::timeout(PATIENCE, through).await.map_err(|_| LogError)?
    }
}

/// Writes what is waiting in one go. A line whose writing failed is not acknowledged, and the next begins afresh.
fn write_lines(mut queue: mpsc::Receiver<Line>, mut output: impl Write, condition: &Condition) {
    let mut broken = false;
    while let Some(first) = queue.blocking_recv() {
        let mut lines = vec![first];
        while let Ok(line) = queue.try_recv() {
            lines.push(line);
        }
        let mut bytes = if broken { vec![b'\n'] } else { Vec::new() };
        for line in &lines {
            bytes.extend_from_slice(&line.text);
        }
        condition.begin();
        let outcome = output.write_all(&bytes).and_then(|()| output.flush());
        condition.end(&outcome, lines.iter().filter(|line| !line.text.is_empty()).count());
        broken = outcome.is_err();
        if !broken {
            for written in lines.into_iter().filter_map(|line| line.written) {
                // Whoever asked may have gone; the line is out all the same.
                let _ = written.send(());
            }
        }
    }
}

/// One line of printable ASCII: what input may have brought along can neither end a line nor steer a terminal.
fn one_line(text: &str) -> Vec<u8> {
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.trim_end_matches('\n').chars() {
        if c == ' ' || c.is_ascii_graphic() {
            line.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(line, "\\u{unit:04x}");
            }
        }
    }
    line.push('\n');
    line.into_bytes()
}

/// Diagnostics take what room there is; when the queue is full they are dropped, and audit lines are not.
impl<'a> MakeWriter<'a> for Log {
    type Writer = Diagnostic<'a>;

    fn make_writer(&'a self) -> Diagnostic<'a> {
        Diagnostic { log: self, text: Vec::new() }
    }
}

/// One diagnostic line in the making; sent when dropped.
#[derive(Debug)]
pub struct Diagnostic<'a> {
    log: &'a Log,
    text: Vec<u8>,
}

impl Write for Diagnostic<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Diagnostic<'_> {
    fn drop(&mut self) {
        let line = Line { text: one_line(&String::from_utf8_lossy(&self.text)), written: None };
        // A full queue drops diagnostics: see above.
        if self.log.lines.try_send(line).is_err() {
            self.log.condition.lose();
        }
    }
}

/// The variable that says which diagnostic lines are written.
pub const LOG_FILTER: &str = "WRIT_LOG";

/// Who writes lines by `tracing`: this program, and the libraries that do.
const TARGETS: [&str; 14] = [
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

/// The parts of this program, and those inside them that write lines.
const PARTS: [&str; 67] = [
    "writ",
    "writ::admin",
    "writ::cli",
    "writ::cli::serve",
    "writ::config",
    "writ::server",
    "writ::server::exchange",
    "writ::server::guard",
    "writ::server::handshake",
    "writ::server::http2",
    "writ::server::listener",
    "writ::server::tls",
    "writ::service",
    "writ_core",
    "writ_core::audit",
    "writ_core::blocks",
    "writ_core::claims",
    "writ_core::client",
    "writ_core::decision",
    "writ_core::endpoint",
    "writ_core::exchange",
    "writ_core::introspect",
    "writ_core::keys",
    "writ_core::keys::mirror",
    "writ_core::keys::rotation",
    "writ_core::ledger",
    "writ_core::limits",
    "writ_core::pdp",
    "writ_core::permit",
    "writ_core::policy",
    "writ_core::refusal",
    "writ_core::request",
    "writ_core::subject",
    "writ_core::subject::introspection",
    "writ_core::subject::issuers",
    "writ_outbound",
    "writ_outbound::breaker",
    "writ_outbound::cause",
    "writ_platform",
    "writ_platform::bounded",
    "writ_platform::clock",
    "writ_platform::process",
    "writ_platform::secret_file",
    "writ_platform::shares",
    "writ_platform::suggest",
    "writ_platform::telemetry",
    "writ_platform::telemetry::output",
    "writ_store",
    "writ_store::blocks",
    "writ_store::clock",
    "writ_store::database",
    "writ_store::engine",
    "writ_store::folder",
    "writ_store::ledger",
    "writ_store::quiet",
    "writ_store::records",
    "writ_store::repair",
    "writ_store::ring",
    "writ_store::seal",
    "writ_store::table",
    "writ_store::times",
    "writ_store::transaction",
    "writ_store::working_copy",
    "writ_store::writer",
    "writ_verifier",
    "writ_verifier::remote",
    "writ_verifier::verifier",
];

/// The text of `WRIT_LOG` says nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a level (off, error, warn, info, debug, trace) or levels of parts, such as \"info,writ::keys=debug\"; {0}"
)]
pub struct LogFilterError(String);

/// Why nothing can be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The variable says nothing.
    #[error("{LOG_FILTER}: {0}")]
    Filter(#[from] LogFilterError),
    /// That was done before.
    #[error(transparent)]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// The filter of `WRIT_LOG`. Of a slip there would come a log without lines.
///
/// # Errors
/// [`LogFilterError`] names the part that means nothing.
pub fn log_filter(text: &str) -> Result<EnvFilter, LogFilterError> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok() && !word.is_empty();
    let parts: Vec<String> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(with_crate).collect();
    for part in &parts {
        let part = part.as_str();
        let (target, level) = part.split_once('=').map_or((part, None), |(target, level)| (target, Some(level)));
        let unknown = |what, word: &str, known: &[&str]| {
            let near = did_you_mean(word, known);
            Err(LogFilterError(format!("`{}` is no {what}{near}", word.escape_debug())))
        };
        let root = target.split("::").next().unwrap_or_default();
        match level {
            Some(level) if !is_level(level) => return unknown("level", level, &LEVELS),
            Some(_) if !TARGETS.contains(&root) => return unknown("part of Writ", root, &TARGETS),
            None if !is_level(part) && !TARGETS.contains(&root) => return unknown("level", part, &LEVELS),
            _ if PARTS.contains(&root) && !PARTS.contains(&target) => {
                let short = PARTS.iter().filter_map(|known| Some(format!("writ::{}", known.split_once("::")?.1)));
                let known: Vec<String> = PARTS.iter().map(|known| (*known).to_owned()).chain(short).collect();
                return unknown("part of Writ", target, &known.iter().map(String::as_str).collect::<Vec<_>>());
            }
            _ => {}
        }
    }
    EnvFilter::try_new(parts.join(",")).map_err(|error| LogFilterError(error.to_string()))
}

/// A part may be named without its crate: `writ::keys` for `writ_core::keys`, `writ::store` for `writ_store`.
fn with_crate(part: &str) -> String {
    let end = part.find('=').unwrap_or(part.len());
    let (target, level) = part.split_at(end);
    let Some(path) = target.strip_prefix("writ::").filter(|_| !PARTS.contains(&target)) else { return part.to_owned() };
    // Since 0.1 the listeners are in `writ::server`.
    let path = path.strip_prefix("listener").map_or_else(|| path.to_owned(), |rest| format!("server{rest}"));
    let is_meant = |known: &&&str| {
        let (root, rest) = known.split_once("::").unwrap_or((known, ""));
        let inside = root.strip_prefix("writ_").is_some_and(|name| match path.strip_prefix(name) {
            Some(tail) => tail.strip_prefix("::").unwrap_or(tail) == rest,
            None => false,
        });
        !path.is_empty() && (rest == path || inside)
    };
    PARTS.iter().find(is_meant).map_or_else(|| part.to_owned(), |known| format!("{known}{level}"))
}

/// Sends everything that is traced to `log`. `WRIT_LOG` filters it (`info` by default); audit lines pass always.
///
/// # Errors
/// [`TraceError`].
pub fn trace_to(log: &Log) -> Result<(), TraceError> {
    let filter = match std::env::var(LOG_FILTER) {
        Ok(text) if !text.trim().is_empty() => log_filter(&text)?,
        Err(VarError::NotUnicode(_)) => return Err(LogFilterError("it is no text".to_owned()).into()),
        _ => EnvFilter::new("info,actix_server=warn,actix_http=off"),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).with_ansi(false);
    match log.format {
        Format::Json => tracing::subscriber::set_global_default(
            builder.json().flatten_event(true).with_current_span(true).with_span_list(false).finish(),
        )?,
        Format::Text => tracing::subscriber::set_global_default(builder.finish())?,
    }
    Ok(())
}

/// What a metric counts.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Every metric of the service with its `# HELP`; those of the process are in [`process`].
const METRICS: [(Kind, &str, &str); 16] = [
    (
        Kind::Counter,
        "writ_token_requests_total",
        "Requests to /token, by client, source of the subject, outcome (issued, refused, error) and reason.",
    ),
    (
        Kind::Histogram,
        "writ_token_request_duration_seconds",
        "Time from a request to /token to its outcome, in seconds.",
    ),
    (Kind::Gauge, "writ_signing_key_age_seconds", "Seconds since the current signing key began to sign."),
    (Kind::Gauge, "writ_keys", "Keys of the ring, by state."),
    (Kind::Counter, "writ_jwks_fetch_total", "Fetches of a subject issuer's keys, by outcome (ok, unchanged, error)."),
    (
        Kind::Counter,
        "writ_pdp_requests_total",
        "Questions to the external decision point, by outcome (allowed, denied, unavailable).",
    ),
    (Kind::Counter, "writ_introspection_total", "Questions to subject issuers about access tokens, by outcome."),
    (Kind::Counter, "writ_store_errors_total", "Reads and writes of the store that failed, by operation."),
    (Kind::Counter, "writ_policy_reload_total", "Changed policies that were put in force (ok) or refused (rejected)."),
    (Kind::Gauge, "writ_policies_info", "1 for the digest of the policies in force."),
    (Kind::Counter, "writ_tls_handshakes_total", "TLS handshakes, by outcome (ok, or the name of the alert)."),
    (Kind::Gauge, "writ_tls_certificate_expiry_seconds", "Seconds until the server certificate expires."),
    (Kind::Gauge, "writ_crl_expiry_seconds", "Seconds until the first of the revocation lists is out of date."),
    (
        Kind::Counter,
        "writ_tls_reload_total",
        "Changed certificates, trust and revocation lists that were put in force (ok) or refused (rejected).",
    ),
    (Kind::Gauge, "writ_ledger_records", "Records of the ledger, by kind (tokens, uses, single_use)."),
    (Kind::Gauge, "writ_build_info", "1 for the version that runs."),
];

/// The metrics of this process.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder.
    ///
    /// # Errors
    /// [`BuildError`] if there is one already.
    pub fn record() -> Result<Self, BuildError> {
        const SECONDS: [f64; 12] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
        let duration = Matcher::Full("writ_token_request_duration_seconds".to_owned());
        let handle = PrometheusBuilder::new().set_buckets_for_metric(duration, &SECONDS)?.install_recorder()?;
        for (kind, name, help) in METRICS {
            match kind {
                Kind::Counter => metrics::describe_counter!(name, help),
                Kind::Gauge => metrics::describe_gauge!(name, help),
                Kind::Histogram => metrics::describe_histogram!(name, help),
            }
        }
        // `increase()` sees the first event only of a counter that was there before it.
        for outcome in ["ok", "rejected"] {
            metrics::counter!("writ_policy_reload_total", "outcome" => outcome).absolute(0);
            metrics::counter!("writ_tls_reload_total", "outcome" => outcome).absolute(0);
        }
        metrics::gauge!("writ_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self(handle))
    }

    /// Every metric in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render() + &process::render()
    }

    /// Sums up what the histograms have gathered. Without it, or a reader of [`render`](Self::render), every sample
    /// stays in memory.
    pub fn sum_up(&self) {
        self.0.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::sink::Sink;
    use super::*;

    #[test]
    fn a_filter_of_the_log_means_something_or_is_refused() {
        for good in ["info", "DEBUG", "off", "writ=debug", "info,writ::keys=trace, actix_http=warn", "writ", "warn,"] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for (short, full) in [
            ("writ::keys::mirror=debug", "writ_core::keys::mirror=debug"),
            ("writ::store=debug", "writ_store=debug"),
            ("writ::store::writer", "writ_store::writer"),
            ("writ::listener::tls=warn", "writ::server::tls=warn"),
            ("writ::service=info", "writ::service=info"),
        ] {
            assert_eq!(with_crate(short), full);
        }
        for (bad, expected) in [
            ("verbose", "`verbose` is no level"),
            ("debgu", "`debgu` is no level: did you mean `debug`?"),
            ("writ=inof", "`inof` is no level: did you mean `info`?"),
            ("wirt=debug", "`wirt` is no part of Writ: did you mean `writ`?"),
            ("info,keys=debug", "`keys` is no part of Writ"),
            ("audit=off", "`audit` is no part of Writ"),
            ("writ::nonsense", "`writ::nonsense` is no part of Writ"),
            ("info,writ::exchang=debug", "did you mean `writ::exchange`?"),
            ("writ::server::tsl=debug", "did you mean `writ::server::tls`?"),
            ("writ::=debug", "`writ::` is no part of Writ"),
            ("writ_verifier::remot=debug", "did you mean `writ_verifier::remote`?"),
            ("writ=", "`` is no level"),
            ("writ=debug=x", "is no level"),
            ("in\u{1b}fo", "`in\\u{1b}fo` is no level: did you mean `info`?"),
        ] {
            let error = log_filter(bad).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }

    /// Every part that there is, and every file whose lines can be asked for.
    #[test]
    fn the_parts_that_a_filter_may_name_are_those_of_the_source() {
        fn look(folder: &std::path::Path, name: &str, depth: u32, found: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let stem = path.file_stem().unwrap().to_str().unwrap();
                let part = if stem == "lib" { name.to_owned() } else { format!("{name}::{stem}") };
                if path.is_dir() {
                    look(&path, &part, depth + 1, found);
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
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let crates = ["", "core", "outbound", "platform", "store", "verifier"];
        let mut found = BTreeSet::new();
        for name in crates {
            let package = if name.is_empty() { "writ".to_owned() } else { format!("writ_{name}") };
            look(&root.join(name).join("src"), &package, 0, &mut found);
            found.insert(package);
        }
        assert_eq!(found.into_iter().collect::<Vec<_>>(), PARTS);
    }

    /// What operators read about and what they see is the same.
    #[test]
    fn the_described_metrics_are_those_of_the_operations_page() {
        let page = include_str!("../../docs/reference/metrics-and-logs.md");
        let (_, table) = page.split_once("## Metrics").unwrap();
        let rows = table.split("\n## ").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
        let names = rows.filter_map(|row| row.split(" |").next()).flat_map(|cell| cell.split("`, `"));
        let mut documented: Vec<&str> = names.map(|name| name.trim_matches('`')).collect();
        let of_process = process::render();
        let of_process = of_process.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let mut described: Vec<&str> = METRICS.iter().map(|(_, name, _)| *name).chain(of_process).collect();
        documented.sort_unstable();
        described.sort_unstable();
        assert_eq!(documented, described);
    }

    ///
    #[test]
    fn a_line_is_one_line_of_printable_ascii() {
        assert_eq!(one_line("a\"\n\u{1b}[31m\u{202e}\u{1f600}\n"), b"a\"\\u000a\\u001b[31m\\u202e\\ud83d\\ude00\n");
    }

    ///
    #[tokio::test]
    async fn what_cannot_be_written_is_not_acknowledged_and_the_log_recovers() {
        let sink = Sink::default();
        let log = Log::start(Format::Json, sink.clone());
        log.write("one".into()).await.unwrap();
        sink.fill(true);
        assert_eq!(log.write("two".into()).await, Err(LogError));
        sink.fill(false);
        log.write("three".into()).await.unwrap();
        log.flush().await.unwrap();
        assert_eq!(sink.text(), "one\n\nthree\n");
    }
}
