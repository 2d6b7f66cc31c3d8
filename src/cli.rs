//! Arguments → command → exit code: 0 success, 1 a negative answer, 2 wrong usage or configuration.

pub mod block;
pub mod certs;
pub mod check;
pub mod conformance;
pub mod keys;
mod manual;
pub mod policy;
pub mod quickstart;
pub mod serve;
pub mod store;
pub mod token;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

use crate::admin::{self, Reply};
use crate::audit::Audit;
use crate::clock::Timestamp;
use crate::config::{Config, Problem};
use crate::service::{Core, StartError};
use crate::telemetry::{Format, Log};

/// A negative answer.
const NO: u8 = 1;

/// Wrong usage or configuration.
const USAGE: u8 = 2;

/// A Transaction Token Service: short-lived, narrowly scoped tokens for each transaction inside a trust domain.
#[derive(Debug, Parser)]
#[command(name = "writ", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// The configuration file
    #[arg(long, global = true, env = "WRIT_CONFIG", default_value = "writ.toml", value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show what Writ does: a development setup, the real service, and the story of three ways in
    Quickstart(quickstart::Args),
    /// Run the service
    Serve(serve::Args),
    /// Check configuration, certificates, keys and policies without starting
    Check {
        /// Answer in JSON, for programs
        #[arg(long)]
        json: bool,
    },
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
    if let Err(error) = crate::process::harden() {
        return failed(&error);
    }
    let cli = Cli::parse();
    match cli.command {
        Command::Quickstart(args) => wait_for(quickstart::run(args)),
        Command::Serve(args) => wait_for(serve::run(args, &cli.config)),
        Command::Check { json } => check::run(&cli.config, json),
        Command::Policy(args) => policy::run(args, &cli.config),
        Command::Keys(args) => wait_for(keys::run(args, &cli.config)),
        Command::Block(args) => wait_for(block::run(args, &cli.config)),
        Command::Store(args) => wait_for(store::run(args, &cli.config)),
        Command::Certs(args) => certs::run(args).unwrap_or_else(|error| failed(&error)),
        Command::Token(args) => token::run(&args).unwrap_or_else(|error| failed(&error)),
        Command::Conformance(args) => wait_for(conformance::run(*args)),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}

fn wait_for(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => failed(&error),
    }
}

/// The configuration; its problems go to standard error.
fn load(path: &Path) -> Result<Config, ExitCode> {
    match Config::load(path, std::env::vars()) {
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
        Reply::Done(answer) => {
            println!("{}", if json { answer.to_string() } else { text(&answer) });
            ExitCode::SUCCESS
        }
        Reply::No(why) => {
            if json {
                println!("{}", json!({ "ok": false, "problems": why.lines().collect::<Vec<_>>() }));
            }
            eprintln!("{why}");
            ExitCode::from(NO)
        }
        Reply::Failed(why) => {
            eprintln!("writ: {why}");
            ExitCode::from(USAGE)
        }
    }
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
