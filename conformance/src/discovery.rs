//! What the target publishes about itself: metadata (RFC 8414) and keys (RFC 7517).

pub(crate) mod keys;
pub(crate) mod metadata;
