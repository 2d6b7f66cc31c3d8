//! Shutdown: listeners drain, work in flight finishes, tasks end, the store is closed; in this order.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use super::Service;
use crate::server::ListenError;
use writ_store::{OpenError, Opening, Store};

/// How long requests of disconnected clients may still take.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Why the service ended without being stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error(transparent)]
    Listener(#[from] ListenError),
    /// The records of the ledger are not those that were last sealed, or they were moved to another store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The admin socket, maintenance or reload ended: without them nothing would rotate, or be reloaded.
    #[error("a part of the service ended; the log says why")]
    Task,
}

impl Service {
    /// Serves until `stop` completes, then shuts down; an error if the service ended by itself.
    pub(crate) async fn until(self, stop: impl Future<Output = ()>) -> Result<(), Ended> {
        let Self { store, opening, keys, running, mut tasks, mut in_flight, .. } = self;
        let mut tasks_run = true;
        let mut opened = Ok(());
        let stop = async {
            tokio::select! {
                () = stop => {}
                _ = tasks.join_next() => tasks_run = false,
                error = failure(&store, opening) => opened = Err(error),
            }
        };
        let outcome = running.until(stop).await;
        // Their clients have disconnected, but the uses that they counted must reach the log.
        if timeout(SHUTDOWN_GRACE, in_flight.recv()).await.is_err() {
            tracing::warn!("requests of disconnected clients were cut off");
        }
        // A step of the key ring writes files, and would go on writing them if it were cut off.
        let resting = timeout(SHUTDOWN_GRACE, keys.pause()).await;
        tasks.shutdown().await;
        store.close().await;
        drop(resting);
        outcome?;
        opened?;
        if tasks_run { Ok(()) } else { Err(Ended::Task) }
    }
}

/// Finishes opening the store; completes only if that fails, or once its records were moved to another.
async fn failure(store: &Store, opening: Option<Opening>) -> OpenError {
    if let Some(opening) = opening {
        let kept = match opening.finish().await {
            Ok(()) => store.keep().await,
            failed => failed,
        };
        if let Err(error) = kept {
            return error;
        }
        tracing::info!("the ledger is proven whole: redemptions are answered from now on");
    }
    store.moved().await
}
