//! The problems of one file, and the place of each key.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::config::problem::{Problem, Severity};

/// The problems of one file, and the place of each key that was read.
#[derive(Debug)]
pub(crate) struct Report {
    pub(super) file: PathBuf,
    /// The offset at which each line ends.
    newlines: Vec<usize>,
    /// Lines that are not TOML: a key that seems to be missing may be in one of them.
    pub(super) broken: BTreeSet<Place>,
    pub(super) problems: RefCell<Vec<Problem>>,
    pub(super) places: RefCell<BTreeMap<String, Place>>,
}

/// The place of a value: a line, from 1, or an environment variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Line(usize),
    Variable(String),
}

/// The place of each key of a file, for problems that are found after it was read.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    file: PathBuf,
    of_keys: BTreeMap<String, Place>,
    /// Keys whose values are wrong.
    wrong: BTreeSet<String>,
    /// Lines that are not TOML: a key without a place may be in one of them.
    broken: BTreeSet<Place>,
}

impl Report {
    /// Parses `text`, the content of `file`; syntax errors and repeated keys are the first problems.
    pub(crate) fn parse<'t>(file: &Path, text: &'t str) -> (Self, DeTable<'t>) {
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

    /// Every problem, by line.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.into_parts().1
    }

    /// The place of each key that was read, and every problem, by line.
    pub(crate) fn into_parts(self) -> (Places, Vec<Problem>) {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        let places =
            Places { file: self.file, of_keys: self.places.into_inner(), wrong: wrong(&problems), broken: self.broken };
        (places, problems)
    }

    /// The place of each key that was read.
    pub(crate) fn places(&self) -> Places {
        Places {
            file: self.file.clone(),
            of_keys: self.places.borrow().clone(),
            wrong: wrong(&self.problems.borrow()),
            broken: self.broken.clone(),
        }
    }

    /// The line of a byte offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.newlines.partition_point(|&end| end < offset) + 1
    }

    /// One mistake confuses the rest of its line: only the first problem of a line is useful.
    fn add_syntax(&mut self, place: Place, message: &str) {
        if self.broken.contains(&place) {
            return;
        }
        self.add(Severity::Error, &place, "", message);
        self.broken.insert(place);
    }

    pub(super) fn add(&self, severity: Severity, place: &Place, key: &str, message: impl Display) {
        if !self.broken.contains(place) {
            let problem = problem(&self.file, severity, place, key, message);
            self.problems.borrow_mut().push(problem);
        }
    }
}

/// The keys whose values are wrong.
fn wrong(problems: &[Problem]) -> BTreeSet<String> {
    problems.iter().filter(|problem| problem.is_error()).map(|problem| problem.key.clone()).collect()
}

impl Places {
    /// A problem at the place of `key`, or of the file as a whole if `key` is not written in it.
    pub(crate) fn problem(&self, severity: Severity, key: &str, message: impl Display) -> Problem {
        problem(&self.file, severity, self.of_keys.get(key).unwrap_or(&Place::Line(0)), key, message)
    }

    /// Whether the value that was read for `key`, or its default, is certainly the one in the file.
    pub(crate) fn is_certain(&self, key: &str) -> bool {
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
