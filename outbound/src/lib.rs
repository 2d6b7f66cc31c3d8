//! Calls to other services over HTTPS, and the HTTPS client of the whole program.
//!
//! In: an endpoint's [`Settings`] and, for each call, a [`Request`]. Out: the service's [`Answer`], or [`Unreachable`]. No
//! redirect is followed and no proxy is used, a call has a time limit, and while the service is unavailable calls fail at
//! once.

mod breaker;
mod call;
mod cause;
mod endpoint;
mod files;
pub mod https;

pub use self::call::{Answer, InvalidHeader, Request, Status, Unreachable};
pub use self::cause::explain;
pub use self::endpoint::Outbound;
pub use self::files::{Identity, Settings, SetupError};
