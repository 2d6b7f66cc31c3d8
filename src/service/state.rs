//! The state that outlives the process: the store, and the key ring, ledger and kill switch in it.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use super::admin::Admin;
use super::error::StartError;
use crate::config::Config;
use writ_core::audit::Audit;
use writ_core::blocks::Blocks;
use writ_core::keys::seal::{self, SealingKeys};
use writ_core::keys::{self, KeyRing};
use writ_core::ledger::Ledger;
use writ_platform::clock::Timestamp;
use writ_platform::secret_file;
use writ_store::{Opening, Store};

/// The open store and its contents: of a running service, or of a command while no service runs.
pub(crate) struct PersistentState {
    pub(crate) store: Store,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) blocks: Arc<Blocks>,
}

impl PersistentState {
    /// Opens the store, or creates it; changes of the key ring on the way are recorded in `audit`.
    ///
    /// If the sealing key is wrong or the store belongs to another trust domain, the store is unchanged.
    pub(crate) async fn open(config: &Config, audit: &Audit) -> Result<Self, StartError> {
        let sealing = sealing_keys(&config.keys)?;
        let state = Self::read(Store::open(&config.store).await?, sealing, config, audit).await?;
        or_close(&state.store, state.store.keep()).await?;
        Ok(state)
    }

    /// As [`open`](Self::open), but does not wait for a large ledger; see [`Store::begin_to_open`].
    pub(crate) async fn begin_to_open(config: &Config, audit: &Audit) -> Result<(Self, Option<Opening>), StartError> {
        let sealing = sealing_keys(&config.keys)?;
        let (store, opening) = Store::begin_to_open(&config.store).await?;
        let state = Self::read(store, sealing, config, audit).await?;
        if opening.is_none() {
            or_close(&state.store, state.store.keep()).await?;
        }
        Ok((state, opening))
    }

    async fn read(store: Store, sealing: SealingKeys, config: &Config, audit: &Audit) -> Result<Self, StartError> {
        let (settings, now) = (&config.keys, Timestamp::now());
        let opening = KeyRing::open(store.clone(), settings, sealing, &config.trust_domain, now);
        let (keys, events) = or_close(&store, opening).await.map_err(|error| StartError::of_keys(settings, error))?;
        for event in events {
            audit.write(&event.into()).await?;
        }
        Self::complete(store, keys).await
    }

    /// Opens a store that exists; [`StartError::NoStore`] otherwise.
    pub(crate) async fn open_existing(config: &Config, audit: &Audit) -> Result<Self, StartError> {
        expect_store(config)?;
        Self::open(config, audit).await
    }

    /// Opens a store that exists without changing any of its keys.
    pub(crate) async fn open_read_only(config: &Config) -> Result<Self, StartError> {
        expect_store(config)?;
        let sealing = sealing_keys(&config.keys)?;
        let store = Store::open(&config.store).await?;
        let opening = KeyRing::open_read_only(store.clone(), &config.keys, sealing, &config.trust_domain);
        let keys = or_close(&store, opening).await.map_err(|error| StartError::of_keys(&config.keys, error))?;
        Self::complete(store, keys).await
    }

    /// Performs operators' commands on this state; changes are recorded in `audit`.
    pub(crate) fn admin(&self, audit: Audit) -> Admin {
        Admin::new(Arc::clone(&self.keys), Arc::clone(&self.ledger), Arc::clone(&self.blocks), audit)
    }

    async fn complete(store: Store, keys: KeyRing) -> Result<Self, StartError> {
        let ledger = or_close(&store, Ledger::open(store.clone())).await?;
        let blocks = or_close(&store, Blocks::open(store.clone())).await?;
        Ok(Self { store, keys: Arc::new(keys), ledger: Arc::new(ledger), blocks: Arc::new(blocks) })
    }
}

/// Reads the sealing keys that `settings` name.
pub(crate) fn sealing_keys(settings: &keys::Settings) -> Result<SealingKeys, StartError> {
    let read = |path: &PathBuf| {
        let at = |source| StartError::SealingKey { path: path.display().to_string(), source };
        seal::parse_sealing_key(&secret_file::read(path)?).map_err(at)
    };
    let previous = settings.previous_sealing_keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let failed = |source| StartError::SealingKey { path: settings.sealing_key.display().to_string(), source };
    SealingKeys::new(&read(&settings.sealing_key)?, &previous).map_err(failed)
}

fn expect_store(config: &Config) -> Result<(), StartError> {
    if writ_store::exists(&config.store) { Ok(()) } else { Err(StartError::NoStore(config.store.path().to_owned())) }
}

async fn or_close<T, E>(store: &Store, opening: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let opened = opening.await;
    if opened.is_err() {
        store.clone().close().await;
    }
    opened
}
