//! Keys that somebody else publishes, fetched over HTTPS and kept.
//!
//! A question for a key is answered from memory whenever it can be. A fetch starts in three cases: the set has reached
//! its age; a token names a key that the set lacks; nothing has been fetched yet. There is never more than one at a
//! time, whoever asks, and a storm of unknown names causes one for each cool-down. While the publisher is away the last
//! good set goes on serving, until it is stale; what it cannot answer is unavailable at once: nobody waits for another
//! try of a fetch that has failed.

mod cache;
mod fetch;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

use self::cache::{Cache, Next};
use self::fetch::Fetcher;
use crate::jwks::{Candidates, KeySet, NoKey};

pub(crate) use self::fetch::check_root_certificates;

pub use self::fetch::SetupError;

/// Where the keys are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The HTTPS address of the JWK set.
    JwksUri(Url),
    /// The metadata of this issuer name the address: OIDC Discovery 1.0 §4, then RFC 8414 §3.
    Discovery {
        /// An HTTPS URL; `issuer` in the metadata must be the same text.
        issuer: String,
    },
}

/// Told of the outcome of every fetch; must return at once.
pub type Observer = Arc<dyn Fn(FetchOutcome) + Send + Sync>;

/// How one fetch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FetchOutcome {
    /// A new set is in use.
    Ok,
    /// The publisher says that the set has not changed.
    Unchanged,
    /// No answer, or none that can be used; the last good set stays.
    Error,
}

/// How keys are fetched and how long they are kept.
#[derive(Clone)]
pub struct Settings {
    /// Where they are.
    pub location: Location,
    /// Whom to trust for HTTPS, one or more certificates in PEM; `None`: the roots of the system.
    pub root_certificates_pem: Option<Vec<u8>>,
    /// How long connecting may take, TLS included; default 5 s.
    pub connect_timeout: Duration,
    /// How long a fetch may take as a whole, discovery included; default 5 s.
    pub timeout: Duration,
    /// The least time between two fetches that an unknown key id asks for, and between a failed fetch and the next;
    /// default 30 s. It passes after a failure too: otherwise random key ids would cause a fetch each.
    pub cool_down: Duration,
    /// How old a set grows before it is refreshed if the publisher does not say (`Cache-Control: max-age`, honoured
    /// from 1 s to 24 h and up to half of `max_stale`); default 5 min.
    pub default_max_age: Duration,
    /// How long after the last successful fetch a set may still serve; default 24 h.
    pub max_stale: Duration,
    /// Told how each fetch ends.
    pub observer: Option<Observer>,
}

impl Settings {
    /// The defaults, for keys at `location`.
    pub fn new(location: Location) -> Self {
        Self {
            location,
            root_certificates_pem: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            cool_down: Duration::from_secs(30),
            default_max_age: Duration::from_secs(5 * 60),
            max_stale: Duration::from_secs(24 * 60 * 60),
            observer: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("location", &self.location).finish_non_exhaustive()
    }
}

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// An answer of the publisher that is newer than the question lacks it.
    #[error("the key is not published")]
    Unknown,
    /// The keys that are held lack it, and the publisher is not asked again so soon: it may have been published since.
    #[error("the key is not among those that were fetched last, and it is too soon to fetch them again")]
    CoolingDown {
        /// After this time a question is answered by a fetch of its own.
        retry_after: Duration,
    },
    /// The key is published, but the token's algorithm is not one of its own.
    #[error("the algorithm does not fit the key")]
    Unfit,
    /// The publisher could not be asked; the token may well be good.
    #[error("the keys cannot be fetched")]
    Unavailable,
}

impl From<NoKey> for KeyError {
    fn from(no_key: NoKey) -> Self {
        match no_key {
            NoKey::Unknown => Self::Unknown,
            NoKey::Unfit => Self::Unfit,
        }
    }
}

/// Fetches the keys once, as [`RemoteKeys`] would, and keeps nothing: for a look beforehand.
///
/// # Errors
/// Whatever is in the way; the causes are its sources.
pub async fn fetch_once(settings: &Settings) -> Result<KeySet, Box<dyn std::error::Error + Send + Sync>> {
    match Fetcher::new(settings)?.fetch(None).await? {
        fetch::Fetched::New { keys, .. } => Ok(keys),
        fetch::Fetched::Unchanged { .. } => Err(Box::new(fetch::FetchError::Dropped)),
    }
}

/// A published key set; clones share it.
#[derive(Clone)]
pub struct RemoteKeys(Arc<Shared>);

struct Shared {
    cache: Mutex<Cache>,
    fetcher: Fetcher,
    observer: Option<Observer>,
    /// Counts the fetches that have ended.
    ended: watch::Sender<u64>,
    /// What the log was last told of keys that are left out.
    left_out: Mutex<Option<String>>,
}

impl RemoteKeys {
    /// Prepares to fetch; nothing is fetched yet.
    ///
    /// # Errors
    /// [`SetupError`] if the address is not `https`, or there are no root certificates.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        Ok(Self(Arc::new(Shared {
            cache: Mutex::new(Cache::new(settings)),
            fetcher: Fetcher::new(settings)?,
            observer: settings.observer.clone(),
            ended: watch::Sender::new(0),
            left_out: Mutex::new(None),
        })))
    }

    /// The keys for a token with this `kid` and `alg`. Waits for a fetch only if memory has no answer.
    ///
    /// Must be called inside a Tokio runtime with I/O and time enabled; fetches are tasks of that runtime.
    ///
    /// # Errors
    /// [`KeyError`]
    pub async fn key(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Candidates, KeyError> {
        self.key_if_admitted(kid, algorithm, || Some(())).await
    }

    /// The same for callers that bound how many of them wait: one that memory cannot answer holds what `enter` gives
    /// it for as long as it waits, and does not wait without.
    ///
    /// # Errors
    /// [`KeyError`]; [`KeyError::Unavailable`] if `enter` gives nothing.
    pub async fn key_if_admitted<P>(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        enter: impl FnOnce() -> Option<P>,
    ) -> Result<Candidates, KeyError> {
        let asked = Instant::now();
        let mut ended = self.0.ended.subscribe();
        let look = || Shared::look(&self.0, |cache, now| cache.look(kid, algorithm, asked, now));
        if let Some(answer) = look() {
            return answer;
        }
        let _place = enter().ok_or(KeyError::Unavailable)?;
        loop {
            ended.changed().await.map_err(|_| KeyError::Unavailable)?;
            if let Some(answer) = look() {
                return answer;
            }
        }
    }

    /// Starts the first fetch if there was none, so that the first token need not wait for it.
    pub fn warm(&self) {
        Shared::refresh(&self.0);
    }
}

/// Where the keys come from, and nothing of them.
impl fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteKeys").field(&self.0.fetcher).finish()
    }
}

impl Shared {
    /// Asks the cache, and starts the fetch that it may order.
    fn look<T>(this: &Arc<Self>, ask: impl FnOnce(&mut Cache, Instant) -> Next<T>) -> T {
        let Next { fetch, answer } = ask(&mut this.cache(), Instant::now());
        if fetch {
            let flight = Flight { shared: Arc::clone(this), ended: false };
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(flight.run())),
                Err(error) => tracing::error!(%error, "keys can only be fetched inside a Tokio runtime"),
            }
        }
        answer
    }

    /// Fetches if it is time to. The set is kept fresh between questions too: a withdrawn key must not serve on only
    /// because nobody asked in the meantime.
    fn refresh(this: &Arc<Self>) {
        Self::look(this, Cache::tick);
    }

    async fn refresh_when_due(this: Weak<Self>, due: Instant, ended: u64) {
        tokio::time::sleep_until(due).await;
        if let Some(this) = this.upgrade()
            && *this.ended.borrow() == ended
        {
            Self::refresh(&this);
        }
    }

    /// Nothing that runs under the lock can leave the cache half changed.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once for each change: a set is fetched again and again.
    fn tell_left_out(&self, left_out: Option<String>) {
        let mut told = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left_out) = left_out.as_ref().filter(|_| *told != left_out) {
            tracing::warn!(left_out, from = ?self.fetcher, "keys of a set cannot be used; the others serve");
        }
        *told = left_out;
    }

    fn conclude(&self, fetched: Result<fetch::Fetched, fetch::FetchError>) -> Instant {
        let (outcome, due) = self.cache().conclude(fetched, Instant::now());
        if let Some(observer) = &self.observer {
            observer(outcome);
        }
        self.ended.send_modify(|ended| *ended += 1);
        due
    }
}

/// The one fetch that is under way. It is a task of its own: whoever asked may go away, others still wait.
struct Flight {
    shared: Arc<Shared>,
    ended: bool,
}

impl Flight {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let tag = shared.cache().tag();
        let fetched = shared.fetcher.fetch(tag.as_deref()).await;
        match &fetched {
            Ok(fetch::Fetched::New { keys, .. }) => shared.tell_left_out(keys.left_out()),
            Ok(fetch::Fetched::Unchanged { .. }) => {}
            Err(error) => {
                tracing::warn!(error = fetch::chain(error), from = ?shared.fetcher, "keys could not be fetched");
            }
        }
        self.ended = true;
        let due = shared.conclude(fetched);
        let ended = *shared.ended.borrow();
        let weak = Arc::downgrade(&shared);
        drop((self, shared));
        Shared::refresh_when_due(weak, due, ended).await;
    }
}

/// A task can be dropped half-way, with its runtime; then the fetch has failed and nobody may wait for it for ever.
impl Drop for Flight {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.conclude(Err(fetch::FetchError::Dropped));
        }
    }
}
