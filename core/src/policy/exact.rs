//! Exact comparison of JSON values: numbers by their value to the last digit, members in any order.

use std::fmt::Write as _;

use writ_verifier::json::{self, Limits, Value};

use super::number::Decimal;

/// Wider than the limits under which the texts were parsed before.
const LIMITS: Limits = Limits { depth: 64, members: 10_000 };

/// Parses a JSON text that has already been accepted.
pub(super) fn read(text: &str) -> Option<Value> {
    json::parse(text, LIMITS).ok()
}

/// Whether two JSON texts have equal values.
pub fn equal(one: &str, other: &str) -> bool {
    let canonical = |text| canonical(&read(text)?);
    canonical(one).is_some_and(|one| Some(one) == canonical(other))
}

/// A text that is the same for equal values only; `None` if a number cannot be represented exactly.
pub(super) fn canonical(value: &Value) -> Option<String> {
    let mut text = String::new();
    write(value, &mut text)?;
    Some(text)
}

fn write(value: &Value, text: &mut String) -> Option<()> {
    // The length comes first, so that no string can imitate the text after it.
    let string = |string: &str, text: &mut String| write!(text, "{}\"{string}", string.len()).ok();
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(flag) => text.push_str(if *flag { "true" } else { "false" }),
        Value::Number(digits) => text.push_str(&Decimal::of_json(digits)?.canonical()),
        Value::String(value) => string(value, text)?,
        Value::Array(elements) => {
            text.push('[');
            for element in elements {
                write(element, text)?;
                text.push(',');
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| name);
            text.push('{');
            for (name, value) in members {
                string(name, text)?;
                text.push(':');
                write(value, text)?;
                text.push(',');
            }
            text.push('}');
        }
    }
    Some(())
}

/// Whether any text in a JSON value satisfies `is`: strings and member names, at any depth.
pub(super) fn any_text(value: &Value, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(name, value)| is(name) || any_text(value, is)),
        Value::Array(elements) => elements.iter().any(|element| any_text(element, is)),
        Value::String(text) => is(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether a name that the sender may have chosen can be repeated in a message.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=64).contains(&name.len()) && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_equal_by_what_they_mean() {
        for (one, other) in [
            ("1", "1.0"),
            ("0.10", "1e-1"),
            ("-0", "0e5"),
            ("100000000000000000001", "100000000000000000001.0"),
            (r#"{"a":1,"b":[true,null]}"#, r#"{ "b" : [true, null], "a" : 1e0 }"#),
            (r#""a""#, r#""\u0061""#),
        ] {
            assert!(equal(one, other) && equal(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("100000000000000000001", "100000000000000000002"),
            ("0.1", "0.10000000000000000000001"),
            ("1", "-1"),
            ("1", r#""1""#),
            ("null", "false"),
            ("[1,2]", "[2,1]"),
            ("[1]", "[1,1]"),
            ("[11]", "[1,1]"),
            (r#"["a","b"]"#, r#"["a,1\"b"]"#),
            ("1e-1000000000000000000", "1e-1000000000000000001"),
            (r#"{"a":1}"#, r#"{"a":1,"b":1}"#),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            ("{}", "[]"),
        ] {
            assert!(!equal(one, other) && !equal(other, one), "{one} {other}");
        }
    }

    #[test]
    fn every_text_of_a_value_is_found() {
        let found = |raw: &str| any_text(&read(raw).unwrap(), &|text: &str| text == "x");
        for raw in [r#""x""#, r#"["\u0078"]"#, r#"{"x":1}"#, r#"{"a":[{"b":"x"}]}"#] {
            assert!(found(raw), "{raw}");
        }
        for raw in [r#""xx""#, "1", "null", "[]", "{}"] {
            assert!(!found(raw), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn a_value_equals_itself_and_no_other(
            one in r#"(-?[0-9]{1,3}(\.0)?|"[ab,\[\]]{0,4}"|\[(1|"a"|"1",2)?\]|\{("a":(1|"1")(,"b":(2|\[\]))?)?\})"#,
            other in r#"(-?[0-9]{1,3}(\.0)?|"[ab,\[\]]{0,4}"|\[(1|"a"|"1",2)?\]|\{("a":(1|"1")(,"b":(2|\[\]))?)?\})"#,
        ) {
            prop_assume!(json::check(&one, LIMITS).is_ok() && json::check(&other, LIMITS).is_ok());
            prop_assert!(equal(&one, &one));
            let short = |text: &str| text.replace(".0", "").replace("-0", "0");
            let same = short(&one) == short(&other);
            prop_assert_eq!(equal(&one, &other), same);
        }
    }
}
