//! `writ block`: the kill switch, with and without a running service.

use std::process::ExitCode;

use chrono::{DateTime, FixedOffset};
use serde_json::Value;
use writ_verifier::Purpose;

use super::{RequiredConfig, failed, load, operate, table, tell};
use crate::admin::Command;
use crate::config::document::duration;
use writ_core::blocks::{Block, Selectors, SelectorsError, Txn};
use writ_core::client::ClientId;
use writ_core::request::Subject;
use writ_platform::clock::Timestamp;

/// `writ block …`
#[derive(Debug, clap::Args)]
pub struct Args {
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
    /// Stop at once what all of these name: nothing more is issued, replaced or redeemed for it
    Add {
        #[command(flatten)]
        what: What,
        /// Go on by itself after this long (30m, 2h, 7d) or at this time (RFC 3339, like 2026-10-26T07:34:20Z); else it is
        /// stopped for good
        #[arg(long, value_name = "DURATION|TIME", value_parser = until_when)]
        until: Option<Timestamp>,
    },
    /// Let go on what was stopped with exactly these
    Remove {
        #[command(flatten)]
        what: What,
    },
    /// Everything that is stopped
    List,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct What {
    /// The transaction: its tokens are neither replaced nor redeemed
    #[arg(long)]
    txn: Option<Txn>,
    /// The subject that a Txn-Token would be for
    #[arg(long)]
    sub: Option<Subject>,
    /// The client that asks, or that asked for a token of the transaction before
    #[arg(long)]
    client: Option<ClientId>,
    /// The purpose, alone or among others
    #[arg(long)]
    purpose: Option<Purpose>,
    /// Everything
    #[arg(long, conflicts_with_all = ["txn", "sub", "client", "purpose"])]
    all: bool,
}

impl What {
    fn into_block(self) -> Result<Block, SelectorsError> {
        let Self { txn, sub, client, purpose, all } = self;
        Selectors { all, txn, sub, client, purpose }.try_into()
    }
}

/// The end of a block that begins now: after a duration, or at a time that is still to come.
fn until_when(text: &str) -> Result<Timestamp, String> {
    let now = Timestamp::now();
    if let Ok(span) = duration(text).and_then(|span| if span.is_zero() { Err("") } else { Ok(span) }) {
        return Ok(now + span);
    }
    let until = instant(text).map_err(|_| {
        "must be a duration like 30m, 2h or 7d, or a time of RFC 3339 like 2026-10-26T07:34:20Z".to_owned()
    })?;
    if until <= now {
        return Err(format!("{until} has passed already: nothing would be stopped"));
    }
    Ok(until)
}

/// A time as RFC 3339 writes it; of a second that has begun the end, so that nothing goes on early.
fn instant(text: &str) -> Result<Timestamp, String> {
    let time: DateTime<FixedOffset> =
        DateTime::parse_from_rfc3339(text).map_err(|_| "no time of RFC 3339, like 2026-10-26T07:34:20Z".to_owned())?;
    let begun = i64::from(time.timestamp_subsec_nanos() > 0);
    // What lies before 1970 has passed in any case.
    Ok(Timestamp::from_epoch(u64::try_from(time.timestamp() + begun).unwrap_or(0)))
}

/// Does what the command line asks for.
pub async fn run(args: Args) -> ExitCode {
    let config = args.config.config.as_path();
    let command = match args.command {
        Sub::Add { what, until } => what.into_block().map(|block| Command::BlockAdd { block, until }),
        Sub::Remove { what } => what.into_block().map(|block| Command::BlockRemove { block }),
        Sub::List => Ok(Command::BlockList),
    };
    let command = match command {
        Ok(command) => command,
        Err(error) => return failed(&error),
    };
    match load(config) {
        Ok(config) => tell(operate(&config, &command).await, args.json, text),
        Err(code) => code,
    }
}

/// Blocks as a table; one that was added or removed as a sentence.
fn text(answer: &Value) -> String {
    match answer["blocks"].as_array() {
        Some(blocks) if blocks.is_empty() => "nothing is stopped".to_owned(),
        Some(blocks) => {
            let added_at = |block: &Value| block["added_at"].as_str().unwrap_or_default().to_owned();
            let end = |block: &Value| if block["until"].is_string() { until(block) } else { "no end".to_owned() };
            let row = |block| [named(block), added_at(block), end(block)];
            table(["stopped", "added_at", "until"], blocks.iter().map(row))
        }
        None if answer["removed"].is_object() => format!("no longer stopped: {}", named(&answer["removed"])),
        None => format!("stopped: {}, until {}", named(&answer["added"]), until(&answer["added"])),
    }
}

fn named(block: &Value) -> String {
    let name = |selector| block[selector].as_str().map(|value| format!("{selector} {value}"));
    let names: Vec<_> = ["txn", "sub", "client", "purpose"].into_iter().filter_map(name).collect();
    if names.is_empty() { "everything".to_owned() } else { names.join(", ") }
}

/// An entry whose time has passed is kept for a while.
fn until(block: &Value) -> String {
    let Some(until) = block["until"].as_str() else { return "removed".to_owned() };
    let passed = instant(until).is_ok_and(|until| until <= Timestamp::now());
    if passed { format!("{until} (passed)") } else { until.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_ends_after_a_duration_or_at_a_time_to_come() {
        let now = Timestamp::now();
        for (text, seconds) in [("30m", 1_800), ("2h", 7_200), ("7d", 604_800), ("1s", 1)] {
            let left = until_when(text).unwrap().since(now).as_secs();
            assert!((seconds..seconds + 60).contains(&left), "{text}: {left}");
        }
        assert!(until_when("2999-01-01T00:00:00Z").is_ok());
        assert!(until_when("2026-01-01T00:00:00Z").unwrap_err().contains("has passed"));
        for text in ["0s", "2", "-2h", "2 h", "tomorrow", "", "36501d"] {
            assert!(until_when(text).unwrap_err().starts_with("must be a duration"), "{text}");
        }
    }

    #[test]
    fn a_time_is_read_in_any_zone_and_never_early() {
        let second = Ok(Timestamp::from_epoch(1_793_000_060));
        for text in ["2026-10-26T07:34:20Z", "2026-10-26T09:34:20+02:00", "2026-10-26T07:34:19.001Z"] {
            assert_eq!(instant(text), second, "{text}");
        }
        assert_eq!(instant("1969-01-01T00:00:00Z"), Ok(Timestamp::from_epoch(0)));
        for text in ["", "tomorrow", "2026-10-26", "2026-10-26T07:34:20", "1793000060"] {
            assert!(instant(text).is_err(), "{text}");
        }
    }
}
