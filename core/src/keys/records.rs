//! The ring as records of the store: one for the keys in use, one for each key that was.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use writ_verifier::TrustDomain;

use super::public::Kid;
use super::ring::{PastKey, Ring};
use super::{Held, KeysError};
use writ_platform::clock::Timestamp;
use writ_store::{Change, Store, Swapped, Table};

const INSTALLATION: &[u8] = b"installation";
const RING: &[u8] = b"ring";
const LAST_EVENT: &[u8] = b"last";

/// How often a change is tried anew because the time of the last event moved on meanwhile.
const ATTEMPTS: u32 = 100;

/// Which store this is. Sealed private halves open in no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Installation {
    id: String,
    trust_domain: TrustDomain,
}

/// What the store holds of a ring.
pub(super) struct Stored {
    pub(super) installation: Installation,
    pub(super) ring: Ring,
    pub(super) last_event: Timestamp,
}

impl Installation {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self { id: Uuid::new_v4().to_string(), trust_domain }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

/// Reads the ring; `None` if there never was one.
pub(super) async fn load(store: &Store) -> Result<Option<Stored>, KeysError> {
    let installation = store.read(Table::Meta, INSTALLATION).await?;
    let ring = store.read(Table::Keys, RING).await?;
    let (installation, ring) = match (installation, ring) {
        (Some(installation), Some(ring)) => (installation, ring),
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(KeysError::Damaged("the keys in use are missing")),
        (None, Some(_)) => return Err(KeysError::Damaged("the record that names the store is missing")),
    };
    let past = store.scan(Table::History).await?.into_iter().map(past_key).collect::<Result<BTreeMap<_, _>, _>>()?;
    let ring: Ring = parse(&ring, "the record of the keys in use cannot be read")?;
    Ok(Some(Stored {
        installation: parse(&installation, "the record that names the store cannot be read")?,
        ring: ring.with_past(past).ok_or(KeysError::Damaged("a key is in two places"))?,
        last_event: last_event(store).await?.1,
    }))
}

fn past_key((kid, record): (Vec<u8>, Vec<u8>)) -> Result<(Kid, PastKey), KeysError> {
    let damaged = KeysError::Damaged("a record of the history cannot be read");
    let key: PastKey = parse(&record, "a record of the history cannot be read")?;
    let kid = String::from_utf8(kid).ok().and_then(|kid| Kid::try_from(kid).ok());
    kid.filter(|kid| key.is(kid)).map(|kid| (kid, key)).ok_or(damaged)
}

fn parse<T: DeserializeOwned>(record: &[u8], otherwise: &'static str) -> Result<T, KeysError> {
    serde_json::from_slice(record).map_err(|_| KeysError::Damaged(otherwise))
}

/// The record and what it says; the beginning of time if there is none.
async fn last_event(store: &Store) -> Result<(Option<Vec<u8>>, Timestamp), KeysError> {
    let record = store.read(Table::Clock, LAST_EVENT).await?;
    let seconds = match record.as_deref() {
        None => Some(0),
        Some(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
    };
    let seconds = seconds.ok_or(KeysError::Damaged("the time of the last event cannot be read"))?;
    Ok((record, Timestamp::from_epoch(seconds)))
}

/// Stores the first ring. [`KeysError::Conflict`] if there is one.
pub(super) async fn create(
    store: &Store,
    installation: &Installation,
    first: &Held,
    now: Timestamp,
) -> Result<(), KeysError> {
    let records = all(installation, first)?;
    let absent = Change::new().absent(Table::Meta, INSTALLATION).absent(Table::Keys, RING);
    apply(store, records.into_iter().fold(absent, put), now).await
}

/// Stores `successor` in the place of `held`. [`KeysError::Conflict`] if it is not `held` that the store has.
pub(super) async fn replace(store: &Store, held: &Held, successor: &Held, now: Timestamp) -> Result<(), KeysError> {
    let known = held.ring.past();
    let past = successor.ring.past().iter().filter(|(kid, key)| known.get(*kid) != Some(*key));
    let change = Change::new().is(Table::Keys, RING, held.document.as_slice()).put(
        Table::Keys,
        RING,
        successor.document.as_slice(),
    );
    let records = past.map(history).collect::<Result<Vec<_>, _>>()?;
    apply(store, records.into_iter().fold(change, put), now).await
}

/// A record: where it is, its key, its value.
pub(super) type Record = (Table, Vec<u8>, Vec<u8>);

/// Every record of a ring; the one without which there is none comes last.
pub(super) fn all(installation: &Installation, held: &Held) -> Result<Vec<Record>, KeysError> {
    let mut records = held.ring.past().iter().map(history).collect::<Result<Vec<_>, _>>()?;
    records.push((Table::Meta, INSTALLATION.to_vec(), written(installation)?));
    records.push((Table::Keys, RING.to_vec(), held.document.clone()));
    Ok(records)
}

pub(super) fn put(change: Change, (table, key, value): Record) -> Change {
    change.put(table, &key, value)
}

fn history((kid, key): (&Kid, &PastKey)) -> Result<Record, KeysError> {
    Ok((Table::History, kid.as_str().into(), written(key)?))
}

fn written(record: &impl Serialize) -> Result<Vec<u8>, KeysError> {
    serde_json::to_vec(record).map_err(|_| KeysError::Damaged("a record cannot be written"))
}

/// Applies `change`, and with it moves the time of the last event on to `now`; it never goes back.
async fn apply(store: &Store, change: Change, now: Timestamp) -> Result<(), KeysError> {
    for _ in 0..ATTEMPTS {
        let (seen, last) = last_event(store).await?;
        let timed = if last < now {
            let record = now.epoch().to_string();
            change.clone().unchanged(Table::Clock, LAST_EVENT, seen.as_deref()).put(Table::Clock, LAST_EVENT, record)
        } else {
            change.clone()
        };
        if store.swap(timed).await? == Swapped::Done {
            return Ok(());
        }
        if last_event(store).await?.0 == seen {
            break; // It was not the time that moved on, but the ring.
        }
    }
    Err(KeysError::Conflict)
}
