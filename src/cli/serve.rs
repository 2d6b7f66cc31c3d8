//! `writ serve`: runs the service until it is told to stop.

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{failed, load};
use crate::config::{Problem, files};
use crate::service::{Service, StartError};
use crate::telemetry::{self, Format, Log, Metrics};

/// `writ serve`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How log lines look
    #[arg(long, value_enum, default_value_t = Format::Json, value_name = "FORMAT")]
    log: Format,
}

/// Serves until SIGTERM or SIGINT; SIGHUP makes it read its files again.
pub async fn run(args: Args, config: &Path) -> ExitCode {
    let config = match load(config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let log = Log::start(args.log, std::io::stdout());
    let metrics = match Metrics::record() {
        Ok(metrics) => metrics,
        Err(error) => return failed(&error),
    };
    if let Err(error) = telemetry::trace_to(&log) {
        return failed(&error);
    }
    let (errors, warnings): (Vec<_>, Vec<_>) = files::problems(&config).into_iter().partition(Problem::is_error);
    if !errors.is_empty() {
        super::complain(&errors);
        return ExitCode::from(super::USAGE);
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let stop = match stop_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&error),
    };
    let hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return failed(&error),
    };
    let service = match Service::start(config, log.clone(), metrics).await {
        Ok(service) => service,
        Err(error) => return refused(&error),
    };
    let addresses = service.addresses();
    tracing::info!(
        event = "ready",
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

fn refused(error: &StartError) -> ExitCode {
    if let StartError::Policies(problems) = error {
        super::complain(problems);
    }
    failed(error)
}

/// Ends with the first SIGTERM or SIGINT.
///
/// # Errors
/// The system's own.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// SIGHUP makes the service read its files again.
fn reload_on(mut hangup: Signal, service: &Service) {
    let reloader = service.reloader();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reloader.notify_one();
        }
    });
}
