//! Black-box tests of the service: the executable, real TLS, fresh certificates and a store of its own for each test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

#[test]
fn x() {}
