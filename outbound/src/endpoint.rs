//! One configured endpoint: limits calls, retries, and suspends calls to an unavailable service.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use reqwest::Client;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::breaker::Breaker;
use crate::call::{Answer, Request, Unreachable, post_with_retry};
use crate::files::{Files, Settings, SetupError, public_part};
use writ_platform::shares::Shares;

/// The limit on concurrent calls for all clients together: a quarter of the limit on concurrent requests.
const MAX_CALLS: usize = 256;

/// A service that can be called.
pub struct Outbound {
    settings: Settings,
    client: ArcSwap<Client>,
    last_read: Mutex<LastRead>,
    breaker: Arc<Mutex<Breaker>>,
    /// The calls in progress, by client.
    calls: Arc<Shares<String>>,
    /// Connections are pooled and shared, so they must not belong to the runtime of a worker that may end before others.
    runtime: Handle,
}

/// The outcome of the last reload.
#[derive(PartialEq, Eq)]
enum LastRead {
    Digest([u8; 32]),
    Error(String),
}

impl Outbound {
    /// Reads the files. Calls will run on the current runtime, regardless of the caller's.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let runtime = Handle::try_current().map_err(|_| SetupError::NoRuntime)?;
        let files = Files::read(&settings)?;
        Ok(Self {
            client: ArcSwap::from_pointee(files.client(&settings)?),
            last_read: Mutex::new(LastRead::Digest(files.digest())),
            settings,
            breaker: Arc::default(),
            calls: Shares::new(MAX_CALLS),
            runtime,
        })
    }

    /// Sends `request` on behalf of `client`.
    ///
    /// Only for idempotent requests: one without an answer, or with a status of 500 or more, is sent once more. The call
    /// continues if the caller stops waiting, so that its outcome counts for the next one.
    ///
    /// # Errors
    /// [`Unreachable`], at the latest after [`Settings::timeout`].
    pub async fn post(&self, client: &str, request: Request) -> Result<Answer, Unreachable> {
        let place = self.calls.take(client.to_owned()).map_err(|_| Unreachable::Busy)?;
        if !locked(&self.breaker).admits(Instant::now()) {
            return Err(Unreachable::Resting);
        }
        let (client, breaker) = (self.client.load_full(), Arc::clone(&self.breaker));
        let (endpoint, limit) = (self.settings.endpoint.clone(), self.settings.timeout);
        let call = async move {
            let outcome = timeout(limit, post_with_retry(&client, &endpoint, &request)).await;
            let outcome = outcome.unwrap_or(Err(Unreachable::Timeout));
            let mut breaker = locked(&breaker);
            if outcome.as_ref().is_err_and(Unreachable::is_unavailability) {
                breaker.failed(Instant::now());
            } else {
                breaker.succeeded();
            }
            drop((breaker, place));
            outcome
        };
        self.runtime.spawn(call).await.unwrap_or(Err(Unreachable::GivenUp))
    }

    /// Reads the files again and uses them if all are valid; otherwise the last valid ones stay in use.
    ///
    /// `None` if nothing has changed since the last call, so that an error is reported once.
    pub fn reload(&self) -> Option<Result<(), SetupError>> {
        let files = Files::read(&self.settings);
        let now = match &files {
            Ok(files) => LastRead::Digest(files.digest()),
            Err(error) => LastRead::Error(error.to_string()),
        };
        let mut last_read = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        if *last_read == now {
            return None;
        }
        *last_read = now;
        let client = files.and_then(|files| files.client(&self.settings));
        Some(client.map(|client| self.client.store(Arc::new(client))))
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outbound").field(&public_part(&self.settings.endpoint)).finish_non_exhaustive()
    }
}

fn locked(breaker: &Mutex<Breaker>) -> std::sync::MutexGuard<'_, Breaker> {
    breaker.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
