//! The ledger counts uses and records tokens, durably, before a token is sent.
//!
//! In: a [`Permit`]. Out: a [`Term`], the `iat` and `exp` of its token. For a redemption, the use is durable before its
//! token is made; a redeemable token is on record before it is sent. Uses are counted per transaction and purpose, never by
//! a token's text or hash: an ECDSA signature has a second valid form, and the tokens of one transaction share their uses.

use crate::decision::{Grant, GrantKind, began};
use crate::lifetime::TRANSACTION_SPAN;
use crate::permit::Permit;
use crate::subject::{OwnToken, SingleUse};
use writ_platform::clock::Timestamp;
use writ_store::clock::EventOutcome;
use writ_store::ledger::{RecordOutcome, Redemption, SpendOutcome};
use writ_store::{EventClock, LedgerStore, Store, StoreError, ledger as stored};

pub use writ_store::ledger::Redeemable;

/// Why no use was counted or nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The token was not recorded when it was issued, or its record was lost or has expired.
    #[error("the token is not on record")]
    NotOnRecord,
    /// All uses are spent, and this client may not repeat the last one.
    #[error("the token has already been redeemed as often as it may be")]
    Exhausted,
    /// A single-use identifier was used before.
    #[error("the subject token was used before")]
    Replayed,
    /// The clock is behind the last recorded event, so no age can be trusted.
    #[error("the clock of this service is behind its records")]
    ClockBehind,
    /// The store cannot be read or written at present.
    #[error("the store is not available")]
    Unavailable(#[source] StoreError),
    /// The store did not answer before the deadline.
    #[error("the store does not answer in time")]
    Late,
    /// A record is malformed.
    #[error("the store holds a record that cannot be read")]
    Unreadable,
}

impl From<StoreError> for LedgerError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreadable(_) => Self::Unreadable,
            StoreError::Unavailable(_) | StoreError::TooLarge(_) => Self::Unavailable(error),
        }
    }
}

/// `iat` and `exp` of a token, and the use that it spends. Only [`Ledger::spend`] makes one.
///
/// ```compile_fail,E0451
/// # use writ_platform::clock::Timestamp;
/// # fn forge(now: Timestamp) {
/// let term = writ_core::ledger::Term { iat: now, exp: now, spent: None };
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    iat: Timestamp,
    exp: Timestamp,
    spent: Option<Spent>,
}

impl Term {
    /// `iat`.
    pub fn iat(&self) -> Timestamp {
        self.iat
    }

    /// `exp`.
    pub fn exp(&self) -> Timestamp {
        self.exp
    }

    /// The spent use; `None` unless it is a redemption.
    pub(crate) fn spent(&self) -> Option<Spent> {
        self.spent
    }
}

#[cfg(test)]
impl Term {
    /// A term that no ledger returned, for tests.
    pub(crate) fn for_tests(iat: Timestamp, exp: Timestamp, spent: Option<Spent>) -> Self {
        Self { iat, exp, spent }
    }
}

/// A use of the right to redeem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Its number, from 1.
    pub use_number: u32,
    /// Whether it was counted before, so that the last answer is repeated.
    pub(crate) retry: bool,
}

/// What is recorded with a new token.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry<'a> {
    /// The token, if some policy can redeem it.
    pub token: Option<Redeemable<'a>>,
    /// The identifier that it uses up.
    pub single_use: Option<SingleUse>,
}

impl Entry<'_> {
    /// Whether there is nothing to record.
    pub fn is_empty(&self) -> bool {
        self.token.is_none() && self.single_use.is_none()
    }
}

/// The ledger of this trust domain.
pub struct Ledger {
    records: LedgerStore,
    clock: EventClock,
}

impl Ledger {
    /// Opens the ledger in `store`.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Unreadable`].
    pub async fn open(store: Store) -> Result<Self, LedgerError> {
        let clock = store.clock();
        clock.check_records().await?;
        Ok(Self { records: store.ledger(), clock })
    }

    /// Refuses a clock that is behind the last recorded event.
    ///
    /// # Errors
    /// [`LedgerError::ClockBehind`].
    pub fn check_clock(&self, now: Timestamp) -> Result<(), LedgerError> {
        if self.clock.is_behind(now) { Err(LedgerError::ClockBehind) } else { Ok(()) }
    }

    /// Accepts `now` although later events are on record, because an operator has checked the clock.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Unreadable`].
    pub async fn trust_clock(&self, now: Timestamp) -> Result<(), LedgerError> {
        Ok(self.clock.trust(now).await?)
    }

    /// Records a new token, if some policy can redeem it, and the identifier that it uses up. When this returns, all of it
    /// is durable or nothing is written.
    ///
    /// # Errors
    /// [`LedgerError::Replayed`] if the identifier was used, or may have been; [`LedgerError::ClockBehind`],
    /// [`LedgerError::Unavailable`], [`LedgerError::Unreadable`].
    pub async fn record(&self, entry: Entry<'_>, now: Timestamp) -> Result<(), LedgerError> {
        let single_use =
            entry.single_use.map(|SingleUse { id, made, keep_until }| stored::SingleUse { id, made, keep_until });
        match self.records.record(stored::Entry { token: entry.token, single_use }, now).await? {
            RecordOutcome::Recorded => Ok(()),
            RecordOutcome::Replayed => Err(LedgerError::Replayed),
            RecordOutcome::ClockBehind => Err(LedgerError::ClockBehind),
        }
    }

    /// Sets the term of the token of `permit`. For a redemption, counts a use, which is durable when this returns, or
    /// repeats the last one.
    ///
    /// # Errors
    /// Any [`LedgerError`]; no use is counted then, except perhaps after [`LedgerError::Unavailable`].
    pub async fn spend(&self, permit: &Permit, now: Timestamp) -> Result<Term, LedgerError> {
        let grant = permit.grant();
        match grant.kind() {
            GrantKind::Issue { .. } | GrantKind::Replace { .. } => {
                Ok(Term { iat: now, exp: grant.expiry(now), spent: None })
            }
            GrantKind::Redeem { original, max_uses, require_record } => {
                Box::pin(self.redeem(grant, original, *max_uses, *require_record, now)).await
            }
        }
    }

    async fn redeem(
        &self,
        grant: &Grant,
        original: &OwnToken,
        max_uses: u32,
        require_record: bool,
        now: Timestamp,
    ) -> Result<Term, LedgerError> {
        let redemption = Redemption {
            txn: &original.claims().txn,
            purpose: grant.scope().single().ok_or(LedgerError::NotOnRecord)?.as_str(),
            client: grant.client().as_str(),
            presented: *original.signed_part(),
            original_iat: Timestamp::from_epoch(original.claims().iat),
            began: began(&original.claims().txn),
            exp: grant.expiry(now),
            max_uses,
            require_record,
        };
        let term = |iat, exp, use_number, retry| Term { iat, exp, spent: Some(Spent { use_number, retry }) };
        match self.records.spend(redemption, now).await? {
            SpendOutcome::Spent { use_number } => Ok(term(now, redemption.exp, use_number, false)),
            SpendOutcome::Repeated { use_number, iat, exp } => Ok(term(iat, exp, use_number, true)),
            SpendOutcome::NotOnRecord => Err(LedgerError::NotOnRecord),
            SpendOutcome::Exhausted => Err(LedgerError::Exhausted),
            SpendOutcome::ClockBehind => Err(LedgerError::ClockBehind),
        }
    }

    /// Drops records that no decision needs any more: expired ones, and counts of transactions whose tokens were all signed
    /// before `oldest_key`, the start of the oldest key in the history.
    ///
    /// Dropping is an event, recorded before anything is removed: if the clock was wrong and is corrected, it is then found
    /// to be behind.
    ///
    /// # Errors
    /// [`LedgerError::ClockBehind`], [`LedgerError::Unavailable`], [`LedgerError::Unreadable`].
    pub async fn expire(&self, oldest_key: Timestamp, now: Timestamp) -> Result<(), LedgerError> {
        recorded(self.records.expire(oldest_key - TRANSACTION_SPAN, now).await?)
    }

    /// Whether the ledger is proven whole. Until then [`record`](Self::record) and redemptions are
    /// [`LedgerError::Unavailable`].
    pub fn is_whole(&self) -> bool {
        self.records.is_whole()
    }

    /// Updates `writ_ledger_records` and `writ_ledger_ready`.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point; counts stay far below 2^52")]
    pub fn observe(&self) {
        let stored::LedgerCounts { tokens, uses, single_use } = self.records.counts();
        for (kind, count) in [("tokens", tokens), ("uses", uses), ("single_use", single_use)] {
            metrics::gauge!("writ_ledger_records", "kind" => kind).set(count as f64);
        }
        metrics::gauge!("writ_ledger_ready").set(f64::from(u8::from(self.is_whole())));
    }

    /// Records the present time as an event, to find out whether the store can be written again.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::ClockBehind`].
    pub async fn probe(&self, now: Timestamp) -> Result<(), LedgerError> {
        recorded(self.clock.record(now).await?)
    }
}

fn recorded(outcome: EventOutcome) -> Result<(), LedgerError> {
    match outcome {
        EventOutcome::Recorded => Ok(()),
        EventOutcome::ClockBehind => Err(LedgerError::ClockBehind),
    }
}

#[cfg(test)]
mod tests;
