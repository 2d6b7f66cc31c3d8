//! JSON that has one meaning only.
//!
//! RFC 8259 leaves open what a repeated member name means, and parsers differ: an attacker then shows one value to
//! the checker and another to the user. [`parse`] refuses such text, at any depth, before anything is made of it.
//! Numbers stay as they were written, and no name means more than another: there is none by which a text could
//! smuggle in a second one. [`Members`] keeps the members of an object exactly as written, so that no number is
//! rounded on its way.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// How much structure [`parse`] accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Objects and arrays inside one another.
    pub depth: usize,
    /// Members of one object, and elements of one array.
    pub members: usize,
}

impl Limits {
    /// 16 levels of at most 256 members: what tokens and request parameters may have.
    pub const DEFAULT: Self = Self { depth: 16, members: 256 };

    /// 64 levels of at most 100 000 members: for files and answers that nobody hurries to read.
    pub const DOCUMENT: Self = Self { depth: 64, members: 100_000 };
}

/// The text is not one unambiguous JSON value within the limits.
#[derive(Debug, thiserror::Error)]
#[error("not plain JSON: {0}")]
pub struct JsonError(Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("{fault} at line {line} column {column}")]
    Text { fault: &'static str, line: usize, column: usize },
    #[error(transparent)]
    Value(#[from] serde_json::Error),
}

/// A JSON value as it was written.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// The digits of a number.
    Number(String),
    /// What a string says.
    String(String),
    /// The elements of an array.
    Array(Vec<Value>),
    /// The members of an object in their order; no name stands twice.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The member `name` of an object.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(member, _)| member == name).map(|(_, value)| value)
    }

    /// What a string says.
    pub fn as_str(&self) -> Option<&str> {
        let Self::String(text) = self else { return None };
        Some(text)
    }

    /// Whether an object in it, at any depth, has a member with a name that [`serde_json`] keeps for itself.
    fn has_private_names(&self) -> bool {
        match self {
            Self::Array(elements) => elements.iter().any(Self::has_private_names),
            Self::Object(members) => {
                members.iter().any(|(name, value)| name.starts_with(PRIVATE) || value.has_private_names())
            }
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) => false,
        }
    }
}

/// How names begin by which `serde_json` tells raw text and digits to itself: to some of its types, `Value` among them,
/// an object with such a member is something else.
const PRIVATE: &str = "$serde_json::private::";

/// Values may be personal: `Debug` shows the kind only.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Bool(_) => "Bool(…)",
            Self::Number(_) => "Number(…)",
            Self::String(_) => "String(…)",
            Self::Array(_) => "Array(…)",
            Self::Object(_) => "Object(…)",
        })
    }
}

/// Reads exactly one JSON value without repeated member names, within `limits`.
///
/// # Errors
/// [`JsonError`] for bad syntax, trailing data, a repeated name, a number beyond the range of a double, or too much
/// structure.
pub fn parse(text: &str, limits: Limits) -> Result<Value, JsonError> {
    let mut reader = Reader { text, at: 0, limits };
    let value = reader.value(0)?;
    reader.space();
    if reader.at == text.len() { Ok(value) } else { Err(reader.fault("trailing characters")) }
}

/// Checks that `text` is what [`parse`] reads.
///
/// # Errors
/// As [`parse`].
pub fn check(text: &str, limits: Limits) -> Result<(), JsonError> {
    parse(text, limits).map(drop)
}

/// Reads the text of a value that can hold any JSON, and is therefore not read by itself: what [`parse`] refuses, and
/// what would not mean to `serde_json` what it says, is no `T`.
///
/// # Errors
/// As [`parse`]; and if the value is no `T`.
pub fn from_str<T: DeserializeOwned>(text: &str, limits: Limits) -> Result<T, JsonError> {
    if parse(text, limits)?.has_private_names() {
        return Err(JsonError(Cause::Text { fault: "the name of a member is not allowed", line: 1, column: 1 }));
    }
    serde_json::from_str(text).map_err(|cause| JsonError(cause.into()))
}

/// As [`from_str`].
///
/// # Errors
/// As [`from_str`]; and if `bytes` are no UTF-8.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], limits: Limits) -> Result<T, JsonError> {
    let not_text = |_| JsonError(Cause::Text { fault: "not UTF-8", line: 1, column: 1 });
    from_str(std::str::from_utf8(bytes).map_err(not_text)?, limits)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    limits: Limits,
}

impl Reader<'_> {
    /// What is wrong where the reader stands. The text itself is not repeated: it is input.
    fn fault(&self, fault: &'static str) -> JsonError {
        let lines = self.text.as_bytes()[..self.at].split(|&byte| byte == b'\n');
        let (line, column) = lines.fold((0, 0), |(line, _), text| (line + 1, text.len() + 1));
        JsonError(Cause::Text { fault, line, column })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.space();
        match self.peek() {
            Some(b'{') => self.inner(depth)?.object(depth + 1),
            Some(b'[') => self.inner(depth)?.array(depth + 1),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err(self.fault("expected value")),
            None => Err(self.fault("the text ends too early")),
        }
    }

    fn inner(&mut self, depth: usize) -> Result<&mut Self, JsonError> {
        if depth == self.limits.depth {
            return Err(self.fault("too deeply nested"));
        }
        self.at += 1;
        Ok(self)
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, JsonError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.fault("expected value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn array(&mut self, depth: usize) -> Result<Value, JsonError> {
        let mut elements = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Value::Array(elements));
        }
        loop {
            if elements.len() == self.limits.members {
                return Err(self.fault("too many elements"));
            }
            elements.push(self.value(depth)?);
            self.space();
            if self.take(b']') {
                return Ok(Value::Array(elements));
            }
            if !self.take(b',') {
                return Err(self.fault("expected `,` or `]`"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, JsonError> {
        let mut members = Vec::new();
        let mut names = HashSet::new();
        self.space();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.fault("expected the name of a member"));
            }
            if members.len() == self.limits.members {
                return Err(self.fault("too many members"));
            }
            let name = self.string()?;
            if !names.insert(name.clone()) {
                return Err(self.fault("repeated member name"));
            }
            self.space();
            if !self.take(b':') {
                return Err(self.fault("expected `:`"));
            }
            let value = self.value(depth)?;
            members.push((name, value));
            self.space();
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return Err(self.fault("expected `,` or `}`"));
            }
        }
    }

    fn number(&mut self) -> Result<String, JsonError> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if !self.take(b'-') {
                self.take(b'+');
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        let in_range = text.parse::<f64>().is_ok_and(f64::is_finite);
        if in_range { Ok(text.to_owned()) } else { Err(self.fault("number out of range")) }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.fault("invalid number")) }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut string = String::new();
        loop {
            let plain = self.text.as_bytes()[self.at..].iter();
            let plain = plain.take_while(|&&byte| byte >= 0x20 && byte != b'"' && byte != b'\\').count();
            string.push_str(&self.text[self.at..self.at + plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => {
                    self.at += 1;
                    string.push(self.escaped()?);
                }
                Some(_) => return Err(self.fault("control character in a string")),
                None => return Err(self.fault("the text ends too early")),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, JsonError> {
        let escape = self.peek();
        self.at += 1;
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
                let unit = self.unit()?;
                let code = if (0xd800..0xdc00).contains(&unit) {
                    let low = if self.take(b'\\') && self.take(b'u') { self.unit()? } else { 0 };
                    if !(0xdc00..0xe000).contains(&low) {
                        return Err(self.fault("half of a surrogate pair"));
                    }
                    0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    unit
                };
                char::from_u32(code).ok_or_else(|| self.fault("half of a surrogate pair"))?
            }
            _ => {
                self.at -= 1;
                return Err(self.fault("invalid escape"));
            }
        })
    }

    fn unit(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.get(self.at..self.at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.fault("invalid escape"))?;
        self.at += 4;
        Ok(unit)
    }
}

/// The members of a JSON object in their order, each value as it was written.
///
/// Numbers keep every digit: `100000000000000000001` and `0.10` come out as they went in.
#[derive(Clone, Default)]
pub struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    /// Reads the text of one JSON object.
    ///
    /// # Errors
    /// [`JsonError`] where [`check`] refuses the text, or where it is no object.
    pub fn parse(text: &str, limits: Limits) -> Result<Self, JsonError> {
        check(text, limits)?;
        serde_json::from_str(text).map_err(|cause| JsonError(cause.into()))
    }

    /// Whether there are none; such an object is left out of a token.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `name` as JSON text.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(member, _)| member == name).map(|(_, value)| value.get())
    }

    /// The value of `name` read as `T`; `None` if there is no such member or it is no `T`.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        serde_json::from_str(self.raw(name)?).ok()
    }

    /// Names and values (JSON text) in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.get()))
    }

    /// Adds `name`, or replaces its value.
    ///
    /// # Errors
    /// [`JsonError`] if `value` cannot be written as JSON (a map with keys that are no strings).
    pub fn set<T: Serialize>(&mut self, name: &str, value: &T) -> Result<(), JsonError> {
        let value = serde_json::value::to_raw_value(value).map_err(|cause| JsonError(cause.into()))?;
        match self.0.iter_mut().find(|(member, _)| member == name) {
            Some(member) => member.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
        Ok(())
    }

    /// Gives `name` the value, as written, that `from` has under the name `source`; says whether `from` has it.
    pub fn adopt(&mut self, name: &str, from: &Self, source: &str) -> bool {
        let Some((_, value)) = from.0.iter().find(|(member, _)| member == source) else { return false };
        match self.0.iter_mut().find(|(member, _)| member == name) {
            Some(member) => member.1.clone_from(value),
            None => self.0.push((name.to_owned(), value.clone())),
        }
        true
    }
}

/// Equal where names, order and the text of the values are.
impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Members {}

/// Values may be personal: `Debug` shows the names only.
impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> bool {
        check(text, Limits::DEFAULT).is_err()
    }

    #[test]
    fn a_repeated_name_is_refused_at_any_depth_and_through_escapes() {
        assert!(refused(r#"{"a":1,"a":1}"#));
        assert!(refused(r#"{"a":1,"\u0061":2}"#));
        assert!(refused(r#"[{"x":{"b":1,"b":2}}]"#));
        assert!(!refused(r#"{"a":{"a":1},"b":[{"a":1},{"a":2}]}"#));
    }

    #[test]
    fn anything_but_one_json_value_is_refused() {
        for text in ["", "{}{}", "{} x", "NaN", "{'a':1}", "{\"a\":1,}", "\u{feff}{}", "1e400", "{\"a\":1e400}"] {
            assert!(refused(text), "{text}");
        }
        let message = check("{\"a\":\n 01}", Limits::DEFAULT).expect_err("a number begins with no zero").to_string();
        assert_eq!(message, "not plain JSON: expected `,` or `}` at line 2 column 3");
    }

    #[test]
    fn structure_beyond_the_limits_is_refused() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!refused(&nested(16)));
        assert!(refused(&nested(17)));
        assert!(refused(&nested(100_000)));
        let wide = |n| format!("[{}]", vec!["0"; n].join(","));
        assert!(!refused(&wide(256)));
        assert!(refused(&wide(257)));
    }

    /// No name has a meaning of its own, whatever the library makes of it elsewhere.
    #[test]
    fn private_names_of_libraries_are_names_like_others() {
        for name in ["$serde_json::private::RawValue", "$serde_json::private::Number", "$__toml_private_datetime"] {
            for value in [r#""{\"a\":1,\"a\":2}""#, r#""1e999""#, "{}", "7"] {
                let text = format!("{{\"{name}\":{value}}}");
                let members = Members::parse(&text, Limits::DEFAULT).unwrap();
                assert_eq!(members.raw(name), Some(value));
                assert_eq!(serde_json::to_string(&members).unwrap(), text);
                let inner = format!("{{\"x\":{text}}}");
                assert_eq!(Members::parse(&inner, Limits::DEFAULT).unwrap().raw("x"), Some(text.as_str()));
                assert!(refused(&format!("{{\"{name}\":1,\"{name}\":{value}}}")));
                let typed = from_str::<serde_json::Value>(&inner, Limits::DEFAULT);
                assert_eq!(typed.is_err(), name.starts_with(PRIVATE), "{inner}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// The reader takes what a reader of JSON takes, and understands the same.
        #[test]
        fn the_reader_agrees_with_another_one(
            text in r#"[ \n]{0,1}(-?(0|[1-9][0-9]{0,3})(\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?|"([a-z€]|\\[nu"\\/bq]|\\u(d83d|de00|00e4|[0-9a-f]{3,4})){0,3}"|true|null|fals|\[[0-9, ]{0,4}\]|\{("[ab]":[0-9]|,| ){0,4}\})[ x]{0,1}"#
        ) {
            let theirs: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            let ours = parse(&text, Limits::DEFAULT);
            let doubled = matches!(&ours, Err(JsonError(Cause::Text { fault: "repeated member name", .. })));
            prop_assert!(doubled || ours.is_ok() == theirs.is_some(), "{text}: {ours:?} {theirs:?}");
            if let (Ok(Value::String(ours)), Some(theirs)) = (ours, theirs) {
                prop_assert_eq!(Some(ours.as_str()), theirs.as_str());
            }
        }
    }

    #[test]
    fn members_keep_order_and_every_digit() {
        let text = r#"{"z":100000000000000000001,"a":0.10,"m":{"q":[1E2]}}"#;
        let members = Members::parse(text, Limits::DEFAULT).unwrap();
        assert_eq!(serde_json::to_string(&members).unwrap(), text);
        assert_eq!(members.raw("a"), Some("0.10"));
    }

    #[test]
    fn a_member_is_adopted_digit_for_digit() {
        let from = Members::parse(r#"{"a":0.10,"b":100000000000000000001}"#, Limits::DEFAULT).unwrap();
        let mut members = Members::parse(r#"{"a":1}"#, Limits::DEFAULT).unwrap();
        assert!(members.adopt("a", &from, "a") && members.adopt("c", &from, "b") && !members.adopt("d", &from, "d"));
        assert_eq!(serde_json::to_string(&members).unwrap(), r#"{"a":0.10,"c":100000000000000000001}"#);
    }

    #[test]
    fn members_of_anything_but_an_object_are_refused() {
        for text in ["[]", "null", "\"{}\"", "1"] {
            assert!(Members::parse(text, Limits::DEFAULT).is_err(), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_values() {
        let members = Members::parse(r#"{"iban":"DE00"}"#, Limits::DEFAULT).unwrap();
        assert_eq!(format!("{members:?}"), r#"{"iban"}"#);
    }
}
