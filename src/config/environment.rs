//! Environment variables that stand in for what `writ.toml` says.

use std::collections::BTreeMap;
use std::path::Path;

use super::document::Section;
use super::problem::{Problem, Severity};

/// The variables that name a setting: `WRIT_<SECTION>__<KEY>`, `WRIT_TRUST_DOMAIN`, `WRIT_ISSUER`.
#[derive(Debug, Default)]
pub struct Overrides {
    /// By section; the empty name is the file itself.
    sections: BTreeMap<String, Vec<Override>>,
}

#[derive(Debug)]
struct Override {
    variable: String,
    key: String,
    text: String,
}

impl Overrides {
    /// Picks them out of the whole environment. Other `WRIT_…` variables are left alone: an orchestrator sets some of
    /// its own.
    pub fn new(environment: impl Iterator<Item = (String, String)>) -> Self {
        let mut sections = BTreeMap::<String, Vec<Override>>::new();
        for (variable, text) in environment {
            if let Some((section, key)) = setting(&variable) {
                sections.entry(section).or_default().push(Override { variable, key, text });
            }
        }
        Self { sections }
    }

    /// Puts those for the section called `name` in the place of what is written.
    pub fn apply<'a>(&'a self, name: &str, section: &mut Section<'a>) {
        for set in self.sections.get(name).into_iter().flatten() {
            section.replace(&set.key, &set.variable, &set.text);
        }
    }

    /// Complains about those for a section that is none of `known`.
    pub fn unknown(&self, known: &[&str]) -> impl Iterator<Item = Problem> {
        let strange = self.sections.iter().filter(|(name, _)| !known.contains(&name.as_str()));
        strange.flat_map(|(name, sets)| {
            sets.iter().map(move |set| Problem {
                severity: Severity::Error,
                file: Path::new("environment").to_owned(),
                line: 0,
                key: set.variable.clone(),
                message: format!("fits no setting: there is no section `{name}` that variables can change"),
            })
        })
    }
}

/// The section and the key that a variable names. They are spelled in capitals: of other spellings nothing but a
/// complaint can come.
fn setting(variable: &str) -> Option<(String, String)> {
    let name = variable.strip_prefix("WRIT_")?;
    match name.split_once("__") {
        Some(_) if name.contains(char::is_lowercase) => Some((name.to_owned(), String::new())),
        Some((section, key)) => Some((section.to_lowercase(), key.to_lowercase())),
        None => matches!(name, "TRUST_DOMAIN" | "ISSUER").then(|| (String::new(), name.to_lowercase())),
    }
}
