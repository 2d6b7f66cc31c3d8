//! The checks and their outcomes, as text and as JSON. Tokens and secrets are redacted here.

use std::fmt;

use serde_json::{Value, json};
use zeroize::Zeroizing;

/// Shorter texts are too common to be secrets.
const SECRET_MIN: usize = 8;
/// Spaces between two columns.
const COLUMN_GAP: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As required or recommended.
    Passed,
    /// Against the draft or a standard that it builds on.
    Failed,
    /// Allowed, but different from what the standards recommend or Writ does.
    Noted,
    /// The target does not offer what would be tested, or an option of the command is missing.
    NotApplicable,
    /// An earlier failure makes the check impossible.
    NotTried,
}

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Stable: programs read it.
    name: String,
    /// The number in `docs/spec/requirements.md`.
    requirement: &'static str,
    action: String,
    expected: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// What the target did, or why the check was not made.
    actual: String,
}

/// A check of something that has been received already.
pub(crate) struct Check<T> {
    pub(crate) name: &'static str,
    pub(crate) requirement: &'static str,
    pub(crate) action: &'static str,
    pub(crate) expected: &'static str,
    pub(crate) judge: fn(&T) -> Verdict,
}

/// All checks in the order in which they were made.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<(Rule, Verdict)>,
    secrets: Vec<Zeroizing<String>>,
}

impl Rule {
    pub(crate) fn new(
        name: impl Into<String>,
        requirement: &'static str,
        action: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), requirement, action: action.into(), expected: expected.into() }
    }
}

impl Verdict {
    fn new(outcome: Outcome, actual: impl Into<String>) -> Self {
        Self { outcome, actual: actual.into() }
    }

    pub(crate) fn passed(actual: impl Into<String>) -> Self {
        Self::new(Outcome::Passed, actual)
    }

    pub(crate) fn failed(actual: impl Into<String>) -> Self {
        Self::new(Outcome::Failed, actual)
    }

    pub(crate) fn noted(actual: impl Into<String>) -> Self {
        Self::new(Outcome::Noted, actual)
    }

    pub(crate) fn not_applicable(reason: impl Into<String>) -> Self {
        Self::new(Outcome::NotApplicable, reason)
    }

    pub(crate) fn not_tried(reason: impl Into<String>) -> Self {
        Self::new(Outcome::NotTried, reason)
    }

    /// For a MUST: passed or failed.
    pub(crate) fn required(is_met: bool, actual: impl Into<String>) -> Self {
        Self::new(if is_met { Outcome::Passed } else { Outcome::Failed }, actual)
    }

    /// For a SHOULD: passed or noted.
    pub(crate) fn recommended(is_met: bool, actual: impl Into<String>) -> Self {
        Self::new(if is_met { Outcome::Passed } else { Outcome::Noted }, actual)
    }

    /// For something unexpected: noted where the standards allow it, otherwise failed.
    pub(crate) fn unexpected(is_allowed: bool, actual: impl Into<String>) -> Self {
        Self::new(if is_allowed { Outcome::Noted } else { Outcome::Failed }, actual)
    }
}

impl Report {
    /// Hides this text wherever the target repeats it, unless it is shorter than 8 bytes.
    pub(crate) fn redact(&mut self, secret: &str) {
        if secret.len() >= SECRET_MIN {
            self.secrets.push(Zeroizing::new(secret.to_owned()));
        }
    }

    /// Adds a check and returns its outcome.
    pub(crate) fn add(&mut self, rule: Rule, verdict: Verdict) -> Outcome {
        let Verdict { outcome, actual } = verdict;
        let actual = self.redacted(&actual);
        self.lines.push((rule, Verdict { outcome, actual }));
        outcome
    }

    /// Adds `checks` of `subject`; if there is none, each gets the verdict that explains why. Returns whether all passed that
    /// apply.
    pub(crate) fn judge<T>(&mut self, subject: Result<&T, &Verdict>, checks: &[Check<T>]) -> bool {
        let mut all = true;
        for check in checks {
            let rule = Rule::new(check.name, check.requirement, check.action, check.expected);
            let verdict = subject.map_or_else(Verdict::clone, check.judge);
            all &= matches!(self.add(rule, verdict), Outcome::Passed | Outcome::NotApplicable);
        }
        all
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.count(Outcome::Failed) > 0
    }

    /// `{"target","passed":n,"failed":n,…,"checks":[{"name","requirement","outcome","did","came","expected"}]}`
    pub(crate) fn to_json(&self, target: &str) -> Value {
        let line = |(rule, verdict): &(Rule, Verdict)| {
            json!({
                "name": rule.name, "requirement": rule.requirement, "outcome": verdict.outcome.code(),
                "did": rule.action, "came": verdict.actual, "expected": rule.expected,
            })
        };
        let mut report = json!({ "target": target, "checks": self.lines.iter().map(line).collect::<Vec<_>>() });
        for outcome in Outcome::ALL {
            report[outcome.code()] = self.count(outcome).into();
        }
        report
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.lines.iter().filter(|(_, verdict)| verdict.outcome == outcome).count()
    }

    /// Without secrets, without anything that looks like a JWT, and with control characters escaped.
    fn redacted(&self, text: &str) -> String {
        let text = self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "…"));
        let words = text.split(' ').map(|word| if contains_jwt(word) { "…" } else { word });
        escape_control(&words.collect::<Vec<_>>().join(" "))
    }
}

/// `eyJ` is `{"` in base64url; a dot must follow somewhere.
fn contains_jwt(word: &str) -> bool {
    word.find("eyJ").is_some_and(|at| word[at..].contains('.'))
}

/// Text of the target must not control the terminal.
fn escape_control(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A line for each check, with outcome and requirement in columns, and a summary.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome_width = column_width(Outcome::ALL.into_iter().map(Outcome::word));
        let requirement_width = column_width(self.lines.iter().map(|(rule, _)| rule.requirement));
        for (Rule { name, requirement, action, expected }, verdict) in &self.lines {
            let (outcome, actual) = (verdict.outcome.word(), &verdict.actual);
            write!(f, "{outcome:outcome_width$}{requirement:requirement_width$}")?;
            writeln!(f, "{name}: {action}; actual: {actual}; expected: {expected}")?;
        }
        let counts = Outcome::ALL.map(|outcome| format!("{} {}", self.count(outcome), outcome.word()));
        write!(f, "{}", counts.join(", "))
    }
}

fn column_width<'a>(cells: impl Iterator<Item = &'a str>) -> usize {
    cells.map(str::len).max().unwrap_or(0) + COLUMN_GAP
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Passed, Self::Failed, Self::Noted, Self::NotApplicable, Self::NotTried];

    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Noted => "noted",
            Self::NotApplicable => "not applicable",
            Self::NotTried => "could not be tried",
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Noted => "noted",
            Self::NotApplicable => "not_applicable",
            Self::NotTried => "not_tried",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(actual: &str) -> Report {
        let mut report = Report::default();
        report.redact("an-opaque-token");
        report.add(Rule::new("n", "R-REQ-01", "action", "expected"), Verdict::failed(actual));
        report
    }

    #[test]
    fn tokens_and_secrets_are_redacted() {
        for actual in ["400 an-opaque-token", "error eyJhbGciOiJub25lIn0.e30. (400)", "\"eyJ.x\"", "xan-opaque-tokenx"]
        {
            let report = report(actual);
            let shown = format!("{report}{}", report.to_json("https://t"));
            assert!(!shown.contains("opaque") && !shown.contains("eyJ"), "{shown}");
        }
    }

    #[test]
    fn a_line_says_all_and_the_summary_counts() {
        let mut report = report("a\u{1b}[2Jb");
        report.add(Rule::new("m", "R-REQ-02", "a", "e"), Verdict::passed("c"));
        let shown = report.to_string();
        assert!(shown.contains("R-REQ-01  n: action; actual: a\\u{1b}[2Jb; expected: expected\n"), "{shown}");
        assert!(shown.ends_with("1 passed, 1 FAILED, 0 noted, 0 not applicable, 0 could not be tried"), "{shown}");
        assert!(report.has_failed());
        let json = report.to_json("https://t");
        assert_eq!((&json["failed"], &json["checks"][1]["outcome"]), (&json!(1), &json!("passed")));
    }

    #[test]
    fn columns_are_aligned_on_the_longest_cell() {
        let mut report = report("a");
        for (name, requirement, verdict) in [
            ("a", "R-VERIFY-05", Verdict::not_tried("why")),
            ("b", "R-REQ-02", Verdict::not_applicable("why")),
            ("c", "R-POL-01", Verdict::passed("yes")),
        ] {
            report.add(Rule::new(name, requirement, "action", "expected"), verdict);
        }
        let shown = report.to_string();
        let starts: Vec<&str> = shown.lines().map(|line| line.split(": action").next().unwrap()).collect();
        assert_eq!(
            starts[..4],
            [
                "FAILED              R-REQ-01     n",
                "could not be tried  R-VERIFY-05  a",
                "not applicable      R-REQ-02     b",
                "passed              R-POL-01     c",
            ]
        );
    }
}
