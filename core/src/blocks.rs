//! The kill switch: what an operator has stopped gets nothing more, issued, replaced or redeemed.
//!
//! An entry ([`Block`]) names a transaction, a subject, a client, a purpose, or several of these, which must then all
//! match. The entries in force are in memory, where every request meets them ([`Blocks::check_client`],
//! [`Blocks::check`]), and in the store, so that they hold after a restart. In doubt an entry is in force.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use writ_verifier::{Purpose, Scope, TxnClaims};

use crate::client::ClientId;
use crate::decision::Grant;
use crate::request::Subject;
use crate::subject::OwnToken;
use writ_platform::clock::Timestamp;
use writ_platform::digest::sha256;
use writ_store::{Change, Store, StoreError, Table};

/// Entries are kept for so much longer than they are in force: a clock that runs ahead for a day drops nothing early.
const SPARE: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// An operator has stopped what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an operator has stopped this; that can pass, so keep the token and try again later")]
pub struct Blocked;

/// The name of a transaction (`txn`) as an operator writes it: 1 to 255 characters, none a control character.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Txn(String);

/// The text is no [`Txn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a txn has 1 to 255 characters, none a control character")]
pub struct TxnError;

/// What one entry stops: everything that all of its selectors match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Selectors", into = "Selectors")]
pub struct Block(Selectors);

/// The selectors as they are given; not every combination makes a [`Block`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selectors {
    /// Everything. Stands alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// The transaction. A new one has no name yet, so this stops replacement and redemption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<Txn>,
    /// Whom the Txn-Token would be for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<Subject>,
    /// The client that asks, or one that asked for a token of the transaction before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientId>,
    /// One of the purposes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
}

/// The selectors make no [`Block`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SelectorsError {
    /// There are none: that would be everything, which must be said.
    #[error("say what to stop: a txn, a sub, a client, a purpose, or all")]
    Nothing,
    /// `all` with others: either could be meant.
    #[error("all stands alone: with it, no txn, sub, client or purpose")]
    AllAndMore,
}

/// A [`Block`] with its times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What it stops.
    pub block: Block,
    /// Since when.
    pub added_at: Timestamp,
    /// The first second in which it is not in force any more; `None`: for good.
    pub until: Option<Timestamp>,
}

/// One entry as it is told to people and programs: `null` for what it does not name, times in RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockLine {
    /// The transaction.
    pub txn: Option<Txn>,
    /// The subject.
    pub sub: Option<Subject>,
    /// The client.
    pub client: Option<ClientId>,
    /// The purpose. If none of the four is named, the entry stops everything.
    pub purpose: Option<Purpose>,
    /// Since when.
    pub added_at: String,
    /// Until when; `None`: for good.
    pub until: Option<String>,
}

/// What an entry may match: what a grant is about, or what a token says.
#[derive(Debug)]
pub struct Matter<'a> {
    /// `None` for a new transaction, which has no name yet.
    txn: Option<&'a str>,
    sub: &'a str,
    /// Whoever asks, and whoever asked before.
    clients: Vec<&'a str>,
    scope: &'a Scope,
}

/// Why the kill switch could not be set.
#[derive(Debug, thiserror::Error)]
pub enum BlocksError {
    /// It would never have been in force.
    #[error("the time until which to stop it has passed")]
    Past,
    /// There is nothing to remove.
    #[error("there is no such block")]
    NoSuch,
    /// The store did not take the entry. In a running service it is in force all the same.
    #[error("it is not on record ({0}); a service that runs heeds it all the same, until it ends")]
    NotKept(StoreError),
    /// The store does not answer. Nothing has changed.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
    /// An entry cannot be what was written.
    #[error("a record of the kill switch cannot be read; see `writ store repair`")]
    Unreadable,
}

/// The entries in force.
pub struct Blocks {
    store: Store,
    /// In the order in which they were added.
    entries: ArcSwap<Vec<Entry>>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Block {
    /// Whether all that it names matches.
    pub fn stops(&self, matter: &Matter<'_>) -> bool {
        let Selectors { all: _, txn, sub, client, purpose } = &self.0;
        txn.as_ref().is_none_or(|txn| matter.txn == Some(txn.as_str()))
            && sub.as_ref().is_none_or(|sub| sub.as_str() == matter.sub)
            && client.as_ref().is_none_or(|client| matter.clients.contains(&client.as_str()))
            && purpose.as_ref().is_none_or(|purpose| matter.scope.purposes().contains(purpose))
    }

    /// Whether it stops whatever this client asks for.
    fn stops_client(&self, asking: &ClientId) -> bool {
        match &self.0 {
            Selectors { all: _, txn: None, sub: None, client, purpose: None } => {
                client.as_ref().is_none_or(|client| client == asking)
            }
            _ => false,
        }
    }

    /// The name of its record: SHA-256 of the selectors as JSON, which has one form only.
    fn key(&self) -> Vec<u8> {
        let text = serde_json::to_vec(&self.0).expect("texts under fixed names always make JSON");
        sha256(&text).to_vec()
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

    fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until + SPARE < now)
    }

    /// As it is told.
    pub fn line(&self) -> BlockLine {
        let Selectors { all: _, txn, sub, client, purpose } = self.block.0.clone();
        let until = self.until.map(|until| until.to_string());
        BlockLine { txn, sub, client, purpose, added_at: self.added_at.to_string(), until }
    }
}

impl<'a> Matter<'a> {
    /// What `grant` is about.
    pub fn of_grant(grant: &'a Grant) -> Self {
        let original = grant.original().map(OwnToken::claims);
        let mut clients = vec![grant.client().as_str()];
        clients.extend(original.into_iter().flat_map(chain));
        Self { txn: original.map(|claims| claims.txn.as_str()), sub: grant.sub(), clients, scope: grant.scope() }
    }

    /// What a token of ours is about.
    pub fn of_token(claims: &'a TxnClaims) -> Self {
        Self { txn: Some(&claims.txn), sub: &claims.sub, clients: chain(claims).collect(), scope: &claims.scope }
    }
}

/// Every client that asked for a token of the transaction.
fn chain(claims: &TxnClaims) -> impl Iterator<Item = &str> {
    claims.req_wl_chain.iter().chain([&claims.req_wl]).map(String::as_str)
}

impl Blocks {
    /// The entries kept in `store`.
    ///
    /// # Errors
    /// [`BlocksError::Unavailable`], [`BlocksError::Unreadable`].
    pub async fn open(store: Store) -> Result<Self, BlocksError> {
        let records = store.scan(Table::Blocks).await?;
        let entries = records.iter().map(|(key, value)| parse(key, value).ok_or(BlocksError::Unreadable));
        let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(|entry| entry.added_at);
        Ok(Self { store, entries: ArcSwap::from_pointee(entries), turn: tokio::sync::Mutex::default() })
    }

    /// Refuses a client that gets nothing at all, whatever it asks for and presents.
    ///
    /// # Errors
    /// [`Blocked`].
    pub fn check_client(&self, client: &ClientId, now: Timestamp) -> Result<(), Blocked> {
        self.refuse_if(now, |block| block.stops_client(client))
    }

    /// Refuses what any entry matches, those included that [`check_client`](Self::check_client) looks at: they may be
    /// newer than the request, or name a client that asked for the token before.
    ///
    /// # Errors
    /// [`Blocked`].
    pub fn check(&self, matter: &Matter<'_>, now: Timestamp) -> Result<(), Blocked> {
        self.refuse_if(now, |block| block.stops(matter))
    }

    fn refuse_if(&self, now: Timestamp, stops: impl Fn(&Block) -> bool) -> Result<(), Blocked> {
        let entries = self.entries.load();
        let stopped = entries.iter().any(|entry| entry.is_in_force(now) && stops(&entry.block));
        if stopped { Err(Blocked) } else { Ok(()) }
    }

    /// Every entry, oldest first, those included whose time has passed but which are still kept.
    pub fn list(&self) -> Vec<BlockLine> {
        self.entries.load().iter().map(Entry::line).collect()
    }

    /// Puts `block` in force until `until`, or for good; on record when this returns. If it is in force already, this
    /// time counts from now on.
    ///
    /// # Errors
    /// [`BlocksError::Past`]; [`BlocksError::NotKept`]: in force, but perhaps not after a restart.
    pub async fn add(&self, block: Block, until: Option<Timestamp>, now: Timestamp) -> Result<Entry, BlocksError> {
        if until.is_some_and(|until| until <= now) {
            return Err(BlocksError::Past);
        }
        let _turn = self.turn.lock().await;
        let mut entries = self.entries.load().to_vec();
        let before = entries.iter().find(|entry| entry.block == block && entry.is_in_force(now));
        let entry = Entry { added_at: before.map_or(now, |entry| entry.added_at), block, until };
        entries.retain(|other| other.block != entry.block);
        entries.push(entry.clone());
        entries.sort_by_key(|entry| entry.added_at);
        // Even if the disk is full: what is to be stopped is stopped now.
        self.entries.store(Arc::new(entries));
        let change = keep(Change::new(), &entry);
        // No condition, so there is no conflict.
        let _ = self.store.swap(change).await.map_err(BlocksError::NotKept)?;
        Ok(entry)
    }

    /// Ends the entry for exactly these selectors; off the record when this returns.
    ///
    /// # Errors
    /// [`BlocksError::NoSuch`]; [`BlocksError::Unavailable`]: it is still in force.
    pub async fn remove(&self, block: &Block) -> Result<Entry, BlocksError> {
        let _turn = self.turn.lock().await;
        let entries = self.entries.load_full();
        let entry = entries.iter().find(|entry| entry.block == *block).ok_or(BlocksError::NoSuch)?;
        self.drop_entry(block).await?;
        Ok(entry.clone())
    }

    /// Drops entries whose time passed long ago.
    ///
    /// # Errors
    /// [`BlocksError::Unavailable`].
    pub async fn sweep(&self, now: Timestamp) -> Result<(), BlocksError> {
        let _turn = self.turn.lock().await;
        for entry in self.entries.load_full().iter().filter(|entry| entry.is_over(now)) {
            self.drop_entry(&entry.block).await?;
        }
        Ok(())
    }

    /// First from the store: what is not in force must not come back.
    async fn drop_entry(&self, block: &Block) -> Result<(), StoreError> {
        let _ = self.store.swap(Change::new().remove(Table::Blocks, &block.key())).await?;
        let kept = self.entries.load().iter().filter(|entry| entry.block != *block).cloned().collect();
        self.entries.store(Arc::new(kept));
        Ok(())
    }
}

/// Adds to `change` those of the records found in a damaged store that read as entries, and says how many they are.
pub fn carry_over(change: Change, found: &[(Vec<u8>, Vec<u8>)]) -> (Change, u64) {
    let entries: Vec<_> = found.iter().filter_map(|(key, value)| parse(key, value)).collect();
    (entries.iter().fold(change, keep), entries.len() as u64)
}

fn keep(change: Change, entry: &Entry) -> Change {
    let value = serde_json::to_vec(entry).expect("texts and numbers under fixed names always make JSON");
    change.put(Table::Blocks, &entry.block.key(), value)
}

/// The entry in a record; `None` if none was written so.
fn parse(key: &[u8], value: &[u8]) -> Option<Entry> {
    serde_json::from_slice(value).ok().filter(|entry: &Entry| entry.block.key() == key)
}

impl Txn {
    /// The name as text.
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
mod tests {
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;
    use writ_store::{Settings, Swapped};

    const NOW: Timestamp = Timestamp::from_epoch(1_790_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn block(selectors: Value) -> Block {
        serde_json::from_value(selectors).unwrap()
    }

    fn matter<'a>(txn: Option<&'a str>, clients: &[&'a str], scope: &'a Scope) -> Matter<'a> {
        Matter { txn, sub: "u-1", clients: clients.to_vec(), scope }
    }

    struct Installed(TempDir);

    impl Installed {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        async fn store(&self) -> Store {
            Store::open(&Settings { path: self.0.path().join("data") }).await.unwrap()
        }

        async fn blocks(&self) -> Blocks {
            Blocks::open(self.store().await).await.unwrap()
        }

        async fn restarted(&self, blocks: Blocks) -> Blocks {
            blocks.store.close().await;
            self.blocks().await
        }
    }

    /// Whether the subject is stopped.
    fn is_stopped(blocks: &Blocks, sub: &str, now: Timestamp) -> bool {
        let scope = "a".parse().unwrap();
        blocks.check(&Matter { sub, ..matter(None, &["gateway"], &scope) }, now).is_err()
    }

    #[test]
    fn a_block_says_what_it_stops() {
        let refused = |selectors: Value| serde_json::from_value::<Block>(selectors).unwrap_err().to_string();
        assert!(refused(json!({})).starts_with("say what to stop"));
        assert!(refused(json!({"all": false, "sub": null})).starts_with("say what to stop"));
        assert!(refused(json!({"all": true, "sub": "u-1"})).starts_with("all stands alone"));
        assert!(refused(json!({"sub": "u-1", "kid": "k"})).contains("kid"), "left out, it would stop more");
        for selectors in [
            json!({"txn": ""}),
            json!({"txn": "t\u{0}"}),
            json!({"txn": "t".repeat(256)}),
            json!({"sub": ""}),
            json!({"sub": "u".repeat(256)}),
            json!({"client": "no/name"}),
            json!({"purpose": "two words"}),
        ] {
            assert!(serde_json::from_value::<Block>(selectors.clone()).is_err(), "{selectors}");
        }
    }

    #[test]
    fn every_selector_must_match() {
        let scope = "a b".parse().unwrap();
        let matter = matter(Some("t-1"), &["batch", "accounts"], &scope);
        for (selectors, stops) in [
            (json!({"all": true}), true),
            (json!({"txn": "t-1"}), true),
            (json!({"txn": "T-1"}), false),
            (json!({"sub": "u-1"}), true),
            (json!({"sub": "u-10"}), false),
            (json!({"client": "batch"}), true),
            (json!({"client": "accounts"}), true),
            (json!({"client": "account"}), false),
            (json!({"purpose": "a"}), true),
            (json!({"purpose": "b"}), true),
            (json!({"purpose": "ab"}), false),
            (json!({"txn": "t-1", "sub": "u-1", "client": "accounts", "purpose": "b"}), true),
            (json!({"txn": "t-2", "sub": "u-1", "client": "accounts", "purpose": "b"}), false),
            (json!({"txn": "t-1", "sub": "u-2", "client": "accounts", "purpose": "b"}), false),
            (json!({"txn": "t-1", "sub": "u-1", "client": "gateway", "purpose": "b"}), false),
            (json!({"txn": "t-1", "sub": "u-1", "client": "accounts", "purpose": "c"}), false),
        ] {
            assert_eq!(block(selectors.clone()).stops(&matter), stops, "{selectors}");
        }
    }

    #[test]
    fn a_new_transaction_has_no_name_to_be_stopped_by() {
        let grant = Grant::issuing("gateway", "u-1", "a b", None);
        let stops = |selectors| block(selectors).stops(&Matter::of_grant(&grant));
        assert!(stops(json!({"sub": "u-1", "client": "gateway", "purpose": "b"})));
        assert!(!stops(json!({"txn": "t"})));
        assert!(!stops(json!({"txn": "t", "sub": "u-1"})));
    }

    /// The client that asks, and all that asked before.
    #[test]
    fn a_client_is_found_in_the_chain_of_a_token() {
        let mut original = OwnToken::expired("t", 1, NOW.epoch());
        original.claims_mut().req_wl_chain = vec!["gateway".into(), "account-service".into()];
        let claims = original.claims().clone();
        let grant = Grant::redeeming("job", original, 1, true);
        let clients = ["job", "account-service", "gateway", "other"];
        let stopped = |matter: &Matter<'_>| clients.map(|client| block(json!({"client": client})).stops(matter));
        assert_eq!(stopped(&Matter::of_grant(&grant)), [true, true, true, false]);
        assert_eq!(stopped(&Matter::of_token(&claims)), [false, true, true, false]);
        let grant = Grant::redeeming("job", OwnToken::expired("t", 1, NOW.epoch()), 1, true);
        assert_eq!(stopped(&Matter::of_grant(&grant)), [true, true, false, false]);
        for selectors in [json!({"txn": "t"}), json!({"sub": "u-1", "purpose": "account.purge"})] {
            assert!(block(selectors.clone()).stops(&Matter::of_grant(&grant)), "{selectors}");
            assert!(block(selectors.clone()).stops(&Matter::of_token(&claims)), "{selectors}");
        }
    }

    /// CONTRACT 3.6: before its subject token is looked at, a client hears only that nothing is for it.
    #[tokio::test]
    async fn a_client_is_stopped_early_only_if_it_gets_nothing_at_all() {
        let (job, other) = ("job".parse().unwrap(), "other".parse().unwrap());
        for (selectors, stopped) in [
            (json!({"all": true}), (true, true)),
            (json!({"client": "job"}), (true, false)),
            (json!({"client": "job", "purpose": "a"}), (false, false)),
            (json!({"client": "job", "sub": "u-1"}), (false, false)),
            (json!({"client": "job", "txn": "t"}), (false, false)),
            (json!({"sub": "u-1"}), (false, false)),
        ] {
            let installed = Installed::new();
            let blocks = installed.blocks().await;
            blocks.add(block(selectors.clone()), None, NOW).await.unwrap();
            let early = |client| blocks.check_client(client, NOW).is_err();
            assert_eq!((early(&job), early(&other)), stopped, "{selectors}");
        }
    }

    #[tokio::test]
    async fn what_is_stopped_stays_stopped_until_it_is_removed() {
        let installed = Installed::new();
        let blocks = installed.blocks().await;
        blocks.add(block(json!({"sub": "u-1"})), None, NOW).await.unwrap();
        assert!(is_stopped(&blocks, "u-1", NOW) && !is_stopped(&blocks, "u-2", NOW));
        let blocks = installed.restarted(blocks).await;
        assert!(is_stopped(&blocks, "u-1", NOW + 4000 * DAY));
        let other = blocks.remove(&block(json!({"sub": "u-1", "client": "gateway"}))).await;
        assert!(matches!(other, Err(BlocksError::NoSuch)), "exactly the same selectors, no fewer and no more");
        blocks.remove(&block(json!({"sub": "u-1"}))).await.unwrap();
        assert!(!is_stopped(&blocks, "u-1", NOW));
        let blocks = installed.restarted(blocks).await;
        assert!(!is_stopped(&blocks, "u-1", NOW));
        assert!(matches!(blocks.remove(&block(json!({"sub": "u-1"}))).await, Err(BlocksError::NoSuch)));
    }

    #[tokio::test]
    async fn a_block_ends_at_its_time() {
        let installed = Installed::new();
        let blocks = installed.blocks().await;
        blocks.add(block(json!({"sub": "u-1"})), Some(NOW + DAY), NOW).await.unwrap();
        assert!(is_stopped(&blocks, "u-1", NOW + DAY - Duration::from_secs(1)));
        assert!(!is_stopped(&blocks, "u-1", NOW + DAY));
        for past in [NOW, NOW - DAY] {
            let refused = blocks.add(block(json!({"sub": "u-2"})), Some(past), NOW).await;
            assert!(matches!(refused, Err(BlocksError::Past)));
        }
        assert_eq!(blocks.list().len(), 1);
    }

    #[tokio::test]
    async fn adding_again_replaces_the_end() {
        let installed = Installed::new();
        let blocks = installed.blocks().await;
        let add = |until, now| blocks.add(block(json!({"sub": "u-1"})), until, now);
        add(Some(NOW + DAY), NOW).await.unwrap();
        blocks.add(block(json!({"all": true})), None, NOW + DAY / 4).await.unwrap();
        add(None, NOW + DAY / 2).await.unwrap();
        let told = |until: Option<Timestamp>, added_at: Timestamp| {
            let until = until.map(|until| until.to_string());
            json!({"txn": null, "sub": "u-1", "client": null, "purpose": null, "added_at": added_at.to_string(), "until": until})
        };
        let list = serde_json::to_value(blocks.list()).unwrap();
        assert_eq!(list[0], told(None, NOW), "since then it has been stopped without a break");
        assert_eq!((&list[1]["sub"], list.as_array().unwrap().len()), (&Value::Null, 2));
        add(Some(NOW + DAY), NOW + DAY / 2).await.unwrap();
        add(Some(NOW + 3 * DAY), NOW + 2 * DAY).await.unwrap();
        assert_eq!(serde_json::to_value(&blocks.list()[1]).unwrap(), told(Some(NOW + 3 * DAY), NOW + 2 * DAY));
        let before = blocks.list();
        assert_eq!(installed.restarted(blocks).await.list(), before);
    }

    /// A-129: a clock that runs ahead for a day ends nothing for good.
    #[tokio::test]
    async fn only_what_passed_long_ago_is_swept() {
        let installed = Installed::new();
        let blocks = installed.blocks().await;
        blocks.add(block(json!({"sub": "u-1"})), Some(NOW + DAY), NOW).await.unwrap();
        blocks.add(block(json!({"sub": "u-2"})), None, NOW).await.unwrap();
        blocks.sweep(NOW + 3 * DAY).await.unwrap();
        assert!(is_stopped(&blocks, "u-1", NOW));
        blocks.sweep(NOW + 3 * DAY + Duration::from_secs(1)).await.unwrap();
        let blocks = installed.restarted(blocks).await;
        assert!(!is_stopped(&blocks, "u-1", NOW) && is_stopped(&blocks, "u-2", NOW));
        assert_eq!(blocks.list().len(), 1);
    }

    /// A-102: in doubt it is stopped.
    #[tokio::test]
    async fn without_a_store_what_is_to_be_stopped_is_stopped_and_goes_on_only_on_record() {
        let installed = Installed::new();
        let blocks = installed.blocks().await;
        blocks.add(block(json!({"sub": "u-1"})), None, NOW).await.unwrap();
        blocks.store.clone().close().await;
        let added = blocks.add(block(json!({"sub": "u-2"})), None, NOW).await;
        assert!(matches!(added, Err(BlocksError::NotKept(_))));
        assert!(is_stopped(&blocks, "u-2", NOW));
        let removed = blocks.remove(&block(json!({"sub": "u-1"}))).await;
        assert!(matches!(removed, Err(BlocksError::Unavailable(_))));
        assert!(is_stopped(&blocks, "u-1", NOW));
    }

    /// On disk for good: another form of the same selectors would be another record.
    #[test]
    fn a_record_is_named_by_its_selectors() {
        let sha256 = |text: &str| sha256(text.as_bytes()).to_vec();
        assert_eq!(block(json!({"all": true})).key(), sha256(r#"{"all":true}"#));
        let all = json!({"purpose": "a", "client": "job", "sub": "u-1", "txn": "t"});
        assert_eq!(block(all).key(), sha256(r#"{"txn":"t","sub":"u-1","client":"job","purpose":"a"}"#));
    }

    /// A-122: what was stopped might go on.
    #[tokio::test]
    async fn a_record_that_cannot_be_read_stops_the_start_and_is_not_carried_over() {
        let installed = Installed::new();
        let blocks = installed.blocks().await;
        blocks.add(block(json!({"sub": "u-1"})), None, NOW).await.unwrap();
        let sound = blocks.store.scan(Table::Blocks).await.unwrap();
        blocks.store.close().await;
        let (key, value) = sound[0].clone();
        let bare = br#"{"block":{},"added_at":1,"until":null}"#.to_vec();
        let misplaced = (b"elsewhere".to_vec(), value.clone());
        for damaged in [misplaced, (key.clone(), bare), (key.clone(), value[1..].to_vec())] {
            let store = installed.store().await;
            let damage = Change::new().put(Table::Blocks, &damaged.0, damaged.1.clone());
            assert_eq!(store.swap(damage).await.unwrap(), Swapped::Done);
            assert!(matches!(Blocks::open(store.clone()).await, Err(BlocksError::Unreadable)));
            let cleared = Change::new().remove(Table::Blocks, &damaged.0);
            let (change, kept) = carry_over(cleared, &[damaged, (key.clone(), value.clone())]);
            assert_eq!(kept, 1);
            assert_eq!(store.swap(change).await.unwrap(), Swapped::Done);
            store.close().await;
        }
        assert!(is_stopped(&installed.blocks().await, "u-1", NOW));
    }
}
