//! Named records that survive: compare-and-swap, durable before it is acknowledged.

use std::path::PathBuf;

/// Where the records are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the embedded store (`store.path`).
    pub path: PathBuf,
}
