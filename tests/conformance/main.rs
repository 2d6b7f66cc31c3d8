//! Conformance: for each item of `docs/spec/requirements.md` the tests that prove it, a file an area. They ask the
//! executable over real mTLS and judge only what can be seen from outside; `tests/service/` goes deeper.
//!
//! The doc line of a test names the items it proves. [`listing`] gathers these into `docs/conformance.md` and fails for
//! an item that has neither a test nor a reason.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::similar_names, reason = "an issuer issues, and what it issued is looked at")]
#![expect(dead_code, reason = "the harness serves several test crates")]

#[path = "../support/mod.rs"]
mod support;

mod listing;

mod authn;
mod claims;
mod introspection;
mod keys;
mod metadata;
mod policy;
mod privacy;
mod redemption;
mod request;
mod response;
mod subject;
mod verify;
