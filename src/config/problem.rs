//! Problems in an operator's files.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// Whether the service can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The service cannot start.
    Error,
    /// The service can start, at a risk.
    Warning,
    /// Not a problem: information about the settings in force.
    Note,
}

/// One problem; it never shows the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Errors keep the service from starting.
    pub(crate) severity: Severity,
    /// The file, or `environment`.
    #[serde(serialize_with = "lossy")]
    pub(crate) file: PathBuf,
    /// From 1; 0 if there is no line.
    pub(crate) line: usize,
    /// The key with its tables, such as `keys.retention`, or the variable; empty if it is about the file as a whole.
    pub(crate) key: String,
    /// The problem and its cure.
    pub(crate) message: String,
}

impl Problem {
    /// An error about a file as a whole.
    pub(crate) fn of_file(file: &Path, message: impl fmt::Display) -> Self {
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            line: 0,
            key: String::new(),
            message: message.to_string(),
        }
    }

    /// Whether the service cannot start with this.
    pub(crate) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// `writ.toml:12: tokens.lifetime: …`, without the parts that do not apply.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        match self.severity {
            Severity::Error => {}
            Severity::Warning => f.write_str(" warning:")?,
            Severity::Note => f.write_str(" note:")?,
        }
        write!(f, " {}", self.message)
    }
}

/// A path need not be UTF-8; JSON must.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}
