//! `writ keys`: the key ring and its history, with and without a running service.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::{RequiredConfig, USAGE, load, operate, print_reply, table};
use crate::config::Config;
use crate::service::admin::{Command, Reply};
use writ_core::keys::listing::Export;

/// `writ keys …`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) config: RequiredConfig,
    #[command(subcommand)]
    command: Sub,
    /// Answer in JSON, for programs
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Sub {
    /// List every key and its state
    List,
    /// Promote the next key now, if it and the previous one have been published for long enough
    Rotate {
        /// Wait until it can be promoted
        #[arg(long)]
        wait: bool,
    },
    /// Revoke a key at once: it leaves the JWKS, and tokens that it signed are refused
    Revoke {
        /// The key's name; one in 64 begins with a hyphen
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
    /// Write the public halves and their lives to standard output
    Export,
    /// Add exported public halves to the history
    Import {
        /// The output of `keys export`
        file: PathBuf,
    },
    /// Check that records, files and private halves agree
    Verify,
}

pub(super) async fn run(args: Args) -> ExitCode {
    let config = args.config.config.as_path();
    let config = match load(config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let command = match &args.command {
        Sub::List => Command::KeysList,
        Sub::Rotate { wait } => return rotate(&config, *wait, args.json).await,
        Sub::Revoke { kid } => Command::KeysRevoke { kid: kid.clone() },
        Sub::Export => Command::KeysExport,
        Sub::Import { file } => match read_export(file) {
            Ok(export) => Command::KeysImport { export },
            Err(error) => {
                eprintln!("writ: {}: {error}", file.display());
                return ExitCode::from(USAGE);
            }
        },
        Sub::Verify => Command::KeysVerify,
    };
    let reply = operate(&config, &command).await;
    // An export is always JSON.
    let json = args.json || matches!(args.command, Sub::Export);
    print_reply(reply, json, text)
}

/// With `wait`, retries until the keys have been published for long enough.
async fn rotate(config: &Config, wait: bool, json: bool) -> ExitCode {
    loop {
        let reply = operate(config, &Command::KeysRotate).await;
        if !(wait && matches!(reply, Reply::Refused(_))) {
            return print_reply(reply, json, text);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn read_export(file: &Path) -> Result<Export, Box<dyn std::error::Error>> {
    Ok(Export::parse(&std::fs::read(file)?)?)
}

/// Keys as a table; another answer as its members.
fn text(answer: &Value) -> String {
    if answer["ok"] == true {
        return "all key files agree with the store".to_owned();
    }
    let Some(keys) = answer["keys"].as_array() else {
        let members = answer.as_object().into_iter().flatten();
        return members.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("\n");
    };
    let columns =
        ["kid", "alg", "state", "created_at", "signs_from", "signs_until", "published_until", "retained_until"];
    let cell = |key: &Value, column: &str| key[column].as_str().unwrap_or("-").to_owned();
    table(columns, keys.iter().map(|key| columns.map(|column| cell(key, column))))
}
