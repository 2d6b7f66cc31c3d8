//! Writ, a Transaction Token Service.

pub mod admin;
pub mod cli;
pub mod config;
pub mod server;
pub mod service;
