//! Keys fetched from a real HTTPS publisher.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::publisher::{Publisher, Reply};
use common::signer::{Signer, jwks};
use jsonwebtoken::Algorithm;
use tokio::sync::Semaphore;
use url::Url;
use writ_verifier::remote::{FetchOutcome, KeyError, Location, RemoteKeys, Settings, SetupError};

const ES256: Algorithm = Algorithm::ES256;
const PATH: &str = "/jwks.json";

fn settings(publisher: &Publisher, location: Location) -> Settings {
    let mut settings = Settings::new(location);
    settings.root_certificates_pem = Some(publisher.root_pem.clone().into_bytes());
    settings.timeout = Duration::from_secs(10);
    settings
}

fn at_path(publisher: &Publisher) -> Settings {
    settings(publisher, Location::JwksUri(Url::parse(&publisher.url(PATH)).unwrap()))
}

fn keys(kids: &[&str]) -> Vec<u8> {
    jwks(&kids.iter().map(|kid| Signer::new(kid, ES256).jwk()).collect::<Vec<_>>())
}

async fn has(keys: &RemoteKeys, kid: &str) -> Result<(), KeyError> {
    keys.key(Some(kid), ES256).await.map(drop)
}

/// Who waits for `what` waits no longer than this.
async fn until(what: impl AsyncFn() -> bool) {
    let happens = async {
        while !what().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), happens).await.expect("it happens in time");
}

#[tokio::test]
async fn a_thousand_first_questions_make_one_request() {
    let publisher = Publisher::start().await;
    let gate = Arc::new(Semaphore::new(0));
    publisher.publish(PATH, Reply::ok(keys(&["a"])).gate(&gate));
    let remote = RemoteKeys::new(&at_path(&publisher)).unwrap();
    let asking: Vec<_> = (0..1000)
        .map(|_| {
            let remote = remote.clone();
            tokio::spawn(async move { has(&remote, "a").await })
        })
        .collect();
    publisher.reached(1).await;
    gate.add_permits(1000);
    for task in asking {
        assert_eq!(task.await.unwrap(), Ok(()));
    }
    assert_eq!(publisher.count(), 1);
}

/// A-073
#[tokio::test]
async fn a_storm_of_unknown_kids_makes_one_request_more() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    let remote = RemoteKeys::new(&at_path(&publisher)).unwrap();
    assert_eq!(has(&remote, "a").await, Ok(()));
    assert_eq!(has(&remote, "x").await, Err(KeyError::Unknown), "a fetch of its own lacks it");
    for number in 0..10_000 {
        let answer = has(&remote, &format!("x{number}")).await;
        let waits =
            matches!(answer, Err(KeyError::CoolingDown { retry_after }) if retry_after <= Duration::from_secs(30));
        assert!(waits, "{answer:?}");
    }
    assert_eq!(has(&remote, "a").await, Ok(()));
    assert_eq!(publisher.count(), 2);
}

/// R-SUBJ-04: a key that was published in a cool-down is found right after it, and is not called unknown before.
#[tokio::test]
async fn a_key_that_is_published_in_a_cool_down_is_found_after_it() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    let mut settings = at_path(&publisher);
    settings.cool_down = Duration::from_millis(500);
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(has(&remote, "x").await, Err(KeyError::Unknown));
    publisher.publish(PATH, Reply::ok(keys(&["a", "new"])));
    loop {
        match has(&remote, "new").await {
            Ok(()) => break,
            Err(KeyError::CoolingDown { retry_after }) => tokio::time::sleep(retry_after).await,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(publisher.count() <= 3, "{}", publisher.count());
}

/// A-069, A-071, A-073
#[tokio::test]
async fn while_the_publisher_is_away_known_keys_serve_and_unknown_ones_are_unavailable() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    let mut settings = at_path(&publisher);
    settings.cool_down = Duration::from_millis(100);
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(has(&remote, "a").await, Ok(()));
    for reply in [
        Reply::status(500),
        Reply::status(429),
        Reply::status(304),
        Reply::ok("<html>sorry</html>"),
        Reply::ok(&keys(&["b"])[..50]),
        Reply::ok(r#"{"keys":[]}"#),
        Reply::ok(vec![b' '; 2 << 20]),
        Reply { endless: true, ..Reply::ok("") },
        Reply::ok([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0xae, 5, 0]).header("content-encoding", "gzip"),
    ] {
        publisher.publish(PATH, reply);
        let asked = publisher.count();
        let began = Instant::now();
        // Nobody waits for a fetch that follows a failure, so the answer may come before the fetch that it asks for.
        until(async || {
            assert_eq!(has(&remote, "b").await, Err(KeyError::Unavailable));
            assert_eq!(has(&remote, "a").await, Ok(()));
            publisher.count() > asked
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(5), "an endless answer is cut off, not waited for");
    }
    publisher.publish(PATH, Reply::ok(keys(&["a", "b"])));
    until(async || has(&remote, "b").await.is_ok()).await;
}

/// A-071
#[tokio::test]
async fn an_answer_that_never_comes_ends_in_time_and_hinders_no_known_key() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    let mut settings = at_path(&publisher);
    settings.timeout = Duration::from_millis(400);
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(has(&remote, "a").await, Ok(()));
    publisher.publish(PATH, Reply::ok("").gate(&Arc::new(Semaphore::new(0))));
    let unknown = {
        let remote = remote.clone();
        tokio::spawn(async move { has(&remote, "b").await })
    };
    publisher.reached(2).await;
    assert_eq!(has(&remote, "a").await, Ok(()));
    assert!(!unknown.is_finished(), "only it waits");
    assert_eq!(unknown.await.unwrap(), Err(KeyError::Unavailable));
}

/// A-070
#[tokio::test]
async fn a_publisher_that_was_away_at_first_is_found_later() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::status(503));
    let mut settings = at_path(&publisher);
    settings.cool_down = Duration::from_millis(100);
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(has(&remote, "a").await, Err(KeyError::Unavailable));
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    until(async || has(&remote, "a").await.is_ok()).await;
}

/// A-072
#[tokio::test]
async fn redirects_are_not_followed() {
    let publisher = Publisher::start().await;
    publisher.publish("/elsewhere", Reply::ok(keys(&["a"])));
    publisher.publish(PATH, Reply::status(302).header("location", &publisher.url("/elsewhere")));
    let remote = RemoteKeys::new(&at_path(&publisher)).unwrap();
    assert_eq!(has(&remote, "a").await, Err(KeyError::Unavailable));
    assert_eq!(publisher.count(), 1);
}

#[tokio::test]
async fn a_publisher_whose_certificate_is_not_trusted_is_not_asked() {
    let (publisher, other) = (Publisher::start().await, Publisher::start().await);
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    let mut settings = at_path(&publisher);
    settings.root_certificates_pem = Some(other.root_pem.into_bytes());
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(has(&remote, "a").await, Err(KeyError::Unavailable));
    assert_eq!(publisher.count(), 0);
}

#[test]
fn addresses_without_tls_are_refused() {
    for location in [
        Location::JwksUri(Url::parse("http://login.example/jwks").unwrap()),
        Location::JwksUri(Url::parse("file:///jwks").unwrap()),
        Location::Discovery { issuer: "http://login.example".into() },
        Location::Discovery { issuer: "nonsense".into() },
    ] {
        assert!(matches!(RemoteKeys::new(&Settings::new(location)), Err(SetupError::Address(_))));
    }
}

/// A-076: the set is fetched again at its age, without any question.
#[tokio::test]
async fn a_withdrawn_key_is_noticed_without_traffic() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])).header("cache-control", "max-age=1"));
    let remote = RemoteKeys::new(&at_path(&publisher)).unwrap();
    assert_eq!(has(&remote, "a").await, Ok(()));
    publisher.publish(PATH, Reply::ok(keys(&["b"])).header("cache-control", "max-age=600"));
    publisher.reached(2).await;
    until(async || has(&remote, "b").await.is_ok()).await;
    assert!(has(&remote, "a").await.is_err());
}

/// A-074
#[tokio::test]
async fn nobody_waits_for_a_refresh() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])).header("cache-control", "max-age=1"));
    let remote = RemoteKeys::new(&at_path(&publisher)).unwrap();
    assert_eq!(has(&remote, "a").await, Ok(()));
    publisher.publish(PATH, Reply::ok(keys(&["a"])).gate(&Arc::new(Semaphore::new(0))));
    publisher.reached(2).await;
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(has(&remote, "a").await, Ok(()));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "the refresh would take 10");
    assert_eq!(publisher.count(), 2);
}

#[tokio::test]
async fn an_unchanged_set_is_asked_for_by_its_tag() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])).header("etag", "\"1\""));
    let outcomes = Arc::<Mutex<Vec<FetchOutcome>>>::default();
    let mut settings = at_path(&publisher);
    settings.cool_down = Duration::from_millis(100);
    let told = Arc::clone(&outcomes);
    settings.observer = Some(Arc::new(move |outcome| told.lock().unwrap().push(outcome)));
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(has(&remote, "a").await, Ok(()));
    publisher.publish(PATH, Reply::status(304));
    assert_eq!(has(&remote, "b").await, Err(KeyError::Unknown));
    assert_eq!(has(&remote, "a").await, Ok(()));
    publisher.publish(PATH, Reply::status(500));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(has(&remote, "b").await, Err(KeyError::Unavailable));
    let heads = publisher.requests();
    assert!(!heads[0].contains("if-none-match") && heads[1].contains("if-none-match: \"1\""));
    assert_eq!(*outcomes.lock().unwrap(), [FetchOutcome::Ok, FetchOutcome::Unchanged, FetchOutcome::Error]);
}

#[tokio::test]
async fn a_question_that_is_given_up_does_not_end_the_fetch() {
    let publisher = Publisher::start().await;
    let gate = Arc::new(Semaphore::new(0));
    publisher.publish(PATH, Reply::ok(keys(&["a"])).gate(&gate));
    let remote = RemoteKeys::new(&at_path(&publisher)).unwrap();
    let given_up = {
        let remote = remote.clone();
        tokio::spawn(async move { has(&remote, "a").await })
    };
    publisher.reached(1).await;
    given_up.abort();
    gate.add_permits(1);
    assert_eq!(has(&remote, "a").await, Ok(()));
    assert_eq!(publisher.count(), 1);
}

#[test]
fn a_fetch_that_dies_with_its_runtime_blocks_nobody() {
    let world = tokio::runtime::Runtime::new().unwrap();
    let publisher = world.block_on(Publisher::start());
    publisher.publish(PATH, Reply::ok(keys(&["a"])).gate(&Arc::new(Semaphore::new(0))));
    let mut settings = at_path(&publisher);
    settings.cool_down = Duration::from_millis(100);
    let remote = RemoteKeys::new(&settings).unwrap();

    let short_lived = tokio::runtime::Runtime::new().unwrap();
    let asking = remote.clone();
    short_lived.spawn(async move { has(&asking, "a").await });
    world.block_on(publisher.reached(1));
    short_lived.shutdown_timeout(Duration::from_secs(5));

    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    world.block_on(until(async || has(&remote, "a").await.is_ok()));
}

#[tokio::test]
async fn keys_are_discovered_from_the_issuer() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    let document = |issuer: &str, uri: &str| Reply::ok(format!(r#"{{"issuer":"{issuer}","jwks_uri":"{uri}"}}"#));
    let discover = |issuer: &str| {
        RemoteKeys::new(&settings(&publisher, Location::Discovery { issuer: issuer.to_owned() })).unwrap()
    };

    let oidc = publisher.url("/oidc");
    publisher.publish("/oidc/.well-known/openid-configuration", document(&oidc, &publisher.url(PATH)));
    assert_eq!(has(&discover(&oidc), "a").await, Ok(()));

    let oauth = publisher.url("/oauth/");
    publisher.publish("/.well-known/oauth-authorization-server/oauth", document(&oauth, &publisher.url(PATH)));
    assert_eq!(has(&discover(&oauth), "a").await, Ok(()));

    let other = publisher.url("/other");
    publisher.publish("/other/.well-known/openid-configuration", document(&oidc, &publisher.url(PATH)));
    assert_eq!(has(&discover(&other), "a").await, Err(KeyError::Unavailable), "another issuer's metadata");

    let plain = publisher.url("/plain");
    let uri = publisher.url(PATH).replace("https", "http");
    publisher.publish("/plain/.well-known/openid-configuration", document(&plain, &uri));
    assert_eq!(has(&discover(&plain), "a").await, Err(KeyError::Unavailable), "keys without TLS");

    assert_eq!(has(&discover(&publisher.url("/nothing")), "a").await, Err(KeyError::Unavailable));
}
