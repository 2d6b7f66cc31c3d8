//! `writ token`: request, decode and verify Txn-Tokens.

mod error;
mod http;
mod inspect;
mod service;
mod verify;

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;
use writ_verifier::{BuildError, VerifyError};
use zeroize::Zeroizing;

use super::printable;

use writ_core::subject::jwt::common_mistake;
use writ_platform::bounded;
use writ_platform::clock::Timestamp;

pub(super) use self::error::ServiceError;
use self::http::ResolveArgs;
use self::inspect::Decoded;
use self::service::subject_token_type;
pub(super) use self::service::{Answer, Service, SubjectToken, TokenRequest};
use self::verify::Keys;

/// Request, decode and verify Txn-Tokens
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Request a Txn-Token over mTLS and print it
    Request(Box<RequestArgs>),
    /// Decode a token without verifying it
    Inspect(InspectArgs),
    /// Verify a token as a downstream service does
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
struct RequestArgs {
    /// The issuer, like `https://tts.trust-domain.example:8443`
    #[arg(long)]
    url: String,
    /// The CA of the service, PEM
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The client's certificate, PEM
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// The key of that certificate, PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The purposes, separated by spaces
    #[arg(long)]
    scope: String,
    /// The trust domain; by default the first one in the metadata of the service
    #[arg(long, value_name = "TRUST_DOMAIN")]
    audience: Option<String>,
    /// A file with the subject token, `-` for standard input; without one the client itself is the subject
    #[arg(long, value_name = "FILE")]
    subject_token: Option<PathBuf>,
    /// The source of the subject token (`access_token`, `txn_token`, …) or the URN of its type
    #[arg(long, value_name = "TYPE", default_value = "access_token", value_parser = token_type)]
    subject_token_type: String,
    /// The subject, if it is not the client itself
    #[arg(long, value_name = "SUBJECT", conflicts_with = "subject_token")]
    requested_subject: Option<String>,
    /// `request_details`: one JSON object
    #[arg(long, value_name = "JSON")]
    details: Option<String>,
    /// `request_context`: one JSON object
    #[arg(long, value_name = "JSON")]
    context: Option<String>,
    #[command(flatten)]
    resolve: ResolveArgs,
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// A file with the token, `-` for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Print one JSON object with `header` and `claims`
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The published keys: an https URL or a file
    #[arg(long, value_name = "URL|FILE", value_parser = |text: &str| Ok::<_, Infallible>(Keys::from(text)))]
    jwks: Keys,
    /// The CA of that URL, PEM; by default the CAs that the system trusts
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The trust domain that the token must be for
    #[arg(long, value_name = "TRUST_DOMAIN")]
    audience: String,
    #[command(flatten)]
    resolve: ResolveArgs,
    /// A file with the token, `-` for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Print one JSON object with `valid` and `reason`
    #[arg(long)]
    json: bool,
}

/// Why a command failed. A refused or invalid token is not an error, but a negative answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Verifier(BuildError),
}

/// The exit code is 1 for a refused request or an invalid token.
pub(super) fn run(args: &Args) -> Result<ExitCode, TokenError> {
    match &args.command {
        Command::Request(args) => request(args),
        Command::Inspect(args) => inspect(args),
        Command::Verify(args) => verify(args),
    }
}

fn request(args: &RequestArgs) -> Result<ExitCode, TokenError> {
    let (ca, certificate, key) = (read(&args.ca)?, read(&args.cert)?, read(&args.key)?);
    let service = Service::new(&args.url, &ca, &certificate, &key, &args.resolve.resolve)?;
    let subject_token = args.subject_token.as_deref().map(read_token).transpose()?;
    let request = args.send(&service, subject_token.as_ref().map(|token| token.as_str()));
    match runtime()?.block_on(request) {
        Ok(Answer::Issued(answer)) => issued(&answer, args.json),
        Ok(Answer::Refused(answer)) => refused(&answer, args.json),
        // Neither usage nor configuration: the service may be down, or may have refused the handshake.
        Err(error @ (ServiceError::Unreachable(_) | ServiceError::Answer(_) | ServiceError::Issuer { .. })) => {
            negative(&error.to_string())
        }
        Err(error) => Err(error.into()),
    }
}

impl RequestArgs {
    async fn send(&self, service: &Service, subject_token: Option<&str>) -> Result<Answer, ServiceError> {
        let audience = match &self.audience {
            Some(audience) => audience.clone(),
            None => service.trust_domain().await?,
        };
        let subject_token = subject_token.map(|token| SubjectToken { token_type: &self.subject_token_type, token });
        let request = TokenRequest {
            audience: &audience,
            scope: &self.scope,
            subject_token,
            requested_subject: self.requested_subject.as_deref(),
            details: self.details.as_deref(),
            context: self.context.as_deref(),
        };
        service.token(&request).await
    }
}

fn issued(answer: &Value, json: bool) -> Result<ExitCode, TokenError> {
    let whole = answer.to_string();
    let token = answer["access_token"].as_str().unwrap_or_default();
    print(if json { &whole } else { token })?;
    Ok(ExitCode::SUCCESS)
}

fn refused(answer: &Value, json: bool) -> Result<ExitCode, TokenError> {
    if json {
        print(&answer.to_string())?;
    }
    let text = |member| printable(answer[member].as_str().unwrap_or("-"));
    negative(&format!("{} ({}): {}", text("error"), text("reason"), text("error_description")))
}

fn inspect(args: &InspectArgs) -> Result<ExitCode, TokenError> {
    let token = read_token(&args.file)?;
    match Decoded::parse(&token) {
        Ok(decoded) if args.json => print(&decoded.to_json()).map(|()| ExitCode::SUCCESS),
        Ok(decoded) => print(&decoded.to_string()).map(|()| ExitCode::SUCCESS),
        Err(error) => negative(&format!("{error}{}", hint(&token))),
    }
}

/// A common mistake in copying a token, if the text shows one.
fn hint(token: &str) -> String {
    common_mistake(token).map(|mistake| format!(": {mistake}")).unwrap_or_default()
}

fn verify(args: &VerifyArgs) -> Result<ExitCode, TokenError> {
    let ca = args.ca.as_deref().map(read).transpose()?;
    let ca = ca.as_ref().map(|pem| pem.as_slice());
    let token = read_token(&args.file)?;
    let verified = verify::verify(&args.audience, &args.jwks, ca, &args.resolve.resolve, token.as_str());
    let (outcome, cause) = runtime()?.block_on(verified)?;
    if args.json {
        print(&verify::to_json(&outcome))?;
    }
    match outcome {
        Ok(_) if args.json => Ok(ExitCode::SUCCESS),
        Ok(token) => {
            let expiry = Timestamp::from_epoch(token.expires_at());
            print(&format!("valid until {expiry}")).map(|()| ExitCode::SUCCESS)
        }
        Err(error @ VerifyError::Malformed) => negative(&format!("{}: {error}{}", error.reason(), hint(&token))),
        Err(error @ VerifyError::Expired { expired_at }) => {
            let at = Timestamp::from_epoch(expired_at);
            negative(&format!("{}: the Txn-Token expired at {at}", error.reason()))
        }
        Err(error) => {
            let cause = cause.map(|cause| format!(": {}", printable(&cause))).unwrap_or_default();
            negative(&format!("{}: {error}{cause}", error.reason()))
        }
    }
}

fn token_type(name: &str) -> Result<String, String> {
    subject_token_type(name).ok_or_else(|| {
        "access_token, jwt, id_token, self_signed, unsigned_json, txn_token, expired_txn_token or a URN".to_owned()
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, TokenError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io_error(Path::new("runtime")))
}

/// Reads a token from a file or standard input, and trims it.
fn read_token(path: &Path) -> Result<Zeroizing<String>, TokenError> {
    let bytes = if path == Path::new("-") { read_stdin()? } else { read(path)? };
    let text = std::str::from_utf8(&bytes).map_err(|_| io::ErrorKind::InvalidData.into()).map_err(io_error(path))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn read_stdin() -> Result<Zeroizing<Vec<u8>>, TokenError> {
    bounded::read_from(io::stdin().lock()).map(Zeroizing::new).map_err(io_error(Path::new("standard input")))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    bounded::read(path).map(Zeroizing::new).map_err(io_error(path))
}

fn print(line: &str) -> Result<(), TokenError> {
    writeln!(io::stdout(), "{line}").map_err(io_error(Path::new("standard output")))
}

/// Prints why the answer is negative.
fn negative(why: &str) -> Result<ExitCode, TokenError> {
    writeln!(io::stderr(), "{why}").map_err(io_error(Path::new("standard error")))?;
    Ok(ExitCode::from(1))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> TokenError + '_ {
    move |source| TokenError::Io { path: path.to_owned(), source }
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
        let request = "token request --url https://t --ca a --cert c --key k --scope s";
        let Command::Request(args) = parse(request).unwrap().command else { panic!() };
        assert_eq!(args.subject_token, None);
        let line = format!("{request} --subject-token - --subject-token-type txn_token --json");
        let Command::Request(args) = parse(&line).unwrap().command else { panic!() };
        assert_eq!(args.subject_token_type, "urn:ietf:params:oauth:token-type:txn_token");
        for bad in ["--subject-token-type nonsense", "--subject-token - --requested-subject a"] {
            assert!(parse(&format!("{request} {bad}")).is_err(), "{bad}");
        }
        let line = "token verify --jwks jwks.json --audience d.example";
        let Command::Verify(args) = parse(line).unwrap().command else { panic!() };
        assert_eq!((args.jwks, args.file), (Keys::File("jwks.json".into()), "-".into()));
        assert!(parse("token inspect").is_ok() && parse("token inspect - --json").is_ok());
    }
}
