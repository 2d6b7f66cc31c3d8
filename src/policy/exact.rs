//! JSON values without loss: compared by what was written, and read as numbers that a condition can compute with.
//!
//! What goes into a token is copied as text. What schemas and conditions look at must become numbers of 64 bits, and one
//! with more digits than those hold is then read twice: as the nearest number below and as the nearest above it. Whoever
//! decides must come to a yes for both.

use std::cmp::Ordering;

use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};
use writ_verifier::Members;

/// On which side of a number that 64 bits do not hold it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The nearest below.
    Below,
    /// The nearest above.
    Above,
}

/// The object of `members`, its numbers read on this side; `None` if it is no strict JSON.
pub(super) fn read(members: &Members, side: Side) -> Option<Value> {
    let pairs = members.iter().map(|(name, raw)| Some((name.to_owned(), value(raw, side)?)));
    Some(Value::Object(pairs.collect::<Option<Map<_, _>>>()?))
}

/// Whether two JSON texts say the same: members in any order, numbers by their value and to the last digit.
pub(super) fn equal(one: &str, other: &str) -> bool {
    match (Node::parse(one), Node::parse(other)) {
        (Some(Node::Object(one)), Some(Node::Object(other))) => {
            let found = |name: &str| other.raw(name);
            one.iter().count() == other.iter().count()
                && one.iter().all(|(name, raw)| found(name).is_some_and(|theirs| equal(raw, theirs)))
        }
        (Some(Node::Array(one)), Some(Node::Array(other))) => {
            one.len() == other.len() && one.iter().zip(&other).all(|(one, other)| equal(one.get(), other.get()))
        }
        (Some(Node::Number(one)), Some(Node::Number(other))) => Decimal::parse(one) == Decimal::parse(other),
        (Some(Node::Plain(one)), Some(Node::Plain(other))) => one == other,
        _ => false,
    }
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
    match (actual.and_then(Node::parse), Node::parse(expected)) {
        (Some(Node::Object(actual)), Some(Node::Object(expected))) => {
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
pub(super) fn any_text(raw: &str, is: &impl Fn(&str) -> bool) -> bool {
    match Node::parse(raw) {
        Some(Node::Object(members)) => members.iter().any(|(name, raw)| is(name) || any_text(raw, is)),
        Some(Node::Array(elements)) => elements.iter().any(|element| any_text(element.get(), is)),
        Some(Node::Plain(Value::String(text))) => is(&text),
        Some(_) => false,
        None => true, // what cannot be read cannot be vouched for
    }
}

/// One level of a JSON text; numbers stay as written.
enum Node<'a> {
    Object(Members),
    Array(Vec<Box<RawValue>>),
    Number(&'a str),
    /// A string, `true`, `false` or `null`.
    Plain(Value),
}

impl<'a> Node<'a> {
    fn parse(raw: &'a str) -> Option<Self> {
        match raw.bytes().next()? {
            b'{' => serde_json::from_str(raw).map(Self::Object).ok(),
            b'[' => serde_json::from_str(raw).map(Self::Array).ok(),
            b'-' | b'0'..=b'9' => Some(Self::Number(raw)),
            _ => serde_json::from_str(raw).map(Self::Plain).ok(),
        }
    }
}

fn value(raw: &str, side: Side) -> Option<Value> {
    match Node::parse(raw)? {
        Node::Object(members) => read(&members, side),
        Node::Array(elements) => {
            elements.iter().map(|element| value(element.get(), side)).collect::<Option<_>>().map(Value::Array)
        }
        Node::Number(text) => number(text, side).map(Value::Number),
        Node::Plain(plain) => Some(plain),
    }
}

fn number(text: &str, side: Side) -> Option<Number> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    if let Ok(whole) = text.parse::<u64>() {
        return Some(whole.into());
    }
    let nearest: f64 = text.parse().ok()?;
    let written = Decimal::parse(text);
    // A double stands for the shortest number that names it, as in an expression: 0.1 is 0.1 and no more.
    let named = Decimal::parse(&format!("{nearest:e}"));
    Number::from_f64(match (side, written.cmp(&named)) {
        (Side::Below, Ordering::Less) => nearest.next_down(),
        (Side::Above, Ordering::Greater) => nearest.next_up(),
        _ => nearest,
    })
}

/// A decimal number in the one form that it has: ±0.digits × 10^exponent, no zero at either end of the digits.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    exponent: i64,
    digits: String,
}

impl Decimal {
    /// Reads a JSON number.
    fn parse(text: &str) -> Self {
        let unsigned = text.trim_start_matches('-');
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_start_matches('0');
        let point = i64::try_from(whole.len()).unwrap_or(0) - i64::try_from(all.len() - digits.len()).unwrap_or(0);
        let digits = digits.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Self { negative: false, exponent: 0, digits };
        }
        // One of more than 18 digits is beyond all that a double has, whatever it is exactly.
        let far = if exponent.starts_with('-') { -(1 << 60) } else { 1 << 60 };
        let exponent = exponent.parse::<i64>().unwrap_or(far).clamp(-(1 << 60), 1 << 60) + point;
        Self { negative: text.starts_with('-'), exponent, digits }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let size = |number: &Self| (!number.digits.is_empty(), number.exponent, number.digits.clone());
        match (self.negative, other.negative) {
            (false, false) => size(self).cmp(&size(other)),
            (true, true) => size(other).cmp(&size(self)),
            (negative, _) => {
                if negative {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use writ_verifier::json::Limits;

    use super::*;

    fn sides(text: &str) -> (f64, f64) {
        let on = |side| number(text, side).unwrap().as_f64().unwrap();
        (on(Side::Below), on(Side::Above))
    }

    #[test]
    fn numbers_of_64_bits_and_short_fractions_are_themselves() {
        for text in ["0", "-0", "1000", "9223372036854775807", "-9223372036854775808", "18446744073709551615"] {
            assert_eq!(number(text, Side::Below), number(text, Side::Above), "{text}");
            assert!(number(text, Side::Below).unwrap().to_string() == text || text == "-0");
        }
        for (text, value) in [("0.1", 0.1), ("0.10", 0.1), ("-2.5e-3", -0.0025), ("1E2", 100.0), ("1e20", 1e20)] {
            assert_eq!(sides(text), (value, value), "{text}");
        }
        assert_eq!(sides("100000000000000000000"), (1e20, 1e20));
        // 2^60 thousand, exactly a double, whose own name is shorter.
        assert_eq!(sides("1152921504606847000000"), (1_152_921_504_606_847e6, 1_152_921_504_606_847e6));
    }

    #[test]
    fn a_number_with_more_digits_lies_between_its_two_readings() {
        assert_eq!(sides("100000000000000000001"), (1e20, 1e20_f64.next_up()));
        assert_eq!(sides("99999999999999999999"), (1e20_f64.next_down(), 1e20));
        assert_eq!(sides("-100000000000000000001"), ((-1e20_f64).next_down(), -1e20));
        assert_eq!(sides("0.10000000000000000000001"), (0.1, 0.1_f64.next_up()));
        assert_eq!(sides("0.09999999999999999999999"), (0.1_f64.next_down(), 0.1));
        assert_eq!(sides("1e-999"), (0.0, 0.0_f64.next_up()));
        assert_eq!(sides("-1e-99999999999999999999"), (0.0_f64.next_down(), 0.0));
    }

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
        let found = |raw: &str| any_text(raw, &|text: &str| text == "x");
        for raw in [r#""x""#, r#"["\u0078"]"#, r#"{"x":1}"#, r#"{"a":[{"b":"x"}]}"#] {
            assert!(found(raw), "{raw}");
        }
        for raw in [r#""xx""#, "1", "null", "[]", "{}"] {
            assert!(!found(raw), "{raw}");
        }
    }

    proptest! {
        /// Whatever is written: the readings lie on either side of it, and no double lies between them.
        #[test]
        fn no_double_lies_between_the_readings_of_a_number(
            sign in prop_oneof![Just(""), Just("-")], whole in "[1-9][0-9]{0,40}", fraction in "[0-9]{1,40}", exponent in -60..60
        ) {
            let text = format!("{sign}{whole}.{fraction}e{exponent}");
            let (below, above) = sides(&text);
            let same = below.total_cmp(&above).is_eq();
            prop_assert!(same || below.next_up().total_cmp(&above).is_eq(), "{text}: {below} {above}");
            let written = Decimal::parse(&text);
            let named = |value: f64| Decimal::parse(&format!("{value:e}"));
            if same {
                prop_assert_eq!(named(below), written);
            } else {
                prop_assert!(named(below).cmp(&written).is_le() && written.cmp(&named(above)).is_le(), "{}", text);
            }
        }

        #[test]
        fn a_value_equals_itself_and_reads_as_json(text in r#"\{"a":(-?[0-9]{1,30}|"[a-z]{0,5}"|\[true,null\])\}"#) {
            prop_assume!(Members::parse(&text, Limits::DEFAULT).is_ok());
            let members = Members::parse(&text, Limits::DEFAULT).unwrap();
            prop_assert!(equal(&text, &text));
            prop_assert!(read(&members, Side::Below).is_some());
        }
    }
}
