//! Black-box tests of the service: the executable, real TLS, fresh certificates, and a store of its own for each
//! service that is started. A module is an area; what a test proves is in its name, and its doc comment names the
//! items of `docs/spec/requirements.md` (R-…) and the attacks (A-…) that it covers. [`requirements`] generates
//! `docs/conformance.md` from these comments and fails for an item that has neither a test nor a reason.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::similar_names, reason = "an issuer issues, and its tokens are `issued`")]

#[path = "../support/mod.rs"]
mod support;

mod access_tokens;
mod actors;
mod authentication;
mod blocks;
mod claims;
mod client_credentials;
mod client_crls;
mod clock;
mod command_line;
mod configuration;
mod conformance_command;
mod details;
mod discovery;
mod documentation;
mod explanations;
mod handshakes;
mod http;
mod http2;
mod introspection_endpoint;
mod issuer_introspection;
mod issuer_keys;
mod jwts_and_id_tokens;
mod keys;
mod log_output;
mod metrics;
mod nginx;
mod openapi;
mod operations;
mod pdp;
mod policies;
mod policy_tools;
mod privacy;
mod reasons;
mod redemption;
mod replacement;
mod requests;
mod requirements;
mod response;
mod scene;
mod self_signed;
mod stock_clients;
mod store;
mod subject_tokens;
mod tools;
mod unsigned_json;
mod verification;
