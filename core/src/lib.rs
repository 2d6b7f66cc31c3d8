//! The domain of Writ, a Transaction Token Service: clients, subjects, policies, decisions, keys, claims and the ledger.
//!
//! It does not depend on an HTTP server, a configuration format or a database.

pub mod audit;
pub mod blocks;
pub mod claims;
pub mod client;
pub mod decision;
pub mod endpoint;
pub mod exchange;
pub mod exchange_metrics;
pub mod introspect;
pub mod keys;
pub mod ledger;
pub mod lifetime;
pub mod limits;
pub mod pdp;
pub mod permit;
pub mod policy;
pub mod refusal;
pub mod request;
pub mod subject;
