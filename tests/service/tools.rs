//! What `tests/tools.sh` fetched into `target/tools`.

use std::path::{Path, PathBuf};

/// A file there, or `None` where it could not be had: then the tests that need it are left out, and say so.
pub(crate) fn fetched(file: &str) -> Option<PathBuf> {
    let path = root().join("target/tools").join(file);
    if path.exists() {
        return Some(path);
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "skipped: {file} is missing");
    println!("skipped: {file} is missing (tests/tools.sh)");
    None
}

/// The folder of the sources.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
