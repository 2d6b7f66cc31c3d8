//! Arguments → command → exit code.

pub mod certs;
