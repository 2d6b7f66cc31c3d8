//! The members of a JSON object, with each value kept as written.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::reader::{JsonError, Limits, check};

/// The members of a JSON object in their order, each value as written.
///
/// Numbers keep every digit: `100000000000000000001` and `0.10` are written as they were read. Two objects are equal if
/// their names, their order and the texts of their values are equal. Values may be personal data, so `Debug` shows only
/// the names.
#[derive(Clone, Default)]
pub struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    /// Parses the text of one JSON object.
    ///
    /// # Errors
    /// [`JsonError`] if [`check`] refuses the text, or if it is not an object.
    pub fn parse(text: &str, limits: Limits) -> Result<Self, JsonError> {
        check(text, limits)?;
        serde_json::from_str(text).map_err(|cause| JsonError(cause.into()))
    }

    /// Whether the object is `{}`; Txn-Tokens omit an empty `tctx` or `rctx`.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The JSON text of the value of `name`.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(member, _)| member == name).map(|(_, value)| value.get())
    }

    /// The value of `name` deserialized as `T`; `None` if there is no such member, or if its value is not a `T`.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        serde_json::from_str(self.raw(name)?).ok()
    }

    /// Names and values (as JSON text) in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.get()))
    }

    /// Adds the member `name`, or replaces its value.
    ///
    /// # Errors
    /// [`JsonError`] if `value` cannot be serialized as JSON, for example a map whose keys are not strings.
    pub fn set<T: Serialize>(&mut self, name: &str, value: &T) -> Result<(), JsonError> {
        let value = serde_json::value::to_raw_value(value).map_err(|cause| JsonError(cause.into()))?;
        match self.0.iter_mut().find(|(member, _)| member == name) {
            Some(member) => member.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
        Ok(())
    }

    /// Copies the member `source` of `from`, as written, to the member `name`. Returns `false`, and changes nothing, if
    /// `from` has no such member.
    pub fn adopt(&mut self, name: &str, from: &Self, source: &str) -> bool {
        let Some((_, value)) = from.0.iter().find(|(member, _)| member == source) else { return false };
        match self.0.iter_mut().find(|(member, _)| member == name) {
            Some(member) => member.1.clone_from(value),
            None => self.0.push((name.to_owned(), value.clone())),
        }
        true
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Members {}

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
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
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
        deserializer.deserialize_map(ObjectVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_order_and_every_digit() {
        let text = r#"{"z":100000000000000000001,"a":0.10,"m":{"q":[1E2]}}"#;
        let members = Members::parse(text, Limits::DEFAULT).unwrap();
        assert_eq!(serde_json::to_string(&members).unwrap(), text);
        assert_eq!(members.raw("a"), Some("0.10"));
    }

    #[test]
    fn a_member_is_copied_digit_for_digit() {
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
