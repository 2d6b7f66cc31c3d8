//! `policies/tests/*.toml`: expectations about the policies, checked by the functions that decide live requests.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use writ_verifier::Members;

use super::difference::{Difference, lacks};
use super::trial::{Trial, Verdict, World};
use crate::cli::printable;
use crate::config::document::{Report, Section};
use crate::config::{Problem, Severity};
use writ_core::refusal::Reason;

/// The value of `expect` for a request that gets a token.
const ALLOW: &str = "allow";

/// One `[[test]]`.
#[derive(Debug)]
struct Test {
    file: PathBuf,
    line: usize,
    /// `test[0]`.
    key: String,
    name: String,
    trial: Trial,
    /// `allow`, or a reason.
    expect: String,
    /// Members that the token must contain.
    claims: Members,
}

#[derive(Debug)]
pub(super) struct TestResult {
    file: PathBuf,
    line: usize,
    name: String,
    expected: String,
    actual: String,
    differences: Vec<Difference>,
    /// The rule that refused, with its detail.
    why: Option<String>,
}

impl TestResult {
    pub(super) fn passed(&self) -> bool {
        self.expected == self.actual && self.differences.is_empty()
    }
}

/// The files with expectations about the policies in `directory`.
pub(super) fn files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let folder = directory.join("tests");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".toml") && !name.starts_with('.') {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(format!("{}: holds no tests", folder.display())) } else { Ok(files) }
}

/// Runs every test of these files.
///
/// # Errors
/// Every problem of the files; then no result is returned.
pub(super) fn run(files: &[PathBuf], world: &World) -> Result<Vec<TestResult>, Vec<Problem>> {
    let (mut tests, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        match fs::read_to_string(file) {
            Ok(text) => {
                let (read, wrong) = parse(file, &text);
                tests.extend(read);
                problems.extend(wrong);
            }
            Err(error) => problems.push(Problem::of_file(file, error)),
        }
    }
    let mut results = Vec::new();
    for test in tests {
        match test.trial.decide(world) {
            Ok(verdict) => results.push(test.judge(&verdict)),
            Err(error) => problems.push(Problem {
                severity: Severity::Error,
                key: format!("{}.{}", test.key, error.key),
                message: error.message,
                file: test.file,
                line: test.line,
            }),
        }
    }
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    if problems.is_empty() { Ok(results) } else { Err(problems) }
}

fn parse(file: &Path, text: &str) -> (Vec<Test>, Vec<Problem>) {
    let (report, table) = Report::parse(file, text);
    let mut root = Section::root(&report, table);
    root.require(&["test"]);
    let mut tests = Vec::new();
    for (index, mut table) in root.tables("test").into_iter().enumerate() {
        tests.extend(test(&mut table, file, index));
        table.finish();
    }
    root.finish();
    (tests, report.into_problems())
}

fn test(table: &mut Section<'_>, file: &Path, index: usize) -> Option<Test> {
    table.require(&["name", "client", "source", "scope", "expect"]);
    let (name, client) = (table.string("name"), table.string("client"));
    let source = table.parse("source", super::source);
    let scope = table.string("scope");
    let (subject, subject_scope) = (table.string("subject"), table.string("subject_scope"));
    let json = |members: Option<Members>| members.and_then(|members| serde_json::to_string(&members).ok());
    let (details, context) = (json(table.members("details")), json(table.members("context")));
    let presented = table.members("presented");
    let age = table.parse("age", str::parse);
    let expect = table.parse("expect", expectation);
    let wants_claims = table.has("claims");
    let claims = table.members("claims").unwrap_or_default();
    if wants_claims && expect.as_deref().is_some_and(|expect| expect != ALLOW) {
        table.error("claims", "does not apply: a refused request gets no token");
    }
    let trial = Trial {
        client: client?,
        source: source?,
        scope: scope?,
        subject,
        subject_scope,
        details,
        context,
        presented,
        age,
    };
    let (line, key) = (table.line(), format!("test[{index}]"));
    Some(Test { file: file.to_owned(), line, key, name: name?, trial, expect: expect?, claims })
}

fn expectation(text: &str) -> Result<String, &'static str> {
    let is_decision = |reason: Reason| !reason.is_listeners_own();
    let known = text == ALLOW || Reason::from_name(text).is_some_and(is_decision);
    known.then(|| text.to_owned()).ok_or("must be \"allow\" or the reason of a refusal, like \"purpose_not_allowed\"")
}

impl Test {
    fn judge(self, verdict: &Verdict) -> TestResult {
        let actual = match &verdict.outcome {
            Ok(_) => ALLOW,
            Err(refusal) => refusal.reason().as_str(),
        };
        let token = verdict.outcome.as_ref().ok().and_then(|allowed| serde_json::to_string(&allowed.claims).ok());
        let wanted = serde_json::to_string(&self.claims).unwrap_or_default();
        let differences = token.map(|token| lacks(&token, &wanted)).unwrap_or_default();
        let refused = verdict.rules.last().filter(|_| verdict.outcome.is_err());
        TestResult {
            why: refused.map(|rule| format!("{}: {}", rule.rule, rule.detail)),
            file: self.file,
            line: self.line,
            name: self.name,
            expected: self.expect,
            actual: actual.to_owned(),
            differences,
        }
    }
}

/// The failures, and a line with the counts.
pub(super) fn to_text(results: &[TestResult]) -> String {
    let mut text = String::new();
    for result in results.iter().filter(|result| !result.passed()) {
        let name = printable(&result.name);
        let _ = writeln!(text, "FAILED {}:{}: {name}", result.file.display(), result.line);
        if result.expected != result.actual {
            let _ = writeln!(text, "  expected  {}\n  actual    {}", result.expected, result.actual);
        }
        if let Some(why) = &result.why {
            let _ = writeln!(text, "            {}", printable(why));
        }
        for difference in &result.differences {
            let (path, actual) = (&difference.path, difference.actual.as_deref().unwrap_or("not there"));
            let _ = writeln!(text, "  {path}\n    expected  {}\n    actual    {actual}", difference.expected);
        }
    }
    let failed = results.iter().filter(|result| !result.passed()).count();
    let _ = writeln!(text, "{} passed, {failed} failed", results.len() - failed);
    text
}

/// `{"passed":n,"failed":n,"tests":[{"file","name","passed","expected","actual"}]}`
pub(super) fn to_json(results: &[TestResult]) -> String {
    let with = |word: &str, members: Vec<String>| {
        if members.is_empty() { word.to_owned() } else { format!("{word} with {}", members.join(", ")) }
    };
    let one = |result: &TestResult| {
        let pair = |difference: &Difference| {
            let actual = difference.actual.as_deref().unwrap_or("nothing");
            (format!("{} = {}", difference.path, difference.expected), format!("{} = {actual}", difference.path))
        };
        let (expected, actual) = result.differences.iter().map(pair).unzip();
        json!({
            "file": result.file.display().to_string(),
            "name": result.name,
            "passed": result.passed(),
            "expected": with(&result.expected, expected),
            "actual": with(&result.actual, actual),
        })
    };
    let failed = results.iter().filter(|result| !result.passed()).count();
    let tests: Vec<_> = results.iter().map(one).collect();
    json!({ "passed": results.len() - failed, "failed": failed, "tests": tests }).to_string()
}
