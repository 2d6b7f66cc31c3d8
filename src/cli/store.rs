//! `writ store`: mend the store, or take the present time as right.

use std::path::Path;
use std::process::ExitCode;

use super::{RequiredConfig, USAGE, failed, load, operate, operators_audit};
use crate::admin::{Command, Reply};
use crate::config::Config;
use crate::service::{Core, StartError, sealing_keys};
use writ_core::audit::Event;
use writ_core::blocks::carry_over;
use writ_core::keys::mirror::FileError;
use writ_core::keys::repair::Rebuilt;
use writ_core::ledger::{Salvaged, salvage};
use writ_platform::clock::Timestamp;
use writ_store::{Change, OpenError, Remains, Store, Table};

/// `writ store …`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) config: RequiredConfig,
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, clap::Subcommand)]
enum Sub {
    /// Rebuild a damaged store from what can be read of it and from the key files; says what is kept and what is lost
    Repair {
        /// Take the records as they are found, after restoring a backup: uses counted since then are forgotten
        #[arg(long)]
        trust_ledger: bool,
    },
    /// Take the present time as right, after checking the clock
    TrustClock,
}

/// Does what the command line asks for.
pub async fn run(args: Args) -> ExitCode {
    let config = args.config.config.as_path();
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

/// Keeps what can be trusted of what can be read; the key history comes back from its files, where the store lost it.
async fn repair(config: &Config) -> Result<(), StartError> {
    let Some(damage) = damage(config).await? else { return Ok(()) };
    let now = Timestamp::now();
    let rebuilt = rebuild(config, now).await?;
    let mut remains = writ_store::survey(&config.store)?;
    if !matches!(damage, StartError::Store(_)) {
        // The records are those that were sealed, and yet they are wrong: the seal went back in time with them.
        remains = remains.without_proof();
    }
    let ring = [Table::Meta, Table::Keys, Table::History, Table::Clock];
    let mut rebuilt = Some(rebuilt).filter(|_| !ring.into_iter().all(|table| remains.is_complete(table)));
    let mut kept = Kept::of(&remains, rebuilt.as_ref(), now);
    tell_aside(writ_store::replace(&config.store, kept.change())?.as_deref());
    match Core::open_existing(config, &operators_audit()).await {
        Ok(core) => core.store.close().await,
        // A disk that fails once more is no proof against the seal: what was written stays, and the repair is done again.
        Err(error @ StartError::Store(_)) => return Err(error),
        Err(error) if error.is_damage() && rebuilt.is_none() => {
            // The key files know better than the store, so its seal is out of date.
            remains = remains.without_proof();
            rebuilt = Some(rebuild(config, now).await?);
            kept = Kept::of(&remains, rebuilt.as_ref(), now);
            writ_store::replace(&config.store, kept.change())?;
            Core::open_existing(config, &operators_audit()).await?.store.close().await;
        }
        Err(error) => return Err(error),
    }
    kept.tell(&remains, rebuilt.as_ref());
    let keys = rebuilt.map_or(0, |rebuilt| rebuilt.known);
    let (trust_ledger, blocks) = (false, kept.blocks);
    operators_audit().write(&Event::StoreRepaired { trust_ledger, keys, blocks }).await?;
    Ok(())
}

/// What is kept of a damaged store.
struct Kept {
    ledger: Salvaged,
    blocks: u64,
}

impl Kept {
    /// Without a rebuilt ring, the ring is kept as it is.
    fn of(remains: &Remains, rebuilt: Option<&Rebuilt>, now: Timestamp) -> Self {
        let change = match rebuilt {
            Some(rebuilt) => rebuilt.records(),
            None => [Table::Meta, Table::Keys, Table::History]
                .into_iter()
                .fold(Change::new(), |change, table| remains.carry_over(change, table)),
        };
        let (change, blocks) = carry_over(change, remains.records(Table::Blocks));
        Self { ledger: salvage(remains, change, now), blocks }
    }

    fn change(&mut self) -> Change {
        std::mem::take(&mut self.ledger.change)
    }

    fn tell(&self, remains: &Remains, rebuilt: Option<&Rebuilt>) {
        match rebuilt {
            Some(rebuilt) => tell_keys(rebuilt),
            None => println!("the key ring and its history are kept as they were"),
        }
        println!("the ledger:");
        let Salvaged { tokens, uses, single_use, redemption_floor, single_use_floor, .. } = &self.ledger;
        for (table, kept, what) in [
            (Table::Uses, uses, "counts of uses"),
            (Table::Tokens, tokens, "tokens on record for redemption"),
            (Table::Single, single_use, "used single-use tokens"),
        ] {
            match remains.sealed(table) {
                Some(sealed) if remains.is_complete(table) && *kept as u64 == sealed => {
                    println!("  {what}: all {sealed} kept");
                }
                Some(sealed) => println!("  {what}: {kept} of {sealed} kept"),
                None => println!("  {what}: {kept} kept, of an unknown number"),
            }
        }
        tell_blocks(self.blocks, remains.sealed(Table::Blocks));
        match redemption_floor {
            None => println!("no count of uses is lost: redemption goes on as before"),
            Some(floor) => println!(
                "counts of uses may be lost: tokens issued up to {floor} are not redeemed any more (redemption_not_on_record)"
            ),
        }
        if let Some(floor) = single_use_floor {
            println!("self-signed tokens made up to {floor} are refused: whether they were used may be lost");
        }
    }
}

/// The records are taken as they are. Where the key files know more than they do, the keys come from the files.
async fn trust_ledger(config: &Config) -> Result<(), StartError> {
    if damage(config).await?.is_none() {
        return Ok(());
    }
    let remains = writ_store::survey(&config.store)?;
    match writ_store::reseal(&config.store) {
        Ok(aside) => tell_aside(aside.as_deref()),
        Err(error @ OpenError::Damaged { .. }) => {
            eprintln!("the records cannot be taken as they are, since not all of them can be read");
            eprintln!("`writ store repair` without --trust-ledger keeps those that can be read and trusted");
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    }
    let keys = match Core::open_existing(config, &operators_audit()).await {
        Ok(core) => {
            core.store.close().await;
            0
        }
        Err(error) if error.is_damage() && !matches!(error, StartError::Store(_)) => replace_keys(config).await?,
        Err(error) => return Err(error),
    };
    println!("the ledger is taken as it is: {} counts of uses", remains.records(Table::Uses).len());
    println!("uses that were counted after it was saved are forgotten");
    let blocks = remains.records(Table::Blocks).len() as u64;
    tell_blocks(blocks, remains.sealed(Table::Blocks));
    operators_audit().write(&Event::StoreRepaired { trust_ledger: true, keys, blocks }).await?;
    Ok(())
}

/// What is wrong with the store; one that is well is left alone.
async fn damage(config: &Config) -> Result<Option<StartError>, StartError> {
    match Core::open_existing(config, &operators_audit()).await {
        Ok(core) => {
            core.store.close().await;
            println!("the store opens: there is nothing to repair, and nothing was done");
            Ok(None)
        }
        Err(error) if error.is_damage() => {
            println!("{error}");
            Ok(Some(error))
        }
        Err(error) => Err(error),
    }
}

/// The key history as the files tell it, with fresh keys that sign.
async fn rebuild(config: &Config, now: Timestamp) -> Result<Rebuilt, StartError> {
    let sealing = sealing_keys(&config.keys)?;
    let folder = writ_store::key_folder(&config.store);
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

fn tell_aside(aside: Option<&Path>) {
    if let Some(aside) = aside {
        println!("what was there is now in {}", aside.display());
    }
}
