//! Numbers that can be had again: the seed is printed, and taken from `WRIT_TEST_SEED` if set.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A small generator (split-mix).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn seeded(what: &str) -> Self {
        let fresh = || u64::from(SystemTime::now().duration_since(UNIX_EPOCH).expect("past 1970").subsec_nanos());
        let seed = std::env::var("WRIT_TEST_SEED").map_or_else(|_| fresh(), |seed| seed.parse().expect("a number"));
        println!("{what}: WRIT_TEST_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn duration_below(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(limit.as_micros()).expect("short")))
    }
}
