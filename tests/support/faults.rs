//! `faults.c`, for a process that uses a store: it counts the calls on one folder, and hits one of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The object that is preloaded, compiled once.
pub(crate) fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let object = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&object).arg(source).status();
        assert!(compiled.expect("a C compiler").success());
        object
    })
}
