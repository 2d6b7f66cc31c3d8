//! Repair of the key ring: verifies all of it, or rebuilds it from the key files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use writ_verifier::TrustDomain;

use super::mirror::{DamagedFile, KeyFiles, Mirror, MirrorError};
use super::opening::introduce;
use super::public::Kid;
use super::records::{self, Installation};
use super::ring::{KeyState, Ring};
use super::rotation::blocking;
use super::seal::SealingKeys;
use super::{ActiveRing, KeyRing, KeysError, Settings, open};
use writ_platform::clock::Timestamp;
use writ_store::Store;
use writ_store::ring::RingRecords;

/// A ring rebuilt from the key files. It takes effect once it is stored.
#[derive(Debug)]
pub struct Rebuilt {
    /// The number of past keys in it.
    pub known: usize,
    /// The files that cannot be used; their keys are lost.
    pub damaged: Vec<DamagedFile>,
    ring: RingRecords,
}

impl Rebuilt {
    /// Builds a ring of the keys in the files of `key_folder` and fresh keys.
    ///
    /// # Errors
    /// [`KeysError`] if the folder cannot be read or a key cannot be generated. Damaged files are not an error.
    pub async fn from_files(
        key_folder: PathBuf,
        settings: &Settings,
        sealing: &SealingKeys,
        trust_domain: &TrustDomain,
        now: Timestamp,
    ) -> Result<Self, KeysError> {
        let mirror = Mirror::new(key_folder, trust_domain.clone());
        let KeyFiles { lives, damaged } = blocking(move || mirror.read()).await?;
        let installation = Installation::new(trust_domain.clone());
        let current = introduce(settings.algorithm, sealing, &installation, now).await?;
        let next = introduce(settings.algorithm, sealing, &installation, now).await?;
        let known = lives.iter().filter(|life| life.state() != KeyState::Next).count();
        let ring = Ring::rebuilt(lives, current, next, settings.times, now);
        let ring = records::all(&installation, &ActiveRing::new(ring, sealing, &installation)?)?;
        Ok(Self { known, damaged, ring })
    }

    /// The complete ring, for a new store.
    pub fn ring(&self) -> &RingRecords {
        &self.ring
    }

    /// Replaces the ring of a store, which must not be in use.
    ///
    /// # Errors
    /// [`KeysError::Store`] if it could not be recorded; then call it again.
    pub async fn replace(&self, store: &Store) -> Result<(), KeysError> {
        Ok(store.ring().overwrite(&self.ring).await?)
    }
}

/// A problem found by `keys verify`.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The stored ring cannot be loaded or opened.
    #[error("{0}")]
    Record(KeysError),
    /// The ring in force is not the one that is stored.
    #[error("the store has a different key ring from the one in use")]
    NotInForce,
    /// A file cannot be used.
    #[error("{0}")]
    DamagedFile(DamagedFile),
    /// A key has no file, or an outdated one.
    #[error("the file of the key {kid} ({}) is missing or outdated", state.as_str())]
    Outdated {
        /// The key.
        kid: Kid,
        /// Its state in the ring.
        state: KeyState,
    },
    /// The files could not be read.
    #[error("{0}")]
    Files(MirrorError),
}

impl KeyRing {
    /// Checks every record, private half and file of the ring, and returns the problems found.
    pub async fn verify(&self) -> Vec<Problem> {
        let _paused = self.pause().await;
        let mut problems = Vec::new();
        match self.verify_records().await {
            Ok(true) => {}
            Ok(false) => problems.push(Problem::NotInForce),
            Err(error) => problems.push(Problem::Record(error)),
        }
        match self.verify_files().await {
            Ok(found) => problems.extend(found),
            Err(error) => problems.push(Problem::Files(error)),
        }
        problems
    }

    /// Whether the stored ring is the one in force; an error if it cannot be loaded or opened. Parsing a key checks
    /// that its `kid` is its thumbprint.
    async fn verify_records(&self) -> Result<bool, KeysError> {
        let stored = records::load(&self.store).await?.ok_or(KeysError::Damaged("the keys in use are missing"))?;
        for key in [stored.ring.current(), stored.ring.next()] {
            open(key, &self.sealing, &self.installation)?;
        }
        Ok(stored.ring == self.active().ring && stored.installation == self.installation)
    }

    async fn verify_files(&self) -> Result<Vec<Problem>, MirrorError> {
        let mirror = self.mirror.clone();
        let files = blocking(move || mirror.read()).await?;
        let active = self.active();
        let found: BTreeMap<_, _> = files.lives.iter().map(|life| (life.kid(), life)).collect();
        let outdated = active.ring.lives().filter(|life| found.get(life.kid()) != Some(&life));
        let outdated = outdated.map(|life| Problem::Outdated { kid: life.kid().clone(), state: life.state() });
        Ok(files.damaged.into_iter().map(Problem::DamagedFile).chain(outdated).collect())
    }
}
