//! Remembers tokens that were verified, so that the signature of a token that is presented again is not checked again.
//!
//! What is kept of a token is up to the caller, who must check again on every use whatever can change: times, audience,
//! and whether the key that verified it is still trusted. A token is known by its whole text, so that one with another
//! signature over the same claims is another token, and only tokens that were verified may be kept. An entry is never
//! returned at or after the end of its token.
//!
//! The cache is limited in number and size. While it is full, only a token that comes a second time gets in. It replaces
//! one that has ended, or that was not presented again for some time (the CLOCK algorithm). So a flood of tokens that come
//! once neither displaces those in use nor costs more than a few instructions for each.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

/// SHA-256 of the whole text of a token, signature included.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of `token`, exactly as presented.
    pub fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }

    /// Of the SHA-256 of a token, exactly as presented.
    pub fn from_sha256(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }
}

/// The maximum size of a [`TokenCache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// The maximum number of tokens.
    pub tokens: usize,
    /// The maximum sum of the sizes of their entries, in bytes.
    pub bytes: usize,
}

/// Threads contend for a part of the cache only.
const SHARDS: usize = 16;

/// How many slots for tokens that found no room there are for each token that finds room.
const SLOTS_PER_TOKEN: usize = 4;

/// What is known about tokens that were verified, each until its end.
pub struct TokenCache<V> {
    shards: Box<[Mutex<Shard<V>>]>,
    /// The limits of one shard.
    limits: CacheLimits,
}

struct Shard<V> {
    /// The index of each token's entry.
    index: HashMap<TokenHash, usize>,
    entries: Vec<Entry<V>>,
    /// The index of the entry that is the next to be considered for replacement.
    hand: usize,
    /// The index of the entry whose end is checked next.
    check: usize,
    /// The sum of the sizes of the entries.
    bytes: usize,
    /// In each slot a part of the hash of the last token that found no room; empty while all found it.
    turned_away: Box<[u32]>,
}

struct Entry<V> {
    token: TokenHash,
    value: V,
    size: usize,
    /// The second since the Unix epoch from which on the entry is not returned.
    ends: u64,
    /// Whether it was returned since the hand last passed it.
    in_use: bool,
}

impl<V: Clone> TokenCache<V> {
    /// An empty cache. It takes no memory for tokens that it does not hold.
    pub fn new(limits: CacheLimits) -> Self {
        let limits = CacheLimits { tokens: limits.tokens.div_ceil(SHARDS), bytes: limits.bytes.div_ceil(SHARDS) };
        Self { shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(), limits }
    }

    /// What is known about `token` at `now`, in seconds since the Unix epoch.
    pub fn get(&self, token: &TokenHash, now: u64) -> Option<V> {
        self.shard(token).get(token, now)
    }

    /// Keeps `value` about `token` before the second `ends` since the Unix epoch. `size` is the memory that the value takes,
    /// in bytes, to which that of the cache itself is added. A value that exceeds the limits is not kept.
    pub fn insert(&self, token: TokenHash, value: V, size: usize, ends: u64, now: u64) {
        let size = size + size_of::<Entry<V>>() + size_of::<(TokenHash, usize)>();
        let entry = Entry { token, value, size, ends, in_use: false };
        self.shard(&token).insert(entry, self.limits, now);
    }

    /// No change of a shard can panic halfway, so it is consistent even if its lock is poisoned.
    fn shard(&self, token: &TokenHash) -> MutexGuard<'_, Shard<V>> {
        let shard = &self.shards[usize::from(token.0[0]) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Clone> Shard<V> {
    fn new() -> Self {
        Self { index: HashMap::new(), entries: Vec::new(), hand: 0, check: 0, bytes: 0, turned_away: Box::default() }
    }

    fn get(&mut self, token: &TokenHash, now: u64) -> Option<V> {
        let at = *self.index.get(token)?;
        if now >= self.entries[at].ends {
            self.remove(at);
            return None;
        }
        self.entries[at].in_use = true;
        Some(self.entries[at].value.clone())
    }

    fn insert(&mut self, entry: Entry<V>, limits: CacheLimits, now: u64) {
        if let Some(&at) = self.index.get(&entry.token) {
            self.remove(at);
        }
        if now >= entry.ends || entry.size > limits.bytes || limits.tokens == 0 {
            return;
        }
        let is_full = |shard: &Self| shard.entries.len() >= limits.tokens || shard.bytes + entry.size > limits.bytes;
        if is_full(self) && !self.remove_if_ended(now) && !self.is_second(&entry.token, limits) {
            return;
        }
        while is_full(self) {
            self.evict(now);
        }
        self.index.insert(entry.token, self.entries.len());
        self.bytes += entry.size;
        self.entries.push(entry);
    }

    /// Whether the token was turned away before. If not, it is now.
    fn is_second(&mut self, token: &TokenHash, limits: CacheLimits) -> bool {
        if self.turned_away.is_empty() {
            self.turned_away = vec![0; limits.tokens.saturating_mul(SLOTS_PER_TOKEN)].into();
        }
        let part = |at: usize| u32::from_le_bytes([token.0[at], token.0[at + 1], token.0[at + 2], token.0[at + 3]]);
        let slot = part(4) as usize % self.turned_away.len();
        std::mem::replace(&mut self.turned_away[slot], part(8)) == part(8)
    }

    /// Checks the end of one entry, the next at each call. Removes it, and returns `true`, if it has ended.
    fn remove_if_ended(&mut self, now: u64) -> bool {
        let at = next(&mut self.check, self.entries.len());
        let has_ended = now >= self.entries[at].ends;
        if has_ended {
            self.remove(at);
        }
        has_ended
    }

    /// Removes one entry: the first from the hand on that has ended, or was not returned since the hand last passed it.
    fn evict(&mut self, now: u64) {
        loop {
            let at = next(&mut self.hand, self.entries.len());
            let entry = &mut self.entries[at];
            if !entry.in_use || now >= entry.ends {
                return self.remove(at);
            }
            entry.in_use = false;
        }
    }

    /// The last entry takes the place of the removed one.
    fn remove(&mut self, at: usize) {
        let removed = self.entries.swap_remove(at);
        self.index.remove(&removed.token);
        self.bytes -= removed.size;
        if let Some(moved) = self.entries.get(at) {
            self.index.insert(moved.token, at);
        }
    }
}

/// Moves `position` on, round and round among `len` entries, of which there must be one. Returns where it was.
fn next(position: &mut usize, len: usize) -> usize {
    let at = if *position < len { *position } else { 0 };
    *position = at + 1;
    at
}

/// Shows the limits only.
impl<V> fmt::Debug for TokenCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("limits_of_a_shard", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: CacheLimits = CacheLimits { tokens: 64, bytes: 16_000 };

    fn hash(number: u64) -> TokenHash {
        TokenHash::of(&number.to_string())
    }

    #[test]
    fn a_token_is_known_before_its_end_and_no_longer() {
        let cache = TokenCache::new(LIMITS);
        cache.insert(hash(1), 1, 10, 100, 50);
        assert_eq!((cache.get(&hash(1), 99), cache.get(&hash(2), 99)), (Some(1), None));
        assert_eq!((cache.get(&hash(1), 100), cache.get(&hash(1), 99)), (None, None), "it is gone when it has ended");
        cache.insert(hash(1), 1, 10, 100, 100);
        assert_eq!(cache.get(&hash(1), 99), None);
    }

    #[test]
    fn a_flood_of_tokens_displaces_none_that_is_in_use() {
        let limits = CacheLimits { tokens: 8, bytes: 1_000 };
        let mut shard = Shard::new();
        let insert = |shard: &mut Shard<u64>, value| {
            shard.insert(Entry { token: hash(value), value, size: 1, ends: 100, in_use: false }, limits, 0);
        };
        (0..8).for_each(|number| insert(&mut shard, number));
        (1_000..11_000).for_each(|number| insert(&mut shard, number));
        let known = |shard: &mut Shard<u64>, number| shard.get(&hash(number), 0) == Some(number);
        assert!((0..8).all(|number| shard.index.contains_key(&hash(number))), "of 10000 tokens none came twice");
        for number in 1_000..2_000 {
            assert!((0..4).all(|number| known(&mut shard, number)), "{number}");
            insert(&mut shard, number);
            insert(&mut shard, number);
            assert!(known(&mut shard, number), "a token that comes twice gets in");
        }
        assert!((4..8).all(|number| !known(&mut shard, number)), "they were not in use");
    }

    #[test]
    fn tokens_that_have_ended_make_room() {
        let limits = CacheLimits { tokens: 2, bytes: 1_000 };
        let mut shard = Shard::new();
        for (value, now) in [(1, 0), (2, 0), (3, 99), (4, 100), (5, 100), (6, 100), (7, 100)] {
            shard.insert(Entry { token: hash(value), value, size: 1, ends: now + 100, in_use: true }, limits, now);
        }
        assert!([1, 2, 3].iter().all(|number| !shard.index.contains_key(&hash(*number))));
        assert_eq!(shard.index.len(), 2);
    }

    #[test]
    fn a_token_larger_than_the_limit_is_not_kept() {
        let cache = TokenCache::new(LIMITS);
        cache.insert(hash(1), 1, 1_000, 100, 0);
        assert_eq!(cache.get(&hash(1), 0), None);
        let none = TokenCache::new(CacheLimits { tokens: 0, bytes: 0 });
        none.insert(hash(1), 1, 0, 100, 0);
        assert_eq!(none.get(&hash(1), 0), None);
    }

    proptest! {
        /// Against a plain map, whatever is inserted and looked up: what is returned was inserted last for this token, and
        /// has not ended; the limits hold; the parts of a shard agree.
        #[test]
        fn the_cache_returns_only_what_holds(steps in prop::collection::vec((0..40_u64, 0..300_usize, 0..20_u64, 0..4), 0..300)) {
            let limits = CacheLimits { tokens: 6, bytes: 1_000 };
            let (mut shard, mut last) = (Shard::new(), HashMap::new());
            for (now, (number, size, lifetime, inserts)) in (0..).zip(steps) {
                if inserts > 0 {
                    let (value, ends) = (now * 1_000 + number, now + lifetime);
                    shard.insert(Entry { token: hash(number), value, size, ends, in_use: false }, limits, now);
                    last.insert(number, (value, ends));
                } else if let Some(found) = shard.get(&hash(number), now) {
                    let (value, ends) = last[&number];
                    prop_assert!(found == value && now < ends);
                }
                prop_assert!(shard.entries.len() <= limits.tokens && shard.bytes <= limits.bytes);
                prop_assert_eq!(shard.bytes, shard.entries.iter().map(|entry| entry.size).sum::<usize>());
                prop_assert_eq!(shard.index.len(), shard.entries.len());
                for (at, entry) in shard.entries.iter().enumerate() {
                    prop_assert_eq!(shard.index.get(&entry.token), Some(&at));
                }
            }
        }
    }
}
