//! The differences between a token and what a test expects of it.

use writ_core::policy::exact::equal;
use writ_verifier::Members;
use writ_verifier::json::Limits;

/// Wider than the limits within which the texts were read before.
const LIMITS: Limits = Limits { depth: 64, members: 10_000 };

/// A value that is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    /// The names of its members, outermost first, like `tctx.desk`.
    pub(super) path: String,
    /// In JSON.
    pub(super) expected: String,
    /// In JSON; `None` if it is absent.
    pub(super) actual: Option<String>,
}

/// Where the object `actual` does not contain `expected`: it must have each of its members, those of nested objects too;
/// other values must be equal.
pub(super) fn lacks(actual: &str, expected: &str) -> Vec<Difference> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_member_is_named_by_its_path() {
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
}
