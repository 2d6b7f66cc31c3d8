//! A TOML file, read key by key; every problem has its line.
//!
//! Reading does not stop at the first mistake. A value that is wrong is reported and then replaced by its default or
//! left out; the values of a file whose [`Report`] has an error must not be used.

mod report;
mod section;
mod value;

pub(crate) use self::report::{Places, Report};
pub(crate) use self::section::Section;
pub(crate) use self::value::{duration, non_empty};

#[cfg(test)]
mod tests;
