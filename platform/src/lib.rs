//! What Writ needs of the machine it runs on: time, files, the log, metrics.

pub mod bounded;
pub mod clock;
pub mod digest;
pub mod process;
pub mod secret_file;
pub mod shares;
pub mod suggest;
pub mod telemetry;
