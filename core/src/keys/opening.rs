//! Store → a ring that can sign, at the first start and every later one.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::Notify;
use writ_verifier::TrustDomain;

use super::event::KeyEvent;
use super::mirror::Mirror;
use super::records::{self, Installation, Stored};
use super::ring::{Found, KeyLife, KeyState, Ring, SigningKey, Step};
use super::rotation::{blocking, generate, refresh};
use super::seal::SealingKeys;
use super::{ActiveRing, KeyRing, KeysError, Settings, SignerState, SigningAlgorithm, open, seal};
use writ_platform::clock::Timestamp;
use writ_store::ring::StoredRing;
use writ_store::{RingStore, Store};

/// How long a ring is in force at most before the store can be written.
const MAX_UNSETTLED: Duration = Duration::from_secs(10 * 60);

impl KeyRing {
    /// Opens the ring of the store, or creates the first one if there never was one; missed rotations are caught up.
    ///
    /// Also returns the changes of keys.
    ///
    /// # Errors
    /// [`KeysError`]. If the store is foreign or damaged, or the sealing key is wrong, nothing was changed.
    pub async fn open(
        store: Store,
        settings: &Settings,
        sealing: SealingKeys,
        trust_domain: &TrustDomain,
        now: Timestamp,
    ) -> Result<(Self, Vec<KeyEvent>), KeysError> {
        let (mut opened, mut events) = match records::load(&store.ring()).await? {
            Some(stored) => (found(stored, &sealing, trust_domain)?, Vec::new()),
            None => match begin(&store.ring(), settings, &sealing, trust_domain, now).await {
                // Another instance was first.
                Err(KeysError::Conflict) => {
                    let stored = records::load(&store.ring()).await?.ok_or(KeysError::Conflict)?;
                    (found(stored, &sealing, trust_domain)?, Vec::new())
                }
                begun => begun?,
            },
        };
        let last_event = opened.last_event;
        opened.active.next_since = opened.active.ring.schedule().published_since(store.ring().peers(), now);
        let keys = Self::with(&store, settings, sealing, opened);
        // Before anything is written: a refused store is not changed.
        let (mirror, lives) = (keys.mirror.clone(), keys.active().ring.lives().collect::<Vec<_>>());
        blocking(move || mirror.check(&lives)).await?;
        events.extend(keys.complete_revocations(now).await?);
        refresh(&keys.mirror, &keys.active().ring).await?;
        if keys.store.is_writable() || !keys.may_settle_later(now)? {
            events.extend(keys.settle(last_event, now).await?);
        } else {
            keys.rotation.lock().await.is_unsettled = true;
        }
        Ok((keys, events))
    }

    /// Opens the ring of the store read-only; it must not sign. Nothing is changed.
    ///
    /// # Errors
    /// [`KeysError`], also if there is no ring yet.
    pub async fn open_read_only(
        store: Store,
        settings: &Settings,
        sealing: SealingKeys,
        trust_domain: &TrustDomain,
    ) -> Result<Self, KeysError> {
        let stored = records::load(&store.ring()).await?.ok_or(KeysError::Damaged("the keys in use are missing"))?;
        let opened = found(stored, &sealing, trust_domain)?;
        Ok(Self::with(&store, settings, sealing, opened))
    }

    /// Checks that a service would open these records of a ring: with this trust domain, these sealing keys, and the key
    /// files in this folder. Nothing is changed; the files that belong to the ring are returned.
    ///
    /// # Errors
    /// [`KeysError`], as [`open`](Self::open) reports it.
    pub async fn check(
        stored: StoredRing,
        sealing: &SealingKeys,
        trust_domain: &TrustDomain,
        key_folder: PathBuf,
    ) -> Result<RingFiles, KeysError> {
        let active = found(records::read(stored)?, sealing, trust_domain)?.active;
        let files =
            RingFiles { mirror: Mirror::new(key_folder, trust_domain.clone()), lives: active.ring.lives().collect() };
        let checked = files.clone();
        blocking(move || checked.mirror.check(&checked.lives)).await?;
        Ok(files)
    }

    fn with(store: &Store, settings: &Settings, sealing: SealingKeys, opened: Opened) -> Self {
        Self {
            mirror: Mirror::new(store.key_folder(), opened.installation.trust_domain().clone()),
            store: store.ring(),
            installation: opened.installation,
            sealing,
            algorithm: settings.algorithm,
            times: settings.times,
            signer_state: SignerState { active: opened.active.into(), latest: Timestamp::default(), closing: None }
                .into(),
            rotation: tokio::sync::Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Revokes the keys that are revoked according to the files: either a step was interrupted between files and store, or
    /// the store was rolled back.
    async fn complete_revocations(&self, now: Timestamp) -> Result<Vec<KeyEvent>, KeysError> {
        let mirror = self.mirror.clone();
        let lives = blocking(move || mirror.read()).await?.lives;
        let mut events = Vec::new();
        for life in lives.iter().filter(|life| life.state() == KeyState::Revoked) {
            let kid = life.kid().as_str();
            if matches!(self.find(kid), Found::Published(_) | Found::Historical(_)) {
                events.extend(self.revoke(kid, now).await?);
            }
        }
        Ok(events)
    }

    /// Records what must be recorded before the first signature: until when this instance may have signed with a key that
    /// another has replaced, a missed rotation, the configured times, and private halves sealed with the current sealing key.
    async fn settle(&self, last_event: Timestamp, now: Timestamp) -> Result<Vec<KeyEvent>, KeysError> {
        if self.store.peers().is_some_and(|peers| peers.was_behind) {
            self.step(now, |ring, _, _| Ok(ring.prolong_previous(now))).await?;
        }
        let caught_up = self.step(now, |ring, fresh, _| match ring.due(self.times, now) {
            Some(Step::Promote) if self.check_instances(ring, now).is_err() => Ok(None),
            Some(Step::Promote) => Ok(Some(ring.promote(fresh, self.times, ring.end_of_span(last_event, now), now)?)),
            Some(Step::Forget) | None => Ok(None),
        });
        let events = caught_up.await?;
        self.step(now, |ring, _, _| Ok(ring.adjust(self.times, now))).await?;
        self.step(now, |ring, _, _| self.resealed(ring)).await?;
        Ok(events)
    }

    /// Whether the current key may sign before anything is recorded, while the store cannot be written yet: what is
    /// recorded holds for the next minutes, and only the start of the publication of `next` may have to be recorded. The
    /// first step does that before anything else.
    fn may_settle_later(&self, now: Timestamp) -> Result<bool, KeysError> {
        // What this instance learns from its row it cannot learn once it holds a lease again.
        if self.store.peers().is_some_and(|peers| peers.was_behind) {
            return Ok(false);
        }
        let active = self.active();
        Ok(active.ring.covers(self.times, now, now + MAX_UNSETTLED) && self.resealed(&active.ring)?.is_none())
    }

    /// `None` if everything is sealed with the current sealing key.
    fn resealed(&self, ring: &Ring) -> Result<Option<Ring>, KeysError> {
        let is_stale = |key| Ok::<_, KeysError>(open(key, &self.sealing, &self.installation)?.1);
        if !is_stale(ring.current())? && !is_stale(ring.next())? {
            return Ok(None);
        }
        let anew = |key: &SigningKey| {
            let (pair, _) = open(key, &self.sealing, &self.installation)?;
            seal(&pair, &self.sealing, &self.installation)
        };
        ring.reseal(anew).map(Some)
    }
}

/// The key files of a ring.
#[derive(Debug, Clone)]
pub struct RingFiles {
    mirror: Mirror,
    lives: Vec<KeyLife>,
}

impl RingFiles {
    /// Writes those that are missing or outdated, as each start does.
    ///
    /// # Errors
    /// [`KeysError`].
    pub async fn write(self) -> Result<(), KeysError> {
        Ok(blocking(move || self.mirror.refresh(self.lives)).await?)
    }
}

/// A ring that was found in the store, ready to sign.
struct Opened {
    installation: Installation,
    active: ActiveRing,
    last_event: Timestamp,
}

fn found(stored: Stored, sealing: &SealingKeys, trust_domain: &TrustDomain) -> Result<Opened, KeysError> {
    let Stored { installation, ring, last_event } = stored;
    if installation.trust_domain() != trust_domain {
        return Err(KeysError::Foreign { found: installation.trust_domain().to_string() });
    }
    open(ring.next(), sealing, &installation)?;
    Ok(Opened { active: ActiveRing::new(ring, sealing, &installation)?, installation, last_event })
}

/// The first start. Here the files are written after the store: files beside an empty store mean that it lost its records.
async fn begin(
    store: &RingStore,
    settings: &Settings,
    sealing: &SealingKeys,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<(Opened, Vec<KeyEvent>), KeysError> {
    let installation = Installation::new(trust_domain.clone());
    let current = introduce(settings.algorithm, sealing, &installation, now).await?;
    let next = introduce(settings.algorithm, sealing, &installation, now).await?;
    let created = |key: &SigningKey| KeyEvent::created(key.public().kid(), now);
    let events = vec![created(&current), created(&next)];
    let active = ActiveRing::new(Ring::first(current, next, settings.times, now), sealing, &installation)?;
    records::create(store, &installation, &active, now).await?;
    Ok((Opened { installation, active, last_event: now }, events))
}

/// A new key with its private half sealed.
pub(super) async fn introduce(
    algorithm: SigningAlgorithm,
    sealing: &SealingKeys,
    installation: &Installation,
    now: Timestamp,
) -> Result<SigningKey, KeysError> {
    let pair = generate(algorithm).await?;
    Ok(SigningKey::new(pair.public().clone(), now, seal(&pair, sealing, installation)?))
}
