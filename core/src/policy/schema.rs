//! The JSON Schema (2020-12) by which request details are validated before anything is copied from them.
//!
//! A schema is one document: a `$ref` to another is refused when the policy is read, and nothing is ever fetched.
//! Numbers are compared exactly, in the details and in the schema. The cost of applying a schema is bounded: a schema that
//! is expensive for any details is refused when it is read, expensive details when they are sent.

mod apply;
mod compile;
mod pattern;

use std::collections::BTreeSet;
use std::fmt;

use writ_verifier::Members;
use writ_verifier::json::{self, Limits, Value};

use self::apply::Stop;
use self::compile::{Compiled, Subschema};
use super::exact::{self, is_plain};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The bounds of a schema document.
const LIMITS: Limits = Limits { depth: 64, members: 10_000 };

/// Keywords that can describe members outside of `properties`.
const INDIRECT: [&str; 10] = [
    "$ref",
    "$dynamicRef",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "dependentSchemas",
    "patternProperties",
    "unevaluatedProperties",
];

/// Why a text is not a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Not UTF-8, not strict JSON, or not an object.
    #[error("is not a JSON Schema: it must be one JSON object")]
    Form,
    /// Written for another version of JSON Schema.
    #[error("is not for JSON Schema 2020-12: $schema must be \"{DRAFT}\"")]
    Draft,
    /// A keyword has an invalid value.
    #[error("is not a valid JSON Schema: {0}")]
    Unsound(String),
    /// It recurses without end on one value, or applies too many subschemas to it.
    #[error(
        "has at #{0} a subschema that applies itself, or more than a thousand others, to one value: it must be simpler"
    )]
    Boundless(String),
}

/// The details do not fit the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// The member of the details that does not fit, if it is a single one with a plain name.
    pub(crate) member: Option<String>,
    /// The mismatch, for the author of the schema: it contains values of the request.
    pub(crate) why: String,
}

/// A compiled schema.
pub struct Schema {
    subschemas: Vec<Subschema>,
    /// The members in `properties`, unless other keywords may describe more.
    properties: Option<BTreeSet<String>>,
    /// `additionalProperties` is false.
    closed: bool,
    ignored: Vec<String>,
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// [`SchemaError`].
    pub fn parse(text: &[u8]) -> Result<Self, SchemaError> {
        let text = std::str::from_utf8(text).map_err(|_| SchemaError::Form)?;
        let schema = json::parse(text, LIMITS).map_err(|_| SchemaError::Form)?;
        if !matches!(schema, Value::Object(_)) {
            return Err(SchemaError::Form);
        }
        let Compiled { subschemas, ignored } = compile::compile(&schema)?;
        let direct = INDIRECT.iter().all(|keyword| schema.get(keyword).is_none());
        let properties = match schema.get("properties") {
            Some(Value::Object(properties)) if direct => {
                Some(properties.iter().map(|(name, _)| name.clone()).collect())
            }
            _ => None,
        };
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        Ok(Self { subschemas, properties, closed, ignored })
    }

    /// Whether the schema describes a member; `None` if `properties` alone does not determine that.
    pub fn describes(&self, member: &str) -> Option<bool> {
        self.properties.as_ref().map(|properties| properties.contains(member))
    }

    /// JSON pointers to keywords that JSON Schema does not define: they have no effect, and are usually misspelt.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Whether details may have only described members.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Validates details; those that cannot be compared exactly, or within the work limit, do not fit.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(crate) fn admit(&self, details: &Members) -> Result<(), Unfit> {
        let values = details.iter().map(|(name, raw)| {
            // A number that cannot be represented exactly could be confused with one that fits.
            let value = exact::read(raw).filter(|value| exact::canonical(value).is_some());
            let why = "a number in it has an exponent beyond all bounds".to_owned();
            Ok((name.to_owned(), value.ok_or_else(|| Unfit { member: member(name), why })?))
        });
        let details = Value::Object(values.collect::<Result<_, _>>()?);
        apply::apply(&self.subschemas, &details).map_err(|stop| match stop {
            Stop::Unfit { path, keyword, place } => {
                let outermost = path.first().and_then(|name| member(name));
                let value = if path.is_empty() { "the object".to_owned() } else { format!("{:?}", path.join("/")) };
                Unfit { member: outermost, why: format!("{value} does not fit {keyword} at #{place}") }
            }
            Stop::TooMuch => {
                Unfit { member: None, why: "applying it to these details takes more work than is allowed".to_owned() }
            }
        })
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").field("properties", &self.properties).finish_non_exhaustive()
    }
}

/// The name, if it is plain: the sender chose it.
fn member(name: &str) -> Option<String> {
    is_plain(name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
