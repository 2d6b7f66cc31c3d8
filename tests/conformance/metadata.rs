//! Area META: server metadata.
