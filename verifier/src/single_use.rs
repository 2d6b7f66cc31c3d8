//! Detects the repeated use of a token, for operations that must not be repeated.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use crate::token::TxnToken;

/// What may be used only once. The check covers one process, until the token expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SingleUse {
    /// The token: header and claims as signed. The signature does not count, because one token can have several valid
    /// ECDSA signatures.
    SignedPart,
    /// The transaction (`txn`). Also refuses a replaced or redeemed token of the same transaction, and a retry of the
    /// caller with a new token.
    Transaction,
}

type Digest = [u8; 32];

/// The uses so far of tokens that have not expired.
#[derive(Debug)]
pub(crate) struct UseLog {
    unit: SingleUse,
    uses: Mutex<Uses>,
}

#[derive(Debug, Default)]
struct Uses {
    /// The second in which each use can be forgotten.
    forget_at: HashMap<Digest, u64>,
    by_time: BTreeSet<(u64, Digest)>,
}

impl UseLog {
    pub(crate) fn new(unit: SingleUse) -> Self {
        Self { unit, uses: Mutex::default() }
    }

    /// Records a use, and returns whether it is the first. The use is kept until `forget_at` (seconds since the Unix
    /// epoch), from which on the token is refused as expired. A later token of the same transaction extends this time.
    pub(crate) fn record_use(&self, token: &TxnToken, forget_at: u64, now: u64) -> bool {
        let text = match self.unit {
            SingleUse::SignedPart => token.encoded().rsplit_once('.').map_or(token.encoded(), |(signed, _)| signed),
            SingleUse::Transaction => token.transaction(),
        };
        let mut key = Digest::default();
        key.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).insert(key, forget_at, now)
    }
}

impl Uses {
    fn insert(&mut self, digest: Digest, forget_at: u64, now: u64) -> bool {
        while let Some(&(time, oldest)) = self.by_time.first()
            && time <= now
        {
            self.by_time.pop_first();
            self.forget_at.remove(&oldest);
        }
        let known = self.forget_at.get(&digest).copied();
        if known.is_none_or(|until| until < forget_at) {
            self.by_time.remove(&(known.unwrap_or_default(), digest));
            self.by_time.insert((forget_at, digest));
            self.forget_at.insert(digest, forget_at);
        }
        known.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_kept_until_the_given_time() {
        let mut uses = Uses::default();
        assert!(uses.insert([1; 32], 100, 50));
        assert!(!uses.insert([1; 32], 100, 99));
        assert!(uses.insert([2; 32], 160, 100));
        assert_eq!((uses.forget_at.len(), uses.by_time.len()), (1, 1));
    }

    #[test]
    fn a_later_token_of_the_transaction_extends_the_time() {
        let mut uses = Uses::default();
        assert!(uses.insert([1; 32], 100, 50));
        assert!(!uses.insert([1; 32], 160, 90));
        assert!(!uses.insert([1; 32], 160, 101));
        assert_eq!((uses.forget_at.len(), uses.by_time.len()), (1, 1));
    }
}
