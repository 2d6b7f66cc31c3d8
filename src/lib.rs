//! Writ, a Transaction Token Service.

pub mod cli;
pub mod config;
pub mod server;
pub mod service;
mod telemetry;
