//! The ring on a real store: order of steps, crashes and restarts.

use std::fs;
use std::path::Path;

use jsonwebtoken::Validation;
use serde_json::{Value, json};
use tempfile::TempDir;
use writ_verifier::TrustDomain;
use writ_verifier::jws::Jws;
use zeroize::Zeroizing;

use super::event::{KeyChange, KeyEvent};
use super::repair::{Problem, Rebuilt};
use super::rotation::ClosingSpan;
use super::*;
use crate::claims::Claims;
use writ_platform::clock::Clock;
use writ_store::{Store, repair, testing};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_epoch(1_000_000 + seconds)
}

/// Rotation 100, JWKS 10, lifetime 30, retention 1000.
fn settings(algorithm: SigningAlgorithm) -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        algorithm,
        times: KeyTimes::new(seconds(100), seconds(10), seconds(30), seconds(1000)).unwrap(),
        sealing_key: PathBuf::new(),
        previous_sealing_keys: Vec::new(),
    }
}

fn sealing(current: u8, previous: &[u8]) -> SealingKeys {
    let key = |byte: &u8| Zeroizing::new([*byte; 32]);
    SealingKeys::new(&key(&current), &previous.iter().map(key).collect::<Vec<_>>()).unwrap()
}

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

/// A folder with a store, as found at a start.
struct Installed(TempDir);

impl Installed {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn settings(&self) -> writ_store::Settings {
        writ_store::Settings::Sled { path: self.0.path().join("data") }
    }

    fn files(&self) -> PathBuf {
        self.0.path().join("data/keys")
    }

    async fn store(&self) -> Store {
        Store::open(&self.settings()).await.unwrap()
    }

    async fn start_with(
        &self,
        sealing: SealingKeys,
        trust_domain: &str,
        now: Timestamp,
    ) -> Result<(Opened, Vec<KeyEvent>), KeysError> {
        let (settings, store) = (settings(SigningAlgorithm::ES256), self.store().await);
        let opened = KeyRing::open(store.clone(), &settings, sealing, &domain(trust_domain), now).await;
        let (keys, events) = opened?;
        Ok((Opened { keys, store }, events))
    }

    async fn start(&self, now: Timestamp) -> (Opened, Vec<KeyEvent>) {
        self.start_with(sealing(1, &[]), "d.example", now).await.unwrap()
    }

    async fn keys(&self, now: Timestamp) -> Opened {
        self.start(now).await.0
    }
}

/// A ring with its store.
#[derive(Debug)]
struct Opened {
    keys: KeyRing,
    store: Store,
}

impl std::ops::Deref for Opened {
    type Target = KeyRing;

    fn deref(&self) -> &KeyRing {
        &self.keys
    }
}

async fn stop(keys: Opened) {
    keys.store.close().await;
}

fn published(keys: &KeyRing) -> Vec<String> {
    let jwks: Value = serde_json::from_str(&keys.jwks().body).unwrap();
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn state(keys: &KeyRing, kid: &str) -> Option<KeyState> {
    keys.list().into_iter().find(|line| line.kid.as_str() == kid).map(|line| line.state)
}

fn signing_kid(keys: &KeyRing, now: Timestamp) -> String {
    keys.signer(now).unwrap().kid().to_string()
}

async fn dump(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    testing::dump(store).await.unwrap()
}

async fn read(store: &Store, name: &str) -> Option<Vec<u8>> {
    testing::read(store, name.as_bytes()).await.unwrap()
}

async fn write(store: &Store, records: &[(&str, Option<&[u8]>)]) {
    let records: Vec<_> = records.iter().map(|(name, value)| (name.as_bytes(), *value)).collect();
    testing::write(store, &records).await.unwrap();
}

#[tokio::test]
async fn at_the_first_start_one_key_signs_and_one_waits() {
    let installed = Installed::new();
    let (keys, events) = installed.start(at(0)).await;
    let [next, current] = published(&keys).try_into().unwrap();
    assert_eq!(signing_kid(&keys, at(0)), current);
    assert_eq!(state(&keys, &next), Some(KeyState::Next));
    assert!(matches!(
        events.as_slice(),
        [KeyEvent { change: KeyChange::Created { .. }, .. }, KeyEvent { change: KeyChange::Created { .. }, .. }]
    ));
    assert!(keys.verify().await.is_empty());
}

#[tokio::test]
async fn tokens_of_every_algorithm_verify_with_the_published_keys() {
    use SigningAlgorithm::{ES256, ES384, EdDSA, PS256, RS256};
    for algorithm in [ES256, ES384, EdDSA, RS256, PS256] {
        let installed = Installed::new();
        let store = installed.store().await;
        let settings = settings(algorithm);
        let (keys, _) = KeyRing::open(store, &settings, sealing(1, &[]), &domain("d.example"), at(0)).await.unwrap();
        let token = keys.signer(at(0)).unwrap().sign(&Claims::about("é")).unwrap();

        let header = jsonwebtoken::decode_header(token.as_str()).unwrap();
        assert_eq!((header.typ.as_deref(), header.alg), (Some("txntoken+jwt"), algorithm.into()));
        let Found::Published(key) = keys.find(&header.kid.unwrap()) else { panic!("the signing key is published") };
        let mut validation = Validation::new(algorithm.into());
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(serde_json::to_value(&key.public).unwrap()).unwrap();
        let theirs = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        let claims: Value = jsonwebtoken::decode(token.as_str(), &theirs, &validation).unwrap().claims;
        assert_eq!(claims["sub"], "é");
        let jws = Jws::parse(token.as_str(), 4096).unwrap();
        assert!(key.public.verification_key().unwrap().verify_jws(&jws));
        assert_eq!(
            keys.advance(at(100), true).await.unwrap().len(),
            2,
            "a ring of three such keys fits into the store"
        );
    }
}

/// R-PRIV-01
#[tokio::test]
async fn a_token_is_known_by_its_signed_part_and_shown_nowhere() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let signer = keys.signer(at(0)).unwrap();
    let (one, two) = (signer.sign(&Claims::about("u-1")).unwrap(), signer.sign(&Claims::about("u-1")).unwrap());
    assert_eq!(one.signed_part_sha256(), two.signed_part_sha256());
    assert_ne!(one.sha256(), two.sha256());
    assert_eq!(format!("{one:?}"), "TxnToken(…)");
}

#[tokio::test]
async fn after_a_restart_the_same_key_signs() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let (kid, jwks) = (signing_kid(&keys, at(0)), keys.jwks());
    stop(keys).await;
    let (keys, events) = installed.start(at(50)).await;
    assert_eq!((signing_kid(&keys, at(50)), keys.jwks()), (kid, jwks));
    assert_eq!(events, []);
}

/// R-KEYS-07
#[tokio::test]
async fn a_promotion_publishes_three_keys_and_destroys_the_private_half() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let old = signing_kid(&keys, at(0));
    let sealed = serde_json::to_string(keys.active().ring.current().sealed()).unwrap();
    let [next, _] = published(&keys).try_into().unwrap();
    let body = keys.jwks().body.clone();
    assert_eq!(keys.advance(at(99), true).await.unwrap(), []);
    assert_eq!(keys.jwks().body, body);
    let events = keys.advance(at(100), true).await.unwrap();
    let [KeyEvent { change: rotated, .. }, KeyEvent { change: KeyChange::Created { kid: fresh }, .. }] =
        events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!(format!("{rotated:?}"), format!("Rotated {{ from: Kid({old:?}), to: Kid({next:?}) }}"));
    assert_eq!(published(&keys), [fresh.as_str(), &next, &old]);
    assert_eq!(signing_kid(&keys, at(100)), next);
    let ring = read(&keys.store, "keys/ring").await.unwrap();
    assert_ne!(keys.jwks().body, body);
    assert!(!String::from_utf8(ring).unwrap().contains(sealed.trim_matches('"')));
    assert_eq!(read(&keys.store, "clock/last").await.unwrap(), b"1000100");
    assert!(keys.verify().await.is_empty());
}

#[tokio::test]
async fn after_downtime_one_promotion_catches_up() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let old = signing_kid(&keys, at(0));
    stop(keys).await;
    let (keys, events) = installed.start(at(5000)).await;
    assert_eq!(events.len(), 2);
    let Found::Published(key) = keys.find(&old) else { panic!("previous is published") };
    assert!(key.signed_at(at(100)) && !key.signed_at(at(101)));
    assert_eq!(keys.advance(at(5000), true).await.unwrap(), []);
}

///
#[tokio::test]
async fn with_a_wrong_sealing_key_nothing_is_touched() {
    let installed = Installed::new();
    stop(installed.keys(at(0)).await).await;
    let store = installed.store().await;
    let before = dump(&store).await;
    let settings = settings(SigningAlgorithm::ES256);
    let opened = KeyRing::open(store.clone(), &settings, sealing(2, &[]), &domain("d.example"), at(500)).await;
    assert!(matches!(opened, Err(KeysError::Seal(SealError::Closed))), "{opened:?}");
    assert_eq!(dump(&store).await, before);
}

///
#[tokio::test]
async fn a_store_of_another_trust_domain_is_not_touched() {
    let installed = Installed::new();
    stop(installed.keys(at(0)).await).await;
    let store = installed.store().await;
    let before = dump(&store).await;
    let settings = settings(SigningAlgorithm::ES256);
    let opened = KeyRing::open(store.clone(), &settings, sealing(1, &[]), &domain("e.example"), at(500)).await;
    assert!(matches!(&opened, Err(KeysError::Foreign { found }) if found == "d.example"), "{opened:?}");
    assert_eq!(dump(&store).await, before);
}

#[tokio::test]
async fn a_next_key_that_does_not_open_stops_the_start_before_it_is_needed() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let mut ring: Value = serde_json::from_slice(&keys.active().document).unwrap();
    ring["next"]["sealed"] = ring["current"]["sealed"].clone();
    write(&keys.store, &[("keys/ring", Some(ring.to_string().as_bytes()))]).await;
    stop(keys).await;
    let store = installed.store().await;
    let before = dump(&store).await;
    let settings = settings(SigningAlgorithm::ES256);
    let opened = KeyRing::open(store.clone(), &settings, sealing(1, &[]), &domain("d.example"), at(5)).await;
    assert!(matches!(opened, Err(KeysError::Seal(SealError::Closed))), "{opened:?}");
    assert_eq!(dump(&store).await, before);
}

#[tokio::test]
async fn a_sealing_key_is_changed_by_naming_the_old_one_once() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let kid = signing_kid(&keys, at(0));
    stop(keys).await;
    for sealing in [sealing(2, &[1]), sealing(2, &[])] {
        let (keys, _) = installed.start_with(sealing, "d.example", at(10)).await.unwrap();
        assert_eq!(signing_kid(&keys, at(10)), kid);
        stop(keys).await;
    }
    assert!(installed.start_with(sealing(1, &[]), "d.example", at(10)).await.is_err());
}

///
#[tokio::test]
async fn a_new_algorithm_comes_with_the_keys_that_are_made_from_then_on() {
    let installed = Installed::new();
    stop(installed.keys(at(0)).await).await;
    let settings = settings(SigningAlgorithm::EdDSA);
    let store = installed.store().await;
    let (keys, _) = KeyRing::open(store, &settings, sealing(1, &[]), &domain("d.example"), at(100)).await.unwrap();
    let jwks: Value = serde_json::from_str(&keys.jwks().body).unwrap();
    let algorithms: Vec<&str> =
        jwks["keys"].as_array().unwrap().iter().map(|key| key["alg"].as_str().unwrap()).collect();
    assert_eq!(algorithms, ["EdDSA", "ES256", "ES256"]);
}

#[tokio::test]
async fn while_a_successor_is_stored_no_token_leaves_the_span_of_its_key() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let closing = ClosingSpan::new(&keys, at(50));
    assert_eq!(keys.signer(at(52)).unwrap().instant(), at(50));
    assert!(matches!(keys.signer(at(56)), Err(KeysError::Overdue)));
    drop(closing);
    assert_eq!(keys.signer(at(56)).unwrap().instant(), at(56));
}

#[tokio::test]
async fn a_span_reaches_to_the_last_signature_even_if_the_clock_steps_back() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let old = signing_kid(&keys, at(80));
    keys.rotate(at(20)).await.unwrap();
    let Found::Published(key) = keys.find(&old) else { panic!("previous is published") };
    assert!(key.signed_at(at(80)) && !key.signed_at(at(81)));
    assert_eq!(keys.signer(at(20)).unwrap().instant(), at(80));
}

///
#[tokio::test]
async fn without_a_store_the_current_key_signs_on_for_one_more_period() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let kid = signing_kid(&keys, at(0));
    keys.store.clone().close().await;
    assert!(matches!(keys.advance(at(100), true).await, Err(KeysError::Store(_))));
    assert_eq!(signing_kid(&keys, at(200)), kid);
    assert_eq!(keys.signer(at(200)).unwrap().instant(), at(200));
    let Found::Published(key) = keys.find(&kid) else { panic!("current is published") };
    assert!(key.signed_at(at(200)));
    assert!(matches!(keys.signer(at(201)), Err(KeysError::Overdue)));
}

/// a step that fails at its first write has not begun.
#[tokio::test]
async fn without_the_files_nothing_is_stored_and_the_step_is_taken_later() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let kid = signing_kid(&keys, at(0));
    let before = dump(&keys.store).await;
    let hidden = installed.0.path().join("hidden");
    fs::rename(installed.files(), &hidden).unwrap();
    assert!(matches!(keys.advance(at(100), true).await, Err(KeysError::Mirror(_))));
    assert_eq!(dump(&keys.store).await, before);
    assert_eq!(signing_kid(&keys, at(105)), kid);
    fs::rename(&hidden, installed.files()).unwrap();
    assert_eq!(keys.advance(at(106), true).await.unwrap().len(), 2);
    let Found::Published(key) = keys.find(&kid) else { panic!("previous is published") };
    assert!(key.signed_at(at(105)) && !key.signed_at(at(107)));
}

/// the files were written, the store was not.
#[tokio::test]
async fn files_of_a_step_that_was_not_taken_are_repaired_at_the_next_start() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let active = keys.active();
    let fresh = opening::introduce(keys.algorithm, &keys.sealing, &keys.installation, at(100)).await.unwrap();
    let orphan = installed.files().join(format!("{}.json", fresh.public().kid()));
    let ring = active.ring.promote(fresh, keys.times, at(100), at(100)).unwrap();
    keys.mirror.write(ring.lives().collect()).unwrap();
    assert!(orphan.exists());
    stop(keys).await;
    let keys = installed.keys(at(50)).await;
    assert!(!orphan.exists());
    assert!(keys.verify().await.is_empty());
}

/// A-114, R-KEYS-08
#[tokio::test]
async fn of_two_instances_that_rotate_at_once_one_wins_and_the_other_follows() {
    let installed = Installed::new();
    let one = installed.keys(at(0)).await;
    let settings = settings(SigningAlgorithm::ES256);
    let two =
        KeyRing::open(one.store.clone(), &settings, sealing(1, &[]), &domain("d.example"), at(0)).await.unwrap().0;
    assert_eq!(signing_kid(&two, at(105)), signing_kid(&one, at(0)));
    let old = signing_kid(&one, at(0));
    one.advance(at(100), true).await.unwrap();
    two.advance(at(105), true).await.unwrap();
    assert_eq!((published(&two), signing_kid(&two, at(105))), (published(&one), signing_kid(&one, at(105))));
    let Found::Published(key) = two.find(&old) else { panic!("previous is published") };
    assert!(key.signed_at(at(105)), "the late one signed until then");
    assert!(two.verify().await.is_empty());
}

///
#[tokio::test]
async fn a_revoked_key_validates_nothing_and_is_remembered() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let [next, current] = published(&keys).try_into().unwrap();
    let events = keys.revoke(&current, at(5)).await.unwrap();
    assert!(matches!(events[0].change, KeyChange::Revoked { .. }), "{events:?}");
    assert!(matches!(events[1].change, KeyChange::Rotated { .. }), "{events:?}");
    assert_eq!(signing_kid(&keys, at(5)), next);
    assert!(!published(&keys).contains(&current));
    assert!(matches!(keys.revoke(&current, at(6)).await, Err(KeysError::Revoke(RevokeError::Already))));
    assert!(matches!(keys.revoke("kid", at(6)).await, Err(KeysError::Revoke(RevokeError::Unknown))));
    stop(keys).await;
    let keys = installed.keys(at(7)).await;
    assert_eq!(keys.find(&current), Found::Revoked);
    assert_eq!(keys.states().get(&KeyState::Revoked), Some(&1));
}

/// Whether the step was interrupted between files and store, or the store was rolled back.
#[tokio::test]
async fn a_revocation_of_which_only_the_files_know_holds() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let [next, current] = published(&keys).try_into().unwrap();
    let old = read(&keys.store, "keys/ring").await.unwrap();
    keys.revoke(&current, at(5)).await.unwrap();
    write(&keys.store, &[(&format!("history/{current}"), None), ("keys/ring", Some(&old))]).await;
    stop(keys).await;
    let (keys, events) = installed.start(at(7)).await;
    assert_eq!(keys.find(&current), Found::Revoked);
    assert_eq!(signing_kid(&keys, at(7)), next);
    assert!(matches!(events[0].change, KeyChange::Revoked { .. }), "{events:?}");
    assert!(keys.verify().await.is_empty());
}

#[tokio::test]
async fn opening_read_only_changes_nothing() {
    let installed = Installed::new();
    stop(installed.keys(at(0)).await).await;
    let store = installed.store().await;
    let before = dump(&store).await;
    let settings = settings(SigningAlgorithm::ES256);
    let keys = KeyRing::open_read_only(store.clone(), &settings, sealing(1, &[]), &domain("d.example")).await.unwrap();
    assert!(keys.verify().await.is_empty());
    assert_eq!(dump(&store).await, before, "though a rotation is overdue");
    store.close().await;
    let empty = Installed::new();
    let looked = KeyRing::open_read_only(empty.store().await, &settings, sealing(1, &[]), &domain("d.example")).await;
    assert!(matches!(looked, Err(KeysError::Damaged(_))));
}

#[tokio::test]
async fn a_ring_that_was_rolled_back_does_not_open() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let old = read(&keys.store, "keys/ring").await.unwrap();
    for now in [100, 200] {
        keys.advance(at(now), true).await.unwrap();
    }
    let names = dump(&keys.store).await.into_keys().map(|name| String::from_utf8(name).unwrap());
    for history in names.filter(|name| name.starts_with("history/")) {
        write(&keys.store, &[(&history, None)]).await;
    }
    write(&keys.store, &[("keys/ring", Some(&old))]).await;
    stop(keys).await;
    let opened = installed.start_with(sealing(1, &[]), "d.example", at(210)).await;
    assert!(matches!(opened, Err(KeysError::Mirror(mirror::MirrorError::Ahead(_)))), "{opened:?}");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_stops_the_start() {
    for name in ["keys/ring", "meta/installation", "clock/last", "history/k"] {
        let installed = Installed::new();
        let keys = installed.keys(at(0)).await;
        write(&keys.store, &[(name, Some(b"{}"))]).await;
        stop(keys).await;
        let opened = installed.start_with(sealing(1, &[]), "d.example", at(10)).await;
        assert!(matches!(opened, Err(KeysError::Damaged(_))), "{opened:?}");
    }
}

/// R-KEYS-10
#[tokio::test]
async fn a_ring_is_rebuilt_from_its_files() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let first = signing_kid(&keys, at(0));
    keys.advance(at(100), true).await.unwrap();
    let second = signing_kid(&keys, at(100));
    keys.advance(at(200), true).await.unwrap();
    let third = signing_kid(&keys, at(200));
    keys.revoke(&second, at(210)).await.unwrap();
    stop(keys).await;

    let settings = settings(SigningAlgorithm::ES256);
    let rebuilt = Rebuilt::from_files(installed.files(), &settings, &sealing(1, &[]), &domain("d.example"), at(250))
        .await
        .unwrap();
    assert_eq!((rebuilt.known, rebuilt.damaged.as_slice()), (3, [].as_slice()));
    let remains = repair::survey(&installed.settings()).unwrap();
    let salvage = remains.salvage(Some(rebuilt.ring()), &[], at(250));
    repair::replace(&installed.settings(), &salvage).unwrap().unwrap();
    let keys = installed.keys(at(250)).await;
    assert_eq!(
        [&first, &second, &third].map(|kid| state(&keys, kid)),
        [KeyState::Historical, KeyState::Revoked, KeyState::Previous].map(Some)
    );
    let signer = keys.signer(at(250)).unwrap();
    assert!(![first, second, third].contains(&signer.kid().to_string()));
    assert!(keys.verify().await.is_empty());
}

#[tokio::test]
async fn a_ring_is_replaced_in_a_store_that_was_rolled_back() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let first = signing_kid(&keys, at(0));
    let settings = settings(SigningAlgorithm::ES256);
    let rebuilt = Rebuilt::from_files(installed.files(), &settings, &sealing(1, &[]), &domain("d.example"), at(50))
        .await
        .unwrap();
    rebuilt.replace(&keys.store).await.unwrap();
    stop(keys).await;
    let keys = installed.keys(at(50)).await;
    assert_eq!(state(&keys, &first), Some(KeyState::Previous));
}

#[tokio::test]
async fn changed_and_missing_files_are_found_and_rewritten() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let [next, current] = published(&keys).try_into().unwrap();
    let file = |kid: &str| installed.files().join(format!("{kid}.json"));
    let text = fs::read_to_string(file(&current)).unwrap();
    fs::write(file(&current), text.replace("1000000", "1000001")).unwrap();
    fs::remove_file(file(&next)).unwrap();
    let problems = keys.verify().await;
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(
        matches!(problems.as_slice(), [Problem::DamagedFile(_), Problem::Outdated { .. }, Problem::Outdated { .. }]),
        "{told:?}"
    );
    stop(keys).await;
    assert!(installed.keys(at(10)).await.verify().await.is_empty());
}

#[tokio::test]
async fn the_list_shows_past_times_and_how_long_old_keys_stay() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    keys.advance(at(100), true).await.unwrap();
    let list = keys.list();
    let told = |line: &listing::KeyLine| {
        let times = [line.created_at, line.signs_from, line.signs_until, line.published_until, line.retained_until];
        (line.state, times.map(|time| time.map(|time| time.since(at(0)).as_secs())))
    };
    assert_eq!(
        list.iter().map(told).collect::<Vec<_>>(),
        [
            (KeyState::Next, [Some(100), None, None, None, None]),
            (KeyState::Current, [Some(0), Some(100), None, None, None]),
            (KeyState::Previous, [Some(0), Some(0), Some(100), Some(200), Some(1100)]),
        ]
    );
    let json = serde_json::to_value(&list[1]).unwrap();
    assert_eq!((&json["state"], &json["signs_from"]), (&json!("current"), &json!("1970-01-12T13:48:20Z")));
}

#[tokio::test]
async fn what_was_exported_can_be_imported_elsewhere() {
    let (here, there) = (Installed::new(), Installed::new());
    let (keys, others) = (here.keys(at(0)).await, there.keys(at(0)).await);
    let kid = signing_kid(&others, at(0));
    others.advance(at(100), true).await.unwrap();
    let exported = serde_json::to_vec(&others.export()).unwrap();
    let import = || listing::Export::parse(&exported).unwrap();
    assert_eq!(keys.import(import(), at(50)).await.unwrap(), 2);
    assert_eq!(keys.import(import(), at(50)).await.unwrap(), 0);
    let Found::Historical(key) = keys.find(&kid) else { panic!("imported keys are historical") };
    assert!(key.signed_at(at(50)) && !key.signed_at(at(51)));
    assert!(keys.verify().await.is_empty());
}

#[tokio::test]
async fn an_export_holds_public_halves_and_an_import_accepts_nothing_else() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    let export = serde_json::to_value(keys.export()).unwrap();
    let key = export["keys"][1].as_object().unwrap();
    let mut names: Vec<&str> = key.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["alg", "crv", "kid", "kty", "signs_from", "signs_until", "state", "use", "x", "y"]);
    assert_eq!((&key["signs_from"], &key["signs_until"]), (&json!("1970-01-12T13:46:40Z"), &Value::Null));
    let mut private = export.clone();
    private["keys"][1]["d"] = "AQAB".into();
    assert!(listing::Export::parse(&serde_json::to_vec(&private).unwrap()).is_err());
    let mut timeless = export;
    timeless["keys"][1]["signs_from"] = Value::Null;
    let timeless = listing::Export::parse(&serde_json::to_vec(&timeless).unwrap()).unwrap();
    assert!(matches!(keys.import(timeless, at(1)).await, Err(KeysError::Import(listing::ImportError::Times(_)))));
}

#[tokio::test]
async fn a_trusted_clock_lets_the_ring_go_on_from_there() {
    let installed = Installed::new();
    let keys = installed.keys(at(0)).await;
    keys.advance(at(1_000_000), true).await.unwrap();
    assert_eq!(keys.signer(at(50)).unwrap().instant(), at(1_000_000));
    keys.trust_clock(at(50)).await.unwrap();
    assert_eq!(keys.signer(at(50)).unwrap().instant(), at(50));
    assert_eq!(keys.advance(at(150), true).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_timer_rotates_when_it_is_due() {
    let installed = Installed::new();
    let second = Duration::from_secs(1);
    let mut settings = settings(SigningAlgorithm::ES256);
    settings.times = KeyTimes::new(2 * second, second, second, 60 * second).unwrap();
    let store = installed.store().await;
    let started = Timestamp::now();
    let (keys, _) = KeyRing::open(store, &settings, sealing(1, &[]), &domain("d.example"), started).await.unwrap();
    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let timer = tokio::spawn(async move { keys.run(&Clock::start(), move |event| told.send(event).unwrap()).await });
    let event = tokio::time::timeout(10 * second, events.recv()).await.unwrap().unwrap();
    assert!(matches!(event.change, KeyChange::Rotated { .. }), "{event:?}");
    assert!((2..=3).contains(&event.at.since(started).as_secs()), "{event:?}");
    timer.abort();
}

#[tokio::test]
async fn key_files_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let installed = Installed::new();
    installed.keys(at(0)).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let files: Vec<_> = fs::read_dir(installed.files()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|file| mode(file) == 0o600));
}
