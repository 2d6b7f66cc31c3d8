//! The records of the ledger: redeemable tokens, the uses counted for them, and single-use identifiers.
//!
//! Each operation is one transaction, durable when its outcome is returned. Uses are counted per transaction and
//! purpose. The last use is stored with its client and token, so that its answer can be repeated.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use writ_platform::clock::Timestamp;

use super::clock::{self, Clock};
use super::records::Records;
use super::table::{Change, Record, Table};
use super::times;
use super::transaction::{Decision, Undecided, View};
use crate::StoreError;
use crate::clock::{EventOutcome, RETENTION_MARGIN};
use crate::ledger::{Entry, LedgerCounts, RecordOutcome, Redemption, SingleUse, SpendOutcome, Use, Uses, decide_spend};
use crate::portable::{self, Kind, Page, Token, UsedId};

const NOT_WHOLE: &str = "its ledger is not yet proven whole";
const NO_RECORD: &str = "a record of the ledger cannot be read";

/// The ledger of one store; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    records: Records,
    clock: Clock,
}

#[derive(Debug, Serialize, Deserialize)]
struct TokenRecord {
    txn: String,
    keep_until: Timestamp,
}

/// The uses counted for one transaction and purpose.
#[derive(Debug, Serialize, Deserialize)]
struct UsesRecord {
    count: u32,
    /// `iat` of the latest presented token.
    original_iat: Timestamp,
    last: UseRecord,
}

/// The last counted use.
#[derive(Debug, Serialize, Deserialize)]
struct UseRecord {
    client: String,
    presented: [u8; 32],
    iat: Timestamp,
    exp: Timestamp,
}

impl Ledger {
    pub(crate) fn new(records: Records) -> Self {
        Self { clock: Clock::new(records.clone()), records }
    }

    /// Records an issued token, uses up an identifier, or both at once.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] the entry may or may not be recorded.
    pub(crate) async fn record(&self, entry: Entry<'_>, now: Timestamp) -> Result<RecordOutcome, StoreError> {
        self.require_whole()?;
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
    /// [`StoreError`]; after [`StoreError::Unavailable`] the use may or may not be counted. The same redemption can be
    /// retried: if it was counted, the outcome is repeated.
    pub(crate) async fn spend(&self, redemption: Redemption<'_>, now: Timestamp) -> Result<SpendOutcome, StoreError> {
        self.require_whole()?;
        let key = uses_key(redemption.txn, redemption.purpose);
        let this = UseRecord {
            client: redemption.client.to_owned(),
            presented: redemption.presented,
            iat: now,
            exp: redemption.exp,
        };
        let terms = Terms::of(&redemption);
        self.records.transact_or_read(move |view| spend(view, &key, this, terms)).await
    }

    /// Drops records that no decision needs any more: tokens and identifiers that expired more than two days before
    /// `now`, and the counts of transactions whose latest presented token was issued before `counts_before`.
    ///
    /// A missing count would grant uses, so counts are never dropped by the clock. Dropping is an event, durable before
    /// the first record is removed: a clock that is corrected after a wrong time is then found to be behind.
    ///
    /// # Errors
    /// [`StoreError`]; some may have been dropped.
    pub(crate) async fn expire(&self, counts_before: Timestamp, now: Timestamp) -> Result<EventOutcome, StoreError> {
        self.require_whole()?;
        if self.clock.is_behind(now) {
            return Ok(EventOutcome::ClockBehind);
        }
        let is_over = |record: &TokenRecord| record.keep_until + RETENTION_MARGIN < now;
        if self.drop_over(Table::Tokens, is_over, now).await? == EventOutcome::ClockBehind {
            return Ok(EventOutcome::ClockBehind);
        }
        let is_over = |keep_until: &Timestamp| *keep_until + RETENTION_MARGIN < now;
        if self.drop_over(Table::Single, is_over, now).await? == EventOutcome::ClockBehind {
            return Ok(EventOutcome::ClockBehind);
        }
        self.drop_over(Table::Uses, |uses: &UsesRecord| uses.original_iat < counts_before, now).await
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

    /// Whether the seal has proven that no record is missing. Until then nothing can be recorded or spent.
    pub(crate) fn is_whole(&self) -> bool {
        self.records.is_whole()
    }

    fn require_whole(&self) -> Result<(), StoreError> {
        if self.is_whole() { Ok(()) } else { Err(StoreError::Unavailable(NOT_WHOLE.to_owned())) }
    }

    /// The number of durable records of each kind.
    pub(crate) fn counts(&self) -> LedgerCounts {
        let count = |table| self.records.count(table);
        LedgerCounts { tokens: count(Table::Tokens), uses: count(Table::Uses), single_use: count(Table::Single) }
    }
}

/// The conditions of a redemption, besides the recorded counts.
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
    let Some(mut change) = clock::advance_checked(view, Change::new(), now)? else {
        return Ok((Change::new(), RecordOutcome::ClockBehind));
    };
    if let Some((signed_part, record)) = token {
        change = change.put(Table::Tokens, signed_part, encode(record));
    }
    if let Some(SingleUse { id, made, keep_until }) = single_use {
        if made <= clock::single_use_floor(view)? || view.get(Table::Single, &id)?.is_some() {
            return Ok((Change::new(), RecordOutcome::Replayed));
        }
        change = change.put(Table::Single, &id, times::value(keep_until));
    }
    Ok((change, RecordOutcome::Recorded))
}

fn spend(view: &View<'_>, key: &[u8], this: UseRecord, terms: Terms) -> Decision<SpendOutcome> {
    let unchanged = |outcome| Ok((Change::new(), outcome));
    let Some(change) = clock::advance_checked(view, Change::new(), this.iat)? else {
        return unchanged(SpendOutcome::ClockBehind);
    };
    if !is_on_record(view, &this.presented, terms)? {
        return unchanged(SpendOutcome::NotOnRecord);
    }
    let before: Option<UsesRecord> = match view.get(Table::Uses, key)? {
        Some(record) => Some(decode(&record).ok_or(Undecided::Unreadable(NO_RECORD))?),
        None => None,
    };
    let outcome = decide_spend(before.as_ref().map(UsesRecord::uses), this.as_use(), terms.max_uses);
    let SpendOutcome::Spent { use_number: count } = outcome else { return unchanged(outcome) };
    let original_iat = before.map_or(terms.original_iat, |uses| uses.original_iat.max(terms.original_iat));
    let after = UsesRecord { count, original_iat, last: this };
    Ok((change.put(Table::Uses, key, encode(&after)), outcome))
}

/// Whether the presented token is on record, or need not be. Up to the floor both counts and token records are missing,
/// so a token on record was issued after it. But all tokens of a transaction share their uses: if the transaction began
/// before the floor, a later token cannot be redeemed either.
fn is_on_record(view: &View<'_>, presented: &[u8], terms: Terms) -> Result<bool, Undecided> {
    let floor = clock::redemption_floor(view)?;
    if terms.began.is_some_and(|began| began < floor) {
        return Ok(false);
    }
    let need_not = !terms.require_record && terms.original_iat > floor;
    Ok(need_not || view.get(Table::Tokens, presented)?.is_some())
}

impl UsesRecord {
    fn uses(&self) -> Uses<'_> {
        Uses { count: self.count, last: self.last.as_use() }
    }
}

impl UseRecord {
    fn as_use(&self) -> Use<'_> {
        Use { client: &self.client, presented: &self.presented, iat: self.iat, exp: self.exp }
    }
}

fn uses_key(txn: &str, purpose: &str) -> Vec<u8> {
    [txn.as_bytes(), &[0], purpose.as_bytes()].concat()
}

/// Whether the record can be decoded as one of this table.
pub(crate) fn is_sound(table: Table, record: &[u8]) -> bool {
    match table {
        Table::Tokens => decode::<TokenRecord>(record).is_some(),
        Table::Uses => decode::<UsesRecord>(record).is_some(),
        Table::Single => decode::<Timestamp>(record).is_some(),
        Table::Meta | Table::Keys | Table::History | Table::Clock | Table::Blocks => false,
    }
}

/// The records of a kind in the form in which they move between engines.
pub(super) fn export(kind: Kind, records: &[Record]) -> Option<Page> {
    Some(match kind {
        Kind::Tokens => Page::Tokens(records.iter().map(export_token).collect::<Option<_>>()?),
        Kind::Uses => Page::Uses(records.iter().map(export_uses).collect::<Option<_>>()?),
        Kind::SingleUse => Page::SingleUse(records.iter().map(export_used_id).collect::<Option<_>>()?),
    })
}

/// The records of a page, as they are stored.
pub(super) fn import(page: &Page) -> Vec<Record> {
    match page {
        Page::Tokens(tokens) => tokens.iter().map(import_token).collect(),
        Page::Uses(uses) => uses.iter().map(import_uses).collect(),
        Page::SingleUse(ids) => ids.iter().map(|used| (used.id.clone(), times::value(used.keep_until))).collect(),
    }
}

pub(super) fn table(kind: Kind) -> Table {
    match kind {
        Kind::Tokens => Table::Tokens,
        Kind::Uses => Table::Uses,
        Kind::SingleUse => Table::Single,
    }
}

fn export_token((key, value): &Record) -> Option<Token> {
    let TokenRecord { txn, keep_until } = decode(value)?;
    Some(Token { signed_part: key.as_slice().try_into().ok()?, txn, iat: None, keep_until })
}

fn import_token(token: &Token) -> Record {
    let record = TokenRecord { txn: token.txn.clone(), keep_until: token.keep_until };
    (token.signed_part.to_vec(), encode(&record))
}

fn export_uses((key, value): &Record) -> Option<portable::Uses> {
    let (txn, purpose) = std::str::from_utf8(key).ok()?.split_once('\0')?;
    let UsesRecord { count, original_iat, last: UseRecord { client, presented, iat, exp } } = decode(value)?;
    let (txn, purpose) = (txn.to_owned(), purpose.to_owned());
    Some(portable::Uses { txn, purpose, count, original_iat, client, presented, iat, exp })
}

fn import_uses(uses: &portable::Uses) -> Record {
    let portable::Uses { txn, purpose, count, original_iat, client, presented, iat, exp } = uses;
    let last = UseRecord { client: client.clone(), presented: *presented, iat: *iat, exp: *exp };
    (uses_key(txn, purpose), encode(&UsesRecord { count: *count, original_iat: *original_iat, last }))
}

fn export_used_id((key, value): &Record) -> Option<UsedId> {
    Some(UsedId { id: key.clone(), keep_until: times::parse(Some(value))? })
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

    /// The form on disk never changes: records of earlier versions are read, and the same form is written.
    #[test]
    fn records_have_the_form_that_earlier_versions_wrote() {
        let part = [7; 32];
        let numbers = serde_json::to_string(&part).unwrap();
        let uses = format!(
            r#"{{"count":2,"original_iat":5,"last":{{"client":"job","presented":{numbers},"iat":10,"exp":70}}}}"#
        );
        let token = r#"{"txn":"t","keep_until":90}"#;
        assert_eq!(encode(&decode::<UsesRecord>(uses.as_bytes()).unwrap()), uses.as_bytes());
        assert_eq!(encode(&decode::<TokenRecord>(token.as_bytes()).unwrap()), token.as_bytes());
        assert_eq!(decode::<Timestamp>(b"90"), Some(Timestamp::from_epoch(90)));
        assert_eq!(times::value(Timestamp::from_epoch(90)), b"90");
        assert_eq!(uses_key("t", "account.purge"), b"t\0account.purge");
    }
}
