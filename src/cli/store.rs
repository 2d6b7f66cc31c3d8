//! `writ store`: mend the store, or take the present time as right.

use std::path::Path;
use std::process::ExitCode;

use super::{USAGE, failed, load, operate, operators_audit};
use crate::admin::{Command, Reply};
use crate::audit::Event;
use crate::blocks::carry_over;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::keys::mirror::FileError;
use crate::keys::repair::Rebuilt;
use crate::ledger::forget_uses_before;
use crate::service::{Core, StartError, sealing_keys};
use crate::store::{self, Store, Survey, Table};

/// `writ store …`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, clap::Subcommand)]
enum Sub {
    /// Rebuild a damaged store from the key files; tokens issued before are not redeemed any more
    Repair {
        /// Take the ledger as it is, after restoring a backup: uses counted since then are forgotten
        #[arg(long)]
        trust_ledger: bool,
    },
    /// Take the present time as right, after checking the clock
    TrustClock,
}

/// Does what the command line asks for.
pub async fn run(args: Args, config: &Path) -> ExitCode {
    let config = match load(config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match args.command {
        Sub::Repair { trust_ledger: true } => ended(trust_ledger(&config).await),
        Sub::Repair { trust_ledger: false } => ended(repair(&config).await),
        Sub::TrustClock => match operate(&config, &Command::TrustClock).await {
            Reply::Done(_) => {
                println!("the present time, {}, counts as right from now on", Timestamp::now());
                ExitCode::SUCCESS
            }
            Reply::No(why) | Reply::Failed(why) => {
                eprintln!("writ: {why}");
                ExitCode::from(USAGE)
            }
        },
    }
}

fn ended(outcome: Result<(), StartError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// The records are given up, the key history comes back from its files.
async fn repair(config: &Config) -> Result<(), StartError> {
    if !is_damaged(config).await? {
        return Ok(());
    }
    let survey = store::survey(&config.store)?;
    // What was stopped stays stopped, as far as it can be read.
    let blocks = store::salvage(&config.store, Table::Blocks)?;
    let now = Timestamp::now();
    let rebuilt = rebuild(config, now).await?;
    tell_losses(&survey);
    if let Some(aside) = store::set_aside(&config.store)? {
        println!("what was there is now in {}", aside.display());
    }
    let (records, blocks) = carry_over(forget_uses_before(rebuilt.records(), now), &blocks);
    store::create_after_repair(&config.store, records).await?.close().await;
    Core::open_existing(config, &operators_audit()).await?.store.close().await;
    tell_keys(&rebuilt);
    tell_blocks(blocks, survey.sealed(Table::Blocks));
    println!("tokens issued up to {now} are not redeemed any more (redemption_not_on_record)");
    operators_audit().write(&Event::StoreRepaired { trust_ledger: false, keys: rebuilt.known, blocks }).await?;
    Ok(())
}

/// The records are taken as they are. Where the key files know more than they do, the keys come from the files.
async fn trust_ledger(config: &Config) -> Result<(), StartError> {
    if !is_damaged(config).await? {
        return Ok(());
    }
    let survey = store::survey(&config.store)?;
    store::reseal(&config.store)?;
    let keys = match Core::open_existing(config, &operators_audit()).await {
        Ok(core) => {
            core.store.close().await;
            0
        }
        Err(error) if error.is_damage() => replace_keys(config).await?,
        Err(error) => return Err(error),
    };
    println!("the ledger is taken as it is: {} counts of uses", survey.readable(Table::Uses));
    println!("uses that were counted after it was saved are forgotten");
    let blocks = survey.readable(Table::Blocks);
    tell_blocks(blocks, survey.sealed(Table::Blocks));
    operators_audit().write(&Event::StoreRepaired { trust_ledger: true, keys, blocks }).await?;
    Ok(())
}

/// Whether the store needs a repair. One that is well is left alone: a repair costs what the ledger knows.
async fn is_damaged(config: &Config) -> Result<bool, StartError> {
    match Core::open_existing(config, &operators_audit()).await {
        Ok(core) => {
            core.store.close().await;
            println!("the store opens: there is nothing to repair, and nothing was done");
            Ok(false)
        }
        Err(error) if error.is_damage() => {
            println!("{error}");
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// The key history as the files tell it, with fresh keys that sign.
async fn rebuild(config: &Config, now: Timestamp) -> Result<Rebuilt, StartError> {
    let sealing = sealing_keys(&config.keys)?;
    let folder = store::key_folder(&config.store);
    let rebuilt = Rebuilt::from_files(folder, &config.keys, &sealing, &config.trust_domain, now).await?;
    for file in &rebuilt.damaged {
        if file.reason == FileError::TrustDomain {
            return Err(StartError::ForeignFile(file.path.clone()));
        }
        eprintln!("left out: {file}");
    }
    Ok(rebuilt)
}

/// Puts the keys that the files know into the store, and looks whether it opens now.
async fn replace_keys(config: &Config) -> Result<usize, StartError> {
    let rebuilt = rebuild(config, Timestamp::now()).await?;
    let store = Store::open(&config.store).await?;
    let replaced = rebuilt.replace(&store).await;
    store.close().await;
    replaced?;
    Core::open_existing(config, &operators_audit()).await?.store.close().await;
    tell_keys(&rebuilt);
    Ok(rebuilt.known)
}

fn tell_keys(rebuilt: &Rebuilt) {
    println!("{} keys are back in the history; a new current key signs from now on", rebuilt.known);
}

/// What was stopped and is forgotten goes on: whoever stopped it must hear of it.
fn tell_blocks(kept: u64, sealed: Option<u64>) {
    match sealed {
        Some(sealed) => println!("blocks: {kept} of {sealed} kept"),
        None => println!("blocks: {kept} kept, of an unknown number"),
    }
    println!("compare `writ block list` with block_added and block_removed in the log, and add again what is missing");
}

fn tell_losses(survey: &Survey) {
    for (table, what) in [(Table::Uses, "counts of uses"), (Table::Tokens, "records of redeemable tokens")] {
        let readable = survey.readable(table);
        match survey.sealed(table) {
            Some(sealed) => println!("{what}: {readable} of {sealed} can still be read; all are given up"),
            None => println!("{what}: {readable} can still be read, of an unknown number; all are given up"),
        }
    }
}
