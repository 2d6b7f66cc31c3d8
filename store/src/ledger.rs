//! What the ledger records, and what asking it can answer.
//!
//! Uses are counted per transaction and purpose. The last use is stored with its client and token, so that its answer can
//! be repeated. The operations are those of [`LedgerStore`](super::LedgerStore).

use writ_platform::clock::Timestamp;

/// What is recorded when a token is issued: all of it or nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry<'a> {
    /// The issued token, if it can be redeemed.
    pub token: Option<Redeemable<'a>>,
    /// The identifier that issuing it uses up.
    pub single_use: Option<SingleUse>,
}

/// A token that can be redeemed.
#[derive(Debug, Clone, Copy)]
pub struct Redeemable<'a> {
    /// SHA-256 of the signing input, header and payload. The signature is left out: it has a second valid form.
    pub signed_part: [u8; 32],
    /// The token's `txn`.
    pub txn: &'a str,
    /// The token's `iat`.
    pub iat: Timestamp,
    /// The last second in which it can be redeemed.
    pub keep_until: Timestamp,
}

/// An identifier that can be used once.
#[derive(Debug, Clone, Copy)]
pub struct SingleUse {
    /// A hash that is unique to it.
    pub id: [u8; 32],
    /// When it was created.
    pub made: Timestamp,
    /// The first second in which it has expired, so that the record is no longer needed.
    pub keep_until: Timestamp,
}

/// The outcome of recording an [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "unless it was recorded, the token must not be issued"]
pub enum RecordOutcome {
    /// The whole entry is durable.
    Recorded,
    /// The identifier was used before, or its use may be missing from the records.
    Replayed,
    /// `now` is too far before the last event.
    ClockBehind,
}

/// A request to redeem an issued token.
#[derive(Debug, Clone, Copy)]
pub struct Redemption<'a> {
    /// The token's `txn`.
    pub txn: &'a str,
    /// The purpose of the use.
    pub purpose: &'a str,
    /// The client that redeems it.
    pub client: &'a str,
    /// SHA-256 of the presented token's signing input; see [`Redeemable::signed_part`].
    pub presented: [u8; 32],
    /// The presented token's `iat`.
    pub original_iat: Timestamp,
    /// When the transaction began, if `txn` contains that time.
    pub began: Option<Timestamp>,
    /// `exp` of the token to be issued; its `iat` is the time of the use.
    pub exp: Timestamp,
    /// The limit on uses for this transaction and purpose.
    pub max_uses: u32,
    /// Whether the presented token must be on record.
    pub require_record: bool,
}

/// The outcome of a [`Redemption`]. Unless it is `Spent`, nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "a use may have been refused"]
pub enum SpendOutcome {
    /// A use was counted.
    Spent {
        /// The number of this use, from 1.
        use_number: u32,
    },
    /// The same client presents the token of the last use again, and the token issued for that use has not expired.
    Repeated {
        /// The number of the last use.
        use_number: u32,
        /// `iat` of the token of the last use.
        iat: Timestamp,
        /// `exp` of the token of the last use.
        exp: Timestamp,
    },
    /// The presented token is not on record but must be, or its transaction began before a floor.
    NotOnRecord,
    /// All uses are spent.
    Exhausted,
    /// `now` is too far before the last event.
    ClockBehind,
}

/// The uses counted for one transaction and purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uses<'a> {
    /// How many.
    pub count: u32,
    /// The last one.
    pub last: Use<'a>,
}

/// A use, with the token that is issued for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Use<'a> {
    /// The client that redeems.
    pub client: &'a str,
    /// The token that it presents; see [`Redeemable::signed_part`].
    pub presented: &'a [u8; 32],
    /// `iat` of the token that is issued: the time of the use.
    pub iat: Timestamp,
    /// `exp` of the token that is issued.
    pub exp: Timestamp,
}

impl Use<'_> {
    /// Whether `other` asks for the same again: the same client presents the same token, and the token issued for this use
    /// has not expired.
    fn is_repeated_by(self, other: Use<'_>) -> bool {
        self.client == other.client && self.presented == other.presented && other.iat < self.exp
    }
}

/// Decides the redemption of a token that is on record, or need not be, at the time of `this`: counts a use, which then
/// is the last one, or repeats the last one.
pub fn decide_spend(before: Option<Uses<'_>>, this: Use<'_>, max_uses: u32) -> SpendOutcome {
    let last = before.map(|Uses { count, last }| LastUse { number: count, iat: last.iat, exp: last.exp });
    let is_repeat = before.is_some_and(|uses| uses.last.is_repeated_by(this));
    decide(last, is_repeat, max_uses)
}

/// The last use on record, without what it is compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastUse {
    pub(crate) number: u32,
    pub(crate) iat: Timestamp,
    pub(crate) exp: Timestamp,
}

/// As [`decide_spend`], where a statement has compared the uses.
pub(crate) fn decide(last: Option<LastUse>, is_repeat: bool, max_uses: u32) -> SpendOutcome {
    if let Some(LastUse { number: use_number, iat, exp }) = last.filter(|_| is_repeat) {
        return SpendOutcome::Repeated { use_number, iat, exp };
    }
    let count = last.map_or(0, |last| last.number);
    if count < max_uses { SpendOutcome::Spent { use_number: count + 1 } } else { SpendOutcome::Exhausted }
}

/// The number of records of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerCounts {
    /// Tokens on record.
    pub tokens: u64,
    /// Transactions and purposes for which uses were counted.
    pub uses: u64,
    /// Single-use identifiers that were used.
    pub single_use: u64,
}
