//! Access to the operating system for all crates: time, files, the process, log and metrics; and small shared utilities.

pub mod bounded;
pub mod clock;
pub mod completion;
pub mod deadline;
pub mod digest;
pub mod process;
pub mod secret_file;
pub mod shares;
pub mod suggest;
pub mod telemetry;
pub mod unique;
pub mod watch;
