//! `writ policy`: shows how policies would decide. Reads the policies and `writ.toml`; needs no network, store, keys or
//! certificates.

mod audit_line;
mod difference;
mod expectation;
mod explain;
mod hint;
mod trial;

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use writ_verifier::Members;

use self::audit_line::Line;
use self::trial::{Age, Trial, World};
use super::{NO, RequiredConfig, USAGE, load, print_problems};
use crate::config::policy::folder;
use writ_core::request::Source;
use writ_core::subject::members;
use writ_platform::clock::Timestamp;

/// `writ policy …`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) config: RequiredConfig,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What would be decided on a request and why, rule by rule
    Explain(Box<ExplainArgs>),
    /// Run the tests of the policies
    Test {
        /// Files with [[test]] tables; by default all in the folder `tests` of the policies
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Answer in JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// The client that sends the request
    #[arg(long, value_name = "ID", required_unless_present = "from_audit")]
    client: Option<String>,
    /// The source of the subject, as policies name it: `access_token`, `client_credentials`, `expired_txn_token` …
    #[arg(long, required_unless_present = "from_audit", value_parser = source)]
    source: Option<Source>,
    /// The purposes, separated by spaces
    #[arg(long, required_unless_present = "from_audit")]
    scope: Option<String>,
    /// The final subject; by default `sub` of --presented, with `client_credentials` the client itself
    #[arg(long)]
    subject: Option<String>,
    /// The scope of the subject token, by its own claim or the `scopes` of its issuer
    #[arg(long, value_name = "SCOPE")]
    subject_scope: Option<String>,
    /// `request_details`: one JSON object
    #[arg(long, value_name = "JSON")]
    details: Option<String>,
    /// `request_context`: one JSON object
    #[arg(long, value_name = "JSON")]
    context: Option<String>,
    /// The claims of the subject token, one JSON object; of a Txn-Token it should contain `scope` and `req_wl`
    #[arg(long, value_name = "JSON", value_parser = object)]
    presented: Option<Members>,
    /// How long ago the subject token expired, like 40d; -30s if it lives for that long
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    age: Option<Age>,
    /// A line of the audit log, `-` for standard input: explains that request, as far as the line records it; the other
    /// options add what it lacks
    #[arg(long, value_name = "LINE")]
    from_audit: Option<String>,
    /// Answer in JSON, for programs
    #[arg(long)]
    json: bool,
}

/// The exit code is 1 for a refused request or a failed expectation.
pub(super) fn run(args: Args) -> ExitCode {
    let config = args.config.config.as_path();
    let world = match world(config) {
        Ok(world) => world,
        Err(code) => return code,
    };
    let code = match args.command {
        Command::Explain(args) => args.explain(&world),
        Command::Test { files, json } => test(&files, json, &world),
    };
    code.unwrap_or_else(|error| {
        eprintln!("writ: {error}");
        ExitCode::from(USAGE)
    })
}

/// Loads the policies; prints their errors on standard error. `writ check` reports warnings.
fn world(config: &Path) -> Result<World, ExitCode> {
    let config = load(config)?;
    match folder::load(&config.policies) {
        Ok((policies, _)) => Ok(World::new(config, policies, Timestamp::now())),
        Err(problems) => {
            print_problems(&problems);
            Err(ExitCode::from(USAGE))
        }
    }
}

impl ExplainArgs {
    fn explain(self, world: &World) -> Result<ExitCode, String> {
        let json = self.json;
        let (trial, introduction) = self.trial(world)?;
        let verdict = trial.decide(world).map_err(|error| format!("--{}: {error}", error.key.replace('_', "-")))?;
        let text = if json {
            eprint!("{introduction}");
            explain::to_json(&verdict) + "\n"
        } else {
            introduction + &explain::to_text(&trial, &verdict, world)
        };
        print(&text)?;
        Ok(if verdict.outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }

    /// The request, and the assumptions about parts that an audit line lacks.
    fn trial(self, world: &World) -> Result<(Trial, String), String> {
        let Some(line) = &self.from_audit else {
            let (Some(client), Some(source), Some(scope)) = (self.client, self.source, self.scope) else {
                return Err("--client, --source and --scope are needed".to_owned());
            };
            let (subject, subject_scope, details, context) =
                (self.subject, self.subject_scope, self.details, self.context);
            let (presented, age) = (self.presented, self.age);
            let trial = Trial { client, source, scope, subject, subject_scope, details, context, presented, age };
            return Ok((trial, String::new()));
        };
        let text = if line == "-" { read_stdin()? } else { line.clone() };
        let line = Line::parse(&text).map_err(|error| error.to_string())?;
        let (mut trial, assumed) = line.trial(world).map_err(|error| error.to_string())?;
        trial.client = self.client.unwrap_or(trial.client);
        trial.source = self.source.unwrap_or(trial.source);
        trial.scope = self.scope.unwrap_or(trial.scope);
        trial.subject = self.subject.or(trial.subject);
        trial.subject_scope = self.subject_scope.or(trial.subject_scope);
        trial.details = self.details;
        trial.context = self.context;
        trial.age = self.age.or(trial.age);
        if let Some(presented) = &self.presented {
            let claims = trial.presented.get_or_insert_default();
            for (name, _) in presented.iter() {
                claims.adopt(name, presented, name);
            }
        }
        let mut introduction = format!("Then: {}. Not in the audit line, so assumed:\n", line.outcome());
        for what in assumed {
            let _ = writeln!(introduction, "  - {what}");
        }
        Ok((trial, introduction + "\nWith these policies:\n"))
    }
}

fn test(files: &[PathBuf], json: bool, world: &World) -> Result<ExitCode, String> {
    let files = if files.is_empty() { expectation::files(&world.directory)? } else { files.to_vec() };
    let results = match expectation::run(&files, world) {
        Ok(results) => results,
        Err(problems) => {
            print_problems(&problems);
            return Ok(ExitCode::from(USAGE));
        }
    };
    print(&if json { expectation::to_json(&results) + "\n" } else { expectation::to_text(&results) })?;
    let failed = results.iter().any(|result| !result.passed());
    Ok(if failed { ExitCode::from(NO) } else { ExitCode::SUCCESS })
}

fn source(name: &str) -> Result<Source, String> {
    let names = || Source::ALL.map(Source::name).join(", ");
    Source::from_name(name).ok_or_else(|| format!("must be one of {}", names()))
}

fn object(text: &str) -> Result<Members, &'static str> {
    Members::parse(text, members::LIMITS)
        .map_err(|_| "must be one JSON object, without repeated members, of at most 16 levels and 2048 members")
}

fn read_stdin() -> Result<String, String> {
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text).map_err(|error| format!("standard input: {error}"))?;
    Ok(text)
}

fn print(text: &str) -> Result<(), String> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| format!("standard output: {error}"))
}
