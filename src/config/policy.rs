//! Policy files → a [`PolicySet`](writ_core::policy::PolicySet), or their problems, by line.

mod details;
mod file;
pub mod folder;
mod purpose;
mod reach;
mod redemption;
mod settings;

pub use self::settings::Settings;
