//! The sections of `writ.toml`, one module for each: its keys, and the conditions between them.

pub(super) mod keys;
pub(super) mod limits;
pub(super) mod listen;
pub(super) mod pdp;
pub(super) mod store;
pub(super) mod subject_issuer;
pub(super) mod tls;
pub(super) mod tokens;
