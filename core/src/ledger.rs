//! Uses of tokens are counted, and tokens recorded, before anything leaves.
//!
//! In: a [`Permit`]. Out: a [`Term`], from when to when its token lives. For a redemption a use is durable before the
//! token that it pays for is made; a token that can be redeemed is on record before it leaves. Uses are counted by
//! transaction and purpose, never by a token's text or hash: an ECDSA signature has a second valid form, and the tokens of
//! one transaction share their uses.

use crate::decision::{Grant, GrantKind, began};
use crate::lifetime::TRANSACTION_SPAN;
use crate::permit::Permit;
use crate::subject::{OwnToken, SingleUse};
use writ_platform::clock::Timestamp;
use writ_store::clock::{EventClock, EventOutcome};
use writ_store::ledger::{LedgerStore, RecordOutcome, Redemption, SpendOutcome};
use writ_store::{Store, StoreError, ledger as stored};

pub use writ_store::ledger::Redeemable;

/// Why nothing was counted or recorded.
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
    Unavailable(#[source] StoreError),
    /// The store does not answer in the time that is left.
    #[error("the store does not answer in time")]
    Late,
    /// A record is not one that Writ wrote.
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

/// From when to when a token lives, and which use it is. Only [`Ledger::spend`] gives one.
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

    /// The use, on a redemption.
    pub fn spent(&self) -> Option<Spent> {
        self.spent
    }
}

#[cfg(test)]
impl Term {
    /// A term that no ledger gave, for tests of what is done with terms.
    pub(crate) fn for_tests(iat: Timestamp, exp: Timestamp, spent: Option<Spent>) -> Self {
        Self { iat, exp, spent }
    }
}

/// A use of the right to redeem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Its number, from 1.
    pub use_number: u32,
    /// Whether it was counted before: the last answer is given again.
    pub retry: bool,
}

/// What goes on record with a new token.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry<'a> {
    /// The token, if some policy can redeem it.
    pub token: Option<Redeemable<'a>>,
    /// What is used with it.
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
    /// The ledger kept in `store`.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Unreadable`].
    pub async fn open(store: Store) -> Result<Self, LedgerError> {
        let clock = store.clock();
        clock.check_records().await?;
        Ok(Self { records: store.ledger(), clock })
    }

    /// Refuses a clock that lies behind what was recorded.
    ///
    /// # Errors
    /// [`LedgerError::ClockBehind`].
    pub fn check_clock(&self, now: Timestamp) -> Result<(), LedgerError> {
        if self.clock.is_behind(now) { Err(LedgerError::ClockBehind) } else { Ok(()) }
    }

    /// Takes `now` as right, though later events are on record: an operator has checked the clock.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Unreadable`].
    pub async fn trust_clock(&self, now: Timestamp) -> Result<(), LedgerError> {
        Ok(self.clock.trust(now).await?)
    }

    /// Puts on record what leaves with a new token: the token itself, if some policy can redeem it, and what is used with
    /// it. All of it is durable when this returns, or nothing is written.
    ///
    /// # Errors
    /// [`LedgerError::Replayed`] if what can be used once was used, or may have been; [`LedgerError::ClockBehind`],
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
                self.redeem(grant, original, *max_uses, *require_record, now).await
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

    /// Drops what can decide nothing any more: records past their time, and counts of transactions whose every token
    /// was signed by keys that left the history, the oldest of which now begins at `oldest_key`.
    ///
    /// That is an event: it is on record before anything goes, so that a clock that comes back is found behind.
    ///
    /// # Errors
    /// [`LedgerError::ClockBehind`], [`LedgerError::Unavailable`], [`LedgerError::Unreadable`].
    pub async fn expire(&self, oldest_key: Timestamp, now: Timestamp) -> Result<(), LedgerError> {
        recorded(self.records.expire(oldest_key - TRANSACTION_SPAN, now).await?)
    }

    /// Brings `writ_ledger_records` up to date.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point; counts stay far below 2^52")]
    pub fn observe(&self) {
        let stored::LedgerCounts { tokens, uses, single_use } = self.records.counts();
        for (kind, count) in [("tokens", tokens), ("uses", uses), ("single_use", single_use)] {
            metrics::gauge!("writ_ledger_records", "kind" => kind).set(count as f64);
        }
    }

    /// Writes what is known anyway, to find out whether the store works again.
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
