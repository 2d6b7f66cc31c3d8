//! `[limits]`: limits on connections, requests and time.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::document::Section;

pub(crate) struct Limits {
    pub(crate) requests_per_second_per_client: Option<NonZeroU32>,
    pub(crate) max_connections: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) connection_max_age: Duration,
    pub(crate) drain_delay: Duration,
    pub(crate) drain_timeout: Duration,
}

pub(crate) fn read(limits: &mut Section<'_>) -> Limits {
    let rate = limits.or_default("requests_per_second_per_client", |limits, key| limits.integer(key, 0..=1_000_000));
    Limits {
        requests_per_second_per_client: NonZeroU32::new(rate),
        max_connections: limits.or_default("max_connections", |limits, key| limits.integer(key, 1..=1_000_000))
            as usize,
        request_timeout: limits.or_default("request_timeout", Section::duration),
        connection_max_age: limits.or_default("connection_max_age", Section::duration),
        drain_delay: limits.or_default("drain_delay", Section::duration_or_zero),
        drain_timeout: limits.or_default("drain_timeout", Section::duration_or_zero),
    }
}
