//! A TOML file as it is written: values are taken key by key, and every problem knows its line.
//!
//! Reading does not stop at the first mistake. A value that is wrong is reported and then replaced by its default or
//! left out; what was made of a file with an error in its [`Report`] must not be used.

mod report;
mod section;
mod value;

pub(crate) use self::report::{Places, Report};
pub(crate) use self::section::Section;
pub(crate) use self::value::{duration, non_empty};

#[cfg(test)]
mod tests;
