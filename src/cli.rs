//! Arguments → command → exit code: 0 success, 1 a negative answer, 2 wrong usage or configuration.

mod block;
mod certs;
mod check;
mod config;
mod init;
mod keys;
mod manual;
mod operate;
mod output;
mod policy;
mod quickstart;
mod serve;
mod store;
mod token;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};

use self::config::{OptionalConfig, RequiredConfig, load};
use self::operate::{operate, operators_audit};
use self::output::{failed, print, print_problems, print_reply, printable, table};

/// Exit code of a negative answer.
const NO: u8 = 1;

/// Exit code for wrong usage or configuration.
const USAGE: u8 = 2;

/// A Transaction Token Service: short-lived, narrowly scoped tokens for each transaction inside a trust domain.
#[derive(Debug, Parser)]
#[command(name = "writ", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// The same as `--config` after the command
    #[arg(long, hide = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show what Writ does: a development setup, the real service, and a walk through three kinds of request
    Quickstart(quickstart::Args),
    /// Create a setup: a commented configuration, a sealing key, an example policy with its test
    Init(init::Args),
    /// Run the service
    Serve(serve::Args),
    /// Check configuration, certificates, keys and policies without starting
    Check(check::Args),
    /// Test and explain policies before they are in force
    Policy(policy::Args),
    /// Manage the key ring and its history
    Keys(keys::Args),
    /// The kill switch: stop issuing, replacing and redeeming for what it names
    Block(block::Args),
    /// Repair the store, or accept the current time as correct
    Store(store::Args),
    /// Manage a development CA and client certificates; never for production
    Certs(certs::Args),
    /// Get, decode and verify Txn-Tokens
    Token(token::Args),
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
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}

impl Command {
    /// The configuration file, of a command that requires one.
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
