//! Redeems tokens through the store over PostgreSQL, and says how many a second, how long each took, and how much of this
//! process's CPU: `redeem <url> <ca> <password file> <certificate> <key> <at once> <seconds>`.
//!
//! The tables must exist (`writ store migrate`) and no key ring: this is for a database of its own.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use writ_platform::clock::Timestamp;
use writ_store::ledger::{Entry, Redeemable, Redemption, SpendOutcome};
use writ_store::postgres::{self, Address, Credentials, Replication, SchemaName};
use writ_store::{Settings, Store};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, ca, password, certificate, key, at_once, seconds] = arguments.as_slice() else {
        return Err("usage: redeem <url> <ca> <password file> <certificate> <key> <at once> <seconds>".into());
    };
    let folder = tempfile::tempdir()?;
    let settings = postgres::Settings {
        path: folder.path().join("data"),
        address: Address::parse(url)?,
        credentials: Credentials {
            password: Some(PathBuf::from(password)),
            certificate: Some((PathBuf::from(certificate), PathBuf::from(key))),
        },
        ca: PathBuf::from(ca),
        schema: SchemaName::parse("writ")?,
        replication: Replication::Quorum,
    };
    let (store, _) = Store::begin_to_open(&Settings::Postgres(settings)).await?;
    let (store, at_once, seconds): (_, usize, u64) = (Arc::new(store), at_once.parse()?, seconds.parse()?);
    for kind in [Kind::Record, Kind::Redeem] {
        let (began, cpu) = (Instant::now(), cpu_time()?);
        let until = began + Duration::from_secs(seconds);
        let workers: Vec<_> =
            (0..at_once).map(|worker| tokio::spawn(work(Arc::clone(&store), kind, worker, until))).collect();
        let mut times = Vec::new();
        for worker in workers {
            times.extend(worker.await?);
        }
        times.sort_unstable();
        let (spent, took) = (cpu_time()?.saturating_sub(cpu), began.elapsed());
        let count = u32::try_from(times.len())?;
        println!(
            "{kind:?} {at_once} at once: {:.0}/s, p50 {:?}, p99 {:?}, {:?} of CPU each",
            f64::from(count) / took.as_secs_f64(),
            times[times.len() / 2],
            times[times.len() * 99 / 100],
            spent / count,
        );
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Record,
    Redeem,
}

async fn work(store: Arc<Store>, kind: Kind, worker: usize, until: Instant) -> Vec<Duration> {
    let ledger = store.ledger();
    let base = Timestamp::now();
    let mut times = Vec::new();
    for number in 0_u64.. {
        let began = Instant::now();
        if began > until {
            break;
        }
        let txn = format!("{:08x}-{worker:04x}-7000-8000-{number:012x}", base.epoch());
        let mut signed_part = [0; 32];
        signed_part[..8].copy_from_slice(&base.epoch().to_be_bytes());
        signed_part[8..16].copy_from_slice(&worker.to_be_bytes());
        signed_part[16..24].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        match kind {
            Kind::Record => {
                let keep_until = base + Duration::from_secs(86_400);
                let token = Redeemable { signed_part, txn: &txn, iat: base, keep_until };
                let _ = ledger.record(Entry { token: Some(token), single_use: None }, base).await.expect("recorded");
            }
            Kind::Redeem => {
                let redemption = Redemption {
                    txn: &txn,
                    purpose: "account.purge",
                    client: "purge-job",
                    presented: signed_part,
                    original_iat: base,
                    began: None,
                    exp: base + Duration::from_secs(60),
                    max_uses: 1,
                    require_record: false,
                };
                let outcome = ledger.spend(redemption, base).await.expect("redeemed");
                assert_eq!(outcome, SpendOutcome::Spent { use_number: 1 });
            }
        }
        times.push(began.elapsed());
    }
    times
}

/// The CPU time of this process.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(") ").ok_or("stat")?.1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}
