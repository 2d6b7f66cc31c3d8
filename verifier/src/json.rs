//! JSON that has one meaning only.
//!
//! RFC 8259 leaves open what a repeated member name means, and parsers differ: an attacker then shows one value to
//! the checker and another to the user. [`check`] refuses such text, at any depth, before anything is made of it.
//! [`Members`] keeps the members of an object exactly as written, so that no number is rounded on its way.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// How much structure [`check`] accepts.
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
}

/// The text is not one unambiguous JSON value within the limits.
#[derive(Debug, thiserror::Error)]
#[error("not plain JSON: {0}")]
pub struct JsonError(#[source] serde_json::Error);

/// Checks that `text` is exactly one JSON value without repeated member names, within `limits`.
///
/// # Errors
/// [`JsonError`] for bad syntax, trailing data, a repeated name, a number beyond the range of a double, or too much
/// structure.
pub fn check(text: &str, limits: Limits) -> Result<(), JsonError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    Strict { limits, depth: 0 }.deserialize(&mut reader).map_err(JsonError)?;
    reader.end().map_err(JsonError)
}

#[derive(Clone, Copy)]
struct Strict {
    limits: Limits,
    depth: usize,
}

impl Strict {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == self.limits.depth {
            return Err(E::custom("too deeply nested"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        let mut count = 0;
        while elements.next_element_seed(inner)?.is_some() {
            count += 1;
            if count > self.limits.members {
                return Err(A::Error::custom("too many elements"));
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            // The name is not repeated in the message: it is input.
            if !names.insert(name) {
                return Err(A::Error::custom("repeated member name"));
            }
            if names.len() > self.limits.members {
                return Err(A::Error::custom("too many members"));
            }
            members.next_value_seed(inner)?;
        }
        Ok(())
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
        serde_json::from_str(text).map_err(JsonError)
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
        let value = serde_json::value::to_raw_value(value).map_err(JsonError)?;
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
