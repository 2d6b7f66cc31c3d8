//! `writ.toml` and the policy files → settings; the only module that reads TOML.
//!
//! In: files, and environment variables that replace single values. Out: a `Config` and a
//! [`PolicySet`](writ_core::policy::PolicySet), or every [`Problem`] of the files in one run. Each module imports
//! only from those after it: `file`, `files` → `settings` → `policy`, `sections` → `environment` → `document` → `defaults`,
//! `problem`.

mod address;
mod defaults;
pub(crate) mod document;
pub(crate) mod environment;
pub(crate) mod file;
pub(crate) mod files;
pub mod policy;
mod problem;
mod sections;
mod settings;

pub(crate) use self::address::origin;
pub use self::problem::Problem;
pub(crate) use self::problem::Severity;
pub(crate) use self::settings::Config;

/// The text at a path of keys in a configuration that may be invalid otherwise; of an array of tables, in the first.
pub(crate) fn text_at(text: &str, path: &[&str]) -> Option<String> {
    let table: toml::Table = text.parse().ok()?;
    let (last, tables) = path.split_last()?;
    let inner = tables.iter().try_fold(&table, |table, key| match table.get(*key)? {
        toml::Value::Table(inner) => Some(inner),
        toml::Value::Array(all) => all.first()?.as_table(),
        _ => None,
    });
    Some(inner?.get(*last)?.as_str()?.to_owned())
}
