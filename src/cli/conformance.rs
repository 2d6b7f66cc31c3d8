//! `writ conformance`: the protocol part of the Transaction Token draft, tried on any service over the wire.
//!
//! The rules are those of `docs/spec/requirements.md` that bind every Transaction Token Service. What Writ does beyond
//! them is not asked of others; where the standards leave a choice or only advise, a difference is noted, not failed.

mod discovery;
mod form;
mod issue;
mod later;
mod refusals;
mod report;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use url::Url;
use writ_verifier::Scope;
use zeroize::Zeroizing;

use self::discovery::Keys;
use self::form::Form;
use self::report::Report;
use self::target::{Access, Caller, Credentials, Reply};
use super::token::{self, ServiceError, TokenError};
use super::{NO, failed};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";
const TXN_TOKEN: &str = "urn:ietf:params:oauth:token-type:txn_token";

/// `writ conformance …`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The issuer, or the base URL of the service; its metadata name the endpoints
    #[arg(long, value_name = "URL", value_parser = https)]
    target: Target,
    /// The token endpoint, instead of the one in the metadata
    #[arg(long, value_name = "URL", value_parser = https)]
    token_endpoint: Option<Target>,
    /// Where the published keys are, instead of the address in the metadata
    #[arg(long, value_name = "URL", value_parser = https)]
    jwks: Option<Target>,
    #[command(flatten)]
    credentials: Credentials,
    /// The trust domain; by default the one that the metadata name
    #[arg(long, value_name = "TRUST_DOMAIN")]
    audience: Option<String>,
    /// The purposes that the client may get, separated by spaces
    #[arg(long, value_parser = |text: &str| text.parse::<Scope>())]
    scope: Scope,
    /// A purpose that the client may not get, or that the subject token does not cover
    #[arg(long, value_name = "PURPOSE")]
    other_scope: Option<String>,
    /// A purpose that the client may get, but that a Txn-Token for `--scope` must not be replaced by
    #[arg(long, value_name = "PURPOSE")]
    replace_scope: Option<String>,
    #[command(flatten)]
    way: Way,
    /// The source of the subject token (`access_token`, `txn_token`, …) or the URN of its type
    #[arg(long, value_name = "TYPE", default_value = "access_token", value_parser = token::token_type)]
    subject_token_type: String,
    /// Wait until a Txn-Token has expired, if it lives for 65 seconds at most
    #[arg(long)]
    wait: bool,
    /// How many seconds after its expiry the target may still take a Txn-Token
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    leeway: u16,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How the client shows for whom it asks.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Way {
    /// A file with a subject token that serves more than once, `-` for standard input
    #[arg(long, value_name = "FILE")]
    subject_token: Option<PathBuf>,
    /// Ask with the grant `client_credentials`, which some services offer beyond the draft
    #[arg(long)]
    client_credentials: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum ConformanceError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("the target serves no metadata that name a token endpoint: give --token-endpoint")]
    NoEndpoint,
    #[error("the metadata name no trust domain: give --audience")]
    NoAudience,
}

/// An https URL, also as it was written: issuers are compared byte for byte.
#[derive(Debug, Clone)]
struct Target {
    text: String,
    url: Url,
}

/// What a good request asks for.
#[derive(Clone)]
struct Ask {
    audience: String,
    scope: Scope,
    proof: Proof,
    /// What proves the client beside its certificate.
    parameters: Vec<(String, String)>,
}

/// For whom.
#[derive(Clone)]
enum Proof {
    /// The client itself.
    Client,
    /// Whoever the token says.
    Subject { token: Zeroizing<String>, token_type: String },
}

/// All that the checks of the token endpoint need.
struct Scene {
    access: Access,
    endpoint: Url,
    ask: Ask,
    /// `issuer` of the metadata, where it is what it must be.
    issuer: Option<String>,
    keys: Option<Keys>,
}

/// Tries the target and tells what came of it: exit code 0 if nothing failed, 1 if something did.
pub(super) async fn run(args: Args) -> ExitCode {
    let report = match examine(&args).await {
        Ok(report) => report,
        Err(error) => return failed(&error),
    };
    let text = if args.json { report.to_json(&args.target.text).to_string() } else { report.to_string() };
    if let Err(error) = token::print(&text) {
        return failed(&error);
    }
    if report.has_failed() { ExitCode::from(NO) } else { ExitCode::SUCCESS }
}

async fn examine(args: &Args) -> Result<Report, ConformanceError> {
    let access = Access::open(&args.credentials)?;
    let proof = args.way.proof(&args.subject_token_type)?;
    let mut report = Report::default();
    access.secrets().for_each(|secret| report.keep_secret(secret));
    if let Proof::Subject { token, .. } = &proof {
        report.keep_secret(token);
    }

    let metadata = match discovery::metadata(&access, &args.target, &mut report).await {
        Err(error) if args.token_endpoint.is_none() => return Err(error.into()),
        served => served.ok().flatten(),
    };
    let metadata = metadata.as_ref();
    let named = || metadata.and_then(|metadata| metadata.token_endpoint(access.has_certificate()));
    let endpoint = args.token_endpoint.as_ref().map(|given| given.url.clone()).or_else(named);
    let endpoint = endpoint.ok_or(ConformanceError::NoEndpoint)?;
    let audience = args.audience.clone().or_else(|| metadata?.trust_domain()).ok_or(ConformanceError::NoAudience)?;
    let jwks = args.jwks.as_ref().map(|given| given.url.clone()).or_else(|| metadata?.jwks_uri());
    let keys = discovery::keys(&access, jwks.as_ref(), &mut report).await;

    let parameters = access.parameters().to_vec();
    let ask = Ask { audience, scope: args.scope.clone(), proof, parameters };
    let issuer = metadata.and_then(discovery::Metadata::issuer);
    let scene = Scene { access, endpoint, ask, issuer, keys };
    let hindrance = issue::examine(&scene, &mut report).await?;
    refusals::examine(&scene, args.other_scope.as_deref(), hindrance.as_ref(), &mut report).await;
    let patience = args.wait.then(|| Duration::from_secs(args.leeway.into()));
    later::examine(&scene, args.replace_scope.as_deref(), patience, hindrance.as_ref(), &mut report).await;
    Ok(report)
}

impl Way {
    fn proof(&self, token_type: &str) -> Result<Proof, TokenError> {
        Ok(match &self.subject_token {
            Some(file) => Proof::Subject { token: token::read_token(file)?, token_type: token_type.to_owned() },
            None => Proof::Client,
        })
    }
}

impl Ask {
    /// The request that a conforming service answers with a Txn-Token.
    fn form(&self) -> Form {
        let form = Form::new(self.parameters.clone())
            .set("requested_token_type", TXN_TOKEN)
            .set("audience", &self.audience)
            .set("scope", &self.scope.to_string());
        match &self.proof {
            Proof::Client => form.set("grant_type", "client_credentials"),
            Proof::Subject { token, token_type } => exchange(form, token, token_type),
        }
    }

    /// The same with another subject token.
    fn exchange(&self, token: &str, token_type: &str) -> Form {
        exchange(self.form(), token, token_type)
    }

    /// The subject token.
    fn subject_token(&self) -> Option<&str> {
        match &self.proof {
            Proof::Client => None,
            Proof::Subject { token, .. } => Some(token.as_str()),
        }
    }
}

fn exchange(form: Form, token: &str, token_type: &str) -> Form {
    form.set("grant_type", TOKEN_EXCHANGE).set("subject_token", token).set("subject_token_type", token_type)
}

impl Scene {
    /// Asks the token endpoint as the client.
    async fn ask(&self, form: &Form) -> Result<Reply, ServiceError> {
        self.access.token(Caller::Client, &self.endpoint, form).await
    }
}

fn https(text: &str) -> Result<Target, String> {
    let fits = |url: &Url| url.scheme() == "https" && url.query().is_none() && url.fragment().is_none();
    let url = Url::parse(text).ok().filter(fits).ok_or("an https URL without query and fragment")?;
    Ok(Target { text: text.to_owned(), url })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        <CommandLine as clap::Parser>::try_parse_from(line.split(' ')).map(|parsed| parsed.args)
    }

    #[test]
    fn the_command_line_is_read_as_documented() {
        <CommandLine as clap::CommandFactory>::command().debug_assert();
        let least = "conformance --target https://t.example --scope a";
        let args = parse(&format!("{least} --client-credentials --parameter client_secret=s3cret")).unwrap();
        assert!(!format!("{args:?}").contains("s3cret"));
        let args = parse(&format!("{least} --subject-token - --subject-token-type id_token")).unwrap();
        assert_eq!(args.subject_token_type, "urn:ietf:params:oauth:token-type:id_token");
        for bad in ["", " --client-credentials --subject-token -", " --client-credentials --cert c"] {
            assert!(parse(&format!("{least}{bad}")).is_err(), "{bad}");
        }
        for bad in ["--target http://t.example --scope a", "--target https://t.example/?q --scope a"] {
            assert!(parse(&format!("conformance {bad} --client-credentials")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_holds_what_the_draft_asks_for() {
        let mut ask = Ask {
            audience: "d.example".to_owned(),
            scope: "a b".parse().unwrap(),
            proof: Proof::Client,
            parameters: vec![("client_id".to_owned(), "c".to_owned())],
        };
        let form = ask.form();
        assert_eq!((form.value("grant_type"), form.value("client_id")), (Some("client_credentials"), Some("c")));
        assert_eq!(form.value("subject_token"), None);
        ask.proof = Proof::Subject { token: "t".to_owned().into(), token_type: format!("{TOKEN_TYPE}jwt") };
        let form = ask.form();
        assert_eq!((form.value("grant_type"), form.value("subject_token")), (Some(TOKEN_EXCHANGE), Some("t")));
        assert_eq!((form.value("scope"), form.value("requested_token_type")), (Some("a b"), Some(TXN_TOKEN)));
    }
}
