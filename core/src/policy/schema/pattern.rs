//! Regular expressions of a schema: ECMA-262, matched in linear time.

use regex::{Regex, RegexBuilder};

/// The maximum compiled size of a pattern in bytes, and the size of one unit.
const MAX_COMPILED_LEN: usize = 4 << 20;
const UNIT_LEN: usize = 16 << 10;

/// The cache size in bytes while a pattern is matched.
const CACHE_LEN: usize = 256 << 10;

/// A regular expression, run by an engine whose time is linear in the length of the text.
pub(super) struct Pattern {
    regex: Regex,
    /// The size of its program, and so the cost of matching one character.
    pub(super) weight: usize,
}

impl Pattern {
    pub(super) fn compile(ecma: &str) -> Option<Self> {
        let exact = in_rust(ecma)?;
        let translated = jsonschema_regex::to_rust_regex(&exact).ok()?;
        let mut size = UNIT_LEN;
        loop {
            match RegexBuilder::new(&translated).size_limit(size).dfa_size_limit(CACHE_LEN).build() {
                Ok(regex) => return Some(Self { regex, weight: size / UNIT_LEN }),
                Err(regex::Error::CompiledTooBig(_)) if size < MAX_COMPILED_LEN => size *= 4,
                Err(_) => return None,
            }
        }
    }

    pub(super) fn fits(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

/// Translates a regular expression of ECMA-262 (`u`) to the engine's syntax, where the same characters have another meaning
/// and the crate that translates classes does not change them; `None` if it is not valid in ECMA-262, or sets modifiers.
fn in_rust(ecma: &str) -> Option<String> {
    if !jsonschema_regex::is_valid_ecma_regex(ecma) {
        return None;
    }
    let mut text = String::with_capacity(ecma.len());
    let (mut rest, mut in_class) = (ecma, false);
    while let Some(first) = rest.chars().next() {
        let length = if first == '\\' { 1 + rest[1..].chars().next()?.len_utf8() } else { first.len_utf8() };
        let (sign, tail) = rest.split_at(length);
        match sign {
            // An empty or all-matching class, which the engine would parse as a class that contains a bracket.
            "[" if !in_class && (tail.starts_with(']') || tail.starts_with("^]")) => return None,
            "(" if !in_class && tail.strip_prefix('?').is_some_and(|kind| !kind.starts_with([':', '<', '=', '!'])) => {
                return None;
            }
            "." if !in_class => text.push_str(r"[^\n\r\u{2028}\u{2029}]"),
            r"\b" if in_class => text.push_str(r"\x08"),
            r"\b" | r"\B" => {
                text.push_str("(?-u:");
                text.push_str(sign);
                text.push(')');
            }
            r"\<" | r"\>" => text.push_str(&sign[1..]),
            _ => text.push_str(sign),
        }
        match sign {
            "[" => in_class = true,
            "]" => in_class = false,
            _ => {}
        }
        rest = tail;
    }
    Some(text)
}
