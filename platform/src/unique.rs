//! Unique identifiers.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::{Builder, Uuid};

/// The random bytes of one identifier.
const RANDOM: usize = 10;

/// Random bytes of a thread that no identifier has used yet: each call of the generator costs as much as 60 such numbers.
struct Supply {
    bytes: [u8; 60 * RANDOM],
    used: usize,
}

thread_local! {
    static SUPPLY: RefCell<Supply> = const { RefCell::new(Supply { bytes: [0; 60 * RANDOM], used: usize::MAX }) };
}

impl Supply {
    /// `None` if the generator of the cryptography provider fails.
    fn next(&mut self) -> Option<[u8; RANDOM]> {
        if self.used >= self.bytes.len() {
            aws_lc_rs::rand::fill(&mut self.bytes).ok()?;
            self.used = 0;
        }
        let start = self.used;
        self.used += RANDOM;
        self.bytes[start..self.used].try_into().ok()
    }
}

/// A `UUIDv7` of this millisecond (RFC 9562 §5.7).
pub fn uuid_v7() -> Uuid {
    let Some(random) = SUPPLY.with_borrow_mut(Supply::next) else { return Uuid::now_v7() };
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_a_uuid_of_this_moment_and_differs_from_the_next() {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let before = seconds(SystemTime::now());
        let (id, next) = (uuid_v7(), uuid_v7());
        let made = id.get_timestamp().unwrap().to_unix().0;
        assert_eq!(id.get_version_num(), 7);
        assert!((before..=seconds(SystemTime::now())).contains(&made));
        assert_ne!(id, next);
    }
}
