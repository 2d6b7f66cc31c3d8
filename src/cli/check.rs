//! `writ check`: everything that would stop the service from starting, or should be known before it does, in one run.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::config::{Problem, Severity, file, files};
use crate::policy::folder;

/// What is wrong with the file at `path`, with the files that it names, and with the policies. Nothing is started,
/// and nothing is changed.
pub fn check(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Vec<Problem> {
    let reading = file::read(path, environment);
    let mut problems = reading.problems;
    problems.extend(reading.config.iter().flat_map(|config| files::problems(config)));
    // Even where the configuration is wrong: the next run should bring no news.
    if let Some(settings) = &reading.policies {
        problems.extend(match folder::load(settings) {
            Ok((_, warnings)) => warnings,
            Err(problems) => problems,
        });
    }
    problems
}

/// Prints what is wrong, for people or for programs.
pub fn run(path: &Path, json: bool) -> ExitCode {
    let problems = check(path, std::env::vars());
    print!("{}", if json { to_json(&problems) + "\n" } else { to_text(&problems) });
    ExitCode::from(exit_code(&problems))
}

/// 0 if the service can start, 2 if not.
pub fn exit_code(problems: &[Problem]) -> u8 {
    if problems.iter().any(Problem::is_error) { 2 } else { 0 }
}

/// A line for each problem, and one that counts them.
pub fn to_text(problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        let _ = writeln!(text, "{problem}");
    }
    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) => text.push_str("ok\n"),
        (0, warnings) => drop(writeln!(text, "ok, {}", counted(warnings, "warning"))),
        (errors, 0) => drop(writeln!(text, "{}", counted(errors, "error"))),
        (errors, warnings) => drop(writeln!(text, "{}, {}", counted(errors, "error"), counted(warnings, "warning"))),
    }
    text
}

/// `{"ok":…,"problems":[{"severity","file","line","key","message"}]}`
pub fn to_json(problems: &[Problem]) -> String {
    json!({ "ok": exit_code(problems) == 0, "problems": problems }).to_string()
}

fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}
