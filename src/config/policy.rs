//! Policy files → a [`PolicySet`](writ_core::policy::PolicySet): what an operator wrote, and what is wrong with it, by line.

pub mod file;
pub mod folder;
mod reach;
