//! Composition root: builds and runs the service.
//!
//! In the order of its life: `startup` loads the `files`, opens the persistent `state`, and connects the
//! `handlers` to the listeners; `readiness`, `maintenance`, `reload` and the `admin` socket run beside them;
//! `shutdown` ends it. Settings, a log and metrics come in; requests are answered until it is stopped.

pub mod admin;
mod error;
mod files;
mod handlers;
mod maintenance;
mod readiness;
mod reload;
mod shutdown;
mod startup;
mod state;

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

pub(crate) use self::error::StartError;
pub(crate) use self::shutdown::Ended;
pub(crate) use self::state::{PersistentState, sealing_keys};
use crate::server::{Addresses, Running};
use writ_core::keys::KeyRing;
use writ_core::policy::{Policies, PolicySet};
use writ_store::{Opening, Store};

/// A service that answers requests.
pub(crate) struct Service {
    store: Store,
    /// The rest of opening the store.
    opening: Option<Opening>,
    keys: Arc<KeyRing>,
    policies: Arc<Policies>,
    addresses: Addresses,
    running: Running,
    reload: Arc<Notify>,
    tasks: JoinSet<()>,
    /// Closes when the last request has ended.
    in_flight: mpsc::Receiver<Infallible>,
}

impl Service {
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub(crate) fn policies(&self) -> Arc<PolicySet> {
        self.policies.snapshot()
    }

    /// Notifying it reloads the files at once.
    pub(crate) fn reload_trigger(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }
}
