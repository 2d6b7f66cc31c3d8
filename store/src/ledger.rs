//! What was counted and recorded: issued tokens that can be redeemed, uses of them, and identifiers that are used once.
//!
//! Each operation is one transaction: its outcome is durable when it is given. Uses are counted by transaction and
//! purpose; the last one is kept with its client and its token, so that its answer can be repeated.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use writ_platform::clock::Timestamp;

use super::StoreError;
use super::clock::{self, EventClock, EventOutcome, SPARE};
use super::records::Records;
use super::table::{Change, Table};
use super::times;
use super::transaction::{Decision, Undecided, View};

const NO_RECORD: &str = "a record of the ledger cannot be read";

/// The ledger of one store; clones are the same ledger.
#[derive(Debug, Clone)]
pub struct LedgerStore {
    records: Records,
    clock: EventClock,
}

/// What goes on record when a token is issued. All of it or nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry<'a> {
    /// The token, if it can be redeemed.
    pub token: Option<Redeemable<'a>>,
    /// What is used with it.
    pub single_use: Option<SingleUse>,
}

/// A token that can be redeemed.
#[derive(Debug, Clone, Copy)]
pub struct Redeemable<'a> {
    /// SHA-256 of what was signed: header and payload. The signature has a second valid form.
    pub signed_part: [u8; 32],
    /// Its transaction.
    pub txn: &'a str,
    /// The last second in which it can be redeemed.
    pub keep_until: Timestamp,
}

/// An identifier that may be used once.
#[derive(Debug, Clone, Copy)]
pub struct SingleUse {
    /// A hash that names it, and nothing else.
    pub id: [u8; 32],
    /// When it was made.
    pub made: Timestamp,
    /// The first second in which it cannot be used anyway.
    pub keep_until: Timestamp,
}

/// What became of an [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "only what is recorded counts"]
pub enum RecordOutcome {
    /// All of it is durable.
    Recorded,
    /// The identifier was used before, or that may be missing from the records.
    Replayed,
    /// The time of the event lies too far behind the last one.
    ClockBehind,
}

/// A use of a token that was issued before.
#[derive(Debug, Clone, Copy)]
pub struct Redemption<'a> {
    /// The transaction.
    pub txn: &'a str,
    /// What the use is for.
    pub purpose: &'a str,
    /// Who redeems.
    pub client: &'a str,
    /// SHA-256 of what was signed of the token that is presented.
    pub presented: [u8; 32],
    /// The presented token's `iat`.
    pub original_iat: Timestamp,
    /// When the transaction began, if its name says so.
    pub began: Option<Timestamp>,
    /// `exp` of the token to be issued; its `iat` is the time of the use.
    pub exp: Timestamp,
    /// How many uses there are for this transaction and purpose.
    pub max_uses: u32,
    /// Whether the presented token must be on record.
    pub require_record: bool,
}

/// What became of a [`Redemption`]. Unless it is `Spent`, nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a use may have been refused"]
pub enum SpendOutcome {
    /// A use was counted.
    Spent {
        /// From 1.
        use_number: u32,
    },
    /// The same client presents the token of the last use again while the token that it was given lives.
    Repeated {
        /// The number of the last use.
        use_number: u32,
        /// `iat` of the token of the last use.
        iat: Timestamp,
        /// `exp` of the token of the last use.
        exp: Timestamp,
    },
    /// The presented token is not on record and must be, or its transaction began before a floor.
    NotOnRecord,
    /// All uses are spent.
    Exhausted,
    /// The time of the use lies too far behind the last event.
    ClockBehind,
}

/// How many records there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerCounts {
    /// Tokens on record.
    pub tokens: u64,
    /// Transactions and purposes for which uses were counted.
    pub uses: u64,
    /// Identifiers that were used.
    pub single_use: u64,
}

/// The record of a token.
#[derive(Debug, Serialize, Deserialize)]
struct TokenRecord {
    txn: String,
    keep_until: Timestamp,
}

/// What was counted for one transaction and purpose.
#[derive(Debug, Serialize, Deserialize)]
struct Uses {
    count: u32,
    /// `iat` of the latest token presented.
    original_iat: Timestamp,
    last: Use,
}

/// The use that was counted last.
#[derive(Debug, Serialize, Deserialize)]
struct Use {
    client: String,
    presented: [u8; 32],
    iat: Timestamp,
    exp: Timestamp,
}

impl LedgerStore {
    pub(crate) fn new(records: Records) -> Self {
        Self { clock: EventClock::new(records.clone()), records }
    }

    /// Puts an issued token on record, uses an identifier, or both at once.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] it is not known whether it was recorded.
    pub async fn record(&self, entry: Entry<'_>, now: Timestamp) -> Result<RecordOutcome, StoreError> {
        let Entry { token, single_use } = entry;
        let token = token.map(|token| {
            let record = TokenRecord { txn: token.txn.to_owned(), keep_until: token.keep_until };
            (token.signed_part, record)
        });
        self.records.transact(move |view| decide_record(view, token.as_ref(), single_use, now)).await
    }

    /// Spends a use, or repeats the last one.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] it is not known whether a use was counted. The same redemption
    /// may be tried again: if it was counted, that is repeated.
    pub async fn spend(&self, redemption: Redemption<'_>, now: Timestamp) -> Result<SpendOutcome, StoreError> {
        let key = uses_key(redemption.txn, redemption.purpose);
        let this = Use {
            client: redemption.client.to_owned(),
            presented: redemption.presented,
            iat: now,
            exp: redemption.exp,
        };
        let terms = Terms::of(&redemption);
        self.records.transact_or_read(move |view| decide_spend(view, &key, this, terms, now)).await
    }

    /// Drops what decides nothing any more by `now`: tokens and identifiers past their time and [`SPARE`], and the counts
    /// of transactions of which the last token presented was issued before `counts_before`.
    ///
    /// The absence of a count would grant uses, so no clock decides about counts. That records are dropped is an event,
    /// durable before the first of them goes: a clock that comes back from a wrong time is found to be behind.
    ///
    /// # Errors
    /// [`StoreError`]; some may have been dropped.
    pub async fn expire(&self, counts_before: Timestamp, now: Timestamp) -> Result<EventOutcome, StoreError> {
        if self.clock.is_behind(now) {
            return Ok(EventOutcome::ClockBehind);
        }
        let is_over = |record: &TokenRecord| record.keep_until + SPARE < now;
        if self.drop_over(Table::Tokens, is_over, now).await? == EventOutcome::ClockBehind {
            return Ok(EventOutcome::ClockBehind);
        }
        let is_over = |keep_until: &Timestamp| *keep_until + SPARE < now;
        if self.drop_over(Table::Single, is_over, now).await? == EventOutcome::ClockBehind {
            return Ok(EventOutcome::ClockBehind);
        }
        self.drop_over(Table::Uses, |uses: &Uses| uses.original_iat < counts_before, now).await
    }

    async fn drop_over<T: DeserializeOwned>(
        &self,
        table: Table,
        is_over: impl Fn(&T) -> bool,
        now: Timestamp,
    ) -> Result<EventOutcome, StoreError> {
        let is_over =
            |record: &[u8]| decode(record).map(|record| is_over(&record)).ok_or(StoreError::Unreadable(NO_RECORD));
        let mut found = self.records.find_over(table, is_over);
        loop {
            let over = found.next().await?;
            if over.is_empty() {
                return Ok(EventOutcome::Recorded);
            }
            if self.clock.record_drop(now).await? == EventOutcome::ClockBehind {
                return Ok(EventOutcome::ClockBehind);
            }
            self.records.remove_unchanged(table, &over).await?;
        }
    }

    /// How many records there are.
    pub fn counts(&self) -> LedgerCounts {
        let count = |table| self.records.count(table);
        LedgerCounts { tokens: count(Table::Tokens), uses: count(Table::Uses), single_use: count(Table::Single) }
    }
}

/// What a use depends on, besides what is counted.
#[derive(Clone, Copy)]
struct Terms {
    original_iat: Timestamp,
    began: Option<Timestamp>,
    max_uses: u32,
    require_record: bool,
}

impl Terms {
    fn of(redemption: &Redemption<'_>) -> Self {
        let Redemption { original_iat, began, max_uses, require_record, .. } = *redemption;
        Self { original_iat, began, max_uses, require_record }
    }
}

fn decide_record(
    view: &View<'_>,
    token: Option<&([u8; 32], TokenRecord)>,
    single_use: Option<SingleUse>,
    now: Timestamp,
) -> Decision<RecordOutcome> {
    let mut change = Change::new();
    if let Some((signed_part, record)) = token {
        change = change.put(Table::Tokens, signed_part, encode(record));
    }
    if let Some(SingleUse { id, made, keep_until }) = single_use {
        if made <= clock::single_use_floor(view)? || view.get(Table::Single, &id)?.is_some() {
            return Ok((Change::new(), RecordOutcome::Replayed));
        }
        change = change.put(Table::Single, &id, times::value(keep_until));
    }
    Ok(match clock::advance_checked(view, change, now)? {
        Some(change) => (change, RecordOutcome::Recorded),
        None => (Change::new(), RecordOutcome::ClockBehind),
    })
}

fn decide_spend(view: &View<'_>, key: &[u8], this: Use, terms: Terms, now: Timestamp) -> Decision<SpendOutcome> {
    let unchanged = |outcome| Ok((Change::new(), outcome));
    let Some(change) = clock::advance_checked(view, Change::new(), now)? else {
        return unchanged(SpendOutcome::ClockBehind);
    };
    if !is_on_record(view, &this.presented, terms)? {
        return unchanged(SpendOutcome::NotOnRecord);
    }
    let before: Option<Uses> = match view.get(Table::Uses, key)? {
        Some(record) => Some(decode(&record).ok_or(Undecided::Unreadable(NO_RECORD))?),
        None => None,
    };
    if let Some(Uses { count, last, .. }) = before.as_ref().filter(|uses| uses.last.is_repeated_by(&this, now)) {
        return unchanged(SpendOutcome::Repeated { use_number: *count, iat: last.iat, exp: last.exp });
    }
    let count = before.as_ref().map_or(0, |uses| uses.count);
    if count >= terms.max_uses {
        return unchanged(SpendOutcome::Exhausted);
    }
    let original_iat = before.map_or(terms.original_iat, |uses| uses.original_iat.max(terms.original_iat));
    let after = Uses { count: count + 1, original_iat, last: this };
    let change = change.put(Table::Uses, key, encode(&after));
    Ok((change, SpendOutcome::Spent { use_number: after.count }))
}

/// Whether the presented token is on record, or need not be. Up to the floor counts are missing, together with all
/// records: what is on record was issued after that. But the tokens of a transaction share their uses, so that one that
/// began before the floor is not redeemed with a later token either.
fn is_on_record(view: &View<'_>, presented: &[u8], terms: Terms) -> Result<bool, Undecided> {
    let floor = clock::redemption_floor(view)?;
    if terms.began.is_some_and(|began| began < floor) {
        return Ok(false);
    }
    let need_not = !terms.require_record && terms.original_iat > floor;
    Ok(need_not || view.get(Table::Tokens, presented)?.is_some())
}

impl Use {
    /// The same client and the same token, while the token of this use lives.
    fn is_repeated_by(&self, other: &Self, now: Timestamp) -> bool {
        self.client == other.client && self.presented == other.presented && now < self.exp
    }
}

fn uses_key(txn: &str, purpose: &str) -> Vec<u8> {
    [txn.as_bytes(), &[0], purpose.as_bytes()].concat()
}

/// Whether a record of the table reads as one that was written here.
pub(crate) fn is_sound(table: Table, record: &[u8]) -> bool {
    match table {
        Table::Tokens => decode::<TokenRecord>(record).is_some(),
        Table::Uses => decode::<Uses>(record).is_some(),
        Table::Single => decode::<Timestamp>(record).is_some(),
        Table::Meta | Table::Keys | Table::History | Table::Clock | Table::Blocks => false,
    }
}

fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("texts and numbers under fixed names always make JSON")
}

fn decode<T: DeserializeOwned>(record: &[u8]) -> Option<T> {
    serde_json::from_slice(record).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On disk for good: what earlier versions wrote is read, and what is written is the same.
    #[test]
    fn records_have_the_form_that_earlier_versions_wrote() {
        let part = [7; 32];
        let numbers = serde_json::to_string(&part).unwrap();
        let uses = format!(
            r#"{{"count":2,"original_iat":5,"last":{{"client":"job","presented":{numbers},"iat":10,"exp":70}}}}"#
        );
        let token = r#"{"txn":"t","keep_until":90}"#;
        assert_eq!(encode(&decode::<Uses>(uses.as_bytes()).unwrap()), uses.as_bytes());
        assert_eq!(encode(&decode::<TokenRecord>(token.as_bytes()).unwrap()), token.as_bytes());
        assert_eq!(decode::<Timestamp>(b"90"), Some(Timestamp::from_epoch(90)));
        assert_eq!(times::value(Timestamp::from_epoch(90)), b"90");
        assert_eq!(uses_key("t", "account.purge"), b"t\0account.purge");
    }
}
