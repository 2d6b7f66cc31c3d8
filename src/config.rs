//! `writ.toml` → settings that can work.

pub mod document;
pub mod problem;
