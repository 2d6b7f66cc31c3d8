//! Arguments → command → exit code: 0 success, 1 a negative answer, 2 wrong usage or configuration.

pub mod block;
pub mod certs;
pub mod check;
pub mod conformance;
mod init;
pub mod keys;
mod manual;
pub mod policy;
pub mod quickstart;
pub mod serve;
pub mod store;
pub mod token;

use std::future::Future;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use serde_json::{Value, json};

use self::certs::CertsError;
use crate::admin::{self, Reply};
use crate::config::{Config, Problem, environment, file};
use crate::service::{Core, StartError};
use writ_core::audit::Audit;
use writ_platform::clock::Timestamp;
use writ_platform::telemetry::{Format, Log};

/// A negative answer.
const NO: u8 = 1;

/// Wrong usage or configuration.
const USAGE: u8 = 2;

/// A Transaction Token Service: short-lived, narrowly scoped tokens for each transaction inside a trust domain.
#[derive(Debug, Parser)]
#[command(name = "writ", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// The same as behind the command, for those that read it
    #[arg(long, hide = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// `--config` of a command that cannot do without.
#[derive(Debug, clap::Args)]
struct RequiredConfig {
    /// The configuration file
    #[arg(long, global = true, env = "WRIT_CONFIG", default_value = DEFAULT_CONFIG, value_name = "FILE")]
    config: PathBuf,
}

/// `--config` of a command that can.
#[derive(Debug, clap::Args)]
struct OptionalConfig {
    /// The configuration file [default: writ.toml, if there is one]
    #[arg(long, env = "WRIT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

const DEFAULT_CONFIG: &str = "writ.toml";

impl OptionalConfig {
    /// What the file says, right or wrong; `None` where none is named and the usual one is missing.
    fn read(&self) -> Result<Option<file::Reading>, CertsError> {
        let path = match &self.config {
            Some(path) => path.as_path(),
            None if !Path::new(DEFAULT_CONFIG).exists() => return Ok(None),
            None => Path::new(DEFAULT_CONFIG),
        };
        let mut reading = file::read(path, environment::variables());
        match reading.files {
            Some(_) => Ok(Some(reading)),
            None => Err(CertsError::Config(reading.problems.remove(0))),
        }
    }

    fn trust_domain(&self) -> Result<Option<String>, CertsError> {
        self.setting("trust_domain", |reading| reading.trust_domain.as_ref().map(ToString::to_string))
    }

    /// The host of `issuer`.
    fn issuer_host(&self) -> Result<Option<String>, CertsError> {
        let host =
            |issuer: &String| Some(url::Url::parse(issuer).ok()?.host_str()?.trim_matches(['[', ']']).to_owned());
        self.setting("issuer", |reading| reading.issuer.as_ref().and_then(host))
    }

    fn setting(&self, key: &str, of: impl Fn(&file::Reading) -> Option<String>) -> Result<Option<String>, CertsError> {
        let Some(reading) = self.read()? else { return Ok(None) };
        if let Some(value) = of(&reading) {
            return Ok(Some(value));
        }
        let problem = reading.problems.into_iter().find(|problem| problem.key == key || problem.is_error());
        problem.map_or(Ok(None), |problem| Err(CertsError::Config(problem)))
    }
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show what Writ does: a development setup, the real service, and the story of three ways in
    Quickstart(quickstart::Args),
    /// Begin a set-up: a commented configuration, a sealing key, an example policy with its test
    Init(init::Args),
    /// Run the service
    Serve(serve::Args),
    /// Check configuration, certificates, keys and policies without starting
    Check(check::Args),
    /// See what a policy does before it does it
    Policy(policy::Args),
    /// The key ring and its history
    Keys(keys::Args),
    /// The kill switch: nothing more is issued, replaced or redeemed for what it names
    Block(block::Args),
    /// Mend the store, or take the present time as right
    Store(store::Args),
    /// A development CA and client certificates; never for production
    Certs(certs::Args),
    /// Get, decode and verify Txn-Tokens
    Token(token::Args),
    /// Try any Transaction Token Service against the draft, and report
    Conformance(Box<conformance::Args>),
    /// Print completions for a shell
    Completions(manual::CompletionsArgs),
    /// Write manual pages
    Man(manual::ManArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    if let Err(error) = writ_platform::process::harden() {
        return failed(&error);
    }
    let mut cli = Cli::parse();
    if let Some(file) = cli.config {
        let Some(config) = cli.command.config() else {
            let ignored = "the argument '--config' is not used by this command";
            Cli::command().error(ErrorKind::UnknownArgument, ignored).exit();
        };
        *config = file;
    }
    match cli.command {
        Command::Quickstart(args) => wait_for(quickstart::run(args)),
        Command::Init(args) => init::run(&args).unwrap_or_else(|error| failed(&error)),
        Command::Serve(args) => wait_for(serve::run(args)),
        Command::Check(args) => wait_for(check::run(args)),
        Command::Policy(args) => policy::run(args),
        Command::Keys(args) => wait_for(keys::run(args)),
        Command::Block(args) => wait_for(block::run(args)),
        Command::Store(args) => wait_for(store::run(args)),
        Command::Certs(args) => certs::run(args).unwrap_or_else(|error| failed(&error)),
        Command::Token(args) => token::run(&args).unwrap_or_else(|error| failed(&error)),
        Command::Conformance(args) => wait_for(conformance::run(*args)),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}

impl Command {
    /// The configuration file, of a command that reads one in any case.
    fn config(&mut self) -> Option<&mut PathBuf> {
        let config = match self {
            Self::Serve(args) => &mut args.config,
            Self::Check(args) => &mut args.config,
            Self::Policy(args) => &mut args.config,
            Self::Keys(args) => &mut args.config,
            Self::Block(args) => &mut args.config,
            Self::Store(args) => &mut args.config,
            _ => return None,
        };
        Some(&mut config.config)
    }
}

fn wait_for(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(async {
            writ_platform::process::survive_file_limit();
            command.await
        }),
        Err(error) => failed(&error),
    }
}

/// The configuration; its problems go to standard error.
fn load(path: &Path) -> Result<Config, ExitCode> {
    match Config::load(path, environment::variables()) {
        Ok((config, warnings)) => {
            complain(&warnings);
            Ok(config)
        }
        Err(problems) => {
            complain(&problems);
            Err(ExitCode::from(USAGE))
        }
    }
}

fn complain(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("writ: {error}");
    ExitCode::from(USAGE)
}

/// Has a command performed by the service that runs, or here if none does.
async fn operate(config: &Config, command: &admin::Command) -> Reply {
    match admin::ask(&config.store.path, command).await {
        Ok(Some(reply)) => reply,
        Ok(None) => operate_here(config, command).await.unwrap_or_else(|error| Reply::Failed(error.to_string())),
        Err(error) => Reply::Failed(format!("the service does not answer: {error}")),
    }
}

async fn operate_here(config: &Config, command: &admin::Command) -> Result<Reply, StartError> {
    let core = match command {
        looks if looks.only_looks() => Core::look(config).await?,
        // A new store is what an export is most often for.
        admin::Command::KeysImport { .. } => Core::open(config, &operators_audit()).await?,
        _ => Core::open_existing(config, &operators_audit()).await?,
    };
    let reply = core.admin(operators_audit()).perform(command.clone(), Timestamp::now()).await;
    core.store.close().await;
    Ok(reply)
}

/// Says what came of a command: the answer in JSON, or as `text` writes it for people.
fn tell(reply: Reply, json: bool, text: impl FnOnce(&Value) -> String) -> ExitCode {
    match reply {
        Reply::Done(answer) => print(&if json { answer.to_string() } else { text(&answer) }, ExitCode::SUCCESS),
        Reply::No(why) => {
            let mut code = ExitCode::from(NO);
            if json {
                let answer = json!({ "ok": false, "problems": why.lines().collect::<Vec<_>>() });
                code = print(&answer.to_string(), code);
            }
            eprintln!("{why}");
            code
        }
        Reply::Failed(why) => {
            eprintln!("writ: {why}");
            ExitCode::from(USAGE)
        }
    }
}

/// Writes the answer of a command, which ends with `code`, or with that of a failure if nobody can have read it.
fn print(text: &str, code: ExitCode) -> ExitCode {
    let written = writeln!(io::stdout(), "{}", text.trim_end_matches('\n'));
    written.map_or_else(|error| failed(&io::Error::new(error.kind(), format!("standard output: {error}"))), |()| code)
}

/// Rows of cells below their titles, each column as wide as its widest cell.
fn table<const N: usize>(titles: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut lines = vec![titles.map(str::to_owned)];
    lines.extend(rows);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let padded = |line: &[String; N]| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(padded).collect::<Vec<_>>().join("\n")
}

/// Where no service runs, what a command changes is recorded on standard error.
fn operators_audit() -> Audit {
    Audit::new(Log::start(Format::Json, std::io::stderr()))
}
