//! Single values: durations, paths, JSON.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

/// The JSON text of a value.
///
/// # Errors
/// The date, or the number, that JSON cannot express.
pub(super) fn json(value: &DeValue<'_>) -> Result<String, String> {
    let text = |text: &str| serde_json::to_string(text).map_err(|cause| cause.to_string());
    match value {
        DeValue::String(string) => text(string),
        DeValue::Boolean(flag) => Ok(flag.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| format!("{} is too large a number", number.as_str())),
        DeValue::Float(number) => {
            let digits = number.as_str().trim_start_matches('+');
            let is_json = serde_json::from_str::<f64>(digits).is_ok();
            is_json.then(|| digits.to_owned()).ok_or_else(|| format!("{digits} is not a number in JSON"))
        }
        DeValue::Datetime(date) => Err(format!("{date} is not a value in JSON: write it as a string")),
        DeValue::Array(elements) => {
            let elements: Result<Vec<_>, _> = elements.iter().map(|element| json(element.get_ref())).collect();
            Ok(format!("[{}]", elements?.join(",")))
        }
        DeValue::Table(table) => {
            let member = |(name, value): (&toml::Spanned<Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
                Ok(format!("{}:{}", text(name.get_ref())?, json(value.get_ref())?))
            };
            let members: Result<Vec<_>, String> = table.iter().map(member).collect();
            Ok(format!("{{{}}}", members?.join(",")))
        }
    }
}

/// The type of a value as messages name it.
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A relative path starts at `folder`.
pub(super) fn path(folder: &Path, text: &str) -> Result<PathBuf, &'static str> {
    let usable = !text.is_empty() && !text.contains('\0');
    usable.then(|| folder.join(text)).ok_or("must be a path")
}

/// In seconds, a hundred years: longer than any use, and too short to overflow sums.
pub(super) const MAX_SECONDS: u64 = 36_500 * 86_400;

/// A duration such as `"60s"` or `"1h30m"`; `"0s"` too.
pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    const FORM: &str = "must be a duration: a whole number and s, m, h or d, such as \"60s\" or \"1h30m\"";
    let (mut rest, mut total, mut above) = (text, 0_u64, u64::MAX);
    while !rest.is_empty() || above == u64::MAX {
        let end = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, tail) = rest.split_at(end);
        let scale = match tail.bytes().next() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3_600,
            Some(b'd') => 86_400,
            _ => return Err(FORM),
        };
        if digits.is_empty() || scale >= above {
            return Err(FORM);
        }
        let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
        let seconds = seconds.and_then(|seconds| total.checked_add(seconds)).filter(|seconds| *seconds <= MAX_SECONDS);
        total = seconds.ok_or("must be at most a hundred years")?;
        (rest, above) = (&tail[1..], scale);
    }
    Ok(Duration::from_secs(total))
}

pub(crate) fn non_empty(text: &str) -> Result<String, &'static str> {
    (!text.is_empty()).then(|| text.to_owned()).ok_or("must not be empty")
}
