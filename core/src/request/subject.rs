//! The subject of a Txn-Token.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use writ_verifier::json::Members;

/// `sub` of a Txn-Token: 1 to 255 characters, without control characters and without a token in it (R-CLAIM-09).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Subject(String);

/// The text is not a [`Subject`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a subject has 1 to 255 characters, none a control character, and holds no token")]
pub struct SubjectNameError;

impl Subject {
    /// The value of `sub`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subject {
    type Err = SubjectNameError;

    fn from_str(text: &str) -> Result<Self, SubjectNameError> {
        let fits = !text.chars().any(char::is_control) && (1..=255).contains(&text.chars().count());
        (fits && !holds_jws(text)).then(|| Self(text.to_owned())).ok_or(SubjectNameError)
    }
}

impl TryFrom<String> for Subject {
    type Error = SubjectNameError;

    fn try_from(text: String) -> Result<Self, SubjectNameError> {
        text.parse()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text contains a compact JWS or JWE: three parts or more in the alphabet of base64url, one of which is a JSON
/// object with `alg` (RFC 7515 §3.1).
pub(crate) fn holds_jws(text: &str) -> bool {
    let foreign = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    text.split(foreign).filter(|word| word.bytes().filter(|&b| b == b'.').count() >= 2).any(|word| {
        // Other text may precede the header.
        word.split('.').any(|part| {
            let header = URL_SAFE_NO_PAD.decode(part).ok();
            let header: Option<Members> = header.and_then(|header| serde_json::from_slice(&header).ok());
            header.is_some_and(|header| header.raw("alg").is_some())
        })
    })
}
