//! Environment variables that replace values of `writ.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use super::document::Section;
use super::problem::{Problem, Severity};
use crate::telemetry::check_log_filter;
use writ_platform::suggest::did_you_mean;
use writ_platform::telemetry::LOG_FILTER;

/// The variables that name a setting: `WRIT_<SECTION>__<KEY>`, `WRIT_TRUST_DOMAIN`, `WRIT_ISSUER`.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    /// By section; the empty name is the file itself.
    sections: BTreeMap<String, Vec<Override>>,
    /// `WRIT_LOG`.
    log: Option<String>,
}

#[derive(Debug)]
struct Override {
    variable: String,
    key: String,
    text: String,
}

/// The environment of this process. Names that are not UTF-8 are ignored; in values, bytes that are not UTF-8 become
/// U+FFFD, which no setting accepts as a number, an address or the path of an existing file.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}

impl Overrides {
    /// Selects them from the whole environment. Other `WRIT_…` variables are ignored: an orchestrator sets some of its own.
    pub(crate) fn new(environment: impl Iterator<Item = (String, String)>) -> Self {
        let (mut sections, mut log) = (BTreeMap::<String, Vec<Override>>::new(), None);
        for (variable, text) in environment {
            if variable == LOG_FILTER {
                log = Some(text);
            } else if let Some((section, key)) = setting(&variable) {
                sections.entry(section).or_default().push(Override { variable, key, text });
            }
        }
        Self { sections, log }
    }

    /// Replaces values of the section `name` by its variables.
    pub(crate) fn apply<'a>(&'a self, name: &str, section: &mut Section<'a>) {
        for set in self.sections.get(name).into_iter().flatten() {
            section.replace(&set.key, &set.variable, &set.text);
        }
    }

    /// Reports variables for sections other than `known`, and an invalid `WRIT_LOG`.
    pub(crate) fn unknown<'a>(&'a self, known: &'a [&str]) -> impl Iterator<Item = Problem> + 'a {
        let strange = self.sections.iter().filter(|(name, _)| !known.contains(&name.as_str()));
        let filter = self.log.as_deref().and_then(|text| check_log_filter(text).err());
        let filter = filter.map(|error| Problem {
            severity: Severity::Error,
            file: Path::new("environment").to_owned(),
            line: 0,
            key: LOG_FILTER.to_owned(),
            message: error.to_string(),
        });
        let strange = strange.flat_map(move |(name, sets)| {
            sets.iter().map(move |set| Problem {
                severity: Severity::Error,
                file: Path::new("environment").to_owned(),
                line: 0,
                key: set.variable.clone(),
                message: format!(
                    "is not a setting: there is no section `{name}` that variables can change{}",
                    did_you_mean(name, known)
                ),
            })
        });
        strange.chain(filter)
    }
}

/// The section and the key that a variable names. A variable in lower case is reported, since it names no section.
fn setting(variable: &str) -> Option<(String, String)> {
    let name = variable.strip_prefix("WRIT_")?;
    match name.split_once("__") {
        Some(_) if name.contains(char::is_lowercase) => Some((name.to_owned(), String::new())),
        Some((section, key)) => Some((section.to_lowercase(), key.to_lowercase())),
        None => matches!(name, "TRUST_DOMAIN" | "ISSUER").then(|| (String::new(), name.to_lowercase())),
    }
}
