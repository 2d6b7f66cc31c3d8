//! Remembers which tokens were used, for work that must not be repeated.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use crate::token::TxnToken;

/// What may be used only once, in this process and until the token expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SingleUse {
    /// The token: header and claims as signed. The signature is left out, since one token may have several.
    SignedPart,
    /// The transaction: also refuses a replaced or redeemed token of a transaction that was here before, and the
    /// caller's own retry with a new token.
    Transaction,
}

type Digest = [u8; 32];

/// The tokens used so far that are still alive.
#[derive(Debug)]
pub(crate) struct Memory {
    what: SingleUse,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    until: HashMap<Digest, u64>,
    by_expiry: BTreeSet<(u64, Digest)>,
}

impl Memory {
    pub(crate) fn new(what: SingleUse) -> Self {
        Self { what, used: Mutex::default() }
    }

    /// Whether this is the first use; remembers it until the second `forget_at`, from which on the token is refused for
    /// its age. A later token of the same transaction lengthens the memory.
    pub(crate) fn first_use(&self, token: &TxnToken, forget_at: u64, now: u64) -> bool {
        let text = match self.what {
            SingleUse::SignedPart => token.encoded().rsplit_once('.').map_or(token.encoded(), |(signed, _)| signed),
            SingleUse::Transaction => token.transaction(),
        };
        let mut digest_of_it = Digest::default();
        digest_of_it.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(digest_of_it, forget_at, now)
    }
}

impl Used {
    fn insert(&mut self, digest: Digest, forget_at: u64, now: u64) -> bool {
        while let Some(&(expiry, oldest)) = self.by_expiry.first()
            && expiry <= now
        {
            self.by_expiry.pop_first();
            self.until.remove(&oldest);
        }
        let known = self.until.get(&digest).copied();
        if known.is_none_or(|until| until < forget_at) {
            self.by_expiry.remove(&(known.unwrap_or_default(), digest));
            self.by_expiry.insert((forget_at, digest));
            self.until.insert(digest, forget_at);
        }
        known.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_remembered_until_its_expiry_and_no_longer() {
        let mut used = Used::default();
        assert!(used.insert([1; 32], 100, 50));
        assert!(!used.insert([1; 32], 100, 99));
        assert!(used.insert([2; 32], 160, 100));
        assert_eq!((used.until.len(), used.by_expiry.len()), (1, 1));
    }

    #[test]
    fn a_later_token_of_the_transaction_lengthens_the_memory() {
        let mut used = Used::default();
        assert!(used.insert([1; 32], 100, 50));
        assert!(!used.insert([1; 32], 160, 90));
        assert!(!used.insert([1; 32], 160, 101));
        assert_eq!((used.until.len(), used.by_expiry.len()), (1, 1));
    }
}
