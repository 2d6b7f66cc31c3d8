//! Unique identifiers.

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::{Builder, Uuid};

/// A `UUIDv7` of this millisecond (RFC 9562 §5.7). Its random bits come from the generator of the cryptography provider,
/// which does not ask the system for each.
pub fn uuid_v7() -> Uuid {
    let mut random = [0; 10];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        return Uuid::now_v7();
    }
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
