//! Writ, a Transaction Token Service.

pub mod admin;
pub mod audit;
pub mod blocks;
pub mod claims;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod endpoint;
pub mod exchange;
pub mod introspect;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod listener;
pub mod metadata;
pub mod outbound;
pub mod policy;
pub mod process;
pub mod refusal;
pub mod request;
pub mod response;
pub mod service;
pub mod store;
pub mod subject;
pub mod telemetry;
