use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::subject::OwnToken;
use writ_store::{Settings, repair, testing};

const NOW: Timestamp = Timestamp::from_epoch(1_790_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn block(selectors: Value) -> Block {
    serde_json::from_value(selectors).unwrap()
}

fn target<'a>(txn: Option<&'a str>, clients: &[&'a str], scope: &'a Scope) -> BlockTarget<'a> {
    BlockTarget { txn, sub: "u-1", clients: clients.to_vec(), scope }
}

struct Installed(TempDir);

impl Installed {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn store(&self) -> Store {
        Store::open(&self.settings()).await.unwrap()
    }

    fn settings(&self) -> Settings {
        Settings::Sled { path: self.0.path().join("data") }
    }

    async fn blocks(&self) -> Opened {
        let store = self.store().await;
        Opened { blocks: Blocks::open(store.clone()).await.unwrap(), store }
    }

    async fn restarted(&self, blocks: Opened) -> Opened {
        blocks.store.close().await;
        self.blocks().await
    }
}

/// A kill switch with its store.
struct Opened {
    blocks: Blocks,
    store: Store,
}

impl std::ops::Deref for Opened {
    type Target = Blocks;

    fn deref(&self) -> &Blocks {
        &self.blocks
    }
}

/// Whether the subject is blocked.
fn is_stopped(blocks: &Blocks, sub: &str, now: Timestamp) -> bool {
    let scope = "a".parse().unwrap();
    blocks.check(&BlockTarget { sub, ..target(None, &["gateway"], &scope) }, now).is_err()
}

#[test]
fn a_block_says_what_it_stops() {
    let refused = |selectors: Value| serde_json::from_value::<Block>(selectors).unwrap_err().to_string();
    assert!(refused(json!({})).starts_with("say what to stop"));
    assert!(refused(json!({"all": false, "sub": null})).starts_with("say what to stop"));
    assert!(refused(json!({"all": true, "sub": "u-1"})).starts_with("all cannot be combined"));
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
    let target = target(Some("t-1"), &["batch", "accounts"], &scope);
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
        assert_eq!(block(selectors.clone()).stops(&target), stops, "{selectors}");
    }
}

#[test]
fn a_new_transaction_has_no_name_to_be_stopped_by() {
    let grant = Grant::issuing("gateway", "u-1", "a b", None);
    let stops = |selectors| block(selectors).stops(&BlockTarget::of_grant(&grant));
    assert!(stops(json!({"sub": "u-1", "client": "gateway", "purpose": "b"})));
    assert!(!stops(json!({"txn": "t"})));
    assert!(!stops(json!({"txn": "t", "sub": "u-1"})));
}

/// The requesting client, and all that requested earlier tokens.
#[test]
fn a_client_is_found_in_the_chain_of_a_token() {
    let mut original = OwnToken::expired("t", 1, NOW.epoch());
    original.claims_mut().req_wl_chain = vec!["gateway".into(), "account-service".into()];
    let claims = original.claims().clone();
    let grant = Grant::redeeming("job", original, 1, true);
    let clients = ["job", "account-service", "gateway", "other"];
    let stopped = |target: &BlockTarget<'_>| clients.map(|client| block(json!({"client": client})).stops(target));
    assert_eq!(stopped(&BlockTarget::of_grant(&grant)), [true, true, true, false]);
    assert_eq!(stopped(&BlockTarget::of_token(&claims)), [false, true, true, false]);
    let grant = Grant::redeeming("job", OwnToken::expired("t", 1, NOW.epoch()), 1, true);
    assert_eq!(stopped(&BlockTarget::of_grant(&grant)), [true, true, false, false]);
    for selectors in [json!({"txn": "t"}), json!({"sub": "u-1", "purpose": "account.purge"})] {
        assert!(block(selectors.clone()).stops(&BlockTarget::of_grant(&grant)), "{selectors}");
        assert!(block(selectors.clone()).stops(&BlockTarget::of_token(&claims)), "{selectors}");
    }
}

/// CONTRACT 3.6: before its subject token is verified, a client learns only whether all of its requests are blocked.
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
    let line = |until: Option<Timestamp>, added_at: Timestamp| {
        let until = until.map(|until| until.to_string());
        json!({"txn": null, "sub": "u-1", "client": null, "purpose": null, "added_at": added_at.to_string(), "until": until})
    };
    let list = serde_json::to_value(blocks.list()).unwrap();
    assert_eq!(list[0], line(None, NOW), "since then it has been stopped without a break");
    assert_eq!((&list[1]["sub"], list.as_array().unwrap().len()), (&Value::Null, 2));
    add(Some(NOW + DAY), NOW + DAY / 2).await.unwrap();
    add(Some(NOW + 3 * DAY), NOW + 2 * DAY).await.unwrap();
    assert_eq!(serde_json::to_value(&blocks.list()[1]).unwrap(), line(Some(NOW + 3 * DAY), NOW + 2 * DAY));
    let before = blocks.list();
    assert_eq!(installed.restarted(blocks).await.list(), before);
}

/// A-129: a clock that is a day ahead ends no block permanently.
#[tokio::test]
async fn only_what_passed_long_ago_is_dropped() {
    let installed = Installed::new();
    let blocks = installed.blocks().await;
    blocks.add(block(json!({"sub": "u-1"})), Some(NOW + DAY), NOW).await.unwrap();
    blocks.add(block(json!({"sub": "u-2"})), None, NOW).await.unwrap();
    blocks.expire(NOW + 3 * DAY).await.unwrap();
    assert!(is_stopped(&blocks, "u-1", NOW));
    blocks.expire(NOW + 3 * DAY + Duration::from_secs(1)).await.unwrap();
    let blocks = installed.restarted(blocks).await;
    assert!(!is_stopped(&blocks, "u-1", NOW) && is_stopped(&blocks, "u-2", NOW));
    assert_eq!(blocks.list().len(), 1);
}

/// What a failed write leaves: the entry in force has an end, its record has none. Both go, or the block would be back
/// after a restart.
#[tokio::test]
async fn an_entry_that_ended_is_dropped_whatever_end_its_record_has() {
    let installed = Installed::new();
    let blocks = installed.blocks().await;
    blocks.add(block(json!({"sub": "u-1"})), None, NOW).await.unwrap();
    let records = testing::dump(&blocks.store).await.unwrap();
    let (name, without_end) = records.iter().find(|(name, _)| name.starts_with(b"blocks/")).unwrap();
    blocks.add(block(json!({"sub": "u-1"})), Some(NOW + DAY), NOW).await.unwrap();
    testing::write(&blocks.store, &[(name, Some(without_end))]).await.unwrap();
    blocks.expire(NOW + 4 * DAY).await.unwrap();
    assert!(blocks.list().is_empty() && installed.restarted(blocks).await.list().is_empty());
}

/// A-102: in doubt the block is in force.
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

/// The form on disk never changes: another form of the same selectors would be another record.
#[test]
fn selectors_have_one_form() {
    assert_eq!(block(json!({"all": true})).to_json(), r#"{"all":true}"#);
    let all = json!({"purpose": "a", "client": "job", "sub": "u-1", "txn": "t"});
    assert_eq!(block(all).to_json(), r#"{"txn":"t","sub":"u-1","client":"job","purpose":"a"}"#);
}

/// A-122: a lost block would let requests through.
#[tokio::test]
async fn a_record_that_cannot_be_read_stops_the_start_and_is_not_carried_over() {
    let installed = Installed::new();
    let blocks = installed.blocks().await;
    blocks.add(block(json!({"sub": "u-1"})), None, NOW).await.unwrap();
    let (name, value) = testing::dump(&blocks.store).await.unwrap().into_iter().next().unwrap();
    assert!(name.starts_with(b"blocks/"), "the first table by its name");
    blocks.store.close().await;
    let named = |selectors: &str| [b"blocks/", digest(&SHA256, selectors.as_bytes()).as_ref()].concat();
    let record = |selectors: &str| format!(r#"{{"block":{selectors},"added_at":1,"until":null}}"#).into_bytes();
    let other_form = r#"{"client":"job","sub":"u-1"}"#;
    let damages = [
        (b"blocks/elsewhere".to_vec(), value.clone()),
        (name.clone(), record("{}")),
        (name.clone(), value[1..].to_vec()),
        (named("{}"), record("{}")),
        (named(other_form), record(other_form)),
    ];
    for (damaged, content) in damages {
        let store = installed.store().await;
        testing::write(&store, &[(&damaged, Some(&content))]).await.unwrap();
        assert!(matches!(Blocks::open(store.clone()).await, Err(BlocksError::Unreadable)));
        store.close().await;
        let remains = repair::survey(&installed.settings()).unwrap();
        let kept = readable(remains.blocks());
        let expected = usize::from(damaged != name);
        let salvage = remains.salvage(None, &kept, NOW);
        assert_eq!((kept.len(), salvage.blocks.kept), (expected, expected), "{}", content.escape_ascii());
        repair::replace(&installed.settings(), &salvage).unwrap();
        assert_eq!(installed.blocks().await.list().len(), expected);
        let store = installed.store().await;
        testing::write(&store, &[(&name, Some(&value))]).await.unwrap();
        store.close().await;
    }
    let blocks = installed.blocks().await;
    assert!(is_stopped(&blocks, "u-1", NOW));
}
