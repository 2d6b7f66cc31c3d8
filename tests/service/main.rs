//! Black-box tests of the service: the executable, real TLS, fresh certificates and a store of its own for each test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::similar_names, reason = "an issuer issues, and what it issued is looked at")]

#[path = "../support/mod.rs"]
mod support;

mod access_tokens;
mod actors;
mod blocks;
mod client_credentials;
mod clients;
mod clock;
mod configuration;
mod conformance_command;
mod details;
mod explanations;
mod first_steps;
mod handshakes;
mod http2;
mod introspection;
mod introspection_endpoint;
mod keys;
mod log_output;
mod metadata;
mod metrics;
mod nginx;
mod openapi;
mod operations;
mod outside_tokens;
mod pdp;
mod policies;
mod policy_tools;
mod reasons;
mod redemption;
mod replacement;
mod requests;
mod revocation;
mod scene;
mod self_signed;
mod stock_clients;
mod store;
mod tools;
mod unsigned_json;
mod verification;
