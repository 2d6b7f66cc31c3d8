//! One table of a file, read key by key.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use writ_verifier::Members;

use super::report::{Place, Report};
use super::value::{duration, json, path, type_name};
use crate::config::defaults;
use crate::config::problem::Severity;

/// One table of a file. Each key is taken once; [`Section::finish`] then reports those that were not.
#[must_use = "finish() reports unknown keys"]
pub(crate) struct Section<'a> {
    report: &'a Report,
    /// The name of the table and a dot; empty for the file itself.
    prefix: String,
    place: Place,
    entries: BTreeMap<String, Entry<'a>>,
    /// The keys that were read, to suggest one for a misspelt key.
    known: Vec<&'static str>,
}

struct Entry<'a> {
    place: Place,
    value: DeValue<'a>,
    /// The text of a variable, used without quotes where a string is expected: `1.3`, `12`.
    bare: Option<&'a str>,
    is_default: bool,
}

impl<'a> Section<'a> {
    /// The file itself.
    pub(crate) fn root(report: &'a Report, table: DeTable<'a>) -> Self {
        Self::new(report, String::new(), Place::Line(1), table)
    }

    fn new(report: &'a Report, prefix: String, place: Place, table: DeTable<'a>) -> Self {
        let entry = |place, value| Entry { place, value, bare: None, is_default: false };
        let entries = table
            .into_iter()
            .map(|(key, value)| {
                let own = match &place {
                    Place::Line(_) => Place::Line(report.line(key.span().start)),
                    variable @ Place::Variable(_) => variable.clone(),
                };
                (key.into_inner().into_owned(), entry(own, value.into_inner()))
            })
            .collect();
        Self { report, prefix, place, entries, known: Vec::new() }
    }

    /// Replaces the value of `key` by the text of an environment variable: a TOML value or a bare string.
    pub(crate) fn replace(&mut self, key: &str, variable: &str, text: &'a str) {
        let value = DeValue::parse(text).map_or_else(|_| DeValue::String(text.into()), toml::Spanned::into_inner);
        let entry = Entry { place: Place::Variable(variable.to_owned()), value, bare: Some(text), is_default: false };
        self.entries.insert(key.to_owned(), entry);
    }

    /// Reports each of `keys` that is absent.
    pub(crate) fn require(&self, keys: &[&'static str]) {
        for key in keys.iter().filter(|key| !self.has(key)) {
            self.gap(key, "is missing");
        }
    }

    /// Reports that something is absent, unless a line of the file is not TOML: it may be in that line.
    pub(crate) fn gap(&self, key: &str, message: impl Display) {
        if self.report.broken.is_empty() {
            self.error(key, message);
        }
    }

    /// Reports an error in the value of `key`.
    pub(crate) fn error(&self, key: &str, message: impl Display) {
        self.add(Severity::Error, key, message);
    }

    /// Reports a risk in the value of `key`.
    pub(crate) fn warning(&self, key: &str, message: impl Display) {
        self.add(Severity::Warning, key, message);
    }

    /// Whether an error of `key` was reported already.
    pub(crate) fn has_error(&self, key: &str) -> bool {
        let name = self.name(key);
        self.report.problems.borrow().iter().any(|problem| problem.key == name && problem.is_error())
    }

    /// The folder of the file, at which relative paths start.
    pub(crate) fn folder(&self) -> PathBuf {
        self.report.file.parent().unwrap_or(Path::new("")).to_owned()
    }

    /// The line in which the table begins, from 1; 0 if a variable sets it.
    pub(crate) fn line(&self) -> usize {
        match self.place {
            Place::Line(line) => line,
            Place::Variable(_) => 0,
        }
    }

    /// The line of each key of the table that was taken, those of its own tables by names like `redemption.max_age`.
    pub(crate) fn lines(&self) -> BTreeMap<String, usize> {
        let line = |(name, place): (&String, &Place)| match place {
            Place::Line(line) => Some((name.strip_prefix(&self.prefix)?.to_owned(), *line)),
            Place::Variable(_) => None,
        };
        self.report.places.borrow().iter().filter_map(line).collect()
    }

    /// Whether the file has `key`, and it has not been taken yet.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// A string, parsed by `read`.
    pub(crate) fn parse<T, E: Display>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let entry = self.take(key)?;
        let text = self.text(key, &entry)?;
        read(text).map_err(|cause| self.error(key, cause)).ok()
    }

    pub(crate) fn string(&mut self, key: &'static str) -> Option<String> {
        self.parse(key, |text| Ok::<_, String>(text.to_owned()))
    }

    /// One of the named choices.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.parse(key, |text| {
            let names = || choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            let found = choices.iter().find(|(name, _)| *name == text);
            found.map(|(_, choice)| *choice).ok_or_else(|| format!("must be one of {}", names()))
        })
    }

    pub(crate) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let entry = self.take(key)?;
        let flag = entry.value.as_bool();
        flag.or_else(|| self.wrong_type(key, &entry.place, "true or false", &entry.value))
    }

    /// A whole number in `range`.
    pub(crate) fn integer(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let entry = self.take(key)?;
        let Some(written) = entry.value.as_integer() else {
            return self.wrong_type(key, &entry.place, "a whole number", &entry.value);
        };
        let number = u32::from_str_radix(written.as_str(), written.radix()).ok().filter(|n| range.contains(n));
        if number.is_none() {
            self.error(key, format_args!("must be a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A duration such as `"60s"`, of at least one second.
    pub(crate) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let duration = self.duration_or_zero(key)?;
        if duration.is_zero() {
            self.error(key, "must be at least \"1s\"");
            return None;
        }
        Some(duration)
    }

    /// A duration that may be `"0s"`.
    pub(crate) fn duration_or_zero(&mut self, key: &'static str) -> Option<Duration> {
        self.parse(key, duration)
    }

    /// A path; a relative one starts at the folder of the file.
    pub(crate) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let folder = self.folder();
        self.parse(key, |text| path(&folder, text))
    }

    pub(crate) fn paths(&mut self, key: &'static str) -> Option<Vec<PathBuf>> {
        let folder = self.folder();
        self.list(key, |text| path(&folder, text))
    }

    /// A list of strings, each parsed by `read`; each error is reported at its own line.
    pub(crate) fn list<T, E: Display>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let entry = self.take(key)?;
        let DeValue::Array(elements) = &entry.value else {
            return self.wrong_type(key, &entry.place, "a list of strings", &entry.value);
        };
        let name = self.name(key);
        let mut all = Vec::new();
        for element in elements {
            let place = self.inside(&entry.place, element.span().start);
            match element.get_ref().as_str().map(&read) {
                Some(Ok(value)) => all.push(value),
                Some(Err(cause)) => self.report.add(Severity::Error, &place, &name, cause),
                None => drop(self.wrong_type::<T>(key, &place, "a list of strings", element.get_ref())),
            }
        }
        (all.len() == elements.len()).then_some(all)
    }

    /// A table of strings, in the order of its keys.
    pub(crate) fn pairs(&mut self, key: &'static str) -> Option<Vec<(String, String)>> {
        let entry = self.take(key)?;
        let DeValue::Table(table) = &entry.value else {
            return self.wrong_type(key, &entry.place, "a table of strings", &entry.value);
        };
        let pair = |(name, value): (&toml::Spanned<Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
            let Some(text) = value.get_ref().as_str() else {
                let place = self.inside(&entry.place, value.span().start);
                return self.wrong_type(key, &place, "a table of strings", value.get_ref());
            };
            Some((name.get_ref().to_string(), text.to_owned()))
        };
        let pairs: Vec<_> = table.iter().map(pair).collect();
        pairs.into_iter().collect()
    }

    /// A table, as a JSON object; numbers keep their digits.
    pub(crate) fn members(&mut self, key: &'static str) -> Option<Members> {
        let entry = self.take(key)?;
        if !matches!(entry.value, DeValue::Table(_)) {
            return self.wrong_type(key, &entry.place, "a table", &entry.value);
        }
        let members =
            json(&entry.value).and_then(|text| serde_json::from_str(&text).map_err(|cause| cause.to_string()));
        members.map_err(|cause| self.error(key, cause)).ok()
    }

    /// A table; an empty one in its place if it is not written.
    pub(crate) fn section(&mut self, key: &'static str) -> Self {
        self.table(key).unwrap_or_else(|| Self {
            report: self.report,
            prefix: format!("{}.", self.name(key)),
            place: self.place.clone(),
            entries: BTreeMap::new(),
            known: Vec::new(),
        })
    }

    /// A table, if it is written.
    pub(crate) fn table(&mut self, key: &'static str) -> Option<Self> {
        let entry = self.take(key)?;
        match entry.value {
            DeValue::Table(table) => Some(Self::new(self.report, format!("{}.", self.name(key)), entry.place, table)),
            other => self.wrong_type(key, &entry.place, "a table", &other),
        }
    }

    /// Whether `key` is written as a list, of tables or anything else, and was not taken yet.
    pub(crate) fn has_list(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| matches!(entry.value, DeValue::Array(_)))
    }

    /// The tables of an array, such as each `[[subject_issuer]]`.
    pub(crate) fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let Some(entry) = self.take(key) else { return Vec::new() };
        let DeValue::Array(elements) = entry.value else {
            self.wrong_type::<()>(key, &entry.place, &format!("[[{key}]] tables"), &entry.value);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, element) in elements.into_iter().enumerate() {
            let place = self.inside(&entry.place, element.span().start);
            match element.into_inner() {
                DeValue::Table(table) => {
                    let prefix = format!("{}[{index}].", self.name(key));
                    tables.push(Self::new(self.report, prefix, place, table));
                }
                other => drop(self.wrong_type::<()>(key, &place, &format!("[[{key}]] tables"), &other)),
            }
        }
        tables
    }

    /// Takes `key`, whatever its value; false if it is absent.
    pub(crate) fn ignore(&mut self, key: &'static str) -> bool {
        self.take(key).is_some()
    }

    /// Reports every key that was not taken.
    pub(crate) fn finish(self) {
        for (key, entry) in &self.entries {
            let name = self.name(&key.escape_debug().to_string());
            let near = writ_platform::suggest::did_you_mean(key, &self.known);
            self.report.add(Severity::Error, &entry.place, &name, format_args!("unknown key `{name}`{near}"));
        }
    }

    /// The value of `key`; its [default](defaults) if it is absent or wrong.
    pub(crate) fn or_default<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut Self, &'static str) -> Option<T>,
    ) -> T {
        let value = read(self, key);
        value.unwrap_or_else(|| self.default(key, read))
    }

    /// The [default](defaults) of `key`, read like a value in the file.
    pub(crate) fn default<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Option<T>,
    ) -> T {
        let text = defaults::text(&self.name(key)).expect("a default of each key that has one");
        let value = DeValue::parse(text).expect("a default is TOML").into_inner();
        let entry = Entry { place: self.place.clone(), value, bare: None, is_default: true };
        self.entries.insert(key.to_owned(), entry);
        read(self, key).expect("a default is a valid value")
    }

    fn take(&mut self, key: &'static str) -> Option<Entry<'a>> {
        self.known.push(key);
        let entry = self.entries.remove(key)?;
        if !entry.is_default {
            self.report.places.borrow_mut().insert(self.name(key), entry.place.clone());
        }
        Some(entry)
    }

    fn text<'e>(&self, key: &str, entry: &'e Entry<'a>) -> Option<&'e str> {
        let text = entry.value.as_str().or(entry.bare);
        text.or_else(|| self.wrong_type(key, &entry.place, "a string", &entry.value))
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The place of an element of the value at `outer`.
    fn inside(&self, outer: &Place, offset: usize) -> Place {
        match outer {
            Place::Line(_) => Place::Line(self.report.line(offset)),
            Place::Variable(_) => outer.clone(),
        }
    }

    fn add(&self, severity: Severity, key: &str, message: impl Display) {
        let name = self.name(key);
        let written = self.report.places.borrow().get(&name).cloned();
        self.report.add(severity, &written.unwrap_or_else(|| self.place.clone()), &name, message);
    }

    fn wrong_type<T>(&self, key: &str, place: &Place, wanted: &str, found: &DeValue<'_>) -> Option<T> {
        let message = format!("must be {wanted}, not {}", type_name(found));
        self.report.add(Severity::Error, place, &self.name(key), message);
        None
    }
}
