//! `WRIT_LOG`: the filter for diagnostic lines.

use std::env::VarError;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::log::{Format, Log};
use super::span::JsonSpan;
use crate::suggest::did_you_mean;

/// The environment variable with the filter.
pub const LOG_FILTER: &str = "WRIT_LOG";

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The names that a filter can contain.
#[derive(Debug, Clone, Copy)]
pub struct LogParts {
    /// The crates that write lines, libraries included.
    pub crates: &'static [&'static str],
    /// Module paths of this program's crates, such as `writ_core::keys`.
    pub modules: &'static [&'static str],
    /// Former paths of modules, with the current ones.
    pub renamed: &'static [(&'static str, &'static str)],
    /// The filter if the variable is not set.
    pub default_filter: &'static str,
}

/// The filter names something that does not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a level (off, error, warn, info, debug, trace) or levels of parts, such as \"info,writ::keys=debug\"; {0}"
)]
pub struct LogFilterError(String);

/// Why diagnostic lines cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The value of `WRIT_LOG` is not a valid filter.
    #[error("{LOG_FILTER}: {0}")]
    Filter(#[from] LogFilterError),
    /// Another subscriber is installed.
    #[error(transparent)]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Sends all traced events that pass the filter in `WRIT_LOG` to `log`. Audit lines do not go through the filter.
///
/// # Errors
/// [`TraceError`].
pub fn trace_to(log: &Log, parts: &LogParts) -> Result<(), TraceError> {
    let filter = match std::env::var(LOG_FILTER) {
        Ok(text) if !text.trim().is_empty() => log_filter(&text, parts)?,
        Err(VarError::NotUnicode(_)) => return Err(LogFilterError("it is not valid UTF-8".to_owned()).into()),
        _ => EnvFilter::new(parts.default_filter),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).with_ansi(false);
    match log.format() {
        Format::Json => tracing::subscriber::set_global_default(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .fmt_fields(JsonSpan)
                .finish(),
        )?,
        Format::Text => tracing::subscriber::set_global_default(builder.finish())?,
    }
    Ok(())
}

/// Parses a filter. A misspelt name is an error, since it would silence the log.
///
/// # Errors
/// [`LogFilterError`] names the level or part that does not exist.
pub fn log_filter(text: &str, parts: &LogParts) -> Result<EnvFilter, LogFilterError> {
    let directives = text.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    let directives: Vec<String> = directives.map(|directive| parts.complete(directive)).collect();
    for directive in &directives {
        parts.check(directive)?;
    }
    EnvFilter::try_new(directives.join(",")).map_err(|error| LogFilterError(error.to_string()))
}

impl LogParts {
    /// Checks a directive: `target=level`, `target` or `level`.
    fn check(&self, directive: &str) -> Result<(), LogFilterError> {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (target, Some(level)),
            None => (directive, None),
        };
        let root = target.split("::").next().unwrap_or_default();
        match level {
            Some(level) if !is_level(level) => Err(unknown("level", level, &LEVELS)),
            Some(_) if !self.crates.contains(&root) => Err(unknown("part of Writ", root, self.crates)),
            None if !is_level(directive) && !self.crates.contains(&root) => Err(unknown("level", directive, &LEVELS)),
            _ if self.modules.contains(&root) && !self.modules.contains(&target) => {
                let short =
                    self.modules.iter().filter_map(|module| Some(format!("writ::{}", module.split_once("::")?.1)));
                let known: Vec<String> = self.modules.iter().map(|module| (*module).to_owned()).chain(short).collect();
                Err(unknown("part of Writ", target, &known.iter().map(String::as_str).collect::<Vec<_>>()))
            }
            _ => Ok(()),
        }
    }

    /// Resolves a module named without its crate, such as `writ::keys` for `writ_core::keys`, or by a former path.
    fn complete(&self, directive: &str) -> String {
        let end = directive.find('=').unwrap_or(directive.len());
        let (target, level) = directive.split_at(end);
        if self.modules.contains(&target) {
            return directive.to_owned();
        }
        let target = self.present_path(target);
        if !target.starts_with("writ::") {
            return format!("{target}{level}");
        }
        let path = target.strip_prefix("writ::").unwrap_or_default();
        let is_meant = |module: &&&str| {
            let (root, rest) = module.split_once("::").unwrap_or((module, ""));
            let inside = root.strip_prefix("writ_").is_some_and(|name| match path.strip_prefix(name) {
                Some(tail) => tail.strip_prefix("::").unwrap_or(tail) == rest,
                None => false,
            });
            !path.is_empty() && (rest == path || inside)
        };
        let module = self.modules.iter().find(is_meant);
        module.map_or_else(|| directive.to_owned(), |module| format!("{module}{level}"))
    }

    fn present_path(&self, target: &str) -> String {
        let renamed =
            self.renamed.iter().find_map(|(before, now)| Some(format!("{now}{}", target.strip_prefix(before)?)));
        renamed.unwrap_or_else(|| target.to_owned())
    }
}

fn is_level(word: &str) -> bool {
    !word.is_empty() && word.parse::<LevelFilter>().is_ok()
}

fn unknown(what: &str, word: &str, known: &[&str]) -> LogFilterError {
    let near = did_you_mean(word, known);
    LogFilterError(format!("`{}` is no {what}{near}", word.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: LogParts = LogParts {
        crates: &["writ", "writ_core", "writ_store", "writ_verifier", "actix_http"],
        modules: &[
            "writ",
            "writ::server",
            "writ::server::tls",
            "writ::service",
            "writ_core",
            "writ_core::exchange",
            "writ_core::keys",
            "writ_core::keys::mirror",
            "writ_store",
            "writ_store::writer",
            "writ_verifier",
            "writ_verifier::remote",
        ],
        renamed: &[("writ::listener", "writ::server")],
        default_filter: "info",
    };

    #[test]
    fn a_filter_that_names_what_does_not_exist_is_refused() {
        for good in ["info", "DEBUG", "off", "writ=debug", "info,writ::keys=trace, actix_http=warn", "writ", "warn,"] {
            assert!(log_filter(good, &PARTS).is_ok(), "{good}");
        }
        for (short, full) in [
            ("writ::keys::mirror=debug", "writ_core::keys::mirror=debug"),
            ("writ::store=debug", "writ_store=debug"),
            ("writ::store::writer", "writ_store::writer"),
            ("writ::listener::tls=warn", "writ::server::tls=warn"),
            ("writ::service=info", "writ::service=info"),
        ] {
            assert_eq!(PARTS.complete(short), full);
        }
        for (bad, expected) in [
            ("verbose", "`verbose` is no level"),
            ("debgu", "`debgu` is no level: did you mean `debug`?"),
            ("writ=inof", "`inof` is no level: did you mean `info`?"),
            ("wirt=debug", "`wirt` is no part of Writ: did you mean `writ`?"),
            ("info,keys=debug", "`keys` is no part of Writ"),
            ("audit=off", "`audit` is no part of Writ"),
            ("writ::nonsense", "`writ::nonsense` is no part of Writ"),
            ("info,writ::exchang=debug", "did you mean `writ::exchange`?"),
            ("writ::server::tsl=debug", "did you mean `writ::server::tls`?"),
            ("writ::=debug", "`writ::` is no part of Writ"),
            ("writ_verifier::remot=debug", "did you mean `writ_verifier::remote`?"),
            ("writ=", "`` is no level"),
            ("writ=debug=x", "is no level"),
            ("in\u{1b}fo", "`in\\u{1b}fo` is no level: did you mean `info`?"),
        ] {
            let error = log_filter(bad, &PARTS).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }
}
