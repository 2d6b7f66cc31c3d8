//! Commands of operators: performed by the running service, or here if no service runs.

use crate::config::Config;
use crate::service::admin::{self, Command, Reply};
use crate::service::{PersistentState, StartError};
use writ_core::audit::Audit;
use writ_platform::clock::Timestamp;
use writ_platform::telemetry::{Format, Log};

pub(super) async fn operate(config: &Config, command: &Command) -> Reply {
    match admin::send(config.store.path(), command).await {
        Ok(Some(reply)) => reply,
        Ok(None) => operate_here(config, command).await.unwrap_or_else(|error| Reply::Failed(error.to_string())),
        Err(error) => Reply::Failed(format!("the service does not answer: {error}")),
    }
}

async fn operate_here(config: &Config, command: &Command) -> Result<Reply, StartError> {
    let state = match command {
        command if command.is_read_only() => PersistentState::open_read_only(config).await?,
        // Keys are most often imported into a new store.
        Command::KeysImport { .. } => PersistentState::open(config, &operators_audit()).await?,
        _ => PersistentState::open_existing(config, &operators_audit()).await?,
    };
    let reply = state.admin(operators_audit()).perform(command.clone(), Timestamp::now()).await;
    state.store.close().await;
    Ok(reply)
}

/// Where no service runs, changes are recorded on standard error.
pub(super) fn operators_audit() -> Audit {
    Audit::new(Log::start(Format::Json, std::io::stderr()))
}
