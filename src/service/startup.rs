//! Startup: configuration in, a running service out. Files are loaded and addresses bound before the store is opened.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::Service;
use super::admin::Socket;
use super::error::StartError;
use super::files::LoadedFiles;
use super::handlers::Dependencies;
use super::maintenance::{self, Upkeep};
use super::reload::Reloader;
use super::state::PersistentState;
use crate::config::Config;
use crate::server::Listeners;
use writ_core::audit::Audit;
use writ_platform::clock::Clock;
use writ_platform::process;
use writ_platform::telemetry::{Log, Metrics};

impl Service {
    /// Starts everything; requests are answered when this returns.
    ///
    /// # Errors
    /// [`StartError`]: the first thing that does not work. Nothing is left running, and the store is closed.
    pub(crate) async fn start(config: Config, log: Log, metrics: Metrics) -> Result<Self, StartError> {
        let audit = Audit::new(log);
        let files = LoadedFiles::load(&config)?;
        if let Some(fit) = process::admit_connections(config.listener.max_connections as u64) {
            tracing::warn!(fit, "the limit on open files is too low for limits.max_connections");
        }
        let listeners = Listeners::bind(config.listener.clone())?;
        let state = PersistentState::open(&config, &audit).await?;
        let clock = Arc::new(Clock::start());
        let dependencies = Dependencies { config: &config, state: &state, files: &files, clock, audit, metrics };
        match run(&dependencies, listeners) {
            Ok(service) => Ok(service),
            Err(error) => {
                state.store.close().await;
                Err(error)
            }
        }
    }
}

/// Starts the listeners, then the tasks beside them.
fn run(dependencies: &Dependencies<'_>, listeners: Listeners) -> Result<Service, StartError> {
    let Dependencies { config, state, files, .. } = dependencies;
    let admin_socket = Socket::bind(state.store.path()).map_err(StartError::Admin)?;
    let addresses = listeners.addresses();
    let (alive, in_flight) = mpsc::channel(1);
    let running = listeners.start(&files.trust, &dependencies.handlers(alive))?;
    files.issuers.warm();
    let reload = Arc::new(Notify::new());
    let reloader = Reloader::new((*files).clone(), config.policies.clone(), dependencies.audit.clone());
    let mut tasks = background_tasks(dependencies, admin_socket);
    tasks.spawn(reloader.run(Arc::clone(&reload)));
    Ok(Service {
        store: state.store.clone(),
        keys: Arc::clone(&state.keys),
        policies: Arc::clone(&files.policies),
        addresses,
        running,
        reload,
        tasks,
        in_flight,
    })
}

fn background_tasks(dependencies: &Dependencies<'_>, admin_socket: Socket) -> JoinSet<()> {
    let Dependencies { state, clock, audit, metrics, .. } = dependencies;
    let upkeep = Upkeep {
        store: state.store.clone(),
        ledger: Arc::clone(&state.ledger),
        keys: Arc::clone(&state.keys),
        blocks: Arc::clone(&state.blocks),
        clock: Arc::clone(clock),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(admin_socket.serve(Arc::new(state.admin(audit.clone())), Arc::clone(clock)));
    tasks.spawn(maintenance::rotate_keys(Arc::clone(&state.keys), Arc::clone(clock), audit.clone()));
    tasks.spawn(upkeep.run());
    tasks.spawn(maintenance::drain_histograms(metrics.clone()));
    tasks
}
