//! The kill switch: no token is issued, replaced or redeemed for what an operator has blocked.
//!
//! An entry ([`Block`]) names a transaction, a subject, a client, a purpose, or several of these, which must then all
//! match. The entries in force are in memory, where every request is checked against them (`Blocks::check_client`,
//! `Blocks::check`), and in the store, so that they survive a restart. In doubt an entry is in force.

use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use writ_verifier::{Purpose, Scope, TxnClaims};

use crate::client::ClientId;
use crate::decision::Grant;
use crate::request::Subject;
use crate::subject::OwnToken;
use writ_platform::clock::Timestamp;
use writ_store::blocks::{StoredBlock, is_over};
use writ_store::{BlockStore, Store, StoreError};

/// An operator has blocked the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an operator has stopped this; that can pass, so keep the token and try again later")]
pub struct Blocked;

/// The `txn` of a transaction as an operator writes it: 1 to 255 characters, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Txn(String);

/// The text is not a [`Txn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a txn has 1 to 255 characters, none of them a control character")]
pub struct TxnError;

/// What one entry blocks: every request that all of its selectors match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Selectors", into = "Selectors")]
pub struct Block(Selectors);

/// The selectors as they are given; not every combination makes a [`Block`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selectors {
    /// Blocks everything. It excludes the other selectors.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// The transaction. A new one has no `txn` yet, so this blocks only replacement and redemption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<Txn>,
    /// `sub` of the Txn-Token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<Subject>,
    /// The requesting client, or one that requested an earlier token of the transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientId>,
    /// One of the purposes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
}

/// The selectors do not make a [`Block`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SelectorsError {
    /// No selector is given. Blocking everything must be requested explicitly.
    #[error("say what to stop: a txn, a sub, a client, a purpose, or all")]
    Nothing,
    /// `all` is combined with other selectors, so the intent is ambiguous.
    #[error("all cannot be combined with txn, sub, client or purpose")]
    AllAndMore,
}

/// A [`Block`] with its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it blocks: the grants and tokens that match all of its selectors.
    pub block: Block,
    /// The time from which it is in force.
    pub added_at: Timestamp,
    /// The first second in which it is no longer in force; `None`: it has no end.
    pub until: Option<Timestamp>,
}

/// One entry as listed for operators and programs: selectors that are not set are `null`, times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockLine {
    /// `txn` of the token that is requested or presented.
    pub txn: Option<Txn>,
    /// `sub` of the token.
    pub sub: Option<Subject>,
    /// The client that asks, or that the token or its chain names.
    pub client: Option<ClientId>,
    /// The purpose. If none of the four selectors is set, the entry blocks everything.
    pub purpose: Option<Purpose>,
    /// The time from which it is in force.
    pub added_at: String,
    /// The time at which it ends; `None`: it has no end.
    pub until: Option<String>,
}

/// The properties of a grant or a token that entries are matched against.
#[derive(Debug)]
pub(crate) struct BlockTarget<'a> {
    /// `None` for a new transaction, which has no `txn` yet.
    txn: Option<&'a str>,
    sub: &'a str,
    /// The requesting client, and those that requested earlier tokens of the transaction.
    clients: Vec<&'a str>,
    scope: &'a Scope,
}

/// Why an entry of the kill switch could not be read, added or removed.
#[derive(Debug, thiserror::Error)]
pub enum BlocksError {
    /// Its end has already passed.
    #[error("the end of the block is in the past")]
    Past,
    /// No entry has these selectors.
    #[error("there is no such block")]
    NoSuch,
    /// The store did not record the entry. In a running service it is in force nevertheless.
    #[error("it is not on record ({0}); a running service still enforces it, until it ends")]
    NotKept(StoreError),
    /// The store is unavailable. Nothing has changed.
    #[error(transparent)]
    Unavailable(StoreError),
    /// A stored entry is malformed.
    #[error("a record of the kill switch cannot be read; see `writ store repair`")]
    Unreadable,
}

impl From<StoreError> for BlocksError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreadable(_) => Self::Unreadable,
            StoreError::Unavailable(_) | StoreError::TooLarge(_) => Self::Unavailable(error),
        }
    }
}

/// The entries in force.
pub struct Blocks {
    records: BlockStore,
    /// In the order in which they were added.
    entries: ArcSwap<Vec<Entry>>,
    /// Serialises changes; holds the entries in force that the store did not record.
    turn: tokio::sync::Mutex<Vec<Block>>,
}

impl Block {
    /// Whether all of its selectors match `target`.
    pub(crate) fn stops(&self, target: &BlockTarget<'_>) -> bool {
        let Selectors { all: _, txn, sub, client, purpose } = &self.0;
        txn.as_ref().is_none_or(|txn| target.txn == Some(txn.as_str()))
            && sub.as_ref().is_none_or(|sub| sub.as_str() == target.sub)
            && client.as_ref().is_none_or(|client| target.clients.contains(&client.as_str()))
            && purpose.as_ref().is_none_or(|purpose| target.scope.purposes().contains(purpose))
    }

    /// Whether it blocks every request of this client.
    fn stops_client(&self, asking: &ClientId) -> bool {
        match &self.0 {
            Selectors { all: _, txn: None, sub: None, client, purpose: None } => {
                client.as_ref().is_none_or(|client| client == asking)
            }
            _ => false,
        }
    }

    /// Its selectors as canonical JSON, which identifies the entry in the store.
    fn to_json(&self) -> String {
        serde_json::to_string(&self.0).expect("texts under fixed names always make JSON")
    }
}

impl TryFrom<Selectors> for Block {
    type Error = SelectorsError;

    fn try_from(selectors: Selectors) -> Result<Self, SelectorsError> {
        let Selectors { all, txn, sub, client, purpose } = &selectors;
        let names = txn.is_some() || sub.is_some() || client.is_some() || purpose.is_some();
        match (all, names) {
            (false, false) => Err(SelectorsError::Nothing),
            (true, true) => Err(SelectorsError::AllAndMore),
            (true, false) | (false, true) => Ok(Self(selectors)),
        }
    }
}

impl From<Block> for Selectors {
    fn from(block: Block) -> Self {
        block.0
    }
}

impl Entry {
    fn is_in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    fn stored(&self) -> StoredBlock {
        StoredBlock { selectors: self.block.to_json(), added_at: self.added_at, until: self.until }
    }

    /// The entry as listed for operators.
    pub fn line(&self) -> BlockLine {
        let Selectors { all: _, txn, sub, client, purpose } = self.block.0.clone();
        let until = self.until.map(|until| until.to_string());
        BlockLine { txn, sub, client, purpose, added_at: self.added_at.to_string(), until }
    }
}

impl TryFrom<StoredBlock> for Entry {
    type Error = BlocksError;

    fn try_from(StoredBlock { selectors, added_at, until }: StoredBlock) -> Result<Self, BlocksError> {
        let block: Block = serde_json::from_str(&selectors).map_err(|_| BlocksError::Unreadable)?;
        if block.to_json() == selectors { Ok(Self { block, added_at, until }) } else { Err(BlocksError::Unreadable) }
    }
}

impl<'a> BlockTarget<'a> {
    /// The properties of `grant`.
    pub(crate) fn of_grant(grant: &'a Grant) -> Self {
        let original = grant.original().map(OwnToken::claims);
        let mut clients = vec![grant.client().as_str()];
        clients.extend(original.into_iter().flat_map(chain));
        Self { txn: original.map(|claims| claims.txn.as_str()), sub: grant.sub(), clients, scope: grant.scope() }
    }

    /// The properties of a token that this service issued.
    pub(crate) fn of_token(claims: &'a TxnClaims) -> Self {
        Self { txn: Some(&claims.txn), sub: &claims.sub, clients: chain(claims).collect(), scope: &claims.scope }
    }
}

/// Every client that requested a token of the transaction.
fn chain(claims: &TxnClaims) -> impl Iterator<Item = &str> {
    claims.req_wl_chain.iter().chain([&claims.req_wl]).map(String::as_str)
}

impl Blocks {
    /// Loads the entries from `store`.
    ///
    /// # Errors
    /// [`BlocksError::Unavailable`], [`BlocksError::Unreadable`].
    pub async fn open(store: Store) -> Result<Self, BlocksError> {
        let records = store.blocks();
        let entries = recorded(&records).await?;
        Ok(Self { records, entries: ArcSwap::from_pointee(entries), turn: tokio::sync::Mutex::default() })
    }

    /// Loads the entries again, because another instance has changed them. Those that could not be recorded here stay in
    /// force.
    ///
    /// # Errors
    /// [`BlocksError::Unavailable`], [`BlocksError::Unreadable`]; nothing has changed then.
    pub async fn refresh(&self) -> Result<(), BlocksError> {
        let unrecorded = self.turn.lock().await;
        let mut entries = recorded(&self.records).await?;
        let active = self.entries.load();
        let kept = active.iter().filter(|entry| unrecorded.contains(&entry.block));
        for entry in kept {
            entries.retain(|other| other.block != entry.block);
            entries.push(entry.clone());
        }
        entries.sort_by_key(|entry| entry.added_at);
        self.entries.store(Arc::new(entries));
        Ok(())
    }

    /// Refuses a client whose every request is blocked, by an entry that names only the client or everything.
    ///
    /// # Errors
    /// [`Blocked`].
    pub(crate) fn check_client(&self, client: &ClientId, now: Timestamp) -> Result<(), Blocked> {
        self.refuse_if(now, |block| block.stops_client(client))
    }

    /// Refuses a target that any entry matches, including the entries that [`check_client`](Self::check_client) checks:
    /// they may be newer than the request, or name a client that requested an earlier token.
    ///
    /// # Errors
    /// [`Blocked`].
    pub(crate) fn check(&self, target: &BlockTarget<'_>, now: Timestamp) -> Result<(), Blocked> {
        self.refuse_if(now, |block| block.stops(target))
    }

    fn refuse_if(&self, now: Timestamp, stops: impl Fn(&Block) -> bool) -> Result<(), Blocked> {
        let entries = self.entries.load();
        let stopped = entries.iter().any(|entry| entry.is_in_force(now) && stops(&entry.block));
        if stopped { Err(Blocked) } else { Ok(()) }
    }

    /// Every entry, oldest first, including those that have ended but are not yet dropped.
    pub fn list(&self) -> Vec<BlockLine> {
        self.entries.load().iter().map(Entry::line).collect()
    }

    /// Puts `block` in force until `until`, or without end; it is on record when this returns. If it is already in force,
    /// the new end replaces the old one.
    ///
    /// # Errors
    /// [`BlocksError::Past`]; [`BlocksError::NotKept`]: it is in force, but may not survive a restart.
    pub async fn add(&self, block: Block, until: Option<Timestamp>, now: Timestamp) -> Result<Entry, BlocksError> {
        if until.is_some_and(|until| until <= now) {
            return Err(BlocksError::Past);
        }
        let mut unrecorded = self.turn.lock().await;
        let mut entries = self.entries.load().to_vec();
        let before = entries.iter().find(|entry| entry.block == block && entry.is_in_force(now));
        let entry = Entry { added_at: before.map_or(now, |entry| entry.added_at), block, until };
        entries.retain(|other| other.block != entry.block);
        entries.push(entry.clone());
        entries.sort_by_key(|entry| entry.added_at);
        // In force at once, even if the disk is full.
        self.entries.store(Arc::new(entries));
        unrecorded.retain(|block| *block != entry.block);
        if let Err(error) = self.records.add(&entry.stored()).await {
            unrecorded.push(entry.block.clone());
            return Err(BlocksError::NotKept(error));
        }
        Ok(entry)
    }

    /// Removes the entry with exactly these selectors; it is off the record when this returns.
    ///
    /// # Errors
    /// [`BlocksError::NoSuch`]; [`BlocksError::Unavailable`]: it is still in force.
    pub async fn remove(&self, block: &Block) -> Result<Entry, BlocksError> {
        let mut unrecorded = self.turn.lock().await;
        let entries = self.entries.load_full();
        let entry = entries.iter().find(|entry| entry.block == *block).ok_or(BlocksError::NoSuch)?;
        // Removed from the store first, so that it cannot return after a restart.
        self.records.remove(&block.to_json()).await?;
        unrecorded.retain(|other| other != block);
        self.retain(|entry| entry.block != *block);
        Ok(entry.clone())
    }

    /// Drops entries that ended long ago.
    ///
    /// # Errors
    /// [`BlocksError::Unavailable`].
    pub async fn expire(&self, now: Timestamp) -> Result<(), BlocksError> {
        let _turn = self.turn.lock().await;
        let ended = |entry: &Entry| entry.until.is_some_and(|until| is_over(until, now));
        // By the entries in force: after a failed write the record of one may have no end, or another.
        for entry in self.entries.load_full().iter().filter(|entry| ended(entry)) {
            self.records.remove(&entry.block.to_json()).await?;
        }
        self.retain(|entry| !ended(entry));
        Ok(())
    }

    fn retain(&self, is_kept: impl Fn(&Entry) -> bool) {
        let kept = self.entries.load().iter().filter(|entry| is_kept(entry)).cloned().collect();
        self.entries.store(Arc::new(kept));
    }
}

/// The entries on record, oldest first.
async fn recorded(records: &BlockStore) -> Result<Vec<Entry>, BlocksError> {
    let entries = records.list().await?.into_iter().map(Entry::try_from);
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(|entry| entry.added_at);
    Ok(entries)
}

/// Of the entries found in a damaged store, those that are valid and can be carried over.
pub fn readable(found: Vec<StoredBlock>) -> Vec<StoredBlock> {
    found.into_iter().filter(|block| Entry::try_from(block.clone()).is_ok()).collect()
}

impl Txn {
    /// The `txn` as sent in requests and tokens.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Txn {
    type Err = TxnError;

    fn from_str(text: &str) -> Result<Self, TxnError> {
        let fits = !text.chars().any(char::is_control) && (1..=255).contains(&text.chars().count());
        fits.then(|| Self(text.to_owned())).ok_or(TxnError)
    }
}

impl TryFrom<String> for Txn {
    type Error = TxnError;

    fn try_from(text: String) -> Result<Self, TxnError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests;
