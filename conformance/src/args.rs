//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;
use writ_verifier::Scope;

use crate::files::{self, FileError};
use crate::request::{SubjectToken, TOKEN_TYPE};
use crate::target::Credentials;

/// The short names of subject token types, as in the policies of Writ.
const TOKEN_TYPE_NAMES: [&str; 6] = ["access_token", "jwt", "id_token", "self_signed", "unsigned_json", "txn_token"];

/// Tests a Transaction Token Service over the wire and reports where it departs from the draft.
#[derive(Debug, clap::Parser)]
#[command(name = "writ-conformance", version)]
pub(crate) struct Args {
    /// The issuer, or the base URL of the service; its metadata names the endpoints
    #[arg(long, value_name = "URL", value_parser = https_url)]
    pub(crate) target: HttpsUrl,
    /// The token endpoint, instead of the one in the metadata
    #[arg(long, value_name = "URL", value_parser = https_url)]
    pub(crate) token_endpoint: Option<HttpsUrl>,
    /// The URL of the published keys, instead of the one in the metadata
    #[arg(long, value_name = "URL", value_parser = https_url)]
    pub(crate) jwks: Option<HttpsUrl>,
    #[command(flatten)]
    pub(crate) credentials: Credentials,
    /// The trust domain [default: the first one in the metadata]
    #[arg(long, value_name = "TRUST_DOMAIN")]
    pub(crate) audience: Option<String>,
    /// Purposes that the client is allowed to request, separated by spaces
    #[arg(long, value_parser = |text: &str| text.parse::<Scope>())]
    pub(crate) scope: Scope,
    /// A purpose that the client is not allowed to request, or that the subject token does not cover
    #[arg(long, value_name = "PURPOSE")]
    pub(crate) other_scope: Option<String>,
    /// A purpose that the client is allowed to request, but not when it replaces a Txn-Token for `--scope`
    #[arg(long, value_name = "PURPOSE")]
    pub(crate) replace_scope: Option<String>,
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    /// The type of the subject token: `access_token`, `txn_token`, … or a URN
    #[arg(long, value_name = "TYPE", default_value = "access_token", value_parser = token_type)]
    pub(crate) subject_token_type: String,
    /// Wait until a Txn-Token has expired, if its lifetime is 65 seconds or less
    #[arg(long)]
    wait: bool,
    /// How many seconds after its expiry the target may still accept a Txn-Token
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    leeway: u16,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// The subject of the request.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SubjectArgs {
    /// A file with a subject token that can be used more than once, `-` for standard input
    #[arg(long, value_name = "FILE")]
    subject_token: Option<PathBuf>,
    /// Use the grant `client_credentials`, which some services offer beyond the draft
    #[arg(long)]
    client_credentials: bool,
}

/// An https URL together with its spelling: issuers are compared byte for byte.
#[derive(Debug, Clone)]
pub(crate) struct HttpsUrl {
    pub(crate) text: String,
    pub(crate) url: Url,
}

impl Args {
    /// How long after the expiry of a Txn-Token to present it; `None` without `--wait`.
    pub(crate) fn wait_after_expiry(&self) -> Option<Duration> {
        self.wait.then(|| Duration::from_secs(self.leeway.into()))
    }
}

impl SubjectArgs {
    /// The subject token, unless the client itself is the subject.
    pub(crate) fn read(&self, token_type: &str) -> Result<Option<SubjectToken>, FileError> {
        let Some(file) = &self.subject_token else { return Ok(None) };
        Ok(Some(SubjectToken { token: files::read_text(file)?, token_type: token_type.to_owned() }))
    }
}

fn https_url(text: &str) -> Result<HttpsUrl, String> {
    let fits = |url: &Url| url.scheme() == "https" && url.query().is_none() && url.fragment().is_none();
    let url = Url::parse(text).ok().filter(fits).ok_or("must be an https URL without query and fragment")?;
    Ok(HttpsUrl { text: text.to_owned(), url })
}

/// The URN of a token type that is given by its short name or as a URN. Writ's policies call a Txn-Token that has expired
/// `expired_txn_token`; on the wire the type is the same.
fn token_type(name: &str) -> Result<String, String> {
    match name {
        "expired_txn_token" => Ok(format!("{TOKEN_TYPE}txn_token")),
        name if TOKEN_TYPE_NAMES.contains(&name) => Ok(format!("{TOKEN_TYPE}{name}")),
        urn if urn.contains(':') => Ok(urn.to_owned()),
        _ => Err(format!("must be {}, expired_txn_token or a URN", TOKEN_TYPE_NAMES.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_read_as_documented() {
        Args::command().debug_assert();
        let minimum = "writ-conformance --target https://t.example --scope a";
        let args = parse(&format!("{minimum} --client-credentials --parameter client_secret=s3cret")).unwrap();
        assert!(!format!("{args:?}").contains("s3cret"));
        assert_eq!(args.wait_after_expiry(), None);
        let args = parse(&format!("{minimum} --subject-token - --subject-token-type id_token --wait")).unwrap();
        assert_eq!(args.subject_token_type, "urn:ietf:params:oauth:token-type:id_token");
        assert_eq!(args.wait_after_expiry(), Some(Duration::from_secs(30)));
        for bad in ["", " --client-credentials --subject-token -", " --client-credentials --cert c"] {
            assert!(parse(&format!("{minimum}{bad}")).is_err(), "{bad}");
        }
        for bad in ["--target http://t.example --scope a", "--target https://t.example/?q --scope a"] {
            assert!(parse(&format!("writ-conformance {bad} --client-credentials")).is_err(), "{bad}");
        }
    }

    #[test]
    fn token_types_have_short_names() {
        let urn = |name| Ok(format!("urn:ietf:params:oauth:token-type:{name}"));
        assert_eq!(token_type("self_signed"), urn("self_signed"));
        assert_eq!(token_type("expired_txn_token"), urn("txn_token"));
        assert_eq!(token_type("urn:ietf:params:oauth:token-type:saml2"), urn("saml2"));
        for bad in ["client_credentials", "saml2", ""] {
            assert!(token_type(bad).is_err(), "{bad}");
        }
    }
}
