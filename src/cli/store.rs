//! `writ store`: creates the tables of a database, moves or repairs the store, or accepts the current time as correct.

use std::path::Path;
use std::process::ExitCode;

use super::output::Told;
use super::{RequiredConfig, USAGE, failed, load, operate, operators_audit, print};
use crate::config::Config;
use crate::service::admin::{Command, Reply};
use crate::service::{PersistentState, StartError, sealing_keys};
use writ_core::audit::Event;
use writ_core::blocks;
use writ_core::keys::mirror::FileError;
use writ_core::keys::repair::Rebuilt;
use writ_platform::clock::Timestamp;
use writ_store::repair::{self, Kept, Remains, Salvage};
use writ_store::{OpenError, Settings, Store};

mod copy;
mod database;

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
    #[command(flatten)]
    OfOne(OfOne),
    /// Move all records to another, empty store: from the embedded one to PostgreSQL, or back
    Copy(copy::Args),
}

/// Commands on the store of one configuration.
#[derive(Debug, clap::Subcommand)]
enum OfOne {
    /// Rebuild a damaged store from its readable records and from the key files, and report what is kept and what is lost
    Repair {
        /// Accept the records of a restored backup as they are: uses counted since then are forgotten
        #[arg(long)]
        trust_ledger: bool,
    },
    /// Accept the current time as correct, after checking the clock
    TrustClock,
    /// Print the SQL that creates the tables in PostgreSQL, for the administrator and for their owner
    Schema(database::SchemaArgs),
    /// Create the tables in PostgreSQL, or bring them to the version of this program, as their owner
    Migrate(database::MigrateArgs),
}

pub(super) async fn run(args: Args) -> ExitCode {
    let config = args.config.config.as_path();
    let command = match args.command {
        Sub::Copy(args) => return copy::run(&args, config).await,
        Sub::OfOne(command) => command,
    };
    let config = match load(config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut told = Told::default();
    let repaired = match (command, &config.store) {
        (OfOne::Schema(args), store) => return database::print_schema(store, &args),
        (OfOne::Migrate(args), store) => return database::migrate(store, args).await,
        (OfOne::Repair { trust_ledger }, Settings::Postgres(database)) => {
            database::repair(&config, database, trust_ledger, &mut told).await
        }
        (OfOne::Repair { trust_ledger: true }, _) => trust_ledger(&config, &mut told).await,
        (OfOne::Repair { trust_ledger: false }, _) => repair(&config, &mut told).await,
        (OfOne::TrustClock, _) => return trust_clock(&config).await,
    };
    told.exit_code(repaired.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS))
}

async fn trust_clock(config: &Config) -> ExitCode {
    match operate(config, &Command::TrustClock).await {
        Reply::Done(_) => {
            print(&format!("the current time, {}, is accepted as correct", Timestamp::now()), ExitCode::SUCCESS)
        }
        Reply::Refused(why) | Reply::Failed(why) => {
            eprintln!("writ: {why}");
            ExitCode::from(USAGE)
        }
    }
}

/// Rebuilds the store from the records that can be read and trusted; a lost key history is restored from the key files.
async fn repair(config: &Config, told: &mut Told) -> Result<(), StartError> {
    let Some(damage) = find_damage(config, told).await? else { return Ok(()) };
    let now = Timestamp::now();
    let rebuilt = rebuild(config, now).await?;
    let mut remains = repair::survey(&config.store)?;
    if !matches!(damage, StartError::Store(_)) {
        // The records match their seal and are still wrong: an old copy of both was restored.
        remains = remains.without_proof();
    }
    let mut rebuilt = Some(rebuilt).filter(|_| !remains.has_whole_ring());
    let mut salvage = select_records(&remains, rebuilt.as_ref(), now);
    print_previous_files(repair::replace(&config.store, &salvage)?.as_deref(), told);
    match PersistentState::open_existing(config, &operators_audit()).await {
        Ok(core) => core.store.close().await,
        // A failing disk says nothing about the seal: the result stays, and the operator repeats the repair.
        Err(error @ StartError::Store(_)) => return Err(error),
        Err(error) if error.is_damage() && rebuilt.is_none() => {
            // The key files are newer than the store, so its seal is out of date.
            remains = remains.without_proof();
            rebuilt = Some(rebuild(config, now).await?);
            salvage = select_records(&remains, rebuilt.as_ref(), now);
            repair::replace(&config.store, &salvage)?;
            PersistentState::open_existing(config, &operators_audit()).await?.store.close().await;
        }
        Err(error) => return Err(error),
    }
    print_salvage(&salvage, rebuilt.as_ref(), told);
    let keys = rebuilt.map_or(0, |rebuilt| rebuilt.known);
    let (trust_ledger, blocks) = (false, salvage.blocks.kept as u64);
    operators_audit().write(&Event::StoreRepaired { trust_ledger, keys, blocks }).await?;
    Ok(())
}

/// The records of a damaged store to keep. Without a rebuilt ring, the ring is kept unchanged.
fn select_records(remains: &Remains, rebuilt: Option<&Rebuilt>, now: Timestamp) -> Salvage {
    remains.salvage(rebuilt.map(Rebuilt::ring), &blocks::readable(remains.blocks()), now)
}

fn print_salvage(salvage: &Salvage, rebuilt: Option<&Rebuilt>, told: &mut Told) {
    match rebuilt {
        Some(rebuilt) => print_keys(rebuilt, told),
        None => told.line("the key ring and its history are unchanged"),
    }
    told.line("the ledger:");
    for (Kept { kept, sealed, is_complete }, what) in [
        (salvage.uses, "counts of uses"),
        (salvage.tokens, "tokens on record for redemption"),
        (salvage.single_use, "used single-use tokens"),
    ] {
        match sealed {
            Some(sealed) if is_complete && kept as u64 == sealed => {
                told.line(format_args!("  {what}: all {sealed} kept"));
            }
            Some(sealed) => told.line(format_args!("  {what}: {kept} of {sealed} kept")),
            None => told.line(format_args!("  {what}: {kept} kept (the original number is unknown)")),
        }
    }
    print_blocks(salvage.blocks, told);
    match salvage.redemption_floor {
        None => told.line("no count of uses is lost: redemption continues as before"),
        Some(floor) => told.line(format_args!(
            "counts of uses may be lost: tokens issued up to {floor} can no longer be redeemed (redemption_not_on_record)"
        )),
    }
    if let Some(floor) = salvage.single_use_floor {
        told.line(format_args!(
            "self-signed tokens made up to {floor} are refused: the records of their use may be lost"
        ));
    }
}

/// Accepts the records as they are, with the keys of the key files where those are newer.
async fn trust_ledger(config: &Config, told: &mut Told) -> Result<(), StartError> {
    if find_damage(config, told).await?.is_none() {
        return Ok(());
    }
    let remains = repair::survey(&config.store)?;
    match repair::reseal(&config.store) {
        Ok(aside) => print_previous_files(aside.as_deref(), told),
        Err(error @ OpenError::Damaged { .. }) => {
            eprintln!("the records cannot be accepted as they are: some of them cannot be read");
            eprintln!("`writ store repair` without --trust-ledger keeps the records that can be read and trusted");
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    }
    let keys = match PersistentState::open_existing(config, &operators_audit()).await {
        Ok(core) => {
            core.store.close().await;
            0
        }
        Err(error) if error.is_damage() && !matches!(error, StartError::Store(_)) => replace_keys(config, told).await?,
        Err(error) => return Err(error),
    };
    told.line(format_args!("the ledger is accepted as it is: {} counts of uses", remains.counts_of_uses()));
    told.line("uses counted after the backup was made are forgotten");
    let blocks = remains.all_blocks();
    print_blocks(blocks, told);
    let (trust_ledger, blocks) = (true, blocks.kept as u64);
    operators_audit().write(&Event::StoreRepaired { trust_ledger, keys, blocks }).await?;
    Ok(())
}

/// The damage of the store; `None` if it opens.
async fn find_damage(config: &Config, told: &mut Told) -> Result<Option<StartError>, StartError> {
    match PersistentState::open_existing(config, &operators_audit()).await {
        Ok(core) => {
            core.store.close().await;
            told.line("the store opens: there is nothing to repair, and nothing was changed");
            Ok(None)
        }
        Err(error) if error.is_damage() => {
            told.line(format_args!("{error}"));
            Ok(Some(error))
        }
        Err(error) => Err(error),
    }
}

/// The key history from the key files, with new signing keys.
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

/// Writes the keys of the key files to the store, and checks that it opens.
async fn replace_keys(config: &Config, told: &mut Told) -> Result<usize, StartError> {
    let rebuilt = rebuild(config, Timestamp::now()).await?;
    let store = Store::open(&config.store).await?;
    let replaced = rebuilt.replace(&store).await;
    store.close().await;
    replaced?;
    PersistentState::open_existing(config, &operators_audit()).await?.store.close().await;
    print_keys(&rebuilt, told);
    Ok(rebuilt.known)
}

fn print_keys(rebuilt: &Rebuilt, told: &mut Told) {
    told.line(format_args!("{} keys are restored to the history; a new current key signs from now on", rebuilt.known));
}

/// A lost block is no longer enforced: the operator must add it again.
fn print_blocks(Kept { kept, sealed, .. }: Kept, told: &mut Told) {
    match sealed {
        Some(sealed) => told.line(format_args!("blocks: {kept} of {sealed} kept")),
        None => told.line(format_args!("blocks: {kept} kept (the original number is unknown)")),
    }
    told.line(
        "compare `writ block list` with block_added and block_removed in the log, and add the missing ones again",
    );
}

fn print_previous_files(aside: Option<&Path>, told: &mut Told) {
    if let Some(aside) = aside {
        told.line(format_args!("the previous files are now in {}", aside.display()));
    }
}
