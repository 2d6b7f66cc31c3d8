//! Takes the steps of the key ring: due step → key files → store → in force; and the timer that takes each when due.
//!
//! The store's compare-and-swap decides. Until it is done the old ring is in force, and the next start repairs whatever a
//! crash leaves; after it, the next start finds the new ring. If the store fails, the current key continues to sign, and
//! its span is extended accordingly.

use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::event::KeyEvent;
use super::mirror::Mirror;
use super::records;
use super::ring::{KeyLife, LeftBehind, Ring, SigningKey, Step};
use super::signing::{KeyPair, SigningError};
use super::{ActiveRing, KeyRing, KeysError, SigningAlgorithm, listing, seal};
use writ_platform::clock::{Clock, Timestamp};

/// How far the clocks of two instances may be apart.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(5);
/// The shortest sleep of the timer.
const MIN_SLEEP: Duration = Duration::from_millis(100);
/// The longest sleep of the timer, because clocks can step.
const MAX_SLEEP: Duration = Duration::from_secs(5);
/// The delay of the first retry after a failure; it doubles with each further one.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(500);
/// The longest delay between two attempts.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);
/// How often a step is attempted if other instances change the ring first.
const MAX_ATTEMPTS: u32 = 3;
/// How many imported keys are stored at once, so that they fit into one transaction of the store.
const IMPORT_BATCH_LEN: usize = 50;

/// State that is kept between steps.
#[derive(Default)]
pub(super) struct RotationState {
    /// A key generated in advance, since generating an RSA key is slow.
    spare: Option<KeyPair>,
    /// The last step failed or was interrupted, so the content of the store is unknown.
    in_doubt: bool,
    /// The ring was put in force before the store could be written: the start has yet to record it.
    pub(super) is_unsettled: bool,
    /// Changes that have not been returned to a caller yet.
    unreported: Vec<KeyEvent>,
}

/// Until it is dropped, the current key signs for no second after `end`.
pub(super) struct ClosingSpan<'a> {
    keys: &'a KeyRing,
    end: Timestamp,
}

impl<'a> ClosingSpan<'a> {
    /// Ends the span of the current key now, or at the latest instant at which it signed if the clock stepped back.
    pub(super) fn new(keys: &'a KeyRing, now: Timestamp) -> Self {
        let mut state = keys.signer_state();
        let end = state.latest.max(now);
        state.closing = Some(end);
        Self { keys, end }
    }
}

impl Drop for ClosingSpan<'_> {
    fn drop(&mut self) {
        self.keys.signer_state().closing = None;
    }
}

/// Generates a key pair on a blocking thread; RSA keys are slow.
pub(super) async fn generate(algorithm: SigningAlgorithm) -> Result<KeyPair, SigningError> {
    spawn_blocking(move || KeyPair::generate(algorithm)).await.map_err(|_| SigningError::Generation)?
}

pub(super) async fn refresh(mirror: &Mirror, ring: &Ring) -> Result<(), KeysError> {
    let (mirror, lives) = (mirror.clone(), ring.lives().collect());
    Ok(blocking(move || mirror.refresh(lives)).await?)
}

pub(super) async fn blocking<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    spawn_blocking(work).await.unwrap_or_else(|cut_off| Err(io::Error::other(cut_off).into()))
}

/// Steps. Each returns the changes of keys, for the caller to audit.
impl KeyRing {
    /// Takes the step that is due at `now`, if any. Forgets a key only if `may_forget`.
    pub async fn advance(&self, now: Timestamp, may_forget: bool) -> Result<Vec<KeyEvent>, KeysError> {
        self.step(now, |ring, fresh, end| match ring.due(self.times, now) {
            Some(Step::Promote) if self.check_instances(ring, now).is_err() => Ok(None),
            Some(Step::Promote) => Ok(Some(ring.promote(fresh, self.times, end, now)?)),
            Some(Step::Forget) if may_forget => Ok(Some(ring.forget(self.times, now))),
            Some(Step::Forget) | None => Ok(None),
        })
        .await
    }

    /// Promotes `next` before it is due.
    ///
    /// # Errors
    /// [`KeysError::TooEarly`] with the time from which it is possible; [`KeysError::LeftBehind`] where an instance would be.
    pub async fn rotate(&self, now: Timestamp) -> Result<Vec<KeyEvent>, KeysError> {
        self.step(now, |ring, fresh, end| {
            let promoted = ring.promote(fresh, self.times, end, now)?;
            self.check_instances(ring, now)?;
            Ok(Some(promoted))
        })
        .await
    }

    /// Whether a promotion leaves no instance behind.
    pub(super) fn check_instances(&self, ring: &Ring, now: Timestamp) -> Result<(), LeftBehind> {
        let (next_since, peers) = (self.active().next_since, self.store.peers());
        ring.schedule().check_instances(ring.version(), next_since, peers, self.times, MAX_CLOCK_DIFFERENCE, now)
    }

    /// Revokes a key: it leaves the JWKS and no longer validates anything.
    ///
    /// # Errors
    /// [`KeysError::Revoke`] if the key does not exist, or nothing would change.
    pub async fn revoke(&self, kid: &str, now: Timestamp) -> Result<Vec<KeyEvent>, KeysError> {
        self.step(now, |ring, fresh, _| Ok(Some(ring.revoke(kid, fresh, self.times, now)?))).await
    }

    /// Cuts all times to `now`, because an operator has checked the clock.
    pub async fn trust_clock(&self, now: Timestamp) -> Result<(), KeysError> {
        self.step(now, |ring, _, _| Ok(Some(ring.trust_clock(self.times, now)))).await?;
        self.signer_state().latest = now;
        Ok(())
    }

    /// Adds the keys of an export to the history. Returns the number of new keys.
    ///
    /// # Errors
    /// [`KeysError::Import`] if a key has no signing times; nothing is added then.
    pub async fn import(&self, export: listing::Export, now: Timestamp) -> Result<usize, KeysError> {
        let before = self.active().ring.past().len();
        for lives in export.lives(now)?.chunks(IMPORT_BATCH_LEN) {
            self.step(now, |ring, _, _| {
                let (ring, added) = ring.import(lives.iter().cloned(), now);
                Ok((added > 0).then_some(ring))
            })
            .await?;
        }
        Ok(self.active().ring.past().len().saturating_sub(before))
    }

    /// Puts the ring on record in force, because another instance has changed it. The span of a key that continued to sign
    /// here is extended until now.
    pub async fn follow(&self, now: Timestamp) -> Result<Vec<KeyEvent>, KeysError> {
        let mut state = self.rotation.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            state.in_doubt = true;
            match self.reload(&mut state, now).await {
                Err(KeysError::Conflict) => {}
                outcome => return outcome.map(|()| std::mem::take(&mut state.unreported)),
            }
        }
        Err(KeysError::Conflict)
    }

    /// Waits until no step is in progress; none begins until the returned guard is dropped.
    pub async fn pause(&self) -> impl Sized + '_ {
        self.rotation.lock().await
    }

    /// Takes one step: `follow` returns the successor of a ring, given a fresh key and the end of the current key's
    /// span, in case it ends. The successor takes effect once it is stored.
    pub(super) async fn step(
        &self,
        now: Timestamp,
        follow: impl Fn(&Ring, SigningKey, Timestamp) -> Result<Option<Ring>, KeysError>,
    ) -> Result<Vec<KeyEvent>, KeysError> {
        let mut state = self.rotation.lock().await;
        // Before a span is closed, which nothing can sign after.
        self.store.wait_until_writable().await?;
        if state.is_unsettled {
            self.attempt(&mut state, now, |ring, _, _| Ok(ring.adjust(self.times, now))).await?;
            state.is_unsettled = false;
        }
        for _ in 0..MAX_ATTEMPTS {
            match self.attempt(&mut state, now, &follow).await {
                Err(KeysError::Conflict) => {}
                outcome => return outcome.map(|()| std::mem::take(&mut state.unreported)),
            }
        }
        Err(KeysError::Conflict)
    }

    async fn attempt(
        &self,
        rotation: &mut RotationState,
        now: Timestamp,
        follow: impl Fn(&Ring, SigningKey, Timestamp) -> Result<Option<Ring>, KeysError>,
    ) -> Result<(), KeysError> {
        self.prepare(rotation).await?;
        if rotation.in_doubt {
            self.reload(rotation, now).await?;
        }
        let begun = Instant::now();
        let closing = ClosingSpan::new(self, now);
        let active = self.active();
        let fresh = self.fresh(rotation, now)?;
        if let Some(ring) = follow(&active.ring, fresh, closing.end)? {
            let successor = self.make_ready(ring)?;
            rotation.in_doubt = true;
            self.store(&active, &successor, now).await?;
            self.put_in_force(rotation, successor, now, begun);
        }
        Ok(())
    }

    /// Makes sure that a spare key exists, since generating an RSA key is slow.
    async fn prepare(&self, rotation: &mut RotationState) -> Result<(), KeysError> {
        if rotation.spare.is_none() {
            rotation.spare = Some(generate(self.algorithm).await?);
        }
        Ok(())
    }

    fn fresh(&self, rotation: &RotationState, now: Timestamp) -> Result<SigningKey, KeysError> {
        let pair = rotation.spare.as_ref().ok_or(SigningError::Generation)?;
        Ok(SigningKey::new(pair.public().clone(), now, seal(pair, &self.sealing, &self.installation)?))
    }

    fn make_ready(&self, ring: Ring) -> Result<ActiveRing, KeysError> {
        ActiveRing::new(ring, &self.sealing, &self.installation)
    }

    /// Writes the files first: if one fails, nothing has changed yet.
    async fn store(&self, active: &ActiveRing, successor: &ActiveRing, now: Timestamp) -> Result<(), KeysError> {
        let is_new = |life: &KeyLife| active.ring.life(life.kid().as_str()).as_ref() != Some(life);
        let changed = successor.ring.lives().filter(is_new).collect();
        let mirror = self.mirror.clone();
        blocking(move || mirror.write(changed)).await?;
        records::replace(&self.store, active, successor, now).await
    }

    /// The step began at `now`; storing it may have taken seconds.
    fn put_in_force(&self, rotation: &mut RotationState, mut successor: ActiveRing, now: Timestamp, begun: Instant) {
        let published = now + begun.elapsed();
        let mut state = self.signer_state();
        let is_next = |ring: &Ring| ring.next().public().kid() == successor.ring.next().public().kid();
        // Not later than now, in case an operator has accepted an earlier time.
        let since = if is_next(&state.active.ring) { state.active.next_since.min(published) } else { published };
        successor.next_since = since;
        rotation.unreported.extend(KeyEvent::between(&state.active.ring, &successor.ring, now));
        rotation.spare.take_if(|spare| spare.public() == successor.ring.next().public());
        rotation.in_doubt = false;
        state.closing = None;
        state.active = successor.into();
    }

    /// Determines the outcome of a step that failed or was interrupted. If it was stored after all, its ring takes effect,
    /// and the span of the key that continued to sign is extended until now.
    async fn reload(&self, rotation: &mut RotationState, now: Timestamp) -> Result<(), KeysError> {
        let begun = Instant::now();
        let stored = records::load(&self.store).await?.ok_or(KeysError::Damaged("the keys in use are missing"))?;
        let closing = ClosingSpan::new(self, now);
        let active = self.active();
        refresh(&self.mirror, &stored.ring).await?;
        let mut found = self.make_ready(stored.ring)?;
        if found.document != active.document {
            if let Some(ring) = found.ring.prolong(active.key.public().kid(), closing.end) {
                let prolonged = self.make_ready(ring)?;
                self.store(&found, &prolonged, now).await?;
                found = prolonged;
            }
            self.put_in_force(rotation, found, now, begun);
        }
        rotation.in_doubt = false;
        Ok(())
    }
}

impl KeyRing {
    /// Takes every step when it is due, for as long as the service runs. A failed step is retried, while the current key
    /// continues to sign. A forgotten key cannot be restored, so none is forgotten while the clock is unsettled.
    pub async fn run(&self, clock: &Clock, on_event: impl Fn(KeyEvent)) -> Infallible {
        let mut retry = MIN_RETRY_DELAY;
        loop {
            let may_forget = clock.is_settled();
            match self.on_time(clock, may_forget).await {
                Ok(events) => {
                    events.into_iter().for_each(&on_event);
                    retry = MIN_RETRY_DELAY;
                    let due = self.next_due(may_forget);
                    // Elapsed or woken, the ring is checked again. A step that is still due waits for other instances.
                    let pause = clock.until(due).clamp(MIN_SLEEP, MAX_SLEEP);
                    let _ = timeout(pause, self.wake.notified()).await;
                }
                Err(error) => {
                    tracing::error!(%error, "the key ring could not take a step; the current key continues to sign");
                    sleep(retry).await;
                    retry = MAX_RETRY_DELAY.min(retry * 2);
                }
            }
        }
    }

    fn next_due(&self, may_forget: bool) -> Timestamp {
        let active = self.active();
        if may_forget { active.ring.next_due(self.times) } else { active.ring.promotion_due(self.times) }
    }

    /// Reads the clock after the spare key exists: generating one may have taken seconds.
    async fn on_time(&self, clock: &Clock, may_forget: bool) -> Result<Vec<KeyEvent>, KeysError> {
        self.store.wait_until_writable().await?;
        self.prepare(&mut *self.rotation.lock().await).await?;
        let now = clock.now();
        self.observe(now);
        self.advance(now, may_forget).await
    }
}
