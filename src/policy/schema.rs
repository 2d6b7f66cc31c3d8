//! The JSON Schema (2020-12) that request details must fit before anything is copied from them.
//!
//! A schema is one document: a `$ref` that leads out of it is refused when the policy is read, and nothing is ever fetched.

use std::collections::BTreeSet;
use std::fmt;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use writ_verifier::Members;
use writ_verifier::json::{self, Limits};

use super::exact::{self, Side};
use super::mapping::is_plain;

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// More than anybody writes by hand; deeper ones would also be deeper than what they describe.
const LIMITS: Limits = Limits { depth: 64, members: 10_000 };

/// Keywords through which a member can be described elsewhere than in `properties`.
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

/// Why a text is no schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Not UTF-8, not strict JSON, or no object.
    #[error("is not the JSON of a schema")]
    Form,
    /// Written for another version of JSON Schema.
    #[error("is not for JSON Schema 2020-12: $schema must be \"{DRAFT}\"")]
    Draft,
    /// A keyword says something that cannot be.
    #[error("is no sound JSON Schema: {0}")]
    Unsound(String),
}

/// The details do not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// The member of the details that does not fit, where it is one.
    pub member: Option<String>,
    /// What is wrong with it, for whoever wrote the schema: it repeats what was sent.
    pub why: String,
}

/// A schema that can be applied.
pub struct Schema {
    validator: Validator,
    /// The members that it describes, if it says so plainly.
    properties: Option<BTreeSet<String>>,
    /// Whether there can be no others.
    closed: bool,
}

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// [`SchemaError`].
    pub fn parse(text: &[u8]) -> Result<Self, SchemaError> {
        let text = std::str::from_utf8(text).map_err(|_| SchemaError::Form)?;
        json::check(text, LIMITS).map_err(|_| SchemaError::Form)?;
        let schema: Value = serde_json::from_str(text).map_err(|_| SchemaError::Form)?;
        let object = schema.as_object().ok_or(SchemaError::Form)?;
        if object
            .get("$schema")
            .is_some_and(|draft| draft.as_str().map(|draft| draft.trim_end_matches('#')) != Some(DRAFT))
        {
            return Err(SchemaError::Draft);
        }
        let validator = jsonschema::draft202012::options()
            // The engine whose time grows with the text alone.
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| SchemaError::Unsound(error.to_string()))?;
        let direct = INDIRECT.iter().all(|keyword| !object.contains_key(*keyword));
        let properties = object.get("properties").and_then(Value::as_object).filter(|_| direct);
        Ok(Self {
            validator,
            properties: properties.map(|properties| properties.keys().cloned().collect()),
            closed: object.get("additionalProperties") == Some(&Value::Bool(false)),
        })
    }

    /// Whether the schema tells of a member: `None` where it leaves that open.
    pub fn describes(&self, member: &str) -> Option<bool> {
        self.properties.as_ref().map(|properties| properties.contains(member))
    }

    /// Whether details can have no other members than those described.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Refuses details that do not fit, on either side of numbers that 64 bits do not hold.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn admit(&self, details: &Members) -> Result<(), Unfit> {
        for side in [Side::Below, Side::Above] {
            let unreadable = || Unfit { member: None, why: "a value cannot be read".to_owned() };
            let details = exact::read(details, side).ok_or_else(unreadable)?;
            self.validator
                .validate(&details)
                .map_err(|error| Unfit { member: member(&error), why: error.to_string() })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").field("properties", &self.properties).finish_non_exhaustive()
    }
}

/// The outermost member that does not fit, if its name can be said aloud: the sender chose it.
fn member(error: &jsonschema::ValidationError<'_>) -> Option<String> {
    let path = error.instance_path().to_string();
    let name = path.strip_prefix('/')?.split('/').next()?;
    is_plain(name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRADE: &str = r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "action": {"enum": ["buy", "sell"]},
            "ticker": {"type": "string", "pattern": "^[A-Z]{1,5}$"},
            "quantity": {"type": "number", "exclusiveMinimum": 0}
        },
        "required": ["action"],
        "additionalProperties": false
    }"#;

    fn schema(text: &str) -> Schema {
        Schema::parse(text.as_bytes()).unwrap()
    }

    fn outcome(schema: &Schema, details: &str) -> Result<(), Option<String>> {
        schema.admit(&Members::parse(details, Limits::DEFAULT).unwrap()).map_err(|unfit| unfit.member)
    }

    #[test]
    fn details_must_fit() {
        let trade = schema(TRADE);
        assert_eq!(outcome(&trade, r#"{"action":"buy","ticker":"ACME","quantity":0.1}"#), Ok(()));
        assert_eq!(outcome(&trade, r#"{"action":"buy","quantity":100000000000000000001}"#), Ok(()));
        for (details, member) in [
            ("{}", None),
            (r#"{"action":"keep"}"#, Some("action")),
            (r#"{"action":"buy","quantity":"1"}"#, Some("quantity")),
            (r#"{"action":"buy","quantity":0}"#, Some("quantity")),
            (r#"{"action":"buy","ticker":"acme"}"#, Some("ticker")),
            (r#"{"action":"buy","other":1}"#, None),
        ] {
            assert_eq!(outcome(&trade, details), Err(member.map(str::to_owned)), "{details}");
        }
    }

    /// The name of a member is the sender's word: it is repeated only if it is a plain one.
    #[test]
    fn strange_names_are_not_repeated() {
        let numbers = schema(r#"{"additionalProperties": {"type": "number"}}"#);
        assert_eq!(outcome(&numbers, r#"{"a":""}"#), Err(Some("a".to_owned())));
        for name in ["a b", "a~b", "\\\"", "ä", "", &"x".repeat(65)] {
            assert_eq!(outcome(&numbers, &format!("{{\"{name}\":\"\"}}")), Err(None), "{name}");
        }
    }

    #[test]
    fn a_limit_holds_to_the_last_digit() {
        let limited = schema(r#"{"properties": {"n": {"maximum": 100000000000000000000}}}"#);
        assert_eq!(outcome(&limited, r#"{"n":100000000000000000000}"#), Ok(()));
        assert!(outcome(&limited, r#"{"n":100000000000000000001}"#).is_err());
    }

    /// A-085
    #[test]
    fn what_is_no_schema_of_its_own_is_refused() {
        let complaint = |text: &str| Schema::parse(text.as_bytes()).expect_err(text).to_string();
        for (text, expected) in [
            ("", "is not the JSON of a schema"),
            ("true", "is not the JSON of a schema"),
            (r#"{"type":"object","type":"object"}"#, "is not the JSON of a schema"),
            (r#"{"$schema":"http://json-schema.org/draft-07/schema#"}"#, "is not for JSON Schema 2020-12"),
            (r#"{"$schema":1}"#, "is not for JSON Schema 2020-12"),
            (r#"{"type":"objekt"}"#, "is no sound JSON Schema"),
            (r#"{"$ref":"https://schemas.example/trade.json"}"#, "is no sound JSON Schema"),
            (r#"{"$ref":"file:///etc/passwd"}"#, "is no sound JSON Schema"),
            (r#"{"$ref":"other.json"}"#, "is no sound JSON Schema"),
            (r##"{"$ref":"#/$defs/missing"}"##, "is no sound JSON Schema"),
            (r#"{"properties":{"a":{"pattern":"(?=x)"}}}"#, "is no sound JSON Schema"),
            (r#"{"properties":{"a":{"pattern":"("}}}"#, "is no sound JSON Schema"),
        ] {
            assert!(complaint(text).contains(expected), "{text}: {}", complaint(text));
        }
        assert!(
            Schema::parse(br##"{"$defs":{"n":{"type":"number"}},"properties":{"a":{"$ref":"#/$defs/n"}}}"##).is_ok()
        );
    }

    #[test]
    fn a_schema_says_which_members_there_can_be() {
        let trade = schema(TRADE);
        assert_eq!(
            (trade.describes("ticker"), trade.describes("tikcer"), trade.is_closed()),
            (Some(true), Some(false), true)
        );
        assert_eq!(schema(r#"{"type":"object"}"#).describes("a"), None);
        let open = schema(r#"{"properties":{"a":{}},"patternProperties":{"^b":{}}}"#);
        assert_eq!((open.describes("b"), open.is_closed()), (None, false));
    }
}
