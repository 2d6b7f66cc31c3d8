//! Startup: configuration in, a running service out. Files are loaded and addresses bound before the store is opened.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::Service;
use super::admin::Socket;
use super::error::StartError;
use super::files::LoadedFiles;
use super::handlers::handlers;
use super::maintenance::{self, Upkeep};
use super::reload::Reloader;
use super::state::PersistentState;
use crate::config::Config;
use crate::server::Listeners;
use writ_core::audit::Audit;
use writ_core::endpoint::TokenService;
use writ_core::exchange_metrics::ExchangeMetrics;
use writ_core::limits::Limits;
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
        let (state, opening) = PersistentState::begin_to_open(&config, &audit).await?;
        let started = match join(&state, &audit).await {
            Ok(()) => run(&config, &audit, &metrics, &state, files, listeners),
            Err(error) => Err(error),
        };
        match started {
            Ok(service) => Ok(Self { opening, ..service }),
            Err(error) => {
                state.store.close().await;
                Err(error)
            }
        }
    }
}

/// Before the first token: this instance follows the others, and they learn what it has in force, so that their rotations
/// wait for it.
async fn join(state: &PersistentState, audit: &Audit) -> Result<(), StartError> {
    let (store, keys, blocks) = (state.store.clone(), Arc::clone(&state.keys), Arc::clone(&state.blocks));
    let following = maintenance::follow_others(store, keys, blocks, Arc::new(Clock::start()), audit.clone());
    tokio::select! {
        joined = state.store.join() => Ok(joined?),
        never = async { following.await; std::future::pending::<Infallible>().await } => match never {},
    }
}

/// Starts the listeners, then the tasks beside them.
fn run(
    config: &Config,
    audit: &Audit,
    metrics: &Metrics,
    state: &PersistentState,
    files: LoadedFiles,
    listeners: Listeners,
) -> Result<Service, StartError> {
    let admin_socket = Socket::bind(state.store.path()).map_err(StartError::Admin)?;
    let addresses = listeners.addresses();
    let (alive, in_flight) = mpsc::channel(1);
    let tokens = Arc::new(token_service(config, audit, state, &files, alive));
    let running = listeners.start(&files.trust, &handlers(config, &tokens, &state.store, metrics.clone()))?;
    files.issuers.warm();
    let mut tasks = background_tasks(state, audit, metrics, &tokens.clock, admin_socket);
    let reload = Arc::new(Notify::new());
    let policies = Arc::clone(&files.policies);
    let reloader = Reloader::new(files, audit.clone());
    tasks.spawn(reloader.run(Arc::clone(&reload)));
    let (store, keys) = (state.store.clone(), Arc::clone(&state.keys));
    Ok(Service { store, opening: None, keys, policies, addresses, running, reload, tasks, in_flight })
}

fn token_service(
    config: &Config,
    audit: &Audit,
    state: &PersistentState,
    files: &LoadedFiles,
    in_flight: mpsc::Sender<Infallible>,
) -> TokenService {
    TokenService {
        settings: config.claims.clone(),
        policies: Arc::clone(&files.policies),
        pdp: files.pdp.clone(),
        issuers: Arc::clone(&files.issuers),
        keys: Arc::clone(&state.keys),
        ledger: Arc::clone(&state.ledger),
        blocks: Arc::clone(&state.blocks),
        clock: Arc::new(Clock::start()),
        limits: Arc::new(Limits::new(config.limits)),
        audit: audit.clone(),
        metrics: ExchangeMetrics::default(),
        in_flight,
    }
}

fn background_tasks(
    state: &PersistentState,
    audit: &Audit,
    metrics: &Metrics,
    clock: &Arc<Clock>,
    admin_socket: Socket,
) -> JoinSet<()> {
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
    let (store, keys, blocks) = (state.store.clone(), Arc::clone(&state.keys), Arc::clone(&state.blocks));
    tasks.spawn(maintenance::follow_others(store, keys, blocks, Arc::clone(clock), audit.clone()));
    tasks.spawn(maintenance::drain_histograms(metrics.clone()));
    tasks
}
