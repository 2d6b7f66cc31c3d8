//! The maximum lifetimes of tokens and transactions.

use std::time::Duration;

/// The upper bound of `tokens.max_lifetime`.
pub const MAX_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The time from the start of a transaction after which its tokens must have expired, except redeemed ones.
pub(crate) const TRANSACTION_SPAN: Duration = MAX_LIFETIME;
