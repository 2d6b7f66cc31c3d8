//! `writ-conformance` tests a Transaction Token Service over the wire, as a client sees it, and reports where it departs
//! from the draft.
//!
//! The checks are the requirements of `docs/spec/requirements.md` that bind every Transaction Token Service. What Writ
//! offers beyond them is not expected of others. Where the standards leave a choice or only recommend something, a
//! difference is noted and does not fail the run.

mod args;
mod discovery;
mod endpoint;
mod files;
mod form;
mod http;
mod issuance;
mod refusals;
mod report;
mod request;
mod response;
mod reuse;
mod target;
mod token;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use rustix::process::{Resource, Rlimit, setrlimit};

use self::args::Args;
use self::discovery::{keys, metadata};
use self::endpoint::TokenEndpoint;
use self::files::FileError;
use self::http::HttpError;
use self::report::Report;
use self::request::TokenRequest;
use self::target::{OpenError, Target};

/// At least one check failed.
const FAILED: u8 = 1;
/// Wrong usage, or a target that cannot be reached: there is no report.
const USAGE: u8 = 2;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Credentials(#[from] OpenError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{0}")]
    System(#[from] io::Error),
    #[error("the target serves no metadata with a token endpoint: give --token-endpoint")]
    NoEndpoint,
    #[error("the metadata names no trust domain: give --audience")]
    NoAudience,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("writ-conformance: {error}");
            ExitCode::from(USAGE)
        }
    }
}

fn run() -> Result<ExitCode, RunError> {
    protect_secrets()?;
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(check(&args))?;
    let text = if args.json { report.to_json(&args.target.text).to_string() } else { report.to_string() };
    let print_error = |error: io::Error| io::Error::new(error.kind(), format!("standard output: {error}"));
    writeln!(io::stdout(), "{text}").map_err(print_error)?;
    Ok(if report.has_failed() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// Keeps tokens and keys out of core dumps and panic messages.
fn protect_secrets() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // A pattern that pipes core dumps to a program ignores the limit.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        eprintln!("writ-conformance: internal error at {place}");
    }));
    Ok(())
}

/// Runs all checks in the order of the report.
async fn check(args: &Args) -> Result<Report, RunError> {
    let target = Target::open(&args.credentials)?;
    let subject_token = args.subject.read(&args.subject_token_type)?;
    let mut report = Report::default();
    target.secrets().for_each(|secret| report.redact(secret));
    if let Some(subject_token) = &subject_token {
        report.redact(&subject_token.token);
    }

    let metadata = match metadata::check(&target, &args.target, &mut report).await {
        Err(error) if args.token_endpoint.is_none() => return Err(error.into()),
        fetched => fetched.ok().flatten(),
    };
    let metadata = metadata.as_ref();
    let given = |url: &args::HttpsUrl| url.url.clone();
    let named = || metadata?.token_endpoint(target.has_certificate());
    let url = args.token_endpoint.as_ref().map(given).or_else(named).ok_or(RunError::NoEndpoint)?;
    let audience = args.audience.clone().or_else(|| metadata?.trust_domain()).ok_or(RunError::NoAudience)?;
    let jwks = args.jwks.as_ref().map(given).or_else(|| metadata?.jwks_uri());
    let keys = keys::check(&target, jwks.as_ref(), &mut report).await;

    let parameters = target.parameters().to_vec();
    let request = TokenRequest { audience, scope: args.scope.clone(), subject_token, parameters };
    let endpoint = TokenEndpoint { target, url, request };
    let issuer = metadata.and_then(metadata::Metadata::issuer);
    let unmet = issuance::check(&endpoint, keys, issuer, &mut report).await?;
    refusals::check(&endpoint, args.other_scope.as_deref(), unmet.as_ref(), &mut report).await;
    reuse::check(&endpoint, args.replace_scope.as_deref(), args.wait_after_expiry(), unmet.as_ref(), &mut report).await;
    Ok(report)
}
