//! What was counted and recorded: uses spent, and tokens that may be redeemed.
//!
//! A use is durable before the token that it pays for is made; a token is on record before it leaves. Counts are kept
//! by transaction and purpose, never by a token's text or hash: an ECDSA signature has a second valid form, and the
//! tokens of one transaction share their uses.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use writ_verifier::Purpose;

use crate::client::ClientId;
use crate::decision::{Grant, GrantKind, began};
use crate::lifetime::TRANSACTION_SPAN;
use crate::permit::Permit;
use crate::subject::{OwnToken, SingleUse};
use writ_platform::clock::Timestamp;
use writ_store::{Change, Remains, Store, StoreError, Swapped, Table};

/// How far the clock may lie behind the last recorded event.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

/// Records are kept for so much longer than they serve: a clock that runs ahead for a day drops nothing early.
const SPARE: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// How many changes that drop records are under way at one time; the store makes them durable together.
const DROPS_UNDER_WAY: usize = 8;

const LAST_EVENT: &[u8] = b"last";
const FLOOR: &[u8] = b"redemption_floor";
/// Up to which time things were dropped. Never goes back.
const SWEPT: &[u8] = b"swept";
const SINGLE_USE_FLOOR: &[u8] = b"single_use_floor";

/// Why the ledger says no.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The token was not recorded when it was issued, or the record was lost or has run out.
    #[error("the token is not on record")]
    NotOnRecord,
    /// All uses are spent, and the token of the last one is not this client's to repeat.
    #[error("the token has already been redeemed as often as it may be")]
    Exhausted,
    /// What may be used once was used before.
    #[error("the subject token was used before")]
    Replayed,
    /// The clock is behind the last recorded event: no age can be trusted.
    #[error("the clock of this service is behind its records")]
    ClockBehind,
    /// Nothing can be read or written just now.
    #[error("the store is not available")]
    Unavailable(#[from] StoreError),
    /// The store does not answer in the time that is left.
    #[error("the store does not answer in time")]
    Late,
    /// A record does not read as one of ours.
    #[error("the store holds a record that cannot be read")]
    Unreadable,
}

/// From when to when a token lives, and which use it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// `iat`.
    pub iat: Timestamp,
    /// `exp`.
    pub exp: Timestamp,
    /// The number of the use, on a redemption.
    pub spent: Option<Spent>,
}

/// A use of the right to redeem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Its number, from 1.
    pub use_number: u32,
    /// Whether it was counted before: the last answer is given again.
    pub retry: bool,
}

/// What was counted for one transaction and purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Uses {
    count: u32,
    /// `iat` of the latest token presented.
    original_iat: Timestamp,
    last: Use,
}

/// The use that was counted last: it may be repeated while its token is alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Use {
    client: ClientId,
    presented: [u8; 32],
    iat: Timestamp,
    exp: Timestamp,
}

impl Uses {
    /// The same client and the same signed part, while the token of the last use lives.
    fn repeated(&self, client: &ClientId, original: &OwnToken, now: Timestamp) -> Option<Term> {
        let same = self.last.client == *client && self.last.presented == *original.signed_part();
        let spent = Spent { use_number: self.count, retry: true };
        (same && now < self.last.exp).then_some(Term { iat: self.last.iat, exp: self.last.exp, spent: Some(spent) })
    }

    /// One use more, if `max_uses` allows.
    fn spend(before: Option<&Self>, last: Use, original: &OwnToken, max_uses: u32) -> Option<Self> {
        let count = before.map_or(0, |uses| uses.count);
        let original_iat = Timestamp::from_epoch(original.claims().iat);
        let original_iat = before.map_or(original_iat, |uses| uses.original_iat.max(original_iat));
        (count < max_uses).then(|| Self { count: count + 1, original_iat, last })
    }
}

/// What goes on record with a new token.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry<'a> {
    /// The token, if some policy can redeem it.
    pub token: Option<Redeemable<'a>>,
    /// What is spent with it.
    pub single_use: Option<SingleUse>,
}

/// A token that some policy can redeem.
#[derive(Debug, Clone, Copy)]
pub struct Redeemable<'a> {
    /// SHA-256 of what was signed.
    pub signed_part: [u8; 32],
    /// Its transaction.
    pub txn: &'a str,
    /// Until when it can be redeemed.
    pub keep_until: Timestamp,
}

impl Entry<'_> {
    /// Whether there is nothing to record.
    pub fn is_empty(&self) -> bool {
        self.token.is_none() && self.single_use.is_none()
    }
}

/// The record of a token that some policy can redeem.
#[derive(Debug, Serialize, Deserialize)]
struct TokenRecord {
    txn: String,
    keep_until: Timestamp,
}

/// The ledger of this trust domain.
pub struct Ledger {
    store: Store,
    /// Epoch seconds of the last recorded event, as far as this room knows: keys have events too ([`Ledger::heed`]).
    last_event: AtomicU64,
    /// What was counted for tokens issued up to then was lost.
    floor: Timestamp,
    /// Of what was made up to that second nobody knows whether it was used.
    single_use_floor: AtomicU64,
}

impl Ledger {
    /// The ledger kept in `store`.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Unreadable`].
    pub async fn open(store: Store) -> Result<Self, LedgerError> {
        let last_event = read_time(&store, Table::Clock, LAST_EVENT).await?.epoch();
        let floor = read_time(&store, Table::Meta, FLOOR).await?;
        // Repaired by an earlier version, a store has only the other one, for both.
        let single_use_floor = match store.read(Table::Meta, SINGLE_USE_FLOOR).await? {
            None => floor,
            record => time(record.as_deref())?,
        };
        let (last_event, single_use_floor) = (AtomicU64::new(last_event), AtomicU64::new(single_use_floor.epoch()));
        Ok(Self { store, last_event, floor, single_use_floor })
    }

    /// Refuses a clock that lies behind what was recorded.
    ///
    /// # Errors
    /// [`LedgerError::ClockBehind`].
    pub fn check_clock(&self, now: Timestamp) -> Result<(), LedgerError> {
        not_behind(Timestamp::from_epoch(self.last_event.load(Ordering::Acquire)), now)
    }

    /// Takes notice of events that others have recorded.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Unreadable`].
    pub async fn heed(&self) -> Result<(), LedgerError> {
        let known = self.last_event.load(Ordering::Acquire);
        let stored = read_time(&self.store, Table::Clock, LAST_EVENT).await?.epoch();
        if stored > known {
            // If it has changed meanwhile, what was read may be out of date, even undone by an operator.
            let _ = self.last_event.compare_exchange(known, stored, Ordering::AcqRel, Ordering::Acquire);
        }
        Ok(())
    }

    /// Takes `now` as right, though later events are on record: an operator has checked the clock.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Unreadable`].
    pub async fn trust_clock(&self, now: Timestamp) -> Result<(), LedgerError> {
        let mut change = Change::new().put(Table::Clock, LAST_EVENT, time_value(now));
        // By the later time identifiers may have been dropped that can be used again by this one.
        let swept = read_time(&self.store, Table::Meta, SWEPT).await?;
        let forgot = read_time(&self.store, Table::Clock, LAST_EVENT).await?.max(swept) > now + SPARE;
        if forgot {
            let floor = now.epoch().max(self.single_use_floor.load(Ordering::Acquire));
            change = change.put(Table::Meta, SINGLE_USE_FLOOR, time_value(Timestamp::from_epoch(floor)));
        }
        // No condition, so there is no conflict.
        let _ = self.store.swap(change).await?;
        if forgot {
            self.single_use_floor.fetch_max(now.epoch(), Ordering::AcqRel);
        }
        self.last_event.store(now.epoch(), Ordering::Release);
        Ok(())
    }

    /// Puts on record what leaves with a new token: the token itself, if some policy can redeem it, and what is spent
    /// with it. All of it is durable when this returns, or nothing is written.
    ///
    /// # Errors
    /// [`LedgerError::Replayed`] if what can be used once was used, or may have been; [`LedgerError::Unavailable`].
    pub async fn record(&self, entry: Entry<'_>, now: Timestamp) -> Result<(), LedgerError> {
        let mut change = Change::new();
        if let Some(token) = &entry.token {
            let record = TokenRecord { txn: token.txn.to_owned(), keep_until: token.keep_until };
            change = change.put(Table::Tokens, &token.signed_part, encode(&record)?);
        }
        if let Some(SingleUse { id, made, keep_until }) = entry.single_use {
            if made.epoch() <= self.single_use_floor.load(Ordering::Acquire) {
                return Err(LedgerError::Replayed); // whether it was used is lost
            }
            change = change.absent(Table::Single, &id).put(Table::Single, &id, time_value(keep_until));
        }
        while self.swap(change.clone(), now).await? == Swapped::Conflict {
            // About the clock, unless somebody was quicker.
            if let Some(single) = &entry.single_use
                && self.store.read(Table::Single, &single.id).await?.is_some()
            {
                return Err(LedgerError::Replayed);
            }
        }
        Ok(())
    }

    /// From when to when the token of `permit` lives. For a redemption a use is counted, durably when this returns,
    /// or the last one is repeated.
    ///
    /// # Errors
    /// [`LedgerError`], each variant; nothing is counted then.
    pub async fn spend(&self, permit: &Permit, now: Timestamp) -> Result<Term, LedgerError> {
        let grant = permit.grant();
        match grant.kind() {
            GrantKind::Issue { .. } | GrantKind::Replace { .. } => {
                Ok(Term { iat: now, exp: grant.expiry(now), spent: None })
            }
            GrantKind::Redeem { original, max_uses, require_record } => {
                self.check_clock(now)?;
                self.check_record(original, *require_record).await?;
                self.spend_use(grant, original, *max_uses, now).await
            }
        }
    }

    /// Counts were lost at the floor, with all records: what is on record was issued after that.
    async fn check_record(&self, original: &OwnToken, require_record: bool) -> Result<(), LedgerError> {
        if began(&original.claims().txn).is_some_and(|began| began < self.floor) {
            // Also if this token is from later: the tokens of a transaction share their uses.
            return Err(LedgerError::NotOnRecord);
        }
        let is_lost = Timestamp::from_epoch(original.claims().iat) <= self.floor;
        if !require_record && !is_lost {
            return Ok(());
        }
        match self.store.read(Table::Tokens, original.signed_part()).await? {
            Some(_) => Ok(()),
            None => Err(LedgerError::NotOnRecord),
        }
    }

    async fn spend_use(
        &self,
        grant: &Grant,
        original: &OwnToken,
        max_uses: u32,
        now: Timestamp,
    ) -> Result<Term, LedgerError> {
        let key = uses_key(&original.claims().txn, grant.scope().single().ok_or(LedgerError::NotOnRecord)?);
        loop {
            let stored = self.store.read(Table::Uses, &key).await?;
            let before: Option<Uses> = stored.as_deref().map(decode).transpose()?;
            if let Some(term) = before.as_ref().and_then(|uses| uses.repeated(grant.client(), original, now)) {
                return Ok(term);
            }
            let exp = grant.expiry(now);
            let last = Use { client: grant.client().clone(), presented: *original.signed_part(), iat: now, exp };
            let after = Uses::spend(before.as_ref(), last, original, max_uses).ok_or(LedgerError::Exhausted)?;
            let change = Change::new().unchanged(Table::Uses, &key, stored.as_deref());
            let change = change.put(Table::Uses, &key, encode(&after)?);
            if let Swapped::Done = self.swap(change, now).await? {
                return Ok(Term { iat: now, exp, spent: Some(Spent { use_number: after.count, retry: false }) });
            }
            // Somebody else spent a use in between: look again.
        }
    }

    /// Writes `change`, and with it the time of this event; that never goes back. A conflict may be about either.
    async fn swap(&self, change: Change, now: Timestamp) -> Result<Swapped, LedgerError> {
        if now.epoch() <= self.last_event.load(Ordering::Acquire) {
            return Ok(self.store.swap(change).await?);
        }
        let seen = self.store.read(Table::Clock, LAST_EVENT).await?;
        let last = time(seen.as_deref())?;
        not_behind(last, now)?;
        let change = change.unchanged(Table::Clock, LAST_EVENT, seen.as_deref());
        let swapped = self.store.swap(change.put(Table::Clock, LAST_EVENT, time_value(last.max(now)))).await?;
        if swapped == Swapped::Done {
            self.last_event.fetch_max(last.max(now).epoch(), Ordering::AcqRel);
        }
        Ok(swapped)
    }

    /// Drops what can decide nothing any more: records past their time, and counts of transactions whose every token
    /// was signed by keys that left the history, the oldest of which now begins at `oldest_key`.
    ///
    /// That is an event: it is on record before anything goes, so that a clock that comes back is found behind.
    ///
    /// # Errors
    /// [`LedgerError::ClockBehind`], [`LedgerError::Unavailable`], [`LedgerError::Unreadable`].
    pub async fn sweep(&self, oldest_key: Timestamp, now: Timestamp) -> Result<(), LedgerError> {
        self.check_clock(now)?;
        // The absence of a record refuses.
        let is_over = |record: &TokenRecord| record.keep_until + SPARE < now;
        self.drop_all(Table::Tokens, now, is_over).await?;
        // The absence of an identifier would grant; but what it was used with has expired long before, unless the clock
        // went back by days, and then nothing is granted at all.
        let is_over = |keep_until: &Timestamp| *keep_until + SPARE < now;
        self.drop_all(Table::Single, now, is_over).await?;
        // The absence of a count would grant, so only keys decide and no clock.
        let is_over = |uses: &Uses| uses.original_iat + TRANSACTION_SPAN < oldest_key;
        self.drop_all(Table::Uses, now, is_over).await
    }

    /// Page by page: a table may be larger than the memory.
    async fn drop_all<T: DeserializeOwned>(
        &self,
        table: Table,
        now: Timestamp,
        is_over: impl Fn(&T) -> bool,
    ) -> Result<(), LedgerError> {
        let (mut after, mut over) = (None::<Vec<u8>>, Vec::new());
        loop {
            let page = self.store.page(table, after.as_deref()).await?;
            let Some((last, _)) = page.last() else { return self.drop_records(table, &over, now).await };
            after = Some(last.clone());
            for (key, value) in page {
                if is_over(&decode(&value)?) {
                    over.push((key, value));
                }
            }
            if over.len() >= DROPS_UNDER_WAY * Change::MAX_RECORDS {
                self.drop_records(table, &over, now).await?;
                over.clear();
            }
        }
    }

    /// Many at a time: what comes by the batch must not go one by one.
    async fn drop_records(&self, table: Table, over: &[Record], now: Timestamp) -> Result<(), LedgerError> {
        if over.is_empty() {
            return Ok(());
        }
        self.note_sweep(now).await?;
        for several in over.chunks(DROPS_UNDER_WAY * Change::MAX_RECORDS) {
            let drops = several.chunks(Change::MAX_RECORDS).map(|records| self.drop_together(table, records));
            try_join_all(drops).await?;
        }
        Ok(())
    }

    /// One that has changed meanwhile stays, and the others go all the same.
    async fn drop_together(&self, table: Table, records: &[Record]) -> Result<(), LedgerError> {
        if self.store.swap(dropping(table, records)).await? == Swapped::Conflict {
            for record in records {
                let _ = self.store.swap(dropping(table, std::slice::from_ref(record))).await?;
            }
        }
        Ok(())
    }

    /// Puts on record that things are dropped at `now`.
    async fn note_sweep(&self, now: Timestamp) -> Result<(), LedgerError> {
        let swept = read_time(&self.store, Table::Meta, SWEPT).await?.max(now);
        let change = Change::new().put(Table::Meta, SWEPT, time_value(swept));
        while self.swap(change.clone(), now).await? == Swapped::Conflict {}
        Ok(())
    }

    /// Brings `writ_ledger_records` up to date.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point; counts stay far below 2^52")]
    pub fn observe(&self) {
        for (kind, table) in [("tokens", Table::Tokens), ("uses", Table::Uses), ("single_use", Table::Single)] {
            metrics::gauge!("writ_ledger_records", "kind" => kind).set(self.store.records(table) as f64);
        }
    }

    /// Writes what is known anyway, to see whether the store works again.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::ClockBehind`].
    pub async fn probe(&self, now: Timestamp) -> Result<(), LedgerError> {
        // Whoever was quicker has written: just as well.
        let _ = self.swap(Change::new(), now).await?;
        Ok(())
    }
}

/// What a repair keeps of the ledger.
#[derive(Debug)]
pub struct Salvaged {
    /// The records to keep, those of the installation and of the clock included.
    pub change: Change,
    /// How many tokens stay on record.
    pub tokens: usize,
    /// For how many transactions and purposes the uses counted are kept.
    pub uses: usize,
    /// How many identifiers that can be used once stay used.
    pub single_use: usize,
    /// Tokens issued up to then are not redeemed any more, since uses that were counted may be lost.
    pub redemption_floor: Option<Timestamp>,
    /// Identifiers made up to then are refused, since it may be lost that they were used.
    pub single_use_floor: Option<Timestamp>,
}

/// Adds to `change` what can be kept of the ledger of a damaged store without granting anything twice.
///
/// A count that is missing or too low would grant uses again, and so would the absence of an identifier. So where these
/// tables are not complete, nothing from before `now` is granted; their records are kept all the same, for they only
/// refuse. Tokens on record grant, but no more than their counts allow: they are kept if the counts are complete.
pub fn salvage(remains: &Remains, mut change: Change, now: Timestamp) -> Salvaged {
    let parsed = |table, key: &[u8]| {
        let record = remains.records(table).iter().find(|(name, _)| name == key);
        record.map(|(_, value)| time(Some(value)))
    };
    let last_event = parsed(Table::Clock, LAST_EVENT).and_then(Result::ok).unwrap_or_default();
    let swept = parsed(Table::Meta, SWEPT).and_then(Result::ok).unwrap_or_default();
    // With a clock that is behind now, tokens from the time in between would pass for later ones.
    let floor = now.max(last_event);
    // Without the floors of an earlier repair it is not known from when on the tables were complete.
    let floors = [FLOOR, SINGLE_USE_FLOOR].map(|key| parsed(Table::Meta, key).transpose());
    let known =
        if remains.is_complete(Table::Meta) { floors.into_iter().collect::<Result<Vec<_>, _>>().ok() } else { None };
    let known = known.map(|floors| (floors[0].unwrap_or_default(), floors[1].or(floors[0]).unwrap_or_default()));

    let keeps_uses = known.is_some() && remains.is_complete(Table::Uses);
    let keeps_single_use = known.is_some() && remains.is_complete(Table::Single);
    let (redemption, single_use) = known.unwrap_or_default();
    let redemption_floor = if keeps_uses { redemption } else { floor };
    let single_use_floor = if keeps_single_use { single_use } else { floor };
    change = change
        .put(Table::Meta, FLOOR, time_value(redemption_floor))
        .put(Table::Meta, SINGLE_USE_FLOOR, time_value(single_use_floor))
        .put(Table::Meta, SWEPT, time_value(swept))
        .put(Table::Clock, LAST_EVENT, time_value(floor));

    let mut keep = |table, is_sound: fn(&[u8]) -> bool| {
        let is_complete = remains.is_complete(table);
        let sound = remains.records(table).iter().filter(|(_, value)| is_complete || is_sound(value));
        let mut kept = 0;
        for (key, value) in sound {
            change = std::mem::take(&mut change).put(table, key, value.as_slice());
            kept += 1;
        }
        kept
    };
    let uses = keep(Table::Uses, |value| decode::<Uses>(value).is_ok());
    let singles = keep(Table::Single, |value| decode::<Timestamp>(value).is_ok());
    let tokens = if keeps_uses { keep(Table::Tokens, |value| decode::<TokenRecord>(value).is_ok()) } else { 0 };
    Salvaged {
        change,
        tokens,
        uses,
        single_use: singles,
        redemption_floor: (!keeps_uses).then_some(floor),
        single_use_floor: (!keeps_single_use).then_some(floor),
    }
}

/// A key and a value.
type Record = (Vec<u8>, Vec<u8>);

fn dropping(table: Table, records: &[Record]) -> Change {
    let drop = |change: Change, (key, value): &Record| change.is(table, key, value.as_slice()).remove(table, key);
    records.iter().fold(Change::new(), drop)
}

fn uses_key(txn: &str, purpose: &Purpose) -> Vec<u8> {
    [txn.as_bytes(), &[0], purpose.as_str().as_bytes()].concat()
}

fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, LedgerError> {
    serde_json::to_vec(record).map_err(|_| LedgerError::Unreadable)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, LedgerError> {
    serde_json::from_slice(bytes).map_err(|_| LedgerError::Unreadable)
}

/// Refuses `now` if it lies behind the event that was recorded `last`.
fn not_behind(last: Timestamp, now: Timestamp) -> Result<(), LedgerError> {
    if now + CLOCK_TOLERANCE < last { Err(LedgerError::ClockBehind) } else { Ok(()) }
}

fn time_value(time: Timestamp) -> Vec<u8> {
    time.epoch().to_string().into_bytes()
}

/// The time in a record; the beginning of time if there is none.
fn time(record: Option<&[u8]>) -> Result<Timestamp, LedgerError> {
    let Some(bytes) = record else { return Ok(Timestamp::from_epoch(0)) };
    let text = std::str::from_utf8(bytes).map_err(|_| LedgerError::Unreadable)?;
    text.parse().map(Timestamp::from_epoch).map_err(|_| LedgerError::Unreadable)
}

async fn read_time(store: &Store, table: Table, key: &[u8]) -> Result<Timestamp, LedgerError> {
    time(store.read(table, key).await?.as_deref())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::future::join_all;
    use tempfile::TempDir;

    use super::*;
    use writ_store::Settings;

    const ISSUED: u64 = 1_790_000_000;
    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_epoch(ISSUED + seconds)
    }

    struct Installed(TempDir);

    impl Installed {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        async fn ledger(&self) -> Ledger {
            let store = Store::open(&Settings { path: self.0.path().join("data") }).await.unwrap();
            Ledger::open(store).await.unwrap()
        }
    }

    async fn restarted(ledger: Ledger, installed: &Installed) -> Ledger {
        ledger.store.close().await;
        installed.ledger().await
    }

    /// An entry for the token number `number` of transaction `t`.
    fn token(number: u8, keep_until: Timestamp) -> Entry<'static> {
        let token = Redeemable { signed_part: [number; 32], txn: "t", keep_until };
        Entry { token: Some(token), single_use: None }
    }

    /// The token number `number` of transaction `t`, on record.
    async fn recorded(ledger: &Ledger, number: u8) {
        ledger.record(token(number, at(90 * DAY)), at(0)).await.unwrap();
    }

    /// An entry for something that can be used once, made at that second.
    fn once(id: u8, made: u64) -> Entry<'static> {
        let single_use = SingleUse { id: [id; 32], made: at(made), keep_until: at(made + 310) };
        Entry { token: None, single_use: Some(single_use) }
    }

    ///
    #[tokio::test]
    async fn what_can_be_used_once_is_used_once_across_restarts() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        let outcomes = join_all((0..8).map(|_| ledger.record(once(1, 0), at(1)))).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(LedgerError::Replayed))));
        let ledger = restarted(ledger, &installed).await;
        assert!(matches!(ledger.record(once(1, 0), at(2)).await, Err(LedgerError::Replayed)));
        ledger.record(once(2, 0), at(2)).await.unwrap();
    }

    /// All or nothing: a token that comes with something used is not on record either.
    /// the last event alone would not tell, once it was taken back in two steps.
    #[tokio::test]
    async fn what_a_wrong_clock_forgot_is_not_used_again_however_it_was_set_right() {
        const HOUR: u64 = 3600;
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        ledger.record(once(1, 0), at(1)).await.unwrap();
        ledger.sweep(at(0), at(60 * HOUR)).await.unwrap();
        assert!(ledger.store.read(Table::Single, &[1; 32]).await.unwrap().is_none());
        ledger.trust_clock(at(30 * HOUR)).await.unwrap();
        ledger.trust_clock(at(2)).await.unwrap();
        assert!(matches!(ledger.record(once(1, 0), at(2)).await, Err(LedgerError::Replayed)));
        ledger.record(once(2, 3), at(3)).await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_recorded_beside_a_replay() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        ledger.record(once(1, 0), at(1)).await.unwrap();
        let both = Entry { single_use: once(1, 0).single_use, ..token(2, at(DAY)) };
        assert!(matches!(ledger.record(both, at(1)).await, Err(LedgerError::Replayed)));
        assert!(ledger.store.read(Table::Tokens, &[2; 32]).await.unwrap().is_none());
        ledger.record(Entry { single_use: once(3, 0).single_use, ..token(2, at(DAY)) }, at(1)).await.unwrap();
        assert!(ledger.store.read(Table::Tokens, &[2; 32]).await.unwrap().is_some());
    }

    /// After a repair nobody knows what was used before it.
    #[tokio::test]
    async fn what_was_made_before_a_repair_is_used_no_more() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        let _ = ledger.store.swap(salvage(&Remains::default(), Change::new(), at(100)).change).await.unwrap();
        let ledger = restarted(ledger, &installed).await;
        assert!(matches!(ledger.record(once(1, 100), at(101)).await, Err(LedgerError::Replayed)));
        ledger.record(once(1, 101), at(101)).await.unwrap();
    }

    /// kept until it cannot be used anyway, and two days more.
    #[tokio::test]
    async fn what_was_used_is_remembered_for_longer_than_it_could_be_used() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        ledger.record(once(1, 0), at(1)).await.unwrap();
        ledger.sweep(at(0), at(310 + 2 * DAY)).await.unwrap();
        assert!(matches!(ledger.record(once(1, 0), at(2)).await, Err(LedgerError::Replayed)));
        ledger.sweep(at(0), at(311 + 2 * DAY)).await.unwrap();
        assert!(ledger.store.read(Table::Single, &[1; 32]).await.unwrap().is_none());
    }

    fn grant(client: &str, token: u8, max_uses: u32) -> Permit {
        Grant::redeeming(client, OwnToken::expired("t", token, ISSUED), max_uses, true).into()
    }

    /// The number of the use and whether it was free; the lifetime is a minute.
    async fn spent(ledger: &Ledger, grant: &Permit, now: Timestamp) -> Option<(u32, bool)> {
        match ledger.spend(grant, now).await {
            Ok(term) => {
                let spent = term.spent.unwrap();
                assert_eq!(term.exp.since(term.iat), Duration::from_secs(60));
                assert!(spent.retry || term.iat == now);
                Some((spent.use_number, spent.retry))
            }
            Err(LedgerError::Exhausted) => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn issuing_counts_nothing_and_ends_with_the_subject_token() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        let grant = Grant::issuing("gateway", "u-1", "a", Some(at(30))).into();
        assert_eq!(ledger.spend(&grant, at(0)).await.unwrap(), Term { iat: at(0), exp: at(30), spent: None });
        assert_eq!(ledger.store.records(Table::Uses), 0);
    }

    /// free while the token of the use lives, counted after, refused when all are spent.
    #[tokio::test]
    async fn the_last_use_is_repeated_until_its_token_ends() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        recorded(&ledger, 1).await;
        let grant = grant("job", 1, 2);
        let first = ledger.spend(&grant, at(100)).await.unwrap();
        let again = ledger.spend(&grant, at(159)).await.unwrap();
        assert_eq!((again.iat, again.exp), (first.iat, first.exp));
        assert_eq!(again.spent, Some(Spent { use_number: 1, retry: true }));
        let ledger = restarted(ledger, &installed).await;
        assert_eq!(spent(&ledger, &grant, at(159)).await, Some((1, true)));
        assert_eq!(spent(&ledger, &grant, at(160)).await, Some((2, false)));
        assert_eq!(spent(&ledger, &grant, at(219)).await, Some((2, true)));
        assert_eq!(spent(&ledger, &grant, at(220)).await, None);
    }

    /// CONTRACT 3.5: a use by another client, or of another token of the transaction, ends the free retry.
    #[tokio::test]
    async fn only_the_last_use_is_repeated() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        recorded(&ledger, 1).await;
        recorded(&ledger, 2).await;
        assert_eq!(spent(&ledger, &grant("job", 1, 4), at(100)).await, Some((1, false)));
        assert_eq!(spent(&ledger, &grant("other", 1, 4), at(101)).await, Some((2, false)));
        assert_eq!(spent(&ledger, &grant("job", 1, 4), at(102)).await, Some((3, false)));
        assert_eq!(spent(&ledger, &grant("job", 2, 4), at(103)).await, Some((4, false)));
        assert_eq!(spent(&ledger, &grant("job", 1, 4), at(104)).await, None);
        assert_eq!(spent(&ledger, &grant("job", 2, 4), at(105)).await, Some((4, true)));
    }

    /// A-098, R-DELAY-12
    #[tokio::test]
    async fn uses_are_counted_by_transaction_and_purpose() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        let mut other_purpose = OwnToken::expired("t", 1, ISSUED);
        other_purpose.claims_mut().scope = "account.export".parse().unwrap();
        let one = |original| Permit::from(Grant::redeeming("job", original, 1, false));
        assert_eq!(spent(&ledger, &one(OwnToken::expired("t", 1, ISSUED)), at(100)).await, Some((1, false)));
        assert_eq!(spent(&ledger, &one(OwnToken::expired("t", 2, ISSUED)), at(100)).await, None);
        assert_eq!(spent(&ledger, &one(OwnToken::expired("u", 3, ISSUED)), at(100)).await, Some((1, false)));
        assert_eq!(spent(&ledger, &one(other_purpose), at(100)).await, Some((1, false)));
    }

    ///
    #[tokio::test]
    async fn a_lowered_limit_holds_at_once_and_a_raised_one_counts_old_uses() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        recorded(&ledger, 1).await;
        assert_eq!(spent(&ledger, &grant("job", 1, 2), at(100)).await, Some((1, false)));
        assert_eq!(spent(&ledger, &grant("job", 1, 1), at(120)).await, Some((1, true)), "nothing new is granted");
        assert_eq!(spent(&ledger, &grant("job", 1, 1), at(200)).await, None);
        assert_eq!(spent(&ledger, &grant("job", 1, 3), at(300)).await, Some((2, false)));
        assert_eq!(spent(&ledger, &grant("job", 1, 3), at(400)).await, Some((3, false)));
        assert_eq!(spent(&ledger, &grant("job", 1, 3), at(500)).await, None);
    }

    /// A-099, R-DELAY-13
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn parallel_uses_are_exactly_as_many_as_allowed() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        recorded(&ledger, 1).await;
        let grants: Vec<_> = (0..64).map(|client| grant(&format!("job-{client}"), 1, 3)).collect();
        let spent = join_all(grants.iter().map(|grant| spent(&ledger, grant, at(100)))).await;
        let mut uses: Vec<_> = spent.into_iter().flatten().collect();
        uses.sort_unstable();
        assert_eq!(uses, [(1, false), (2, false), (3, false)]);

        let same = grant("job", 1, 4);
        let terms = join_all((0..64).map(|_| ledger.spend(&same, at(100)))).await;
        let free = terms.into_iter().filter(|term| term.as_ref().unwrap().spent.unwrap().retry).count();
        assert_eq!(free, 63);
    }

    /// R-DELAY-10
    #[tokio::test]
    async fn a_token_without_record_is_refused_unless_none_is_required() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        let refused = ledger.spend(&grant("job", 1, 1), at(100)).await;
        assert!(matches!(refused, Err(LedgerError::NotOnRecord)));
        let lenient = Permit::from(Grant::redeeming("job", OwnToken::expired("t", 1, ISSUED), 1, false));
        assert_eq!(spent(&ledger, &lenient, at(100)).await, Some((1, false)));
    }

    /// CONTRACT 6: `require_record = false` included.
    #[tokio::test]
    async fn after_a_repair_only_what_is_on_record_is_redeemed() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        let _ = ledger.store.swap(salvage(&Remains::default(), Change::new(), at(0)).change).await.unwrap();
        let ledger = restarted(ledger, &installed).await;
        let lenient = |token, iat| Permit::from(Grant::redeeming("job", OwnToken::expired("t", token, iat), 9, false));
        assert!(matches!(ledger.spend(&lenient(1, ISSUED), at(100)).await, Err(LedgerError::NotOnRecord)));
        assert_eq!(spent(&ledger, &lenient(1, ISSUED + 1), at(100)).await, Some((1, false)));
        recorded(&ledger, 2).await;
        assert_eq!(spent(&ledger, &lenient(2, ISSUED), at(100)).await, Some((2, false)));
    }

    /// A store with two tokens on record, one of which has spent a use, and an identifier that was used; closed.
    async fn used() -> Installed {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        recorded(&ledger, 1).await;
        recorded(&ledger, 2).await;
        assert_eq!(spent(&ledger, &grant("job", 1, 2), at(100)).await, Some((1, false)));
        ledger.record(once(1, 0), at(101)).await.unwrap();
        ledger.store.close().await;
        installed
    }

    impl Installed {
        fn settings(&self) -> Settings {
            Settings { path: self.0.path().join("data") }
        }

        /// A record of no meaning in a table, written past the seal.
        fn damage(&self, table: u8) {
            sled::open(self.settings().path).unwrap().insert([table, 1], b"?").unwrap();
        }

        /// What is kept at that second, and the ledger made of it.
        async fn repaired(&self, seconds: u64) -> (Salvaged, Ledger) {
            let remains = writ_store::survey(&self.settings()).unwrap();
            let mut salvaged = salvage(&remains, Change::new(), at(seconds));
            writ_store::replace(&self.settings(), std::mem::take(&mut salvaged.change)).unwrap();
            (salvaged, self.ledger().await)
        }
    }

    fn kept(salvaged: &Salvaged) -> (usize, usize, usize) {
        (salvaged.tokens, salvaged.uses, salvaged.single_use)
    }

    #[tokio::test]
    async fn a_repair_takes_nothing_from_tables_that_are_complete() {
        let tokens = 4;
        for harmed in [None, Some(tokens)] {
            let installed = used().await;
            harmed.inspect(|table| installed.damage(*table));
            let (salvaged, ledger) = installed.repaired(200).await;
            assert_eq!(kept(&salvaged), (2, 1, 1), "{harmed:?}");
            assert_eq!((salvaged.redemption_floor, salvaged.single_use_floor), (None, None));
            assert_eq!(spent(&ledger, &grant("job", 2, 2), at(201)).await, Some((2, false)));
            assert_eq!(spent(&ledger, &grant("other", 1, 2), at(202)).await, None);
            assert!(matches!(ledger.record(once(1, 0), at(203)).await, Err(LedgerError::Replayed)));
            ledger.record(once(2, 0), at(203)).await.unwrap();
        }
    }

    /// A count that may be too low grants nothing.
    #[tokio::test]
    async fn a_repair_that_may_have_lost_counts_refuses_all_that_was_issued_before() {
        let (meta, uses) = (1, 5);
        for harmed in [Some(meta), Some(uses), None] {
            let installed = used().await;
            match harmed {
                Some(table) => installed.damage(table),
                None => std::fs::remove_file(installed.settings().path.join("seal")).unwrap(),
            }
            let (salvaged, ledger) = installed.repaired(200).await;
            assert_eq!(
                (salvaged.tokens, salvaged.uses, salvaged.redemption_floor),
                (0, 1, Some(at(200))),
                "{harmed:?}"
            );
            for require_record in [true, false] {
                for iat in [ISSUED, ISSUED + 200] {
                    let grant =
                        Permit::from(Grant::redeeming("job", OwnToken::expired("t", 1, iat), 9, require_record));
                    assert!(matches!(ledger.spend(&grant, at(300)).await, Err(LedgerError::NotOnRecord)));
                }
            }
            let later = Permit::from(Grant::redeeming("job", OwnToken::expired("t", 3, ISSUED + 201), 9, false));
            assert_eq!(spent(&ledger, &later, at(300)).await, Some((2, false)), "what is known to be counted counts");
        }
    }

    #[tokio::test]
    async fn a_repair_that_may_have_lost_identifiers_refuses_all_that_were_made_before() {
        let single = 7;
        let installed = used().await;
        installed.damage(single);
        let (salvaged, ledger) = installed.repaired(200).await;
        assert_eq!((salvaged.redemption_floor, salvaged.single_use_floor), (None, Some(at(200))));
        for id in [1, 2] {
            assert!(matches!(ledger.record(once(id, 200), at(201)).await, Err(LedgerError::Replayed)));
        }
        ledger.record(once(2, 201), at(201)).await.unwrap();
        assert_eq!(spent(&ledger, &grant("job", 2, 2), at(202)).await, Some((2, false)));
    }

    /// What an earlier repair refuses stays refused, also when all is complete or the clock is behind.
    #[tokio::test]
    async fn a_later_repair_does_not_forget_an_earlier_one() {
        let lenient = |iat| Permit::from(Grant::redeeming("job", OwnToken::expired("t", 1, iat), 9, false));
        let installed = used().await;
        std::fs::remove_file(installed.settings().path.join("seal")).unwrap();
        installed.repaired(200).await.1.store.close().await;
        let (again, ledger) = installed.repaired(300).await;
        assert_eq!(again.redemption_floor, None);
        assert!(matches!(ledger.spend(&lenient(ISSUED + 200), at(300)).await, Err(LedgerError::NotOnRecord)));
        ledger.store.close().await;
        std::fs::remove_file(installed.settings().path.join("seal")).unwrap();
        let (behind, _) = installed.repaired(0).await;
        assert_eq!(behind.redemption_floor, Some(at(300)));
    }

    ///
    #[tokio::test]
    async fn a_repair_keeps_in_mind_by_which_time_things_were_dropped() {
        const HOUR: u64 = 3600;
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        ledger.record(once(1, 0), at(1)).await.unwrap();
        ledger.sweep(at(0), at(60 * HOUR)).await.unwrap();
        ledger.store.close().await;
        let (_, ledger) = installed.repaired(60 * HOUR).await;
        ledger.trust_clock(at(30 * HOUR)).await.unwrap();
        ledger.trust_clock(at(2)).await.unwrap();
        assert!(matches!(ledger.record(once(1, 0), at(2)).await, Err(LedgerError::Replayed)));
    }

    /// The tokens of a transaction share their uses, and those of before are lost.
    #[tokio::test]
    async fn a_transaction_that_began_before_a_repair_is_not_redeemed_with_a_later_token() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        let floor = salvage(&Remains::default(), Change::new(), at(100)).change;
        let _ = ledger.store.swap(floor).await.unwrap();
        let ledger = restarted(ledger, &installed).await;
        let begun = |second| uuid::Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, ISSUED + second, 0));
        let later = |second| OwnToken::expired(&begun(second).to_string(), 1, ISSUED + 110);
        recorded(&ledger, 1).await;
        for require_record in [true, false] {
            let grant = |second| Permit::from(Grant::redeeming("job", later(second), 1, require_record));
            assert!(matches!(ledger.spend(&grant(99), at(200)).await, Err(LedgerError::NotOnRecord)));
            assert_eq!(spent(&ledger, &grant(100), at(200)).await, Some((1, false)));
        }
    }

    /// A-129, R-DELAY-11
    #[tokio::test]
    async fn a_clock_behind_the_last_event_is_refused_until_it_is_trusted() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        recorded(&ledger, 1).await;
        let behind = |seconds| at(0) - Duration::from_secs(seconds);
        assert!(ledger.check_clock(behind(30)).is_ok());
        assert!(matches!(ledger.check_clock(behind(31)), Err(LedgerError::ClockBehind)));
        assert!(matches!(ledger.spend(&grant("job", 1, 1), behind(31)).await, Err(LedgerError::ClockBehind)));
        let ledger = restarted(ledger, &installed).await;
        assert!(ledger.check_clock(behind(31)).is_err());
        ledger.trust_clock(behind(DAY)).await.unwrap();
        assert!(ledger.check_clock(behind(DAY)).is_ok());
        assert!(restarted(ledger, &installed).await.check_clock(behind(DAY)).is_ok());
    }

    /// Keys have events too: the ledger neither overlooks nor overwrites their times.
    #[tokio::test]
    async fn the_time_of_an_event_that_others_recorded_stands() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        recorded(&ledger, 1).await;
        let event = Change::new().put(Table::Clock, LAST_EVENT, time_value(at(DAY)));
        let _ = ledger.store.swap(event).await.unwrap();
        assert!(matches!(ledger.spend(&grant("job", 1, 1), at(100)).await, Err(LedgerError::ClockBehind)));
        assert_eq!(read_time(&ledger.store, Table::Clock, LAST_EVENT).await.unwrap(), at(DAY));
        assert!(ledger.check_clock(at(100)).is_ok(), "not known yet");
        ledger.heed().await.unwrap();
        assert!(ledger.check_clock(at(100)).is_err());
        ledger.record(token(2, at(90 * DAY)), at(DAY - 20)).await.unwrap();
        assert_eq!(read_time(&ledger.store, Table::Clock, LAST_EVENT).await.unwrap(), at(DAY));
    }

    /// a record's absence refuses, a count's would grant.
    #[tokio::test]
    async fn a_sweep_drops_only_what_can_decide_nothing() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        recorded(&ledger, 1).await;
        let grant = grant("job", 1, 1);
        assert_eq!(spent(&ledger, &grant, at(100)).await, Some((1, false)));
        let left = || (ledger.store.records(Table::Tokens), ledger.store.records(Table::Uses));
        let late = at(92 * DAY);
        ledger.sweep(at(15 * 60), late).await.unwrap();
        assert_eq!(left(), (1, 1), "a clock that runs ahead for a day drops nothing, and the key may have signed more");
        ledger.sweep(at(0), late + Duration::from_secs(1)).await.unwrap();
        assert_eq!(left(), (0, 1));
        assert!(matches!(ledger.spend(&grant, late).await, Err(LedgerError::NotOnRecord)));
        ledger.sweep(at(15 * 60 + 1), late + Duration::from_secs(1)).await.unwrap();
        assert_eq!(left(), (0, 0));
    }

    /// going back from a time by which things were dropped is noticed.
    #[tokio::test]
    async fn a_sweep_that_drops_something_is_an_event() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        recorded(&ledger, 1).await;
        ledger.sweep(at(0), at(50 * DAY)).await.unwrap();
        assert!(ledger.check_clock(at(0)).is_ok(), "nothing went");
        ledger.sweep(at(0), at(93 * DAY)).await.unwrap();
        assert_eq!(ledger.store.records(Table::Tokens), 0);
        assert!(matches!(ledger.check_clock(at(93 * DAY - 31)), Err(LedgerError::ClockBehind)));
        assert_eq!(read_time(&ledger.store, Table::Clock, LAST_EVENT).await.unwrap(), at(93 * DAY));
        let behind = ledger.sweep(at(0), at(0)).await;
        assert!(matches!(behind, Err(LedgerError::ClockBehind)), "by a clock that is behind nothing is swept");
    }

    /// what was dropped by a wrong clock is not used a second time by the right one.
    #[tokio::test]
    async fn what_may_have_been_forgotten_is_used_no_more_once_the_clock_is_trusted_again() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        ledger.record(once(1, 0), at(1)).await.unwrap();
        ledger.sweep(at(0), at(4 * DAY)).await.unwrap();
        assert_eq!(ledger.store.records(Table::Single), 0);
        ledger.trust_clock(at(5)).await.unwrap();
        let refuses = async |ledger: &Ledger, new: u8| {
            assert!(matches!(ledger.record(once(1, 0), at(6)).await, Err(LedgerError::Replayed)));
            assert!(matches!(ledger.record(once(2, 5), at(6)).await, Err(LedgerError::Replayed)));
            ledger.record(once(new, 6), at(6)).await.unwrap();
        };
        refuses(&ledger, 3).await;
        refuses(&restarted(ledger, &installed).await, 4).await;
    }

    /// A clock that was ahead by less than what is kept for longer has dropped nothing that matters.
    #[tokio::test]
    async fn a_small_correction_of_the_clock_forgets_nothing() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        ledger.record(once(1, 0), at(DAY)).await.unwrap();
        ledger.trust_clock(at(5)).await.unwrap();
        ledger.record(once(2, 4), at(6)).await.unwrap();
        assert!(matches!(ledger.record(once(1, 0), at(6)).await, Err(LedgerError::Replayed)));
    }

    /// What comes by the batch does not go one by one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn dropping_keeps_pace_with_recording() {
        const COUNT: u16 = 3000;
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        let part = |number: u16| {
            let mut part = [0; 32];
            part[..2].copy_from_slice(&number.to_be_bytes());
            part
        };
        let entry = |number, days| {
            let token = Redeemable { signed_part: part(number), txn: "t", keep_until: at(days * DAY) };
            Entry { token: Some(token), single_use: None }
        };
        let started = Instant::now();
        for numbers in (0..COUNT).collect::<Vec<_>>().chunks(256) {
            try_join_all(numbers.iter().map(|number| ledger.record(entry(*number, 1), at(0)))).await.unwrap();
        }
        let recording = started.elapsed();
        ledger.record(entry(COUNT, 90), at(0)).await.unwrap();
        let started = Instant::now();
        ledger.sweep(at(0), at(3 * DAY + 1)).await.unwrap();
        let dropping = started.elapsed();
        assert_eq!(ledger.store.records(Table::Tokens), 1);
        assert!(ledger.store.read(Table::Tokens, &part(COUNT)).await.unwrap().is_some());
        assert!(dropping < 4 * recording, "{COUNT} records came in {recording:?} and went in {dropping:?}");
    }

    /// A record that was renewed while it was to be dropped stays, and keeps no other one.
    #[tokio::test]
    async fn what_has_changed_meanwhile_is_not_dropped() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        for number in 0..5 {
            ledger.record(token(number, at(1)), at(0)).await.unwrap();
        }
        let mut over = ledger.store.scan(Table::Tokens).await.unwrap();
        ledger.record(token(3, at(90 * DAY)), at(0)).await.unwrap();
        over.push((vec![9; 32], b"gone already".to_vec()));
        ledger.drop_records(Table::Tokens, &over, at(5)).await.unwrap();
        let left = ledger.store.scan(Table::Tokens).await.unwrap();
        assert_eq!(left.iter().map(|(key, _)| key[0]).collect::<Vec<_>>(), [3]);
    }

    /// Whatever became of who asked, the gauge is the number of records.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_count_is_right_whatever_was_cut_off() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        for number in 0..100 {
            let half = tokio::time::timeout(Duration::from_micros(50), ledger.record(token(number, at(1)), at(0)));
            let _ = half.await;
            recorded(&ledger, number / 2).await; // renews some
        }
        let there = ledger.store.scan(Table::Tokens).await.unwrap().len();
        assert!(there >= 50);
        assert_eq!(ledger.store.records(Table::Tokens), there as u64);
        ledger.sweep(at(0), at(93 * DAY)).await.unwrap();
        assert_eq!(ledger.store.records(Table::Tokens), 0);
    }

    #[tokio::test]
    async fn records_are_counted_across_restarts() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        for number in 0..3 {
            recorded(&ledger, number).await;
        }
        assert_eq!(spent(&ledger, &grant("job", 1, 1), at(100)).await, Some((1, false)));
        let ledger = restarted(ledger, &installed).await;
        assert_eq!((ledger.store.records(Table::Tokens), ledger.store.records(Table::Uses)), (3, 1));
    }

    #[tokio::test]
    async fn a_closed_store_is_unavailable_and_nothing_is_granted() {
        let installed = Installed::new();
        let ledger = installed.ledger().await;
        recorded(&ledger, 1).await;
        ledger.store.clone().close().await;
        assert!(matches!(ledger.spend(&grant("job", 1, 1), at(100)).await, Err(LedgerError::Unavailable(_))));
        assert!(ledger.record(token(2, at(100)), at(100)).await.is_err());
        assert!(ledger.probe(at(200)).await.is_err());
    }
}
