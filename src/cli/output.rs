//! What commands print: answers on standard output, errors on standard error.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{NO, USAGE};
use crate::config::Problem;
use crate::service::admin::Reply;

/// Prints `text`. The exit code is `code`, or that of a failure if standard output cannot be written.
pub(super) fn print(text: &str, code: ExitCode) -> ExitCode {
    let mut told = Told::default();
    told.line(text.trim_end_matches('\n'));
    told.exit_code(code)
}

/// What a command tells while it works. It goes on if standard output cannot be written, and fails at its end.
#[derive(Debug, Default)]
pub(super) struct Told {
    failure: Option<io::Error>,
}

impl Told {
    pub(super) fn line(&mut self, text: impl Display) {
        let written = writeln!(io::stdout(), "{text}");
        self.failure = self.failure.take().or(written.err());
    }

    /// `code`, or that of a failure if anything could not be written.
    pub(super) fn exit_code(self, code: ExitCode) -> ExitCode {
        let failed = |error: io::Error| failed(&io::Error::new(error.kind(), format!("standard output: {error}")));
        self.failure.map_or(code, failed)
    }
}

/// Prints the reply to an operator's command: in JSON, or an answer as `text` writes it for people.
pub(super) fn print_reply(reply: Reply, json: bool, text: impl FnOnce(&Value) -> String) -> ExitCode {
    match reply {
        Reply::Done(answer) => print(&if json { answer.to_string() } else { text(&answer) }, ExitCode::SUCCESS),
        Reply::Refused(why) => {
            let mut code = ExitCode::from(NO);
            if json {
                let answer = json!({ "ok": false, "problems": why.lines().collect::<Vec<_>>() });
                code = print(&answer.to_string(), code);
            }
            eprintln!("{why}");
            code
        }
        Reply::Failed(why) => {
            eprintln!("writ: {why}");
            ExitCode::from(USAGE)
        }
    }
}

pub(super) fn failed(error: &dyn std::error::Error) -> ExitCode {
    // The exit code tells it even where nothing can be written.
    let _ = writeln!(io::stderr(), "writ: {error}");
    ExitCode::from(USAGE)
}

pub(super) fn print_problems(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}

/// Rows below their titles; each column is as wide as its widest cell.
pub(super) fn table<const N: usize>(titles: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut lines = vec![titles.map(str::to_owned)];
    lines.extend(rows);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let padded = |line: &[String; N]| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(padded).collect::<Vec<_>>().join("\n")
}

/// Untrusted text for a terminal, with its control characters escaped.
pub(super) fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jä\n\u{9b}"), "a\\u{1b}[2Jä\\n\\u{9b}");
    }
}
