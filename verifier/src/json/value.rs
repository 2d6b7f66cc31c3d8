//! A parsed JSON value.

use std::fmt;

/// How the member names begin by which `serde_json` passes raw text and numbers to its own types: to some of them,
/// `serde_json::Value` among them, an object with such a member is not an object.
pub(super) const RESERVED_PREFIX: &str = "$serde_json::private::";

/// A JSON value as written: numbers keep their digits, objects keep their order.
///
/// Values may be personal data, so `Debug` shows only the type.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// The text of a number.
    Number(String),
    /// The content of a string, with its escapes decoded.
    String(String),
    /// The elements of an array.
    Array(Vec<Value>),
    /// The members of an object in their order; the names are unique.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The member `name`; `None` if there is no such member, or if this is not an object.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(member, _)| member == name).map(|(_, value)| value)
    }

    /// The content of a string; `None` for any other value.
    pub fn as_str(&self) -> Option<&str> {
        let Self::String(text) = self else { return None };
        Some(text)
    }

    /// Whether an object in this value, at any depth, has a member name that `serde_json` reserves for itself.
    pub(super) fn has_reserved_names(&self) -> bool {
        match self {
            Self::Array(elements) => elements.iter().any(Self::has_reserved_names),
            Self::Object(members) => {
                members.iter().any(|(name, value)| name.starts_with(RESERVED_PREFIX) || value.has_reserved_names())
            }
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) => false,
        }
    }
}

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
