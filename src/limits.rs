//! How many requests a client may make.

use std::num::NonZeroU32;

/// `[limits]`, as far as it concerns one client.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The size of each client's bucket, refilled at that rate a second; `None`: no limit.
    pub requests_per_second_per_client: Option<NonZeroU32>,
}
