//! A model of several instances of Writ over one database that fails over, for a model checker.
//!
//! It has what a count of uses and a key ring can be lost by: two instances that crash, two clients that ask again, a
//! primary with two standbys, answers that do not arrive, a fail-over while the old primary lives, and a clock. The checker
//! tries all orders of these events within [`Bounds`](system::Bounds). `docs/explanation/model.md` explains it.

pub mod cluster;
pub mod properties;
pub mod ring;
pub mod statements;
pub mod steps;
pub mod system;
