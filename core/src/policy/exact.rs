//! JSON values compared by what was written: numbers by their value to the last digit, members in any order.

use std::fmt::Write as _;

use writ_verifier::Members;
use writ_verifier::json::{self, Limits, Value};

use super::number::Decimal;

/// What is compared was read before, and within closer limits.
const LIMITS: Limits = Limits { depth: 64, members: 10_000 };

/// The value of a JSON text that was read before.
pub(super) fn read(text: &str) -> Option<Value> {
    json::parse(text, LIMITS).ok()
}

/// Whether two JSON texts say the same.
pub(super) fn equal(one: &str, other: &str) -> bool {
    let canonical = |text| canonical(&read(text)?);
    canonical(one).is_some_and(|one| Some(one) == canonical(other))
}

/// A text that equal values share and different ones do not; `None` if a number in it cannot be told from others.
pub(super) fn canonical(value: &Value) -> Option<String> {
    let mut text = String::new();
    write(value, &mut text)?;
    Some(text)
}

fn write(value: &Value, text: &mut String) -> Option<()> {
    // A string tells its length first: nothing in it can pass for what comes after it.
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

/// A value that is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Its members from the outside in, like `tctx.desk`.
    pub(crate) path: String,
    /// What was expected, in JSON.
    pub(crate) expected: String,
    /// What is there.
    pub(crate) actual: Option<String>,
}

/// Where the object `actual` does not contain what `expected` has: each of its members, those of inner objects too; other
/// values must be equal.
pub(crate) fn lacks(actual: &str, expected: &str) -> Vec<Difference> {
    let mut differences = Vec::new();
    compare("", Some(actual), expected, &mut differences);
    differences
}

fn compare(path: &str, actual: Option<&str>, expected: &str, found: &mut Vec<Difference>) {
    let members = |text: &str| Members::parse(text, LIMITS).ok();
    match (actual.and_then(members), members(expected)) {
        (Some(actual), Some(expected)) => {
            for (name, value) in expected.iter() {
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                compare(&path, actual.raw(name), value, found);
            }
        }
        _ if actual.is_some_and(|actual| equal(actual, expected)) => {}
        _ => found.push(Difference {
            path: path.to_owned(),
            expected: expected.to_owned(),
            actual: actual.map(str::to_owned),
        }),
    }
}

/// Every text in a JSON value: strings and the names of members, at any depth.
pub(super) fn any_text(value: &Value, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(name, value)| is(name) || any_text(value, is)),
        Value::Array(elements) => elements.iter().any(|element| any_text(element, is)),
        Value::String(text) => is(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
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
    fn what_a_value_lacks_is_named_by_its_path() {
        let token = r#"{"sub":"ann","n":1.50,"tctx":{"desk":"retail","l":[1,2]}}"#;
        for expected in ["{}", r#"{"n":1.5}"#, r#"{"tctx":{}}"#, r#"{"tctx":{"l":[1,2.0]},"sub":"ann"}"#] {
            assert_eq!(lacks(token, expected), [], "{expected}");
        }
        for (expected, path, actual) in [
            (r#"{"sub":"bob"}"#, "sub", Some("\"ann\"")),
            (r#"{"rctx":{"ip":1}}"#, "rctx", None),
            (r#"{"tctx":{"desk":"prop"}}"#, "tctx.desk", Some("\"retail\"")),
            (r#"{"tctx":{"l":[1]}}"#, "tctx.l", Some("[1,2]")),
            (r#"{"sub":{"x":1}}"#, "sub", Some("\"ann\"")),
        ] {
            let found = lacks(token, expected);
            let [difference] = found.as_slice() else { panic!("{expected}: {found:?}") };
            assert_eq!((difference.path.as_str(), difference.actual.as_deref()), (path, actual));
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
