//! Writ, a Transaction Token Service: [`cli`] runs the commands, [`service`] builds the service from [`config`] and
//! `server`. The domain is in `writ-core`.

pub mod cli;
pub mod config;
mod server;
pub mod service;
mod telemetry;
