//! The ledger: each use is counted, and each token recorded, in one statement.

use std::sync::Arc;

use tokio_postgres::Row;
use uuid::Uuid;
use writ_platform::clock::{STEP_TOLERANCE, Timestamp};

use super::batch::{Batches, Request};
use super::pool::{Pool, Query, Values};
use super::signed;
use crate::StoreError;
use crate::clock::{EventOutcome, RETENTION_MARGIN, is_behind};
use crate::ledger::{
    Entry, LastUse, LedgerCounts, RecordOutcome, Redeemable, Redemption, SingleUse, SpendOutcome, decide,
};

/// How often a redemption looks again if another one was counted while it looked.
const MAX_LOOKS: u32 = 100;
/// How many records one statement drops.
const BATCH: i64 = 1000;

#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    pool: Arc<Pool>,
    redemptions: Batches<Redeem>,
    tokens: Batches<Record>,
}

/// A redemption as its statement takes it.
#[derive(Debug, Clone)]
pub(super) struct Redeem {
    txn: String,
    purpose: String,
    client: String,
    presented: [u8; 32],
    iat: i64,
    exp: i64,
    original_iat: i64,
    began: Option<i64>,
    max_uses: i32,
    require_record: bool,
}

impl Redeem {
    fn of(redemption: &Redemption<'_>, now: Timestamp) -> Self {
        let Redemption { txn, purpose, client, presented, original_iat, began, exp, max_uses, require_record } =
            *redemption;
        Self {
            txn: txn.to_owned(),
            purpose: purpose.to_owned(),
            client: client.to_owned(),
            presented,
            iat: signed(now),
            exp: signed(exp),
            original_iat: signed(original_iat),
            began: began.map(signed),
            max_uses: i32::try_from(max_uses).unwrap_or(i32::MAX),
            require_record,
        }
    }
}

impl Request for Redeem {
    type Key = (String, String);
    type Group = i32;
    type Answer = Look;

    fn key(&self) -> Self::Key {
        (self.txn.clone(), self.purpose.clone())
    }

    fn group(&self) -> i32 {
        self.max_uses
    }
}

/// A token as its statement takes it.
#[derive(Debug, Clone)]
pub(super) struct Record {
    iat: i64,
    signed_part: [u8; 32],
    keep_until: i64,
    txn: String,
}

impl Request for Record {
    type Key = (i64, [u8; 32]);
    type Group = ();
    type Answer = ();

    fn key(&self) -> Self::Key {
        (self.iat, self.signed_part)
    }

    fn group(&self) {}
}

/// The values of a column.
fn column<'a, T, V>(requests: &'a [T], value: impl Fn(&'a T) -> V) -> Vec<V> {
    requests.iter().map(value).collect()
}

async fn redeem_several(pool: Arc<Pool>, requests: Vec<Redeem>) -> Option<Vec<Look>> {
    let requests = &requests[..];
    let max_uses = requests.first()?.max_uses;
    let values: Values<'_> = &[
        &column(requests, |request| request.txn.as_str()),
        &column(requests, |request| request.purpose.as_str()),
        &column(requests, |request| request.client.as_str()),
        &column(requests, |request| &request.presented[..]),
        &column(requests, |request| request.iat),
        &column(requests, |request| request.exp),
        &column(requests, |request| request.original_iat),
        &max_uses,
        &column(requests, |request| request.require_record),
        &column(requests, |request| request.began),
    ];
    let rows = pool.try_once(|prepared| &prepared.redeem_several, values).await?;
    let looks: Vec<Look> = rows.iter().map(Look::of).collect::<Result<_, _>>().ok()?;
    (looks.len() == requests.len()).then_some(looks)
}

async fn record_several(pool: Arc<Pool>, requests: Vec<Record>) -> Option<Vec<()>> {
    let values: Values<'_> = &[
        &column(&requests, |request| request.iat),
        &column(&requests, |request| &request.signed_part[..]),
        &column(&requests, |request| request.keep_until),
        &column(&requests, |request| request.txn.as_str()),
    ];
    pool.try_once(|prepared| &prepared.record_several, values).await?;
    Some(vec![(); requests.len()])
}

/// What the statement of a redemption found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    is_on_record: bool,
    /// The number of the use that was counted.
    spent: Option<i32>,
    /// The last use before that.
    last: Option<LastUse>,
    is_repeat: bool,
}

impl Look {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let uses: Option<i32> = row.try_get("uses")?;
        let last = match uses {
            Some(uses) => {
                let (iat, exp) = (time(row.try_get("iat")?), time(row.try_get("exp")?));
                Some(LastUse { number: count(uses), iat, exp })
            }
            None => None,
        };
        Ok(Self {
            is_on_record: row.try_get("on_record")?,
            spent: row.try_get("spent")?,
            last,
            is_repeat: row.try_get("is_repeat")?,
        })
    }

    /// The outcome; `None` if another use was counted between the look and the attempt to count this one.
    fn outcome(self, max_uses: i32) -> Option<SpendOutcome> {
        match self {
            Self { spent: Some(number), .. } => Some(SpendOutcome::Spent { use_number: count(number) }),
            Self { is_on_record: false, .. } => Some(SpendOutcome::NotOnRecord),
            Self { last, is_repeat, .. } => match decide(last, is_repeat, count(max_uses)) {
                SpendOutcome::Spent { .. } => None,
                outcome => Some(outcome),
            },
        }
    }
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(u64::try_from(seconds).unwrap_or(0))
}

fn unreadable(_: tokio_postgres::Error) -> StoreError {
    StoreError::Unreadable("a record of the ledger cannot be read")
}

impl Ledger {
    pub(super) fn new(pool: &Arc<Pool>) -> Self {
        let (redeeming, recording) = (Arc::clone(pool), Arc::clone(pool));
        Self {
            pool: Arc::clone(pool),
            redemptions: Batches::start(&pool.connector, move |requests| {
                redeem_several(Arc::clone(&redeeming), requests)
            }),
            tokens: Batches::start(&pool.connector, move |requests| record_several(Arc::clone(&recording), requests)),
        }
    }

    pub(crate) async fn record(&self, entry: Entry<'_>, now: Timestamp) -> Result<RecordOutcome, StoreError> {
        if is_behind(self.pool.health.last_event(), now) {
            return Ok(RecordOutcome::ClockBehind);
        }
        match entry {
            Entry { single_use: Some(single_use), token } => self.use_up(single_use, token).await,
            Entry { single_use: None, token: Some(token) } => self.record_token(token).await,
            Entry { single_use: None, token: None } => Ok(RecordOutcome::Recorded),
        }
    }

    async fn record_token(&self, token: Redeemable<'_>) -> Result<RecordOutcome, StoreError> {
        self.check_well()?;
        let Redeemable { signed_part, txn, iat, keep_until } = token;
        let request = Record { iat: signed(iat), signed_part, keep_until: signed(keep_until), txn: txn.to_owned() };
        if self.tokens.ask(request.clone()).await.is_none() {
            let Record { iat, signed_part, keep_until, txn } = request;
            let values: Values<'_> = &[&iat, &&signed_part[..], &keep_until, &txn];
            self.pool.row_again("record", Query::Prepared(|prepared| &prepared.record), values).await?;
        }
        Ok(RecordOutcome::Recorded)
    }

    /// Without proof that the database is well, nothing new is started.
    fn check_well(&self) -> Result<(), StoreError> {
        self.pool.health.check().map_err(StoreError::Unavailable)
    }

    async fn use_up(&self, single_use: SingleUse, token: Option<Redeemable<'_>>) -> Result<RecordOutcome, StoreError> {
        let SingleUse { id, made, keep_until } = single_use;
        // This call may repeat itself; any other finds the identifier used.
        let attempt = Uuid::new_v4();
        let row = self
            .pool
            .row(
                "record",
                Query::Prepared(|prepared| &prepared.use_up),
                &[
                    &&id[..],
                    &signed(keep_until),
                    &&attempt.as_bytes()[..],
                    &signed(made),
                    &token.map(|token| signed(token.iat)),
                    &token.as_ref().map(|token| &token.signed_part[..]),
                    &token.map(|token| signed(token.keep_until)),
                    &token.map(|token| token.txn),
                ],
            )
            .await?;
        let is_recorded: bool = row.try_get("is_recorded").map_err(unreadable)?;
        Ok(if is_recorded { RecordOutcome::Recorded } else { RecordOutcome::Replayed })
    }

    pub(crate) async fn spend(&self, redemption: Redemption<'_>, now: Timestamp) -> Result<SpendOutcome, StoreError> {
        if is_behind(self.pool.health.last_event(), now) {
            return Ok(SpendOutcome::ClockBehind);
        }
        self.check_well()?;
        let request = Redeem::of(&redemption, now);
        for _ in 0..MAX_LOOKS {
            let look = match self.redemptions.ask(request.clone()).await {
                Some(look) => look,
                None => self.redeem_alone(&request).await?,
            };
            if let Some(outcome) = look.outcome(request.max_uses) {
                return Ok(outcome);
            }
        }
        Err(StoreError::Unavailable("other uses of the token are counted all the time".to_owned()))
    }

    async fn redeem_alone(&self, request: &Redeem) -> Result<Look, StoreError> {
        let Redeem { txn, purpose, client, presented, iat, exp, original_iat, began, max_uses, require_record } =
            request;
        let values: Values<'_> =
            &[txn, purpose, client, &&presented[..], iat, exp, original_iat, max_uses, require_record, began];
        let row = self.pool.row_again("spend", Query::Prepared(|prepared| &prepared.redeem), values).await?;
        Look::of(&row.ok_or(StoreError::Unreadable("a row is missing"))?).map_err(unreadable)
    }

    pub(crate) async fn expire(&self, counts_before: Timestamp, now: Timestamp) -> Result<EventOutcome, StoreError> {
        if is_behind(self.pool.health.last_event(), now) {
            return Ok(EventOutcome::ClockBehind);
        }
        let statements = &self.pool.connector.statements;
        let tolerance = i64::try_from(STEP_TOLERANCE.as_secs()).unwrap_or(0);
        let event = self.pool.row("expire", Query::Text(&statements.record_drop), &[&signed(now), &tolerance]).await?;
        let last_event: Option<i64> = event.try_get("last_event").map_err(unreadable)?;
        if last_event.is_none() {
            return Ok(EventOutcome::ClockBehind);
        }
        let expired_before = signed(now - RETENTION_MARGIN);
        while self.drop_week(expired_before).await? {}
        for (text, before) in
            [(&statements.expire_single_use, expired_before), (&statements.expire_uses, signed(counts_before))]
        {
            loop {
                let row = self.pool.row("expire", Query::Text(text), &[&before, &BATCH]).await?;
                let dropped: i64 = row.try_get("dropped").map_err(unreadable)?;
                if dropped < BATCH {
                    break;
                }
            }
        }
        Ok(EventOutcome::Recorded)
    }

    /// Drops the tokens of one week at once, if all of them expired before this second.
    async fn drop_week(&self, before: i64) -> Result<bool, StoreError> {
        let text = &self.pool.connector.statements.drop_week;
        let row = self.pool.row("expire", Query::Text(text), &[&before]).await?;
        row.try_get("is_dropped").map_err(unreadable)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.pool.health.check().is_ok()
    }

    /// Estimates of the database's statistics: exact numbers would cost a scan, or one row that every use moves.
    pub(crate) fn counts(&self) -> LedgerCounts {
        self.pool.health.counts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(number: u32) -> LastUse {
        LastUse { number, iat: time(5), exp: time(9) }
    }

    const NOTHING: Look = Look { is_on_record: true, spent: None, last: None, is_repeat: false };

    #[test]
    fn the_outcome_of_a_redemption_follows_from_one_row() {
        let spent = Look { spent: Some(2), last: Some(last(1)), ..NOTHING };
        assert_eq!(spent.outcome(2), Some(SpendOutcome::Spent { use_number: 2 }));
        let off_record = Look { is_on_record: false, is_repeat: true, last: Some(last(1)), ..NOTHING };
        assert_eq!(off_record.outcome(2), Some(SpendOutcome::NotOnRecord));
        let repeated = Look { is_repeat: true, last: Some(last(1)), ..NOTHING };
        let again = SpendOutcome::Repeated { use_number: 1, iat: time(5), exp: time(9) };
        assert_eq!(repeated.outcome(1), Some(again));
        assert_eq!(Look { last: Some(last(2)), ..NOTHING }.outcome(2), Some(SpendOutcome::Exhausted));
        assert_eq!(NOTHING.outcome(0), Some(SpendOutcome::Exhausted));
        for met_another in [NOTHING, Look { last: Some(last(1)), ..NOTHING }] {
            assert_eq!(met_another.outcome(2), None, "look again");
        }
    }
}
