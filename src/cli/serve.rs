//! `writ serve`: runs the service until a signal stops it.

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{RequiredConfig, USAGE, check, failed, print_problems};
use crate::config::environment;
use crate::config::files::Named;
use crate::config::{Config, Problem, Severity};
use crate::service::{Service, StartError};
use crate::telemetry;
use writ_platform::clock::Timestamp;
use writ_platform::telemetry::{Format, Log};

/// `writ serve`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) config: RequiredConfig,
    /// The format of log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Json, value_name = "FORMAT")]
    log: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// One JSON object a line, for programs
    Json,
    /// Plain text, for people
    Text,
}

impl From<LogFormat> for Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Json => Self::Json,
            LogFormat::Text => Self::Text,
        }
    }
}

/// Serves until SIGTERM or SIGINT; SIGHUP reloads the files.
pub(super) async fn run(args: Args) -> ExitCode {
    let path = args.config.config.as_path();
    let Ok((config, warnings)) = Config::load(path, environment::variables()) else { return report_config(path) };
    print_problems(&warnings);
    let log = match Log::start_monitored(args.log.into(), std::io::stdout()) {
        Ok(log) => log,
        Err(error) => return failed(&error),
    };
    let metrics = match telemetry::install_metrics() {
        Ok(metrics) => metrics,
        Err(error) => return failed(&error),
    };
    if let Err(error) = telemetry::trace_to(&log) {
        return failed(&error);
    }
    // Peers may refuse these certificates today and accept the files that replace them tomorrow; files that cannot be used
    // at all end the startup below.
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
        Err(error) => return report_start_error(path, &error),
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
    // A log that cannot be written has been reported before.
    let _ = log.flush().await;
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Prints all problems, as `writ check` does: the next start should not find another one.
fn report_config(config: &Path) -> ExitCode {
    print_problems(&check::check(config, environment::variables()));
    ExitCode::from(USAGE)
}

fn report_start_error(config: &Path, error: &StartError) -> ExitCode {
    let problems = check::check(config, environment::variables());
    if problems.iter().any(Problem::is_error) {
        print_problems(&problems);
    }
    failed(error)
}

/// Completes with the first SIGTERM or SIGINT, which it logs.
pub(super) fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "received the signal to stop");
    })
}

/// Reloads the files with each SIGHUP.
fn reload_on(mut hangup: Signal, service: &Service) {
    let reload = service.reload_trigger();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!(signal = "SIGHUP", "received the signal to reload the files");
            reload.notify_one();
        }
    });
}
