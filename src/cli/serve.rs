//! `writ serve`: runs the service until it is told to stop.

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{RequiredConfig, check, failed};
use crate::config::environment;
use crate::config::files::Named;
use crate::config::{Config, Problem, Severity};
use crate::service::{Service, StartError};
use writ_platform::clock::Timestamp;
use writ_platform::telemetry::{self, Format, Log, Metrics};

/// `writ serve`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) config: RequiredConfig,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = Format::Json, value_name = "FORMAT")]
    log: Format,
}

/// Serves until SIGTERM or SIGINT; SIGHUP makes it read its files again.
pub async fn run(args: Args) -> ExitCode {
    let path = args.config.config.as_path();
    let Ok((config, warnings)) = Config::load(path, environment::variables()) else { return unusable(path) };
    super::complain(&warnings);
    let log = match Log::start_watched(args.log, std::io::stdout()) {
        Ok(log) => log,
        Err(error) => return failed(&error),
    };
    let metrics = match Metrics::record() {
        Ok(metrics) => metrics,
        Err(error) => return failed(&error),
    };
    if let Err(error) = telemetry::trace_to(&log) {
        return failed(&error);
    }
    // What peers would refuse today may be in order tomorrow, for these files are watched; what cannot be used at all
    // ends the start below.
    for problem in Named::from(&config).problems(Timestamp::now()) {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
            Severity::Note => tracing::info!("{problem}"),
        }
    }
    let stop = match stop_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&error),
    };
    let hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return failed(&error),
    };
    let issuers = config.subject_issuers.len();
    let service = match Service::start(config, log.clone(), metrics).await {
        Ok(service) => service,
        Err(error) => return refused(path, &error),
    };
    let (addresses, policies) = (service.addresses(), service.policies());
    tracing::info!(
        event = "ready",
        clients = policies.len(),
        issuers,
        policies = policies.digest(),
        exchange = %addresses.exchange,
        discovery = addresses.discovery.map(tracing::field::display),
        ops = addresses.ops.map(tracing::field::display),
        "all listeners accept"
    );
    reload_on(hangup, &service);
    let ended = service.until(stop).await;
    // A log that does not write has said so before.
    let _ = log.flush().await;
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Says everything that is wrong, as `writ check` does: the next start should bring no news.
fn unusable(config: &Path) -> ExitCode {
    super::complain(&check::check(config, environment::variables()));
    ExitCode::from(super::USAGE)
}

fn refused(config: &Path, error: &StartError) -> ExitCode {
    let problems = check::check(config, environment::variables());
    if problems.iter().any(Problem::is_error) {
        super::complain(&problems);
    }
    failed(error)
}

/// Ends with the first SIGTERM or SIGINT, and says which it was.
///
/// # Errors
/// The system's own.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "told to stop");
    })
}

/// SIGHUP makes the service read its files again.
fn reload_on(mut hangup: Signal, service: &Service) {
    let reloader = service.reloader();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!(signal = "SIGHUP", "told to read the files again");
            reloader.notify_one();
        }
    });
}
