//! The members of a JSON object, with each value kept as written.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::reader::{JsonError, Limits, Place, find_members};

/// The members of a JSON object in their order, each value as written.
///
/// Numbers keep every digit: `100000000000000000001` and `0.10` are written as they were read. Two objects are equal if
/// their names, their order and the texts of their values are equal. Values may be personal data, so `Debug` shows only
/// the names.
#[derive(Clone, Default)]
pub struct Members {
    /// The text of the object, and what was added to it: all names and values are parts of this one allocation.
    text: String,
    members: Vec<Member>,
}

/// Room for the members of most objects.
const USUAL_MEMBERS: usize = 12;

/// The places of a name and its value in the text.
#[derive(Clone)]
struct Member {
    name: Range<usize>,
    value: Range<usize>,
}

impl Members {
    /// Parses the text of one JSON object.
    ///
    /// # Errors
    /// [`JsonError`] if [`check`](super::check) refuses the text, or if it is not an object.
    pub fn parse(text: &str, limits: Limits) -> Result<Self, JsonError> {
        let mut members = Vec::with_capacity(USUAL_MEMBERS);
        let mut decoded = String::new();
        let is_object = find_members(text, limits, |Place { name, written_name, value }| {
            let name = match name {
                Cow::Borrowed(_) => written_name,
                Cow::Owned(name) => {
                    let start = text.len() + decoded.len();
                    decoded.push_str(&name);
                    start..start + name.len()
                }
            };
            members.push(Member { name, value });
        })?;
        if !is_object {
            return serde_json::from_str(text).map_err(|cause| JsonError(cause.into())); // the error of another type
        }
        let mut all = String::with_capacity(text.len() + decoded.len());
        all.push_str(text);
        all.push_str(&decoded);
        Ok(Self { text: all, members })
    }

    /// Whether the object is `{}`; Txn-Tokens omit an empty `tctx` or `rctx`.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The memory that the members take, in bytes, without allocated memory that is not in use.
    pub fn size(&self) -> usize {
        self.text.len() + self.members.len() * size_of::<Member>()
    }

    /// The JSON text of the value of `name`.
    pub fn raw(&self, name: &str) -> Option<&str> {
        let text = self.text.as_bytes(); // a part of a text checks where its characters begin
        let is_named = |member: &&Member| text[member.name.start..member.name.end] == *name.as_bytes();
        self.members.iter().find(is_named).map(|member| &self.text[member.value.start..member.value.end])
    }

    /// The value of `name` deserialized as `T`; `None` if there is no such member, or if its value is not a `T`.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        serde_json::from_str(self.raw(name)?).ok()
    }

    /// The content of the string `name`, which is copied only if it has escapes; `None` if there is no such member, or if
    /// its value is not a string.
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        let raw = self.raw(name)?;
        match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
            Some(content) if !content.contains('\\') => Some(Cow::Borrowed(content)),
            _ => serde_json::from_str(raw).ok().map(Cow::Owned),
        }
    }

    /// Names and values (as JSON text) in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let part = |place: &Range<usize>| &self.text[place.start..place.end];
        self.members.iter().map(move |Member { name, value }| (part(name), part(value)))
    }

    /// Adds the member `name`, or replaces its value.
    ///
    /// # Errors
    /// [`JsonError`] if `value` cannot be serialized as JSON, for example a map whose keys are not strings.
    pub fn set<T: Serialize>(&mut self, name: &str, value: &T) -> Result<(), JsonError> {
        let value = serde_json::to_string(value).map_err(|cause| JsonError(cause.into()))?;
        self.put(name, &value);
        Ok(())
    }

    /// Copies the member `source` of `from`, as written, to the member `name`. Returns `false`, and changes nothing, if
    /// `from` has no such member.
    pub fn adopt(&mut self, name: &str, from: &Self, source: &str) -> bool {
        let Some(value) = from.raw(source) else { return false };
        self.put(name, value);
        true
    }

    fn put(&mut self, name: &str, value: &str) {
        let value = self.append(value);
        let known = self.iter().position(|(member, _)| member == name);
        if let Some(index) = known {
            self.members[index].value = value;
        } else {
            let name = self.append(name);
            self.members.push(Member { name, value });
        }
    }

    fn append(&mut self, part: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(part);
        start..self.text.len()
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
        f.debug_set().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.members.len()))?;
        for (name, value) in self.iter() {
            let value: &RawValue = serde_json::from_str(value).map_err(serde::ser::Error::custom)?;
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
                let mut members = Members::default();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    let (name, value) = (members.append(&name), members.append(value.get()));
                    members.members.push(Member { name, value });
                }
                Ok(members)
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
    fn names_with_escapes_are_decoded_and_values_stay_as_written() {
        let members = Members::parse(r#" { "\u0061" : [ "\u0062" ] , "b":"\n", "c" :"" } "#, Limits::DEFAULT).unwrap();
        let all: Vec<_> = members.iter().collect();
        assert_eq!(all, [("a", r#"[ "\u0062" ]"#), ("b", r#""\n""#), ("c", r#""""#)]);
        assert_eq!(
            ["a", "b", "c", "d"].map(|name| members.text(name)),
            [None, Some("\n".into()), Some("".into()), None]
        );
    }

    #[test]
    fn a_value_is_replaced_in_its_place() {
        let mut members = Members::parse(r#"{"a":1,"b":2}"#, Limits::DEFAULT).unwrap();
        members.set("a", &"x").unwrap();
        members.set("c", &3).unwrap();
        members.set("a", &[0.5]).unwrap();
        assert_eq!(serde_json::to_string(&members).unwrap(), r#"{"a":[0.5],"b":2,"c":3}"#);
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
