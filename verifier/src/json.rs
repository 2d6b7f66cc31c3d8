//! Strict JSON: every text that is accepted has exactly one meaning.
//!
//! RFC 8259 §4 leaves open what a repeated member name means, and parsers differ: an attacker could show one value to
//! the code that checks and another to the code that acts. [`parse`] refuses repeated names at any depth, before any
//! value is used. Numbers keep their digits. No member name has a special meaning, not even those that `serde_json`
//! reserves for itself. [`Members`] keeps the members of an object exactly as written, so that no number is rounded.

mod members;
mod reader;
mod value;

use serde::de::DeserializeOwned;

pub use self::members::Members;
pub use self::reader::{JsonError, Limits, check, parse};
pub use self::value::Value;

use self::reader::Cause;

/// Deserializes a `T` from a text that [`parse`] accepts. For types that can hold arbitrary JSON, such as
/// `serde_json::Value`: member names that `serde_json` reserves for itself are refused.
///
/// # Errors
/// As [`parse`]; also for a reserved member name, and if the value is not a `T`.
pub fn from_str<T: DeserializeOwned>(text: &str, limits: Limits) -> Result<T, JsonError> {
    if parse(text, limits)?.has_reserved_names() {
        return Err(JsonError(Cause::Syntax { fault: "reserved member name", line: 1, column: 1 }));
    }
    serde_json::from_str(text).map_err(|cause| JsonError(cause.into()))
}

/// As [`from_str`], for bytes.
///
/// # Errors
/// As [`from_str`]; also if `bytes` are not UTF-8.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], limits: Limits) -> Result<T, JsonError> {
    let not_utf8 = |_| JsonError(Cause::Syntax { fault: "not UTF-8", line: 1, column: 1 });
    from_str(std::str::from_utf8(bytes).map_err(not_utf8)?, limits)
}

#[cfg(test)]
mod tests {
    use super::value::RESERVED_PREFIX;
    use super::*;

    #[test]
    fn reserved_names_of_libraries_have_no_special_meaning() {
        for name in ["$serde_json::private::RawValue", "$serde_json::private::Number", "$__toml_private_datetime"] {
            for value in [r#""{\"a\":1,\"a\":2}""#, r#""1e999""#, "{}", "7"] {
                let text = format!("{{\"{name}\":{value}}}");
                let members = Members::parse(&text, Limits::DEFAULT).unwrap();
                assert_eq!(members.raw(name), Some(value));
                assert_eq!(serde_json::to_string(&members).unwrap(), text);
                let inner = format!("{{\"x\":{text}}}");
                assert_eq!(Members::parse(&inner, Limits::DEFAULT).unwrap().raw("x"), Some(text.as_str()));
                assert!(check(&format!("{{\"{name}\":1,\"{name}\":{value}}}"), Limits::DEFAULT).is_err());
                let typed = from_str::<serde_json::Value>(&inner, Limits::DEFAULT);
                assert_eq!(typed.is_err(), name.starts_with(RESERVED_PREFIX), "{inner}");
            }
        }
    }
}
