//! The bounds on how long tokens and transactions live.

use std::time::Duration;

/// No Txn-Token lives longer than this: the upper bound of `tokens.max_lifetime`.
pub const MAX_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// No token of a transaction is issued to live beyond this after the transaction began, redeemed ones aside.
pub(crate) const TRANSACTION_SPAN: Duration = MAX_LIFETIME;
