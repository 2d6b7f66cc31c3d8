//! `writ store`: mend the store, or take the present time as right.

use std::path::Path;
use std::process::ExitCode;

use super::{RequiredConfig, USAGE, failed, load, operate, operators_audit};
use crate::config::Config;
use crate::service::admin::{Command, Reply};
use crate::service::{PersistentState, StartError, sealing_keys};
use writ_core::audit::Event;
use writ_core::blocks;
use writ_core::keys::mirror::FileError;
use writ_core::keys::repair::Rebuilt;
use writ_platform::clock::Timestamp;
use writ_store::repair::{self, Kept, Remains, Salvage};
use writ_store::{OpenError, Store};

/// `writ store …`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
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
pub(super) async fn run(args: Args) -> ExitCode {
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
            Reply::Refused(why) | Reply::Failed(why) => {
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
    let mut remains = repair::survey(&config.store)?;
    if !matches!(damage, StartError::Store(_)) {
        // The records are those that were sealed, and yet they are wrong: the seal went back in time with them.
        remains = remains.without_proof();
    }
    let mut rebuilt = Some(rebuilt).filter(|_| !remains.has_whole_ring());
    let mut salvage = kept_of(&remains, rebuilt.as_ref(), now);
    print_aside(repair::replace(&config.store, &salvage)?.as_deref());
    match PersistentState::open_existing(config, &operators_audit()).await {
        Ok(core) => core.store.close().await,
        // A disk that fails once more is no proof against the seal: what was written stays, and the repair is done again.
        Err(error @ StartError::Store(_)) => return Err(error),
        Err(error) if error.is_damage() && rebuilt.is_none() => {
            // The key files know better than the store, so its seal is out of date.
            remains = remains.without_proof();
            rebuilt = Some(rebuild(config, now).await?);
            salvage = kept_of(&remains, rebuilt.as_ref(), now);
            repair::replace(&config.store, &salvage)?;
            PersistentState::open_existing(config, &operators_audit()).await?.store.close().await;
        }
        Err(error) => return Err(error),
    }
    print_salvage(&salvage, rebuilt.as_ref());
    let keys = rebuilt.map_or(0, |rebuilt| rebuilt.known);
    let (trust_ledger, blocks) = (false, salvage.blocks.kept as u64);
    operators_audit().write(&Event::StoreRepaired { trust_ledger, keys, blocks }).await?;
    Ok(())
}

/// What is kept of a damaged store. Without a rebuilt ring, the ring is kept as it is.
fn kept_of(remains: &Remains, rebuilt: Option<&Rebuilt>, now: Timestamp) -> Salvage {
    remains.salvage(rebuilt.map(Rebuilt::ring), &blocks::readable(remains.blocks()), now)
}

fn print_salvage(salvage: &Salvage, rebuilt: Option<&Rebuilt>) {
    match rebuilt {
        Some(rebuilt) => print_keys(rebuilt),
        None => println!("the key ring and its history are kept as they were"),
    }
    println!("the ledger:");
    for (Kept { kept, sealed, is_complete }, what) in [
        (salvage.uses, "counts of uses"),
        (salvage.tokens, "tokens on record for redemption"),
        (salvage.single_use, "used single-use tokens"),
    ] {
        match sealed {
            Some(sealed) if is_complete && kept as u64 == sealed => println!("  {what}: all {sealed} kept"),
            Some(sealed) => println!("  {what}: {kept} of {sealed} kept"),
            None => println!("  {what}: {kept} kept, of an unknown number"),
        }
    }
    print_blocks(salvage.blocks);
    match salvage.redemption_floor {
        None => println!("no count of uses is lost: redemption goes on as before"),
        Some(floor) => println!(
            "counts of uses may be lost: tokens issued up to {floor} are not redeemed any more (redemption_not_on_record)"
        ),
    }
    if let Some(floor) = salvage.single_use_floor {
        println!("self-signed tokens made up to {floor} are refused: whether they were used may be lost");
    }
}

/// The records are taken as they are. Where the key files know more than they do, the keys come from the files.
async fn trust_ledger(config: &Config) -> Result<(), StartError> {
    if damage(config).await?.is_none() {
        return Ok(());
    }
    let remains = repair::survey(&config.store)?;
    match repair::reseal(&config.store) {
        Ok(aside) => print_aside(aside.as_deref()),
        Err(error @ OpenError::Damaged { .. }) => {
            eprintln!("the records cannot be taken as they are, since not all of them can be read");
            eprintln!("`writ store repair` without --trust-ledger keeps those that can be read and trusted");
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    }
    let keys = match PersistentState::open_existing(config, &operators_audit()).await {
        Ok(core) => {
            core.store.close().await;
            0
        }
        Err(error) if error.is_damage() && !matches!(error, StartError::Store(_)) => replace_keys(config).await?,
        Err(error) => return Err(error),
    };
    println!("the ledger is taken as it is: {} counts of uses", remains.counts_of_uses());
    println!("uses that were counted after it was saved are forgotten");
    let blocks = remains.all_blocks();
    print_blocks(blocks);
    let (trust_ledger, blocks) = (true, blocks.kept as u64);
    operators_audit().write(&Event::StoreRepaired { trust_ledger, keys, blocks }).await?;
    Ok(())
}

/// What is wrong with the store; a sound one is left alone.
async fn damage(config: &Config) -> Result<Option<StartError>, StartError> {
    match PersistentState::open_existing(config, &operators_audit()).await {
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

/// The key history according to the key files, with fresh keys that sign.
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

/// Puts the keys of the key files into the store, and checks that it opens now.
async fn replace_keys(config: &Config) -> Result<usize, StartError> {
    let rebuilt = rebuild(config, Timestamp::now()).await?;
    let store = Store::open(&config.store).await?;
    let replaced = rebuilt.replace(&store).await;
    store.close().await;
    replaced?;
    PersistentState::open_existing(config, &operators_audit()).await?.store.close().await;
    print_keys(&rebuilt);
    Ok(rebuilt.known)
}

fn print_keys(rebuilt: &Rebuilt) {
    println!("{} keys are back in the history; a new current key signs from now on", rebuilt.known);
}

/// A block that is lost is not in force any more: whoever added it must know.
fn print_blocks(Kept { kept, sealed, .. }: Kept) {
    match sealed {
        Some(sealed) => println!("blocks: {kept} of {sealed} kept"),
        None => println!("blocks: {kept} kept, of an unknown number"),
    }
    println!("compare `writ block list` with block_added and block_removed in the log, and add again what is missing");
}

fn print_aside(aside: Option<&Path>) {
    if let Some(aside) = aside {
        println!("what was there is now in {}", aside.display());
    }
}
