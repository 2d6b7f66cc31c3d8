//! `writ.toml` → settings that can work.
