//! The key ring: signs claims, and knows which retired key may have signed a token.
//!
//! [`ring`] determines which step is due and its result; `rotation` takes the step, always in this order: generate the
//! key, write its file, which outlives the store ([`mirror`]), store the ring, and only then publish and sign. Private
//! halves are sealed at rest ([`seal`]). In: an instant. Out: a [`Signer`], which holds the instant together with the
//! key.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use self::jwks::Jwks;
use self::mirror::Mirror;
use self::records::Installation;
use self::ring::{Found, KeyState, KeyTimes, LeftBehind, RevokeError, Ring, TooEarly};
use self::rotation::RotationState;
use self::seal::{Place, SealError, Sealed, SealingKeys};
use self::signing::{KeyPair, SigningError};
use self::token::header;
use writ_platform::clock::Timestamp;
use writ_store::cluster::{Served, Versions};
use writ_store::{RingStore, StoreError};

pub mod event;
pub mod jwks;
pub mod listing;
pub mod mirror;
pub mod public;
pub mod repair;
pub mod ring;
pub mod seal;
pub mod signing;
pub mod token;

mod opening;
mod records;
mod rotation;

pub use self::opening::RingFiles;
pub use self::token::{Signer, TxnToken};

/// How much later than its `iat` a token may be sent while a successor of its key is being stored.
const HAND_OVER_GRACE: Duration = Duration::from_secs(5);

/// How keys are generated, stored and replaced.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The algorithm of new keys.
    pub algorithm: SigningAlgorithm,
    /// When keys change.
    pub times: KeyTimes,
    /// The file with the sealing key, which encrypts private halves at rest.
    pub sealing_key: PathBuf,
    /// Files with previous sealing keys, which still decrypt.
    pub previous_sealing_keys: Vec<PathBuf>,
}

/// How Txn-Tokens are signed (R-KEYS-01).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
    /// RSA PKCS#1 v1.5 with SHA-256, 2048 bits.
    RS256,
    /// RSA-PSS with SHA-256, 2048 bits.
    PS256,
}

/// The ring in force: stored, published, and ready to sign.
pub struct KeyRing {
    store: RingStore,
    mirror: Mirror,
    installation: Installation,
    sealing: SealingKeys,
    algorithm: SigningAlgorithm,
    times: KeyTimes,
    signer_state: Mutex<SignerState>,
    /// Serialises steps.
    rotation: tokio::sync::Mutex<RotationState>,
    /// Wakes the timer, since a step may be due earlier than it expects.
    wake: Notify,
}

/// The current key, and the instants at which it signs.
struct SignerState {
    active: Arc<ActiveRing>,
    /// The latest signing instant given out.
    latest: Timestamp,
    /// The end of the current key's span while its successor is being stored: it signs for no later second.
    closing: Option<Timestamp>,
}

/// A ring in force, with the values derived from it.
struct ActiveRing {
    ring: Ring,
    /// The ring as stored.
    document: Vec<u8>,
    /// The current key.
    key: KeyPair,
    /// Since when this instance publishes the key that will sign next.
    next_since: Timestamp,
    /// The encoded header of its tokens.
    header: String,
    jwks: Arc<Jwks>,
}

/// Why the key ring cannot be loaded, changed or used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The store is unavailable, or did not record the change.
    #[error(transparent)]
    Store(StoreError),
    /// The store was changed by another instance during every attempt; the step was not taken.
    #[error("another instance is changing the key ring")]
    Conflict,
    /// A promotion would leave an instance behind.
    #[error(transparent)]
    LeftBehind(#[from] LeftBehind),
    /// The current key is long overdue for rotation, because the store does not record its successor.
    #[error("the signing key is overdue for rotation: the store has not recorded a successor")]
    Overdue,
    /// The store was created for another trust domain. Nothing in it was changed.
    #[error("the store belongs to the trust domain {found}")]
    Foreign {
        /// The trust domain that the store was created for.
        found: String,
    },
    /// A record of the ring is missing or malformed. Nothing in the store was changed.
    #[error("the key ring in the store is damaged: {0}; see `writ store repair`")]
    Damaged(&'static str),
    /// The key files could not be read or written, or contain keys that the store has lost.
    #[error(transparent)]
    Mirror(#[from] mirror::MirrorError),
    /// A private half cannot be sealed or opened, most likely because the sealing key is wrong. Nothing in the store was
    /// changed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A key could not be generated or did not sign.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The claims cannot be serialised.
    #[error("the claims cannot be written as JSON")]
    Claims,
    /// A rotation was requested before it is possible.
    #[error(transparent)]
    TooEarly(#[from] TooEarly),
    /// The key does not exist, or revoking it changes nothing.
    #[error(transparent)]
    Revoke(#[from] RevokeError),
    /// The export is invalid.
    #[error(transparent)]
    Import(#[from] listing::ImportError),
}

impl From<StoreError> for KeysError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreadable(what) => Self::Damaged(what),
            StoreError::Unavailable(_) | StoreError::TooLarge(_) => Self::Store(error),
        }
    }
}

impl KeyRing {
    /// The current key with the instant at which it signs: `now`, or the first second of the key's span if the clock has
    /// stepped back before it.
    ///
    /// # Errors
    /// [`KeysError::Overdue`] if the key has signed for a whole period longer than planned; or for `jwks_max_age`, while
    /// another instance may have promoted its successor.
    pub fn signer(&self, now: Timestamp) -> Result<Signer, KeysError> {
        let mut state = self.signer_state();
        let ring = &state.active.ring;
        let wanted = now.max(ring.signs_from());
        let last = ring.schedule().overdue_after(self.times, self.store.holds_lease());
        let instant = state.closing.map_or(wanted, |end| wanted.min(end));
        if instant > last || wanted.since(instant) > HAND_OVER_GRACE {
            self.wake.notify_one();
            return Err(KeysError::Overdue);
        }
        state.latest = state.latest.max(instant);
        Ok(Signer::new(Arc::clone(&state.active), instant))
    }

    /// What this instance has in force, with this version of the kill switch.
    pub fn served(&self, blocks: u64) -> Served {
        let active = self.active();
        let versions = Versions { ring: active.ring.version(), blocks };
        Served { versions, next_since: active.next_since, lead: self.times.lead() }
    }

    /// The published keys.
    pub fn jwks(&self) -> Arc<Jwks> {
        Arc::clone(&self.active().jwks)
    }

    /// Looks up the `kid` of a token.
    pub fn find(&self, kid: &str) -> Found {
        self.active().ring.find(kid)
    }

    /// The first second of the span of the oldest key that can still validate a token.
    pub fn oldest_signature(&self) -> Timestamp {
        let active = self.active();
        let began =
            active.ring.lives().filter(|life| life.state() != KeyState::Revoked).filter_map(|life| life.signed());
        began.map(ring::Span::from).min().unwrap_or_else(|| active.ring.signs_from()).min(active.ring.signs_from())
    }

    /// The number of keys in each state.
    pub(crate) fn states(&self) -> BTreeMap<KeyState, usize> {
        let mut states = BTreeMap::new();
        for life in self.active().ring.lives() {
            *states.entry(life.state()).or_default() += 1;
        }
        states
    }

    /// Every key of which more than the `kid` is known, published ones first.
    pub fn list(&self) -> Vec<listing::KeyLine> {
        listing::list(&self.active().ring, self.times)
    }

    /// The public halves and their lives.
    pub fn export(&self) -> listing::Export {
        listing::Export::of(&self.active().ring)
    }

    /// Updates `writ_signing_key_age_seconds` and `writ_keys`.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point; ages and counts stay far below 2^52")]
    pub fn observe(&self, now: Timestamp) {
        let age = now.since(self.active().ring.signs_from());
        metrics::gauge!("writ_signing_key_age_seconds").set(age.as_secs_f64());
        let states = self.states();
        for state in KeyState::KNOWN {
            let count = states.get(&state).copied().unwrap_or_default();
            metrics::gauge!("writ_keys", "state" => state.as_str()).set(count as f64);
        }
    }

    fn active(&self) -> Arc<ActiveRing> {
        Arc::clone(&self.signer_state().active)
    }

    /// No change of the state can panic halfway, so it is consistent even if the lock is poisoned.
    fn signer_state(&self) -> MutexGuard<'_, SignerState> {
        self.signer_state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActiveRing {
    /// Makes a ring ready to sign. Fails before it is stored if it cannot sign.
    fn new(ring: Ring, sealing: &SealingKeys, installation: &Installation) -> Result<Self, KeysError> {
        let unwritable = |_| KeysError::Damaged("it cannot be written as JSON");
        let key = open(ring.current(), sealing, installation)?.0;
        let header = header(key.public()).map_err(unwritable)?;
        let jwks = Arc::new(Jwks::of(&ring).map_err(unwritable)?);
        let document = serde_json::to_vec(&ring).map_err(unwritable)?;
        Ok(Self { next_since: ring.next_published_from(), ring, document, key, header, jwks })
    }
}

/// The private half of `key`, and whether it is sealed with a previous sealing key.
fn open(
    key: &ring::SigningKey,
    sealing: &SealingKeys,
    installation: &Installation,
) -> Result<(KeyPair, bool), KeysError> {
    let place = Place { store: installation.id(), key: key.public() };
    let opened = sealing.open(key.sealed(), place)?;
    let pair = KeyPair::from_pkcs8(key.public().algorithm(), &opened.private)?;
    if pair.public() == key.public() {
        Ok((pair, opened.stale))
    } else {
        Err(KeysError::Damaged("a private key does not belong to its public key"))
    }
}

fn seal(pair: &KeyPair, sealing: &SealingKeys, installation: &Installation) -> Result<Sealed, KeysError> {
    let place = Place { store: installation.id(), key: pair.public() };
    Ok(sealing.seal(&pair.pkcs8()?, place)?)
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("ring", &self.active().ring).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
