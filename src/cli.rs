//! Arguments → command → exit code: 0 success, 1 a negative answer, 2 wrong usage or configuration.

pub mod certs;
pub mod check;
pub mod keys;
pub mod quickstart;
pub mod serve;
pub mod store;
pub mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::config::{Config, Problem};

/// Wrong usage or configuration.
pub const USAGE: u8 = 2;

/// A Transaction Token Service: short-lived, narrowly scoped tokens for each transaction inside a trust domain.
#[derive(Debug, Parser)]
#[command(name = "writ", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// The configuration file
    #[arg(long, global = true, env = "WRIT_CONFIG", default_value = "writ.toml", value_name = "FILE")]
    config: PathBuf,
    /// Answer in JSON, for programs
    #[arg(long, global = true)]
    json: bool,
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
    Check,
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
    crate::process::harden();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    runtime.block_on(run(cli))
}

async fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Quickstart(args) => quickstart::run(args).await,
        Command::Serve(args) => serve::run(args, &cli.config).await,
        Command::Check => check::run(&cli.config, cli.json),
        Command::Keys(args) => keys::run(args, &cli.config, cli.json).await,
        Command::Store(args) => store::run(args, &cli.config, cli.json).await,
        Command::Certs(args) => certs::run(args).unwrap_or_else(|error| failed(&error)),
        Command::Token(args) => token::run(args, cli.json).await.unwrap_or_else(|error| failed(&error)),
    }
}

/// The configuration, or its problems on standard error.
fn load(path: &std::path::Path) -> Result<Config, ExitCode> {
    match Config::load(path, std::env::vars()) {
        Ok((config, warnings)) => {
            complain(&warnings);
            Ok(config)
        }
        Err(problems) => Err(complain(&problems)),
    }
}

fn complain(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        eprintln!("{problem}");
    }
    ExitCode::from(USAGE)
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("writ: {error}");
    ExitCode::from(USAGE)
}
