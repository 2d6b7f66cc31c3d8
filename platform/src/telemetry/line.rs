//! One line of the log: printable ASCII, whatever is in it, so that logged input can neither end a line nor control a
//! terminal.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;
use serde::ser::Error as _;
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

    /// One JSON object with the members of `first` and of `rest`, which must be objects with members; characters beyond
    /// printable ASCII are escaped as JSON does. Faster than `#[serde(flatten)]`.
    ///
    /// # Errors
    /// [`serde_json::Error`] if one of them has no JSON form, or is not an object with members.
    pub fn json(first: &impl Serialize, rest: &impl Serialize) -> Result<Self, serde_json::Error> {
        let mut line = Vec::with_capacity(USUAL_LENGTH);
        first.serialize(&mut serde_json::Serializer::with_formatter(&mut line, AsciiFormatter))?;
        line.pop();
        let seam = line.len();
        rest.serialize(&mut serde_json::Serializer::with_formatter(&mut line, AsciiFormatter))?;
        if !line.starts_with(b"{\"") || !line[seam..].starts_with(b"{\"") {
            return Err(serde_json::Error::custom("a line of the log must be an object with members"));
        }
        line[seam] = b',';
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
    // Without an early end, many bytes are compared at once.
    if text.bytes().fold(true, |printable, byte| printable & matches!(byte, b' '..=b'~')) {
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
        let json = Line::json(&serde_json::json!({"a": 1}), &serde_json::json!({ text: [text, "plain \\"] }));
        let json = json.unwrap().into_bytes();
        assert!(json.iter().all(|byte| *byte == b' ' || byte.is_ascii_graphic() || *byte == b'\n'), "{json:?}");
        let read: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(read, serde_json::json!({"a": 1, text: [text, "plain \\"] }));
    }

    #[test]
    fn a_line_is_made_of_objects_with_members_only() {
        let (object, empty, list) = (serde_json::json!({"a": 1}), serde_json::json!({}), serde_json::json!([1]));
        for (first, rest) in [(&object, &empty), (&empty, &object), (&object, &list), (&list, &object)] {
            assert!(Line::json(first, rest).is_err(), "{first} {rest}");
        }
    }
}
