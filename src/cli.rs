//! Arguments → command → exit code: 0 success, 1 a negative answer, 2 wrong usage or configuration.

pub mod certs;
pub mod check;
pub mod keys;
pub mod quickstart;
pub mod serve;
pub mod store;
pub mod token;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::admin::{self, Admin, Reply};
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
    /// The key ring and its history
    Keys(keys::Args),
    /// Mend the store, or take the present time as right
    Store(store::Args),
    /// A development CA and client certificates; never for production
    Certs(certs::Args),
    /// Get, decode and verify Txn-Tokens
    Token(token::Args),
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
        Command::Keys(args) => wait_for(keys::run(args, &cli.config)),
        Command::Store(args) => wait_for(store::run(args, &cli.config)),
        Command::Certs(args) => certs::run(args).unwrap_or_else(|error| failed(&error)),
        Command::Token(args) => token::run(&args).unwrap_or_else(|error| failed(&error)),
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
    let admin = Admin::new(core.keys, core.ledger, operators_audit());
    let reply = admin.perform(command.clone(), Timestamp::now()).await;
    core.store.close().await;
    Ok(reply)
}

/// Where no service runs, what a command changes is recorded on standard error.
fn operators_audit() -> Audit {
    Audit::new(Log::start(Format::Json, std::io::stderr()))
}
