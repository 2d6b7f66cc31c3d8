//! The embedded engine: a sled database in a folder, which one thread owns (`records`, `writer`).
//!
//! A seal beside it (`seal`) reveals damage and rollback, which sled does not detect.

pub(crate) mod blocks;
pub(crate) mod clock;
pub(crate) mod copy;
pub(crate) mod engine;
pub(crate) mod ledger;
pub(crate) mod records;
pub mod repair;
pub(crate) mod ring;
pub(crate) mod table;

mod database;
mod marks;
mod quiet;
mod seal;
mod start_records;
mod times;
mod transaction;
mod working_copy;
mod writer;

pub use self::writer::Opening;
