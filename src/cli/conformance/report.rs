//! What was tried and what came of it, for people and for programs. No token and no secret gets out of here.

use std::fmt;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::printable;

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As it must be.
    Passed,
    /// Against the draft or a standard that it builds on.
    Failed,
    /// Allowed, and not what the standards advise or what Writ does.
    Noted,
    /// The target does not offer what would be tried.
    NotApplicable,
    /// It cannot be told: something that it needs is missing.
    NotTried,
}

/// What to do, and what should come of it.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// Stable, for programs.
    pub(super) name: String,
    /// The number in `docs/spec/requirements.md`.
    pub(super) requirement: &'static str,
    /// What was done.
    pub(super) did: String,
    /// What a Transaction Token Service answers.
    pub(super) expected: String,
}

/// An outcome, and what came.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    came: String,
}

/// A rule with its judge, for what is looked at and not asked for again.
pub(super) struct Check<T> {
    pub(super) name: &'static str,
    pub(super) requirement: &'static str,
    pub(super) did: &'static str,
    pub(super) expected: &'static str,
    pub(super) judge: fn(&T) -> Verdict,
}

/// Every check in the order in which it was made.
#[derive(Default)]
pub(super) struct Report {
    lines: Vec<(Rule, Verdict)>,
    secrets: Vec<Zeroizing<String>>,
}

impl Rule {
    /// A rule of these words.
    pub(super) fn new(
        name: impl Into<String>,
        requirement: &'static str,
        did: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), requirement, did: did.into(), expected: expected.into() }
    }
}

impl Verdict {
    pub(super) fn passed(came: impl Into<String>) -> Self {
        Self { outcome: Outcome::Passed, came: came.into() }
    }

    pub(super) fn failed(came: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, came: came.into() }
    }

    pub(super) fn noted(came: impl Into<String>) -> Self {
        Self { outcome: Outcome::Noted, came: came.into() }
    }

    pub(super) fn not_applicable(why: impl Into<String>) -> Self {
        Self { outcome: Outcome::NotApplicable, came: why.into() }
    }

    pub(super) fn not_tried(why: impl Into<String>) -> Self {
        Self { outcome: Outcome::NotTried, came: why.into() }
    }

    /// Passed or failed.
    pub(super) fn of(is_right: bool, came: impl Into<String>) -> Self {
        if is_right { Self::passed(came) } else { Self::failed(came) }
    }

    /// Noted, or failed where it is against the draft.
    pub(super) fn noted_unless(is_failure: bool, came: impl Into<String>) -> Self {
        if is_failure { Self::failed(came) } else { Self::noted(came) }
    }

    /// Passed or noted.
    pub(super) fn advice(is_followed: bool, came: impl Into<String>) -> Self {
        if is_followed { Self::passed(came) } else { Self::noted(came) }
    }
}

impl Report {
    /// Takes note of a text that must not be shown, whoever repeats it. Words of a few characters are no secrets.
    pub(super) fn keep_secret(&mut self, text: &str) {
        if text.len() >= 8 {
            self.secrets.push(Zeroizing::new(text.to_owned()));
        }
    }

    /// Adds the outcome of a check, which it gives back.
    pub(super) fn add(&mut self, rule: Rule, verdict: Verdict) -> Outcome {
        let Verdict { outcome, came } = verdict;
        let came = self.redacted(&came);
        self.lines.push((rule, Verdict { outcome, came }));
        outcome
    }

    /// Judges `subject` by every check; where there is none, each has the verdict that says why. Tells whether all passed
    /// that apply.
    pub(super) fn judge<T>(&mut self, subject: Result<&T, &Verdict>, checks: &[Check<T>]) -> bool {
        let mut all = true;
        for check in checks {
            let rule = Rule::new(check.name, check.requirement, check.did, check.expected);
            let verdict = subject.map_or_else(Verdict::clone, check.judge);
            all &= matches!(self.add(rule, verdict), Outcome::Passed | Outcome::NotApplicable);
        }
        all
    }

    /// Whether anything is against the draft.
    pub(super) fn has_failed(&self) -> bool {
        self.count(Outcome::Failed) > 0
    }

    /// `{"passed":n,"failed":n,…,"checks":[{"name","requirement","outcome","did","came","expected"}]}`
    pub(super) fn to_json(&self, target: &str) -> Value {
        let line = |(rule, verdict): &(Rule, Verdict)| {
            json!({
                "name": rule.name, "requirement": rule.requirement, "outcome": verdict.outcome.code(),
                "did": rule.did, "came": verdict.came, "expected": rule.expected,
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

    fn redacted(&self, text: &str) -> String {
        let text = self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "…"));
        let words = text.split(' ').map(|word| if holds_jwt(word) { "…" } else { word });
        printable(&words.collect::<Vec<_>>().join(" "))
    }
}

/// Whether a word holds what could be a JWT: the text `{"` in base64url, and a dot after it.
fn holds_jwt(word: &str) -> bool {
    word.find("eyJ").is_some_and(|at| word[at..].contains('.'))
}

/// A line for each check and a summary.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (rule, verdict) in &self.lines {
            let Rule { name, requirement, did, expected } = rule;
            let came = &verdict.came;
            let outcome = verdict.outcome.word();
            writeln!(f, "{outcome:18}{requirement:12}{name}: {did}; came: {came}; expected: {expected}")?;
        }
        let counts = Outcome::ALL.map(|outcome| format!("{} {}", self.count(outcome), outcome.word()));
        write!(f, "{}", counts.join(", "))
    }
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

    fn report(came: &str) -> Report {
        let mut report = Report::default();
        report.keep_secret("an-opaque-token");
        report.add(Rule::new("n", "R-REQ-01", "did", "expected"), Verdict::failed(came));
        report
    }

    #[test]
    fn tokens_and_secrets_do_not_get_out() {
        for came in ["400 an-opaque-token", "error eyJhbGciOiJub25lIn0.e30. (400)", "\"eyJ.x\"", "xan-opaque-tokenx"] {
            let report = report(came);
            let shown = format!("{report}{}", report.to_json("https://t"));
            assert!(!shown.contains("opaque") && !shown.contains("eyJ"), "{shown}");
        }
    }

    #[test]
    fn a_line_says_all_and_the_summary_counts() {
        let mut report = report("a\u{1b}[2Jb");
        report.add(Rule::new("m", "R-REQ-02", "d", "e"), Verdict::passed("c"));
        let shown = report.to_string();
        assert!(shown.starts_with("FAILED            R-REQ-01    n: did; came: a\\u{1b}[2Jb; expected: expected\n"));
        assert!(shown.ends_with("1 passed, 1 FAILED, 0 noted, 0 not applicable, 0 could not be tried"), "{shown}");
        assert!(report.has_failed());
        let json = report.to_json("https://t");
        assert_eq!((&json["failed"], &json["checks"][1]["outcome"]), (&json!(1), &json!("passed")));
    }
}
