//! How many requests a client may make, and how many are worked on at one time.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::client::ClientId;

/// Requests of all clients that are worked on at one time; one more is refused at once.
pub const MAX_IN_WORK: usize = 1024;

/// Those of them that may wait for the keys of one issuer. They share one fetch, so they cost a place and nothing else.
pub const MAX_WAITING_FOR_KEYS: usize = MAX_IN_WORK / 2;

/// `[limits]`, as far as it concerns one client.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The size of each client's bucket, refilled at that rate a second; `None`: no limit.
    pub requests_per_second_per_client: Option<NonZeroU32>,
}

/// The client's bucket is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests from this client")]
pub struct RateLimited {
    /// When to try again: at least one second from now.
    pub retry_after: Duration,
}

/// A bucket for each client; strangers share one. There are as many as there are policies, so they never grow.
pub struct Limits(Option<DefaultKeyedRateLimiter<Option<ClientId>>>);

impl Limits {
    /// Full buckets.
    pub fn new(settings: Settings) -> Self {
        Self(settings.requests_per_second_per_client.map(|rate| RateLimiter::keyed(Quota::per_second(rate))))
    }

    /// Takes one request out of the bucket of `client`, or of strangers.
    ///
    /// # Errors
    /// [`RateLimited`] if it is empty.
    pub fn take(&self, client: Option<&ClientId>) -> Result<(), RateLimited> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check_key(&client.cloned()).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            RateLimited { retry_after: Duration::from_secs(wait.as_secs() + 1) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    ///
    #[test]
    fn an_empty_bucket_refuses_its_own_client_only() {
        let limits = Limits::new(Settings { requests_per_second_per_client: NonZeroU32::new(2) });
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert_eq!(limits.take(Some(&a)), Ok(()));
        assert_eq!(limits.take(Some(&a)), Ok(()));
        assert!(limits.take(Some(&a)).unwrap_err().retry_after >= Duration::from_secs(1));
        assert_eq!(limits.take(Some(&b)), Ok(()));
        assert_eq!(limits.take(None), Ok(()));
    }
}
