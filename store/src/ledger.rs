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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
