//! A TOML file as it is written: values are taken key by key, and every complaint knows its line.
//!
//! Nothing here stops at the first mistake. A value that cannot be read is complained about and then absent, so that
//! the reader goes on; what was made of a file with an error in its [`Report`] must not be used.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use writ_verifier::Members;

use super::problem::{Problem, Severity};

/// The complaints about one file, and where in it each key that was read stands.
#[derive(Debug)]
pub struct Report {
    file: PathBuf,
    /// Where each line ends.
    newlines: Vec<usize>,
    /// Lines that are no TOML: what is missing may only be hidden behind them.
    broken: BTreeSet<Place>,
    problems: RefCell<Vec<Problem>>,
    places: RefCell<BTreeMap<String, Place>>,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Line(usize),
    Variable(String),
}

/// Where each key of a file stands, for complaints that come up after it was read.
#[derive(Debug, Clone)]
pub struct Places {
    file: PathBuf,
    of_keys: BTreeMap<String, Place>,
    /// Keys whose values are wrong.
    wrong: BTreeSet<String>,
    /// Lines that are no TOML: a key without a place may stand in one of them.
    broken: BTreeSet<Place>,
}

impl Report {
    /// Reads `text`, the content of `file`; syntax errors and keys written twice are the first complaints.
    pub fn parse<'t>(file: &Path, text: &'t str) -> (Self, DeTable<'t>) {
        let newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect();
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut report = Self {
            file: file.to_owned(),
            newlines,
            broken: BTreeSet::new(),
            problems: RefCell::default(),
            places: RefCell::default(),
        };
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let place = Place::Line(report.line(span.start));
            match text.get(span).filter(|_| error.message() == "duplicate key") {
                Some(key) => report.add(Severity::Error, &place, key, "is written twice"),
                None => report.add_syntax(place, error.message()),
            }
        }
        (report, table.into_inner())
    }

    /// Every complaint, by line.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }

    /// Where each key stands that was read.
    pub fn places(&self) -> Places {
        let wrong = |problem: &Problem| problem.is_error().then(|| problem.key.clone());
        Places {
            file: self.file.clone(),
            of_keys: self.places.borrow().clone(),
            wrong: self.problems.borrow().iter().filter_map(wrong).collect(),
            broken: self.broken.clone(),
        }
    }

    fn line(&self, offset: usize) -> usize {
        self.newlines.partition_point(|&end| end < offset) + 1
    }

    /// One slip confuses all that follows in its line: only the first complaint about it is of use.
    fn add_syntax(&mut self, place: Place, message: &str) {
        if self.broken.contains(&place) {
            return;
        }
        self.add(Severity::Error, &place, "", message);
        self.broken.insert(place);
    }

    fn add(&self, severity: Severity, place: &Place, key: &str, message: impl Display) {
        if !self.broken.contains(place) {
            let problem = problem(&self.file, severity, place, key, message);
            self.problems.borrow_mut().push(problem);
        }
    }
}

impl Places {
    /// A complaint at the place of `key`, or about the file as a whole if `key` is not written in it.
    pub fn problem(&self, severity: Severity, key: &str, message: impl Display) -> Problem {
        problem(&self.file, severity, self.of_keys.get(key).unwrap_or(&Place::Line(0)), key, message)
    }

    /// Whether the value that was taken for `key`, or its default, is what the file says.
    pub fn is_certain(&self, key: &str) -> bool {
        let is_whole = match self.of_keys.get(key) {
            Some(place) => !self.broken.contains(place),
            None => self.broken.is_empty(),
        };
        is_whole && !self.wrong.contains(key)
    }
}

fn problem(file: &Path, severity: Severity, place: &Place, key: &str, message: impl Display) -> Problem {
    let message = message.to_string();
    match place {
        Place::Line(line) => Problem { severity, file: file.to_owned(), line: *line, key: key.to_owned(), message },
        Place::Variable(name) => Problem { severity, file: "environment".into(), line: 0, key: name.clone(), message },
    }
}

/// One table of a file. Each key is taken once; [`Section::finish`] then complains about the rest.
#[must_use = "finish() names the keys that nobody knows"]
pub struct Section<'a> {
    report: &'a Report,
    /// Its name and a dot; empty for the file itself.
    prefix: String,
    place: Place,
    entries: BTreeMap<String, Entry<'a>>,
    known: Vec<&'static str>,
}

struct Entry<'a> {
    place: Place,
    value: DeValue<'a>,
    /// The text of a variable, which counts as it stands where a string is wanted: `1.3`, `12`.
    bare: Option<&'a str>,
}

impl<'a> Section<'a> {
    /// The file itself.
    pub fn root(report: &'a Report, table: DeTable<'a>) -> Self {
        Self::new(report, String::new(), Place::Line(1), table)
    }

    fn new(report: &'a Report, prefix: String, place: Place, table: DeTable<'a>) -> Self {
        let entry = |place, value| Entry { place, value, bare: None };
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

    /// Puts the text of an environment variable in place of what is written: a TOML value or a bare string.
    pub fn replace(&mut self, key: &str, variable: &str, text: &'a str) {
        let value = DeValue::parse(text).map_or_else(|_| DeValue::String(text.into()), toml::Spanned::into_inner);
        let entry = Entry { place: Place::Variable(variable.to_owned()), value, bare: Some(text) };
        self.entries.insert(key.to_owned(), entry);
    }

    /// Complains about each of `keys` that is not there.
    pub fn require(&self, keys: &[&'static str]) {
        for key in keys.iter().filter(|key| !self.has(key)) {
            self.gap(key, "is missing");
        }
    }

    /// Complains that something is not there, unless a line of the file is no TOML: it may well be meant to be there.
    pub fn gap(&self, key: &str, message: impl Display) {
        if self.report.broken.is_empty() {
            self.error(key, message);
        }
    }

    /// Complains about the value of `key`.
    pub fn error(&self, key: &str, message: impl Display) {
        self.add(Severity::Error, key, message);
    }

    /// Tells of a risk in the value of `key`.
    pub fn warning(&self, key: &str, message: impl Display) {
        self.add(Severity::Warning, key, message);
    }

    /// Whether there was a complaint about `key` already.
    pub fn complained(&self, key: &str) -> bool {
        let name = self.name(key);
        self.report.problems.borrow().iter().any(|problem| problem.key == name && problem.is_error())
    }

    /// The folder at which relative paths start.
    pub fn folder(&self) -> PathBuf {
        self.report.file.parent().unwrap_or(Path::new("")).to_owned()
    }

    /// The line in which the table begins.
    pub fn line(&self) -> usize {
        match self.place {
            Place::Line(line) => line,
            Place::Variable(_) => 0,
        }
    }

    /// The line of each key of the table that was taken, those of its own tables by names like `redemption.max_age`.
    pub fn lines(&self) -> BTreeMap<String, usize> {
        let line = |(name, place): (&String, &Place)| match place {
            Place::Line(line) => Some((name.strip_prefix(&self.prefix)?.to_owned(), *line)),
            Place::Variable(_) => None,
        };
        self.report.places.borrow().iter().filter_map(line).collect()
    }

    /// Whether `key` is written and not yet taken.
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// A string that `read` makes something of.
    pub fn parse<T, E: Display>(&mut self, key: &'static str, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let entry = self.take(key)?;
        let text = self.text(key, &entry)?;
        read(text).map_err(|cause| self.error(key, cause)).ok()
    }

    /// Any string.
    pub fn string(&mut self, key: &'static str) -> Option<String> {
        self.parse(key, |text| Ok::<_, String>(text.to_owned()))
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.parse(key, |text| {
            let names = || choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            let found = choices.iter().find(|(name, _)| *name == text);
            found.map(|(_, choice)| *choice).ok_or_else(|| format!("must be one of {}", names()))
        })
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        let entry = self.take(key)?;
        let flag = entry.value.as_bool();
        flag.or_else(|| self.wrong_type(key, &entry.place, "true or false", &entry.value))
    }

    /// A whole number in `range`.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
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
    pub fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let duration = self.duration_or_none(key)?;
        if duration.is_zero() {
            self.error(key, "must be at least \"1s\"");
            return None;
        }
        Some(duration)
    }

    /// A duration that may be `"0s"`.
    pub fn duration_or_none(&mut self, key: &'static str) -> Option<Duration> {
        self.parse(key, duration)
    }

    /// A path; a relative one starts at the folder of the file.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let folder = self.folder();
        self.parse(key, |text| path(&folder, text))
    }

    /// A list of paths.
    pub fn paths(&mut self, key: &'static str) -> Option<Vec<PathBuf>> {
        let folder = self.folder();
        self.list(key, |text| path(&folder, text))
    }

    /// A list of strings that `read` makes something of; each bad one is complained about in its own line.
    pub fn list<T, E: Display>(&mut self, key: &'static str, read: impl Fn(&str) -> Result<T, E>) -> Option<Vec<T>> {
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
    pub fn pairs(&mut self, key: &'static str) -> Option<Vec<(String, String)>> {
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

    /// A table, as the JSON object that says the same; numbers keep their digits.
    pub fn members(&mut self, key: &'static str) -> Option<Members> {
        let entry = self.take(key)?;
        if !matches!(entry.value, DeValue::Table(_)) {
            return self.wrong_type(key, &entry.place, "a table", &entry.value);
        }
        let members =
            json(&entry.value).and_then(|text| serde_json::from_str(&text).map_err(|cause| cause.to_string()));
        members.map_err(|cause| self.error(key, cause)).ok()
    }

    /// A table; an empty one in its place if it is not written.
    pub fn section(&mut self, key: &'static str) -> Self {
        self.table(key).unwrap_or_else(|| Self {
            report: self.report,
            prefix: format!("{}.", self.name(key)),
            place: self.place.clone(),
            entries: BTreeMap::new(),
            known: Vec::new(),
        })
    }

    /// A table, if it is written.
    pub fn table(&mut self, key: &'static str) -> Option<Self> {
        let entry = self.take(key)?;
        match entry.value {
            DeValue::Table(table) => Some(Self::new(self.report, format!("{}.", self.name(key)), entry.place, table)),
            other => self.wrong_type(key, &entry.place, "a table", &other),
        }
    }

    /// Whether `key` is written as a list, of tables or anything else, and not yet taken.
    pub fn has_list(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| matches!(entry.value, DeValue::Array(_)))
    }

    /// The tables of an array, such as each `[[subject_issuer]]`.
    pub fn tables(&mut self, key: &'static str) -> Vec<Self> {
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

    /// Complains if `key` is written: it means something that this version cannot do.
    pub fn not_supported(&mut self, key: &'static str) {
        if self.take(key).is_some() {
            self.error(key, format_args!("`{key}` is not supported by this version of Writ"));
        }
    }

    /// Takes `key` whatever it is, and says whether it is there.
    pub fn ignore(&mut self, key: &'static str) -> bool {
        self.take(key).is_some()
    }

    /// Complains about every key that was never asked for.
    pub fn finish(self) {
        for (key, entry) in &self.entries {
            let name = self.name(&key.escape_debug().to_string());
            let near = writ_platform::suggest::did_you_mean(key, &self.known);
            self.report.add(Severity::Error, &entry.place, &name, format_args!("unknown key `{name}`{near}"));
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Entry<'a>> {
        self.known.push(key);
        let entry = self.entries.remove(key)?;
        self.report.places.borrow_mut().insert(self.name(key), entry.place.clone());
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
        let message = format!("must be {wanted}, not {}", of_type(found));
        self.report.add(Severity::Error, place, &self.name(key), message);
        None
    }
}

/// The JSON text of a value; a date or a number that JSON does not have is named.
fn json(value: &DeValue<'_>) -> Result<String, String> {
    let text = |text: &str| serde_json::to_string(text).map_err(|cause| cause.to_string());
    match value {
        DeValue::String(string) => text(string),
        DeValue::Boolean(flag) => Ok(flag.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| format!("{} is too large a number", number.as_str())),
        DeValue::Float(number) => {
            let digits = number.as_str().trim_start_matches('+');
            let is_json = serde_json::from_str::<f64>(digits).is_ok();
            is_json.then(|| digits.to_owned()).ok_or_else(|| format!("{digits} is no number in JSON"))
        }
        DeValue::Datetime(date) => Err(format!("{date} is no value in JSON: write it as a string")),
        DeValue::Array(elements) => {
            let elements: Result<Vec<_>, _> = elements.iter().map(|element| json(element.get_ref())).collect();
            Ok(format!("[{}]", elements?.join(",")))
        }
        DeValue::Table(table) => {
            let member = |(name, value): (&toml::Spanned<Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
                Ok(format!("{}:{}", text(name.get_ref())?, json(value.get_ref())?))
            };
            let members: Result<Vec<_>, String> = table.iter().map(member).collect();
            Ok(format!("{{{}}}", members?.join(",")))
        }
    }
}

fn of_type(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn path(folder: &Path, text: &str) -> Result<PathBuf, &'static str> {
    let usable = !text.is_empty() && !text.contains('\0');
    usable.then(|| folder.join(text)).ok_or("must be a path")
}

/// A hundred years: far beyond any sense, and far from where sums overflow.
const LONGEST: u64 = 36_500 * 86_400;

/// A duration such as `"60s"` or `"1h30m"`; `"0s"` too.
pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    const FORM: &str = "must be a duration: a whole number and s, m, h or d, such as \"60s\" or \"1h30m\"";
    let (mut rest, mut total, mut above) = (text, 0_u64, u64::MAX);
    while !rest.is_empty() || above == u64::MAX {
        let end = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, tail) = rest.split_at(end);
        let scale = match tail.bytes().next() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3_600,
            Some(b'd') => 86_400,
            _ => return Err(FORM),
        };
        if digits.is_empty() || scale >= above {
            return Err(FORM);
        }
        let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
        let seconds = seconds.and_then(|seconds| total.checked_add(seconds)).filter(|seconds| *seconds <= LONGEST);
        total = seconds.ok_or("must be at most a hundred years")?;
        (rest, above) = (&tail[1..], scale);
    }
    Ok(Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use writ_platform::clock::HumanDuration;

    /// The problems that `read` finds in `text`, as `line key: message`.
    fn complaints(text: &str, read: impl FnOnce(&mut Section<'_>)) -> Vec<String> {
        let (report, table) = Report::parse(Path::new("folder/x.toml"), text);
        let mut root = Section::root(&report, table);
        read(&mut root);
        root.finish();
        report.into_problems().iter().map(|p| format!("{} {}: {}", p.line, p.key, p.message)).collect()
    }

    #[test]
    fn a_key_that_nobody_asked_for_is_named_with_its_line_and_the_nearest_known_one() {
        let found = complaints("a = 1\n\n[listen]\nexchnage = 2\nx = 3\n", |root| {
            root.integer("a", 0..=9);
            let mut listen = root.section("listen");
            listen.string("exchange");
            listen.string("ops");
            listen.finish();
        });
        assert_eq!(
            found,
            [
                "4 listen.exchnage: unknown key `listen.exchnage`: did you mean `exchange`?",
                "5 listen.x: unknown key `listen.x`"
            ]
        );
    }

    ///
    #[test]
    fn a_value_of_the_wrong_type_is_named_with_what_it_should_be() {
        let text = "a = 1\nb = \"x\"\nc = true\nd = [\"x\",\n 2]\ne = 1.5\nf = [1]\ng = [1]\n";
        let found = complaints(text, |root| {
            assert!(root.string("a").is_none());
            assert!(root.flag("b").is_none());
            assert!(root.integer("c", 0..=9).is_none());
            assert!(root.list("d", str::parse::<String>).is_none());
            assert!(root.duration("e").is_none());
            assert!(root.table("f").is_none());
            assert!(root.tables("g").is_empty());
        });
        assert_eq!(
            found,
            [
                "1 a: must be a string, not a whole number",
                "2 b: must be true or false, not a string",
                "3 c: must be a whole number, not true or false",
                "5 d: must be a list of strings, not a whole number",
                "6 e: must be a string, not a fraction",
                "7 f: must be a table, not a list",
                "8 g: must be [[g]] tables, not a whole number",
            ]
        );
    }

    ///
    #[test]
    fn a_key_or_table_that_is_written_twice_is_named_in_its_second_line() {
        let found = complaints("a = 1\na = 2\n[t]\nb = 1\n[t]\nc = 1\n", |root| {
            root.integer("a", 0..=9);
            let mut table = root.section("t");
            table.integer("b", 0..=9);
            table.integer("c", 0..=9);
            table.finish();
        });
        assert_eq!(found, ["2 a: is written twice", "5 t: is written twice"]);
    }

    #[test]
    fn each_line_that_is_no_toml_is_named_once_and_hides_no_other_mistake() {
        let found = complaints("a = \nb = 'x\nc = 1\nd = 12\n", |root| {
            root.require(&["a", "z"]);
            root.duration("a");
            root.duration("b");
            root.integer("c", 0..=9);
            root.integer("d", 0..=9);
        });
        assert!(found[0].starts_with("1 : ") && found[1].starts_with("2 : "), "{found:?}");
        assert_eq!(found[2..], ["4 d: must be a whole number from 0 to 9"]);
    }

    #[test]
    fn durations_are_whole_numbers_and_units_the_longest_first() {
        for (text, seconds) in [("60s", 60), ("10m", 600), ("24h", 86_400), ("90d", 7_776_000), ("0s", 0), ("007s", 7)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "", "s", "60", "-1s", "+1s", "1.5h", "1 s", " 1s", "1S", "1w", "1ms", "1m1h", "1h1h", "1h30", "36501d",
            "1ä",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        for seconds in [0, 1, 90, 5_400, 86_401, 5_184_300, LONGEST] {
            let duration_of = Duration::from_secs(seconds);
            assert_eq!(
                duration(&HumanDuration(duration_of).to_string()),
                Ok(duration_of),
                "what is printed can be written"
            );
        }
        assert!(duration(&format!("{}d", u64::MAX)).is_err());
        let found = complaints("a = \"0s\"\nb = \"0s\"\n", |root| {
            root.duration("a");
            root.duration_or_none("b");
        });
        assert_eq!(found, ["1 a: must be at least \"1s\""]);
    }

    #[test]
    fn relative_paths_start_at_the_folder_of_the_file() {
        let found = complaints("a = \"certs/a.pem\"\nb = \"/b.pem\"\nc = \"\"\n", |root| {
            assert_eq!(root.path("a"), Some("folder/certs/a.pem".into()));
            assert_eq!(root.path("b"), Some("/b.pem".into()));
            root.path("c");
        });
        assert_eq!(found, ["3 c: must be a path"]);
    }

    #[test]
    fn whole_numbers_are_read_in_every_notation() {
        let found = complaints("a = 0x10\nb = 1_000\nc = -1\nd = 99999999999999999999\n", |root| {
            assert_eq!(root.integer("a", 0..=99), Some(16));
            assert_eq!(root.integer("b", 0..=1_000), Some(1_000));
            assert_eq!(root.integer("c", 0..=9), None);
            assert_eq!(root.integer("d", 0..=9), None);
        });
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn what_this_version_cannot_do_is_said_plainly() {
        let found = complaints("[[p]]\nwhen = \"true\"\n", |root| {
            for mut table in root.tables("p") {
                table.not_supported("when");
                table.finish();
            }
        });
        assert_eq!(found, ["2 p[0].when: `when` is not supported by this version of Writ"]);
    }
}
