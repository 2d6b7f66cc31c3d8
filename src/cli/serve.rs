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
    match serve(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

/// The error is the exit code; the error itself has been printed.
async fn serve(args: &Args) -> Result<(), ExitCode> {
    let path = args.config.config.as_path();
    let (config, warnings) = Config::load(path, environment::variables()).map_err(|_| report_config(path))?;
    print_problems(&warnings);
    let log = Log::start_monitored(args.log.into(), std::io::stdout()).map_err(|error| failed(&error))?;
    let metrics = telemetry::install_metrics().map_err(|error| failed(&error))?;
    telemetry::trace_to(&log).map_err(|error| failed(&error))?;
    log_certificate_problems(&config);
    let stop = stop_signal().map_err(|error| failed(&error))?;
    let hangup = signal(SignalKind::hangup()).map_err(|error| failed(&error))?;
    let issuers = config.subject_issuers.len();
    let service =
        Service::start(config, log.clone(), metrics).await.map_err(|error| report_start_error(path, &error))?;
    log_ready(&service, issuers);
    reload_on(hangup, &service);
    let ended = service.until(stop).await;
    // A log that cannot be written has been reported before.
    let _ = log.flush().await;
    ended.map_err(|error| failed(&error))
}

/// Peers may refuse these certificates today and accept the files that replace them tomorrow; files that cannot be used at
/// all end the startup.
fn log_certificate_problems(config: &Config) {
    for problem in Named::from(config).problems(Timestamp::now()) {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
            Severity::Note => tracing::info!("{problem}"),
        }
    }
}

fn log_ready(service: &Service, issuers: usize) {
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
