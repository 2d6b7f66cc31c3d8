//! Steps of the ring made real: what is due → files → store → in force. And the timer that asks what is due.
//!
//! The store's swap is what counts. Until it is done the old ring is in force, and a crash leaves nothing that the next
//! start does not put right; after it a crash leaves a ring that the next start finds. If the store fails, the current
//! key signs on, and that counts as its span.

use std::convert::Infallible;
use std::io;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use writ_verifier::TrustDomain;

use super::mirror::Mirror;
use super::public::Kid;
use super::records::{self, Installation, Stored};
use super::ring::{Found, KeyLife, PastKey, Ring, SigningKey, Step};
use super::seal::SealingKeys;
use super::signing::{KeyPair, SigningError};
use super::{Desk, Held, KeyRing, KeysError, Settings, SigningAlgorithm, listing, open, seal};
use crate::clock::Timestamp;
use crate::store::Store;

/// The timer sleeps no longer than this: clocks jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// After a failure the next attempt comes after this, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest time between two attempts.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How often a step is looked at anew because another instance was quicker.
const ATTEMPTS: u32 = 3;
/// How many imported keys are stored at once: as many as surely fit into a change of the store.
const IMPORTED_AT_ONCE: usize = 50;

/// What happened to a key; for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEvent {
    /// When.
    pub at: Timestamp,
    /// What.
    pub change: KeyChange,
}

/// What can happen to a key that is worth a line in the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChange {
    /// A new key is published.
    Created {
        /// The new key.
        kid: Kid,
    },
    /// Another key signs.
    Rotated {
        /// The key that signed.
        from: Kid,
        /// The key that signs now.
        to: Kid,
    },
    /// A key validates nothing any more.
    Revoked {
        /// The revoked key.
        kid: Kid,
    },
}

/// What belongs to whoever takes the next step.
#[derive(Default)]
pub(super) struct Turn {
    /// A key made ahead of need, since an RSA key takes its time.
    spare: Option<KeyPair>,
    /// The last step failed, or was cut off; what the store holds is not known.
    in_doubt: bool,
    /// What happened and has not been told yet.
    untold: Vec<KeyEvent>,
}

/// While this lives the current key signs for no second after `end`.
pub(super) struct Closing<'a> {
    keys: &'a KeyRing,
    end: Timestamp,
}

impl<'a> Closing<'a> {
    /// The span of the current key ends now, or with the latest instant at which it signed if the clock stepped back.
    pub(super) fn new(keys: &'a KeyRing, now: Timestamp) -> Self {
        let mut desk = keys.desk();
        let end = desk.latest.max(now);
        desk.closing = Some(end);
        Self { keys, end }
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.keys.desk().closing = None;
    }
}

/// Opening.
impl KeyRing {
    /// The ring of the store, or the first one if there never was one; rotations that were missed are made up for.
    ///
    /// With it comes what happened to the keys.
    ///
    /// # Errors
    /// [`KeysError`]; where the store is foreign or damaged, or the sealing key is wrong, nothing was changed.
    pub async fn open(
        store: Store,
        settings: &Settings,
        sealing: SealingKeys,
        trust_domain: &TrustDomain,
        now: Timestamp,
    ) -> Result<(Self, Vec<KeyEvent>), KeysError> {
        let mirror = Mirror::new(store.key_folder(), trust_domain.clone());
        let (found, mut events) = match records::load(&store).await? {
            Some(stored) => (found(stored, &sealing, trust_domain)?, Vec::new()),
            None => begin(&store, settings, &sealing, trust_domain, now).await?,
        };
        refresh(&mirror, &found.held.ring).await?;
        let keys = Self {
            store,
            mirror,
            installation: found.installation,
            sealing,
            algorithm: settings.algorithm,
            times: settings.times,
            desk: Desk { held: found.held.into(), latest: Timestamp::default(), closing: None }.into(),
            turn: tokio::sync::Mutex::default(),
            wake: Notify::new(),
        };
        events.extend(keys.settle(found.last_event, now).await?);
        Ok((keys, events))
    }

    /// Whatever must be on record before the first signature: a rotation that was missed, the times now in force, and
    /// private halves under the sealing key now in force.
    async fn settle(&self, last_event: Timestamp, now: Timestamp) -> Result<Vec<KeyEvent>, KeysError> {
        let caught_up = self.step(now, |ring, fresh, _| match ring.due(self.times, now) {
            Some(Step::Promote) => Ok(Some(ring.promote(fresh, self.times, ring.ended(last_event, now), now)?)),
            Some(Step::Forget) | None => Ok(None),
        });
        let events = caught_up.await?;
        self.step(now, |ring, _, _| Ok(ring.adjust(self.times))).await?;
        self.step(now, |ring, _, _| self.resealed(ring)).await?;
        Ok(events)
    }

    /// `None` if all is sealed with the sealing key in force.
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

/// A ring that was found in the store, ready to sign.
struct Opened {
    installation: Installation,
    held: Held,
    last_event: Timestamp,
}

fn found(stored: Stored, sealing: &SealingKeys, trust_domain: &TrustDomain) -> Result<Opened, KeysError> {
    let Stored { installation, ring, last_event } = stored;
    if installation.trust_domain() != trust_domain {
        return Err(KeysError::Foreign { found: installation.trust_domain().to_string() });
    }
    open(ring.next(), sealing, &installation)?;
    Ok(Opened { held: Held::new(ring, sealing, &installation)?, installation, last_event })
}

/// The first start. The files come after the store here: files beside an empty store mean that it lost its records.
async fn begin(
    store: &Store,
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
    let held = Held::new(Ring::first(current, next, settings.times, now), sealing, &installation)?;
    records::create(store, &installation, &held, now).await?;
    Ok((Opened { installation, held, last_event: now }, events))
}

/// A new key, its private half under seal.
pub(super) async fn introduce(
    algorithm: SigningAlgorithm,
    sealing: &SealingKeys,
    installation: &Installation,
    now: Timestamp,
) -> Result<SigningKey, KeysError> {
    let pair = generate(algorithm).await?;
    Ok(SigningKey::new(pair.public().clone(), now, seal(&pair, sealing, installation)?))
}

async fn generate(algorithm: SigningAlgorithm) -> Result<KeyPair, SigningError> {
    spawn_blocking(move || KeyPair::generate(algorithm)).await.map_err(|_| SigningError::Generation)?
}

async fn refresh(mirror: &Mirror, ring: &Ring) -> Result<(), KeysError> {
    let (mirror, lives) = (mirror.clone(), ring.lives().collect());
    Ok(blocking(move || mirror.refresh(lives)).await?)
}

pub(super) async fn blocking<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    spawn_blocking(work).await.unwrap_or_else(|cut_off| Err(io::Error::other(cut_off).into()))
}

/// Steps. Each gives what happened to the keys; whoever asked for it records that.
impl KeyRing {
    /// Takes the step that is due at `now`, if one is.
    pub async fn tend(&self, now: Timestamp) -> Result<Vec<KeyEvent>, KeysError> {
        self.step(now, |ring, fresh, end| match ring.due(self.times, now) {
            Some(Step::Promote) => Ok(Some(ring.promote(fresh, self.times, end, now)?)),
            Some(Step::Forget) => Ok(Some(ring.forget(self.times, now))),
            None => Ok(None),
        })
        .await
    }

    /// Promotes `next` before it is due.
    ///
    /// # Errors
    /// [`KeysError::TooEarly`] with the time from which it is possible.
    pub async fn rotate(&self, now: Timestamp) -> Result<Vec<KeyEvent>, KeysError> {
        self.step(now, |ring, fresh, end| Ok(Some(ring.promote(fresh, self.times, end, now)?))).await
    }

    /// Revokes a key: it leaves the JWKS and validates nothing any more.
    ///
    /// # Errors
    /// [`KeysError::Revoke`] if there is no such key or nothing would change.
    pub async fn revoke(&self, kid: &str, now: Timestamp) -> Result<Vec<KeyEvent>, KeysError> {
        self.step(now, |ring, fresh, _| Ok(Some(ring.revoke(kid, fresh, self.times, now)?))).await
    }

    /// Takes `now` as right: what lies beyond it came of a wrong clock.
    pub async fn trust_clock(&self, now: Timestamp) -> Result<(), KeysError> {
        self.step(now, |ring, _, _| Ok(Some(ring.trust_clock(self.times, now)))).await?;
        self.desk().latest = now;
        Ok(())
    }

    /// Adds the keys of an export to the history. Returns how many were not known.
    ///
    /// # Errors
    /// [`KeysError::Import`] if a key has no times; nothing is added then.
    pub async fn import(&self, export: listing::Export, now: Timestamp) -> Result<usize, KeysError> {
        let before = self.held().ring.past().len();
        for lives in export.lives(now)?.chunks(IMPORTED_AT_ONCE) {
            self.step(now, |ring, _, _| {
                let (ring, added) = ring.import(lives.iter().cloned(), now);
                Ok((added > 0).then_some(ring))
            })
            .await?;
        }
        Ok(self.held().ring.past().len().saturating_sub(before))
    }

    /// Takes one step: `follow` says what comes after a ring, given a fresh key and the instant at which the current
    /// key ends if it is to end. What it gives is in force once it is stored.
    async fn step(
        &self,
        now: Timestamp,
        follow: impl Fn(&Ring, SigningKey, Timestamp) -> Result<Option<Ring>, KeysError>,
    ) -> Result<Vec<KeyEvent>, KeysError> {
        let mut turn = self.turn.lock().await;
        for _ in 0..ATTEMPTS {
            match self.attempt(&mut turn, now, &follow).await {
                Err(KeysError::Conflict) => {}
                outcome => return outcome.map(|()| std::mem::take(&mut turn.untold)),
            }
        }
        Err(KeysError::Conflict)
    }

    async fn attempt(
        &self,
        turn: &mut Turn,
        now: Timestamp,
        follow: impl Fn(&Ring, SigningKey, Timestamp) -> Result<Option<Ring>, KeysError>,
    ) -> Result<(), KeysError> {
        self.prepare(turn).await?;
        if turn.in_doubt {
            self.look_again(turn, now).await?;
        }
        let closing = Closing::new(self, now);
        let held = self.held();
        let fresh = self.fresh(turn, now)?;
        if let Some(ring) = follow(&held.ring, fresh, closing.end)? {
            let successor = self.make_ready(ring)?;
            turn.in_doubt = true;
            self.store(&held, &successor, now).await?;
            self.put_in_force(turn, successor, now);
        }
        Ok(())
    }

    /// Makes sure that a key is at hand, since an RSA key takes its time.
    async fn prepare(&self, turn: &mut Turn) -> Result<(), KeysError> {
        if turn.spare.is_none() {
            turn.spare = Some(generate(self.algorithm).await?);
        }
        Ok(())
    }

    fn fresh(&self, turn: &Turn, now: Timestamp) -> Result<SigningKey, KeysError> {
        let pair = turn.spare.as_ref().ok_or(SigningError::Generation)?;
        Ok(SigningKey::new(pair.public().clone(), now, seal(pair, &self.sealing, &self.installation)?))
    }

    fn make_ready(&self, ring: Ring) -> Result<Held, KeysError> {
        Held::new(ring, &self.sealing, &self.installation)
    }

    /// The files first: should one of them not be written, nothing has happened yet.
    async fn store(&self, held: &Held, successor: &Held, now: Timestamp) -> Result<(), KeysError> {
        let known: Vec<KeyLife> = held.ring.lives().collect();
        let changed = successor.ring.lives().filter(|life| !known.contains(life)).collect();
        let mirror = self.mirror.clone();
        blocking(move || mirror.write(changed)).await?;
        records::replace(&self.store, held, successor, now).await
    }

    fn put_in_force(&self, turn: &mut Turn, successor: Held, now: Timestamp) {
        let mut desk = self.desk();
        turn.untold.extend(KeyEvent::between(&desk.held.ring, &successor.ring, now));
        turn.spare.take_if(|spare| spare.public() == successor.ring.next().public());
        turn.in_doubt = false;
        desk.closing = None;
        desk.held = successor.into();
    }

    /// Finds out what became of a step whose outcome is not known. If it was stored after all, its ring comes in force,
    /// and the key that signed on meanwhile did so until now.
    async fn look_again(&self, turn: &mut Turn, now: Timestamp) -> Result<(), KeysError> {
        let stored = records::load(&self.store).await?.ok_or(KeysError::Damaged("the keys in use are missing"))?;
        let closing = Closing::new(self, now);
        let held = self.held();
        refresh(&self.mirror, &stored.ring).await?;
        let mut found = self.make_ready(stored.ring)?;
        if found.document != held.document {
            if let Some(ring) = found.ring.prolong(held.key.public().kid(), closing.end) {
                let prolonged = self.make_ready(ring)?;
                self.store(&found, &prolonged, now).await?;
                found = prolonged;
            }
            self.put_in_force(turn, found, now);
        }
        turn.in_doubt = false;
        Ok(())
    }
}

impl KeyEvent {
    fn created(kid: &Kid, at: Timestamp) -> Self {
        Self { at, change: KeyChange::Created { kid: kid.clone() } }
    }

    /// What happened between two rings.
    fn between(old: &Ring, new: &Ring, at: Timestamp) -> Vec<Self> {
        let (from, to) = (old.current().public().kid(), new.current().public().kid());
        let rotated = (from != to).then(|| KeyChange::Rotated { from: from.clone(), to: to.clone() });
        let is_ours = |kid: &Kid| !matches!(old.find(kid.as_str()), Found::Unknown | Found::Revoked);
        let revoked = new.past().iter().filter(|(kid, key)| matches!(key, PastKey::Revoked(_)) && is_ours(kid));
        let created = [new.current(), new.next()].into_iter().map(|key| key.public().kid());
        let created = created.filter(|kid| old.find(kid.as_str()) == Found::Unknown);
        let changes = revoked.map(|(kid, _)| KeyChange::Revoked { kid: kid.clone() });
        let changes = changes.chain(rotated).chain(created.map(|kid| KeyChange::Created { kid: kid.clone() }));
        changes.map(|change| Self { at, change }).collect()
    }
}

/// The timer.
impl KeyRing {
    /// Takes every step when it is due, for as long as the service runs. A step that fails is tried again and again,
    /// while the current key signs on.
    pub async fn run(&self, on_event: impl Fn(KeyEvent)) -> Infallible {
        let mut retry = FIRST_RETRY;
        loop {
            match self.on_time().await {
                Ok(events) => {
                    events.into_iter().for_each(&on_event);
                    retry = FIRST_RETRY;
                    let due = until(self.held().ring.next_due(self.times));
                    // Elapsed or woken, the ring is asked again.
                    let _ = timeout(due.min(LONGEST_SLEEP), self.wake.notified()).await;
                }
                Err(error) => {
                    tracing::error!(%error, "the key ring could not take a step; the current key signs on");
                    sleep(retry).await;
                    retry = LAST_RETRY.min(retry * 2);
                }
            }
        }
    }

    /// The clock is read once a key is at hand: making one may have taken seconds.
    async fn on_time(&self) -> Result<Vec<KeyEvent>, KeysError> {
        self.prepare(&mut *self.turn.lock().await).await?;
        let now = Timestamp::now();
        self.observe(now);
        self.tend(now).await
    }
}

/// How long it is until `due` by the system's clock, fractions included.
fn until(due: Timestamp) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(due.epoch()).saturating_sub(now)
}
