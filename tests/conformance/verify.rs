//! Area VERIFY: downstream verification and propagation.
