//! A keyword of a schema, with typed reads of its value.

use std::collections::HashSet;

use url::Url;
use writ_verifier::json::Value;

use super::{SchemaError, Type, escaped, unsound};
use crate::policy::exact;
use crate::policy::number::Decimal;

/// A keyword with its value and its place.
pub(super) struct Keyword<'a, 'b> {
    pub(super) name: &'a str,
    pub(super) value: &'a Value,
    pub(super) place: &'b str,
    pub(super) base: &'b Url,
}

impl<'a> Keyword<'a, '_> {
    pub(super) fn unsound(&self, what: &str) -> SchemaError {
        unsound(self.place, &format!("{} {what}", self.name))
    }

    pub(super) fn must_be(&self, what: &str) -> SchemaError {
        self.unsound(&format!("must be {what}"))
    }

    pub(super) fn inside(&self, name: &str) -> String {
        format!("{}/{}/{}", self.place, self.name, escaped(name))
    }

    pub(super) fn number(&self) -> Result<Decimal, SchemaError> {
        let Value::Number(digits) = self.value else { return Err(self.must_be("a number")) };
        Decimal::of_json(digits).ok_or_else(|| self.unsound("has an exponent beyond all bounds"))
    }

    pub(super) fn count(&self) -> Result<usize, SchemaError> {
        let number = self.number()?;
        if !number.is_whole() || number.is_negative() {
            return Err(self.must_be("a whole number from 0 up"));
        }
        // A bound beyond `usize` is never reached.
        Ok(number.plain().and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX))
    }

    pub(super) fn canonical(&self, value: &Value) -> Result<String, SchemaError> {
        exact::canonical(value).ok_or_else(|| self.unsound("has an exponent beyond all bounds"))
    }

    pub(super) fn names(&self, value: &Value) -> Result<Vec<String>, SchemaError> {
        let Value::Array(names) = value else { return Err(self.must_be("a list of names")) };
        let name = |name: &Value| match name {
            Value::String(name) => Ok(name.clone()),
            _ => Err(self.must_be("a list of names")),
        };
        let names: Vec<_> = names.iter().map(name).collect::<Result<_, _>>()?;
        let different: HashSet<_> = names.iter().collect();
        if different.len() < names.len() { Err(self.must_be("a list of different names")) } else { Ok(names) }
    }

    pub(super) fn members(&self) -> Result<&'a [(String, Value)], SchemaError> {
        let Value::Object(members) = self.value else { return Err(self.must_be("an object")) };
        Ok(members)
    }

    pub(super) fn types(&self) -> Result<Vec<Type>, SchemaError> {
        let names = match self.value {
            Value::String(name) => vec![name.clone()],
            value => self.names(value)?,
        };
        let of_name = |name: &String| match name.as_str() {
            "null" => Some(Type::Null),
            "boolean" => Some(Type::Boolean),
            "integer" => Some(Type::Integer),
            "number" => Some(Type::Number),
            "string" => Some(Type::String),
            "array" => Some(Type::Array),
            "object" => Some(Type::Object),
            _ => None,
        };
        let types: Option<Vec<_>> = names.iter().map(of_name).collect();
        types.filter(|types| !types.is_empty()).ok_or_else(|| self.unsound("names a type that does not exist"))
    }
}
