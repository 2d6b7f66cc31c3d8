//! The form of times in records: decimal seconds since 1970.

use writ_platform::clock::Timestamp;

/// The key of the last event's record.
pub(crate) const LAST_EVENT: &[u8] = b"last";

/// The time in a record: 1970-01-01 if there is no record, `None` if it is malformed.
pub(crate) fn parse(record: Option<&[u8]>) -> Option<Timestamp> {
    let Some(bytes) = record else { return Some(Timestamp::default()) };
    std::str::from_utf8(bytes).ok()?.parse().ok().map(Timestamp::from_epoch)
}

pub(crate) fn value(time: Timestamp) -> Vec<u8> {
    time.epoch().to_string().into_bytes()
}
