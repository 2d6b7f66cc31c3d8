//! `writ store` over PostgreSQL: the tables, and a database that has gone back in time.

use std::path::PathBuf;
use std::process::ExitCode;

use super::super::output::Told;
use super::super::{USAGE, failed, print};
use super::{find_damage, operators_audit, replace_keys};
use crate::config::Config;
use crate::service::{PersistentState, StartError};
use writ_core::audit::Event;
use writ_store::postgres::{self, Credentials};
use writ_store::{OpenError, Settings};

/// The role that owns the tables, unless another is named.
const OWNER: &str = "writ_owner";

#[derive(Debug, clap::Args)]
pub(super) struct SchemaArgs {
    /// The role that owns the tables
    #[arg(long, default_value = OWNER)]
    owner: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct MigrateArgs {
    /// The role that owns the tables; the service's own role may neither create nor drop
    #[arg(long, default_value = OWNER)]
    owner: String,
    /// The file with the owner's password
    #[arg(long, required_unless_present = "certificate")]
    password_file: Option<PathBuf>,
    /// The owner's client certificate
    #[arg(long, requires = "private_key")]
    certificate: Option<PathBuf>,
    /// Its private key
    #[arg(long, requires = "certificate")]
    private_key: Option<PathBuf>,
}

/// Prints the SQL; it is never run with the rights of the service.
pub(super) fn print_schema(store: &Settings, args: &SchemaArgs) -> ExitCode {
    let Some(settings) = of_postgres(store) else { return ExitCode::from(USAGE) };
    let (administrator, owner) = postgres::schema_sql(settings, &args.owner);
    let text =
        format!("-- As an administrator:\n{administrator}\n-- As {}, or by `writ store migrate`:\n{owner}", args.owner);
    print(&text, ExitCode::SUCCESS)
}

pub(super) async fn migrate(store: &Settings, args: MigrateArgs) -> ExitCode {
    let Some(settings) = of_postgres(store) else { return ExitCode::from(USAGE) };
    let MigrateArgs { owner, password_file, certificate, private_key } = args;
    let credentials = Credentials { password: password_file, certificate: certificate.zip(private_key) };
    match Box::pin(postgres::migrate(settings, &owner, &credentials)).await {
        Ok(()) => {
            let schema = settings.schema.as_str();
            print(&format!("the tables in the schema {schema} are those of this version"), ExitCode::SUCCESS)
        }
        Err(error) => failed(&error),
    }
}

fn of_postgres(store: &Settings) -> Option<&postgres::Settings> {
    match store {
        Settings::Postgres(settings) => Some(settings),
        Settings::Sled { .. } => {
            eprintln!("writ: store.kind is \"sled\", which has no tables; this is for store.kind = \"postgres\"");
            None
        }
    }
}

/// Accepts a database that has gone back in time, and restores the keys that only the key files contain.
pub(super) async fn repair(
    config: &Config,
    settings: &postgres::Settings,
    trust_ledger: bool,
    told: &mut Told,
) -> Result<(), StartError> {
    let Some(damage) = find_damage(config, told).await? else { return Ok(()) };
    if matches!(damage, StartError::Store(OpenError::WentBack(_))) {
        let floor = postgres::accept(settings, trust_ledger).await?;
        if trust_ledger {
            told.line("the ledger is accepted as it is: uses counted since the backup are forgotten");
        } else {
            told.line(format_args!("tokens issued up to {floor} can no longer be redeemed (redemption_not_on_record)"));
            told.line(format_args!(
                "self-signed tokens made up to {floor} are refused: the records of their use may be lost"
            ));
        }
    }
    let keys = match PersistentState::open_existing(config, &operators_audit()).await {
        Ok(state) => {
            state.store.close().await;
            0
        }
        Err(error) if error.is_damage() && !matches!(error, StartError::Store(_)) => replace_keys(config, told).await?,
        Err(error) => return Err(error),
    };
    told.line(
        "compare `writ block list` with block_added and block_removed in the log, and add the missing ones again",
    );
    operators_audit().write(&Event::StoreRepaired { trust_ledger, keys, blocks: 0 }).await?;
    Ok(())
}
