//! The strict parser.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use super::value::Value;

/// Limits on the structure that [`parse`] accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum nesting depth of objects and arrays; 1 allows a flat object.
    pub depth: usize,
    /// Maximum number of members of one object, and of elements of one array.
    pub members: usize,
}

impl Limits {
    /// Depth 16 and 256 members: for tokens and request parameters.
    pub const DEFAULT: Self = Self { depth: 16, members: 256 };

    /// Depth 64 and 100 000 members: for files and responses outside the request path.
    pub const DOCUMENT: Self = Self { depth: 64, members: 100_000 };
}

/// The text is not exactly one unambiguous JSON value within the [`Limits`].
///
/// The message contains the position (line and column, from 1), and nothing of a text that [`parse`] refused.
#[derive(Debug, thiserror::Error)]
#[error("invalid or ambiguous JSON: {0}")]
pub struct JsonError(pub(super) Cause);

#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("{fault} at line {line} column {column}")]
    Syntax { fault: &'static str, line: usize, column: usize },
    #[error(transparent)]
    Value(#[from] serde_json::Error),
}

/// Parses exactly one JSON value (RFC 8259) without repeated member names, within `limits`.
///
/// # Errors
/// [`JsonError`] for invalid syntax, trailing data, a repeated member name, a number outside the range of an IEEE 754
/// double, or a structure beyond `limits`.
pub fn parse(text: &str, limits: Limits) -> Result<Value, JsonError> {
    let mut reader = Reader { text, position: 0, limits };
    let value = reader.read_value(0)?;
    reader.finish().map(|()| value)
}

/// Checks that [`parse`] accepts `text`.
///
/// # Errors
/// As [`parse`].
pub fn check(text: &str, limits: Limits) -> Result<(), JsonError> {
    let mut reader = Reader { text, position: 0, limits };
    reader.skip_value(0)?;
    reader.finish()
}

/// A member of an object, by its places in the text.
pub(super) struct Place<'a> {
    /// The name with its escapes decoded.
    pub(super) name: Cow<'a, str>,
    /// The name as written, without quotation marks.
    pub(super) written_name: Range<usize>,
    /// The value as written.
    pub(super) value: Range<usize>,
}

/// As [`check`]; if the value is an object, passes each of its members to `found`. Returns whether it is one.
pub(super) fn find_members<'a>(
    text: &'a str,
    limits: Limits,
    mut found: impl FnMut(Place<'a>),
) -> Result<bool, JsonError> {
    let mut reader = Reader { text, position: 0, limits };
    reader.skip_whitespace();
    let is_object = reader.peek() == Some(b'{');
    if is_object {
        reader.read_object(0, |reader, name, written_name| {
            reader.skip_whitespace();
            let start = reader.position;
            reader.skip_value(1)?;
            found(Place { name, written_name, value: start..reader.position });
            Ok(())
        })?;
    } else {
        reader.skip_value(0)?;
    }
    reader.finish().map(|()| is_object)
}

struct Reader<'a> {
    text: &'a str,
    position: usize,
    limits: Limits,
}

/// Whether a byte stands for itself in a string: it is neither a quotation mark, a backslash nor a control character.
const IS_PLAIN: [bool; 256] = {
    let mut is_plain = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        is_plain[byte] = false;
        byte += 1;
    }
    is_plain[b'"' as usize] = false;
    is_plain[b'\\' as usize] = false;
    is_plain
};

/// How many names of an object are compared one by one.
const FEW: usize = 16;

/// The member names of one object so far. Few are compared one by one; any more are hashed, so that no object takes a time
/// that is quadratic in its size.
#[derive(Default)]
struct Names<'a> {
    few: Vec<Cow<'a, str>>,
    more: HashSet<Cow<'a, str>>,
}

impl<'a> Names<'a> {
    fn len(&self) -> usize {
        self.few.len() + self.more.len()
    }

    /// Adds `name`, and returns whether it is new.
    fn insert(&mut self, name: Cow<'a, str>) -> bool {
        if self.few.contains(&name) {
            return false;
        }
        if self.few.len() < FEW {
            if self.few.is_empty() {
                self.few.reserve_exact(FEW);
            }
            self.few.push(name);
            return true;
        }
        self.more.insert(name)
    }
}

impl<'a> Reader<'a> {
    /// An error at the current position. It does not repeat the text, which is untrusted input.
    fn error(&self, fault: &'static str) -> JsonError {
        let lines = self.text.as_bytes()[..self.position].split(|&byte| byte == b'\n');
        let (line, column) = lines.fold((0, 0), |(line, _), text| (line + 1, text.len() + 1));
        JsonError(Cause::Syntax { fault, line, column })
    }

    /// Checks that nothing but white space follows.
    fn finish(mut self) -> Result<(), JsonError> {
        self.skip_whitespace();
        if self.position == self.text.len() { Ok(()) } else { Err(self.error("trailing characters")) }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    /// Consumes the next byte if it is `byte`, and returns whether it did.
    fn consume(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.position += usize::from(found);
        found
    }

    fn skip_whitespace(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.position += 1;
        }
    }

    /// Reads a value that is at nesting `depth`.
    fn read_value(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.skip_whitespace();
        match self.peek() {
            Some(b'{') => {
                let mut members = Vec::new();
                self.read_object(depth, |reader, name, _| {
                    members.push((name.into_owned(), reader.read_value(depth + 1)?));
                    Ok(())
                })?;
                Ok(Value::Object(members))
            }
            Some(b'[') => {
                let mut elements = Vec::new();
                self.read_array(depth, |reader| {
                    elements.push(reader.read_value(depth + 1)?);
                    Ok(())
                })?;
                Ok(Value::Array(elements))
            }
            Some(b'"') => self.read_string().map(|string| Value::String(string.into_owned())),
            Some(b'-' | b'0'..=b'9') => self.read_number().map(|number| Value::Number(number.to_owned())),
            _ => self.read_literal(),
        }
    }

    /// As [`Reader::read_value`], but keeps nothing of the value.
    fn skip_value(&mut self, depth: usize) -> Result<(), JsonError> {
        self.skip_whitespace();
        match self.peek() {
            Some(b'{') => self.read_object(depth, |reader, _, _| reader.skip_value(depth + 1)),
            Some(b'[') => self.read_array(depth, |reader| reader.skip_value(depth + 1)),
            Some(b'"') => self.read_string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.read_number().map(drop),
            _ => self.read_literal().map(drop),
        }
    }

    /// Consumes the opening bracket of an object or array at nesting `depth`.
    fn enter(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth == self.limits.depth {
            return Err(self.error("too deeply nested"));
        }
        self.position += 1;
        Ok(())
    }

    fn read_literal(&mut self) -> Result<Value, JsonError> {
        let (literal, value) = match self.peek() {
            Some(b't') => ("true", Value::Bool(true)),
            Some(b'f') => ("false", Value::Bool(false)),
            Some(b'n') => ("null", Value::Null),
            Some(_) => return Err(self.error("expected a value")),
            None => return Err(self.error("unexpected end of text")),
        };
        if !self.text[self.position..].starts_with(literal) {
            return Err(self.error("expected a value"));
        }
        self.position += literal.len();
        Ok(value)
    }

    /// Reads the array at nesting `depth`; `element` reads each of its elements.
    fn read_array(
        &mut self,
        depth: usize,
        mut element: impl FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.enter(depth)?;
        self.skip_whitespace();
        if self.consume(b']') {
            return Ok(());
        }
        for count in 0.. {
            if count == self.limits.members {
                return Err(self.error("too many elements"));
            }
            element(self)?;
            self.skip_whitespace();
            if self.consume(b']') {
                break;
            }
            if !self.consume(b',') {
                return Err(self.error("expected `,` or `]`"));
            }
        }
        Ok(())
    }

    /// Reads the object at nesting `depth`; `member` receives each name, decoded and by its place, and reads the value.
    fn read_object(
        &mut self,
        depth: usize,
        mut member: impl FnMut(&mut Self, Cow<'a, str>, Range<usize>) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.enter(depth)?;
        let mut names = Names::default();
        self.skip_whitespace();
        if self.consume(b'}') {
            return Ok(());
        }
        loop {
            self.skip_whitespace();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a member name"));
            }
            if names.len() == self.limits.members {
                return Err(self.error("too many members"));
            }
            let start = self.position + 1;
            let name = self.read_string()?;
            let written_name = start..self.position - 1;
            if !names.insert(name.clone()) {
                return Err(self.error("repeated member name"));
            }
            self.skip_whitespace();
            if !self.consume(b':') {
                return Err(self.error("expected `:`"));
            }
            member(self, name, written_name)?;
            self.skip_whitespace();
            if self.consume(b'}') {
                return Ok(());
            }
            if !self.consume(b',') {
                return Err(self.error("expected `,` or `}`"));
            }
        }
    }

    fn read_number(&mut self) -> Result<&'a str, JsonError> {
        let start = self.position;
        self.consume(b'-');
        if !self.consume(b'0') {
            self.skip_digits()?;
        }
        if self.consume(b'.') {
            self.skip_digits()?;
        }
        let has_exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if has_exponent {
            self.position += 1;
            if !self.consume(b'-') {
                self.consume(b'+');
            }
            self.skip_digits()?;
        }
        let text = &self.text[start..self.position];
        // A number of at most 308 characters without an exponent is less than 10^308.
        let is_small = !has_exponent && text.len() <= 308;
        let in_range = is_small || text.parse::<f64>().is_ok_and(f64::is_finite);
        if in_range { Ok(text) } else { Err(self.error("number out of range")) }
    }

    fn skip_digits(&mut self) -> Result<(), JsonError> {
        let start = self.position;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.position += 1;
        }
        if self.position > start { Ok(()) } else { Err(self.error("invalid number")) }
    }

    fn read_string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.position += 1;
        let mut string = Cow::Borrowed("");
        loop {
            let rest = &self.text.as_bytes()[self.position..];
            let plain = rest.iter().position(|&byte| !IS_PLAIN[usize::from(byte)]).unwrap_or(rest.len());
            let plain = self.position..self.position + plain;
            self.position = plain.end;
            // The first piece is borrowed, so that a string without escapes is not copied.
            string += &self.text[plain];
            match self.peek() {
                Some(b'"') => {
                    self.position += 1;
                    return Ok(string);
                }
                Some(b'\\') => {
                    self.position += 1;
                    let character = self.read_escape()?;
                    string.to_mut().push(character);
                }
                Some(_) => return Err(self.error("control character in a string")),
                None => return Err(self.error("unexpected end of text")),
            }
        }
    }

    fn read_escape(&mut self) -> Result<char, JsonError> {
        let escape = self.peek();
        self.position += 1;
        Ok(match escape {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let unit = self.read_code_unit()?;
                let code = if (0xd800..0xdc00).contains(&unit) {
                    let low = if self.consume(b'\\') && self.consume(b'u') { self.read_code_unit()? } else { 0 };
                    if !(0xdc00..0xe000).contains(&low) {
                        return Err(self.error("unpaired surrogate"));
                    }
                    0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    unit
                };
                char::from_u32(code).ok_or_else(|| self.error("unpaired surrogate"))?
            }
            _ => {
                self.position -= 1;
                return Err(self.error("invalid escape"));
            }
        })
    }

    /// The four hexadecimal digits of `\uXXXX`: one UTF-16 code unit.
    fn read_code_unit(&mut self) -> Result<u32, JsonError> {
        let digits = self
            .text
            .get(self.position..self.position + 4)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.error("invalid escape"))?;
        self.position += 4;
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_refused(text: &str) -> bool {
        check(text, Limits::DEFAULT).is_err()
    }

    #[test]
    fn a_repeated_name_is_refused_at_any_depth_and_through_escapes() {
        assert!(is_refused(r#"{"a":1,"a":1}"#));
        assert!(is_refused(r#"{"a":1,"\u0061":2}"#));
        assert!(is_refused(r#"[{"x":{"b":1,"b":2}}]"#));
        assert!(!is_refused(r#"{"a":{"a":1},"b":[{"a":1},{"a":2}]}"#));
    }

    #[test]
    fn anything_but_one_json_value_is_refused() {
        for text in ["", "{}{}", "{} x", "NaN", "{'a':1}", "{\"a\":1,}", "\u{feff}{}", "1e400", "{\"a\":1e400}"] {
            assert!(is_refused(text), "{text}");
        }
        let message = check("{\"a\":\n 01}", Limits::DEFAULT).expect_err("a number has no leading zero").to_string();
        assert_eq!(message, "invalid or ambiguous JSON: expected `,` or `}` at line 2 column 3");
    }

    #[test]
    fn structure_beyond_the_limits_is_refused() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_refused(&nested(16)));
        assert!(is_refused(&nested(17)));
        assert!(is_refused(&nested(100_000)));
        let wide = |n| format!("[{}]", vec!["0"; n].join(","));
        assert!(!is_refused(&wide(256)));
        assert!(is_refused(&wide(257)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// This parser accepts what `serde_json` accepts, except repeated names, and reads the same strings.
        #[test]
        fn the_parser_agrees_with_serde_json(
            text in r#"[ \n]{0,1}(-?(0|[1-9][0-9]{0,3})(\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?|"([a-z€]|\\[nu"\\/bq]|\\u(d83d|de00|00e4|[0-9a-f]{3,4})){0,3}"|true|null|fals|\[[0-9, ]{0,4}\]|\{("[ab]":[0-9]|,| ){0,4}\})[ x]{0,1}"#
        ) {
            let theirs: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            let ours = parse(&text, Limits::DEFAULT);
            let is_repeated = matches!(&ours, Err(JsonError(Cause::Syntax { fault: "repeated member name", .. })));
            prop_assert!(is_repeated || ours.is_ok() == theirs.is_some(), "{text}: {ours:?} {theirs:?}");
            if let (Ok(Value::String(ours)), Some(theirs)) = (ours, theirs) {
                prop_assert_eq!(Some(ours.as_str()), theirs.as_str());
            }
        }
    }
}
