//! Arguments → command → exit code.
