//! Key sets of another party, fetched over HTTPS and cached.
//!
//! A lookup is answered from the cache whenever possible. A fetch starts if the key set has reached its maximum age, if
//! a token names a key that the set does not contain, or if no set has been fetched yet. At most one fetch runs at a
//! time, and unknown key IDs cause at most one fetch per cool-down. While the publisher is unreachable, the last key set
//! stays in use until it is stale. After a failed fetch, lookups that the cache cannot answer fail immediately and do
//! not wait for the next attempt.

mod cache;
mod fetch;
mod settings;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use jsonwebtoken::Algorithm;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use self::cache::{Cache, Step};
use self::fetch::{FetchError, Fetched, Fetcher};
use crate::jwks::{Candidates, KeySet};

pub(crate) use self::fetch::check_root_certificates;

pub use self::cache::KeyError;
pub use self::fetch::SetupError;
pub use self::settings::{FetchOutcome, Location, Observer, Settings};

/// Fetches the keys once, as [`RemoteKeys`] would, and caches nothing: for a check of the settings.
///
/// # Errors
/// Any failure of the setup, the request or the parsing; `source()` gives the cause.
pub async fn fetch_once(settings: &Settings) -> Result<KeySet, Box<dyn std::error::Error + Send + Sync>> {
    match Fetcher::new(settings)?.fetch(None).await? {
        Fetched::New { keys, .. } => Ok(keys),
        Fetched::Unchanged { .. } => Err(Box::new(FetchError::Cancelled)),
    }
}

/// A cached key set of another party. Clones share the cache.
#[derive(Clone)]
pub struct RemoteKeys(Arc<Shared>);

struct Shared {
    cache: Mutex<Cache>,
    fetcher: Fetcher,
    observer: Option<Observer>,
    /// The number of fetches that have ended.
    ended: watch::Sender<u64>,
    /// The last report of unusable keys that was logged.
    left_out: Mutex<Option<String>>,
}

impl RemoteKeys {
    /// Validates the settings and creates the HTTPS client; fetches nothing.
    ///
    /// # Errors
    /// [`SetupError`] if the URL is not an `https` URL, or if there are no usable root certificates.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        Ok(Self(Arc::new(Shared {
            cache: Mutex::new(Cache::new(settings)),
            fetcher: Fetcher::new(settings)?,
            observer: settings.observer.clone(),
            ended: watch::Sender::new(0),
            left_out: Mutex::new(None),
        })))
    }

    /// The keys for a token with this `kid` and `alg`. Waits for a fetch only if the cache cannot answer.
    ///
    /// Must be called inside a Tokio runtime with I/O and time enabled; fetches are tasks of that runtime.
    ///
    /// # Errors
    /// [`KeyError`] if there is no such key, or if that cannot be determined now.
    pub async fn key(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Candidates, KeyError> {
        self.key_if_admitted(kid, algorithm, || Some(())).await
    }

    /// As [`RemoteKeys::key`], for callers that limit how many lookups wait at a time. Before a lookup waits it calls
    /// `enter`, and it holds the returned permit until it ends. If `enter` returns `None`, it does not wait.
    ///
    /// # Errors
    /// [`KeyError`], as for [`RemoteKeys::key`]; [`KeyError::Unavailable`] if `enter` returns `None`.
    pub async fn key_if_admitted<P>(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        enter: impl FnOnce() -> Option<P>,
    ) -> Result<Candidates, KeyError> {
        let requested_at = Instant::now();
        let look_up =
            |now| Shared::advance(&self.0, now, |cache, now| cache.look_up(kid, algorithm, requested_at, now));
        if let Some(result) = look_up(requested_at) {
            return result;
        }
        let _permit = enter().ok_or(KeyError::Unavailable)?;
        let mut ended = self.0.ended.subscribe();
        loop {
            // A fetch may have ended before the subscription.
            if let Some(result) = look_up(Instant::now()) {
                return result;
            }
            ended.changed().await.map_err(|_| KeyError::Unavailable)?;
        }
    }

    /// Starts the first fetch, so that the first token does not wait for it. Does nothing if a key set is cached and
    /// not due for a refresh.
    pub fn warm(&self) {
        Shared::refresh_if_due(&self.0);
    }
}

/// Shows the location of the keys only.
impl fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteKeys").field(&self.0.fetcher).finish()
    }
}

impl Shared {
    /// Runs one step of the cache, and starts a fetch if the step requires it.
    fn advance<T>(this: &Arc<Self>, now: Instant, step: impl FnOnce(&mut Cache, Instant) -> Step<T>) -> T {
        let Step { start_fetch, result } = step(&mut this.lock_cache(), now);
        if start_fetch {
            let fetch = FetchTask { shared: Arc::clone(this), ended: false };
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(fetch.run())),
                Err(error) => tracing::error!(%error, "keys can only be fetched inside a Tokio runtime"),
            }
        }
        result
    }

    /// Fetches the set if it is due. It is refreshed without lookups too: otherwise a withdrawn key would stay valid
    /// until the next lookup.
    fn refresh_if_due(this: &Arc<Self>) {
        Self::advance(this, Instant::now(), Cache::refresh_if_due);
    }

    async fn refresh_at(this: Weak<Self>, due: Instant, ended: u64) {
        tokio::time::sleep_until(due).await;
        if let Some(this) = this.upgrade()
            && *this.ended.borrow() == ended
        {
            Self::refresh_if_due(&this);
        }
    }

    /// Ignores poisoning: no code that holds the lock leaves the cache in an inconsistent state.
    fn lock_cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs the unusable keys of a set if they differ from those of the previous fetch.
    fn log_left_out(&self, left_out: Option<String>) {
        let mut logged = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left_out) = left_out.as_ref().filter(|_| *logged != left_out) {
            tracing::warn!(left_out, from = ?self.fetcher, "keys of a key set cannot be used; the others remain in use");
        }
        *logged = left_out;
    }

    /// Records the outcome of a fetch, and returns when the next one is due.
    fn finish_fetch(&self, fetched: Result<Fetched, FetchError>) -> Instant {
        let (outcome, due) = self.lock_cache().finish_fetch(fetched, Instant::now());
        if let Some(observer) = &self.observer {
            observer(outcome);
        }
        self.ended.send_modify(|ended| *ended += 1);
        due
    }
}

/// The fetch that is in progress. It is a task of its own, because other lookups wait for it even if the one that
/// started it is cancelled.
struct FetchTask {
    shared: Arc<Shared>,
    ended: bool,
}

impl FetchTask {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let etag = shared.lock_cache().etag();
        let fetched = shared.fetcher.fetch(etag.as_deref()).await;
        match &fetched {
            Ok(Fetched::New { keys, .. }) => shared.log_left_out(keys.left_out()),
            Ok(Fetched::Unchanged { .. }) => {}
            Err(error) => {
                tracing::warn!(error = fetch::error_chain(error), from = ?shared.fetcher, "keys could not be fetched");
            }
        }
        self.ended = true;
        let due = shared.finish_fetch(fetched);
        let ended = *shared.ended.borrow();
        let weak = Arc::downgrade(&shared);
        drop((self, shared));
        Shared::refresh_at(weak, due, ended).await;
    }
}

/// A task is dropped before its end if its runtime stops. The fetch has then failed, so that no lookup waits for it.
impl Drop for FetchTask {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.finish_fetch(Err(FetchError::Cancelled));
        }
    }
}
