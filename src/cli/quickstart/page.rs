//! The output of quickstart: headings, paragraphs, tokens and commands; prose is wrapped to the terminal.

use std::io::{self, Write as _};

use serde_json::Value;
use writ_verifier::Members;

const WIDTH: usize = 96;
const INDENT: &str = "   ";

/// Standard output with numbered chapters.
pub(super) struct Page {
    out: io::Stdout,
    chapters: u32,
}

impl Page {
    pub(super) fn new() -> Self {
        Self { out: io::stdout(), chapters: 0 }
    }

    /// A heading with the next number.
    pub(super) fn chapter(&mut self, title: &str) -> io::Result<()> {
        self.chapters += 1;
        self.title(&format!("{}. {title}", self.chapters))
    }

    pub(super) fn title(&self, title: &str) -> io::Result<()> {
        self.print(&format!("{title}\n{}\n", "-".repeat(title.chars().count())))
    }

    pub(super) fn text(&self, text: &str) -> io::Result<()> {
        self.print(&format!("{}\n", wrapped(text, INDENT)))
    }

    /// Lines that are not wrapped.
    pub(super) fn lines<L: AsRef<str>>(&self, lines: impl IntoIterator<Item = L>) -> io::Result<()> {
        let lines = lines.into_iter().flat_map(|line| [INDENT, INDENT, line.as_ref(), "\n"].map(str::to_owned));
        self.print(&(lines.collect::<String>() + "\n"))
    }

    /// A line without a blank line after it.
    pub(super) fn note(&self, line: &str) -> io::Result<()> {
        self.print(&format!("{}\n", format!("{INDENT}{INDENT}{line}").trim_end()))
    }

    /// Parts of a token, one member a line.
    pub(super) fn token(&self, parts: [(&str, &Members); 2]) -> io::Result<()> {
        self.lines(parts.into_iter().flat_map(|(name, members)| block(name, members)))
    }

    pub(super) fn refusal(&self, answer: &Value) -> io::Result<()> {
        self.lines(format!("{answer:#}").lines())
    }

    pub(super) fn command(&self, command: &str) -> io::Result<()> {
        self.lines(command.lines())
    }

    /// Flushes, so that each part appears at once.
    fn print(&self, text: &str) -> io::Result<()> {
        let mut out = self.out.lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

/// Breaks lines at [`WIDTH`]; white space becomes single spaces.
fn wrapped(text: &str, indent: &str) -> String {
    let mut page = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length <= WIDTH {
            page.push(' ');
            column += 1 + length;
        } else {
            page.push_str(if column == 0 { "" } else { "\n" });
            page.push_str(indent);
            column = indent.len() + length;
        }
        page.push_str(word);
    }
    page.push('\n');
    page
}

fn block(name: &str, members: &Members) -> Vec<String> {
    let mut lines = vec![format!("{name} {{")];
    let last = members.iter().count();
    for (at, (member, value)) in members.iter().enumerate() {
        let comma = if at + 1 < last { "," } else { "" };
        lines.push(format!("  {}: {value}{comma}", Value::from(member)));
    }
    lines.push("}".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use writ_verifier::json::Limits;

    use super::*;

    #[test]
    fn prose_is_wrapped() {
        let text = "word ".repeat(60) + &"x".repeat(120);
        let page = wrapped(&text, INDENT);
        let mut lines: Vec<_> = page.lines().collect();
        assert_eq!(lines.pop().map(str::trim), Some("x".repeat(120).as_str()), "nothing is cut");
        assert!(lines.iter().all(|line| line.starts_with("   word") && line.len() <= WIDTH), "{page}");
        assert!(lines[..lines.len() - 1].iter().all(|line| line.len() > WIDTH - 6), "{page}");
    }

    #[test]
    fn members_keep_their_order_and_numbers() {
        let members = Members::parse(r#"{"z":1.0,"a":{"b":[1]}}"#, Limits::DEFAULT).unwrap();
        assert_eq!(block("claims", &members).join("\n"), "claims {\n  \"z\": 1.0,\n  \"a\": {\"b\":[1]}\n}");
    }
}
