//! Rate limits of clients, and the number of concurrent requests.
//!
//! In: a client, or `None` for an unknown certificate. Out: nothing, or [`RateLimited`] with the time to wait.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::client::ClientId;

/// The limit on concurrent requests of all clients; another one is refused at once.
pub const MAX_IN_WORK: usize = 1024;

/// How many requests may wait for the keys of one issuer: they share one fetch, so each costs only a place.
pub(crate) const MAX_WAITING_FOR_KEYS: usize = MAX_IN_WORK / 2;

/// `[limits]`, as far as it concerns one client.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The size of each client's token bucket, which is refilled at that rate per second; `None`: no limit.
    pub requests_per_second_per_client: Option<NonZeroU32>,
}

/// The client's bucket is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests from this client")]
pub struct RateLimited {
    /// At least one second.
    pub retry_after: Duration,
}

/// A token bucket for each client; certificates that no policy names share one. There are no more buckets than policies.
pub struct Limits(Option<DefaultKeyedRateLimiter<Option<ClientId>>>);

impl Limits {
    /// All buckets are full at first.
    pub fn new(settings: Settings) -> Self {
        Self(settings.requests_per_second_per_client.map(|rate| RateLimiter::keyed(Quota::per_second(rate))))
    }

    /// Counts one request of `client`; `None`: a certificate that no policy names.
    ///
    /// # Errors
    /// [`RateLimited`] if the bucket is empty.
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
