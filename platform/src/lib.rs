//! The interface to the machine: time, files, the process, log and metrics; and what every layer shares.

pub mod bounded;
pub mod clock;
pub mod digest;
pub mod process;
pub mod secret_file;
pub mod shares;
pub mod suggest;
pub mod telemetry;
