//! One line of the log: printable ASCII, whatever is in it, so that logged input can neither end a line nor control a
//! terminal.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter};

/// A line, with its end.
#[derive(Debug)]
pub struct Line(Vec<u8>);

/// The bytes that most lines need.
const USUAL_LENGTH: usize = 768;

impl Line {
    /// `text` with everything escaped but printable ASCII.
    pub fn escaped(text: &str) -> Self {
        let mut line = Vec::with_capacity(text.len() + 1);
        // Writing to memory cannot fail.
        let _ = write_ascii(&mut line, text.trim_end_matches('\n'));
        line.push(b'\n');
        Self(line)
    }

    /// `value` as JSON; characters beyond printable ASCII are escaped as JSON does.
    ///
    /// # Errors
    /// [`serde_json::Error`] if `value` has no JSON form.
    pub fn json(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        let mut line = Vec::with_capacity(USUAL_LENGTH);
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut line, AsciiFormatter))?;
        line.push(b'\n');
        Ok(Self(line))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Compact JSON of printable ASCII.
struct AsciiFormatter;

impl Formatter for AsciiFormatter {
    fn write_string_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        write_ascii(writer, fragment)
    }

    fn write_raw_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        write_ascii(writer, fragment)
    }

    fn write_char_escape<W: Write + ?Sized>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(writer, escape)
    }
}

/// Escapes as `\uXXXX` everything but printable ASCII: in JSON, only characters of strings.
fn write_ascii<W: Write + ?Sized>(writer: &mut W, text: &str) -> io::Result<()> {
    let is_printable = |byte: &u8| *byte == b' ' || byte.is_ascii_graphic();
    if text.as_bytes().iter().all(is_printable) {
        return writer.write_all(text.as_bytes());
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c == ' ' || c.is_ascii_graphic() {
            escaped.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    writer.write_all(escaped.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A-133
    #[test]
    fn a_line_is_one_line_of_printable_ascii() {
        let text = "a\"\n\u{1b}[31m\u{202e}\u{1f600}\u{7f}";
        let escaped = r#"a"\u000a\u001b[31m\u202e\ud83d\ude00\u007f"#;
        assert_eq!(Line::escaped(&format!("{text}\n")).into_bytes(), format!("{escaped}\n").as_bytes());
        let json = Line::json(&serde_json::json!({ text: [text, "plain \\"] })).unwrap().into_bytes();
        assert!(json.iter().all(|byte| *byte == b' ' || byte.is_ascii_graphic() || *byte == b'\n'), "{json:?}");
        let read: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(read, serde_json::json!({ text: [text, "plain \\"] }));
    }
}
