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

fn jwks_settings(publisher: &Publisher) -> Settings {
    settings(publisher, Location::JwksUri(Url::parse(&publisher.url(PATH)).unwrap()))
}

fn keys(kids: &[&str]) -> Vec<u8> {
    jwks(&kids.iter().map(|kid| Signer::new(kid, ES256).jwk()).collect::<Vec<_>>())
}

async fn find_key(keys: &RemoteKeys, kid: &str) -> Result<(), KeyError> {
    keys.key(Some(kid), ES256).await.map(drop)
}

/// Waits until `condition` is true, at most 10 s.
async fn wait_until(condition: impl AsyncFn() -> bool) {
    let polling = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), polling).await.expect("the condition becomes true in time");
}

#[tokio::test]
async fn a_thousand_first_lookups_make_one_request() {
    let publisher = Publisher::start().await;
    let gate = Arc::new(Semaphore::new(0));
    publisher.publish(PATH, Reply::ok(keys(&["a"])).gate(&gate));
    let remote = RemoteKeys::new(&jwks_settings(&publisher)).unwrap();
    let lookups: Vec<_> = (0..1000)
        .map(|_| {
            let remote = remote.clone();
            tokio::spawn(async move { find_key(&remote, "a").await })
        })
        .collect();
    publisher.wait_for_requests(1).await;
    gate.add_permits(1000);
    for task in lookups {
        assert_eq!(task.await.unwrap(), Ok(()));
    }
    assert_eq!(publisher.count(), 1);
}

/// A-073
#[tokio::test]
async fn many_unknown_kids_cause_one_more_request() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    let remote = RemoteKeys::new(&jwks_settings(&publisher)).unwrap();
    assert_eq!(find_key(&remote, "a").await, Ok(()));
    assert_eq!(find_key(&remote, "x").await, Err(KeyError::Unknown), "the fetch for this lookup does not contain it");
    for number in 0..10_000 {
        let result = find_key(&remote, &format!("x{number}")).await;
        let is_cooling_down =
            matches!(result, Err(KeyError::CoolingDown { retry_after }) if retry_after <= Duration::from_secs(30));
        assert!(is_cooling_down, "{result:?}");
    }
    assert_eq!(find_key(&remote, "a").await, Ok(()));
    assert_eq!(publisher.count(), 2);
}

/// R-SUBJ-04: a key that is published during a cool-down is found right after it, and is not reported as unknown before.
#[tokio::test]
async fn a_key_that_is_published_in_a_cool_down_is_found_after_it() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    let mut settings = jwks_settings(&publisher);
    settings.cool_down = Duration::from_millis(500);
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(find_key(&remote, "x").await, Err(KeyError::Unknown));
    publisher.publish(PATH, Reply::ok(keys(&["a", "new"])));
    loop {
        match find_key(&remote, "new").await {
            Ok(()) => break,
            Err(KeyError::CoolingDown { retry_after }) => tokio::time::sleep(retry_after).await,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(publisher.count() <= 3, "{}", publisher.count());
}

/// A-069, A-071, A-073
#[tokio::test]
async fn while_the_publisher_fails_known_keys_work_and_unknown_ones_are_unavailable() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    let mut settings = jwks_settings(&publisher);
    settings.cool_down = Duration::from_millis(100);
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(find_key(&remote, "a").await, Ok(()));
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
        let requests = publisher.count();
        let began = Instant::now();
        // No lookup waits for a fetch after a failure, so it may return before the fetch that it starts.
        wait_until(async || {
            assert_eq!(find_key(&remote, "b").await, Err(KeyError::Unavailable));
            assert_eq!(find_key(&remote, "a").await, Ok(()));
            publisher.count() > requests
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(5), "an endless response is cut off");
    }
    publisher.publish(PATH, Reply::ok(keys(&["a", "b"])));
    wait_until(async || find_key(&remote, "b").await.is_ok()).await;
}

/// A-071
#[tokio::test]
async fn a_response_that_never_arrives_times_out_and_delays_no_known_key() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    let mut settings = jwks_settings(&publisher);
    settings.timeout = Duration::from_millis(400);
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(find_key(&remote, "a").await, Ok(()));
    publisher.publish(PATH, Reply::ok("").gate(&Arc::new(Semaphore::new(0))));
    let unknown = {
        let remote = remote.clone();
        tokio::spawn(async move { find_key(&remote, "b").await })
    };
    publisher.wait_for_requests(2).await;
    assert_eq!(find_key(&remote, "a").await, Ok(()));
    assert!(!unknown.is_finished(), "only the lookup of the unknown key waits");
    assert_eq!(unknown.await.unwrap(), Err(KeyError::Unavailable));
}

/// A-070
#[tokio::test]
async fn keys_are_found_once_an_unreachable_publisher_returns() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::status(503));
    let mut settings = jwks_settings(&publisher);
    settings.cool_down = Duration::from_millis(100);
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(find_key(&remote, "a").await, Err(KeyError::Unavailable));
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    wait_until(async || find_key(&remote, "a").await.is_ok()).await;
}

/// A-072
#[tokio::test]
async fn redirects_are_not_followed() {
    let publisher = Publisher::start().await;
    publisher.publish("/elsewhere", Reply::ok(keys(&["a"])));
    publisher.publish(PATH, Reply::status(302).header("location", &publisher.url("/elsewhere")));
    let remote = RemoteKeys::new(&jwks_settings(&publisher)).unwrap();
    assert_eq!(find_key(&remote, "a").await, Err(KeyError::Unavailable));
    assert_eq!(publisher.count(), 1);
}

#[tokio::test]
async fn a_publisher_with_an_untrusted_certificate_receives_no_request() {
    let (publisher, other) = (Publisher::start().await, Publisher::start().await);
    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    let mut settings = jwks_settings(&publisher);
    settings.root_certificates_pem = Some(other.root_pem.into_bytes());
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(find_key(&remote, "a").await, Err(KeyError::Unavailable));
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

/// A-076: the set is fetched again at its maximum age, without a lookup.
#[tokio::test]
async fn a_withdrawn_key_is_noticed_without_traffic() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])).header("cache-control", "max-age=1"));
    let remote = RemoteKeys::new(&jwks_settings(&publisher)).unwrap();
    assert_eq!(find_key(&remote, "a").await, Ok(()));
    publisher.publish(PATH, Reply::ok(keys(&["b"])).header("cache-control", "max-age=600"));
    publisher.wait_for_requests(2).await;
    wait_until(async || find_key(&remote, "b").await.is_ok()).await;
    assert!(find_key(&remote, "a").await.is_err());
}

/// A-074
#[tokio::test]
async fn no_lookup_waits_for_a_refresh() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])).header("cache-control", "max-age=1"));
    let remote = RemoteKeys::new(&jwks_settings(&publisher)).unwrap();
    assert_eq!(find_key(&remote, "a").await, Ok(()));
    publisher.publish(PATH, Reply::ok(keys(&["a"])).gate(&Arc::new(Semaphore::new(0))));
    publisher.wait_for_requests(2).await;
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(find_key(&remote, "a").await, Ok(()));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "the refresh would take 10 s");
    assert_eq!(publisher.count(), 2);
}

#[tokio::test]
async fn a_refresh_sends_the_etag() {
    let publisher = Publisher::start().await;
    publisher.publish(PATH, Reply::ok(keys(&["a"])).header("etag", "\"1\""));
    let outcomes = Arc::<Mutex<Vec<FetchOutcome>>>::default();
    let mut settings = jwks_settings(&publisher);
    settings.cool_down = Duration::from_millis(100);
    let observed = Arc::clone(&outcomes);
    settings.observer = Some(Arc::new(move |outcome| observed.lock().unwrap().push(outcome)));
    let remote = RemoteKeys::new(&settings).unwrap();
    assert_eq!(find_key(&remote, "a").await, Ok(()));
    publisher.publish(PATH, Reply::status(304));
    assert_eq!(find_key(&remote, "b").await, Err(KeyError::Unknown));
    assert_eq!(find_key(&remote, "a").await, Ok(()));
    publisher.publish(PATH, Reply::status(500));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(find_key(&remote, "b").await, Err(KeyError::Unavailable));
    let heads = publisher.requests();
    assert!(!heads[0].contains("if-none-match") && heads[1].contains("if-none-match: \"1\""));
    assert_eq!(*outcomes.lock().unwrap(), [FetchOutcome::Ok, FetchOutcome::Unchanged, FetchOutcome::Error]);
}

#[tokio::test]
async fn a_cancelled_lookup_does_not_cancel_the_fetch() {
    let publisher = Publisher::start().await;
    let gate = Arc::new(Semaphore::new(0));
    publisher.publish(PATH, Reply::ok(keys(&["a"])).gate(&gate));
    let remote = RemoteKeys::new(&jwks_settings(&publisher)).unwrap();
    let cancelled = {
        let remote = remote.clone();
        tokio::spawn(async move { find_key(&remote, "a").await })
    };
    publisher.wait_for_requests(1).await;
    cancelled.abort();
    gate.add_permits(1);
    assert_eq!(find_key(&remote, "a").await, Ok(()));
    assert_eq!(publisher.count(), 1);
}

#[test]
fn a_fetch_that_is_dropped_with_its_runtime_blocks_no_lookup() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let publisher = runtime.block_on(Publisher::start());
    publisher.publish(PATH, Reply::ok(keys(&["a"])).gate(&Arc::new(Semaphore::new(0))));
    let mut settings = jwks_settings(&publisher);
    settings.cool_down = Duration::from_millis(100);
    let remote = RemoteKeys::new(&settings).unwrap();

    let short_lived = tokio::runtime::Runtime::new().unwrap();
    let clone = remote.clone();
    short_lived.spawn(async move { find_key(&clone, "a").await });
    runtime.block_on(publisher.wait_for_requests(1));
    short_lived.shutdown_timeout(Duration::from_secs(5));

    publisher.publish(PATH, Reply::ok(keys(&["a"])));
    runtime.block_on(wait_until(async || find_key(&remote, "a").await.is_ok()));
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
    assert_eq!(find_key(&discover(&oidc), "a").await, Ok(()));

    let oauth = publisher.url("/oauth/");
    publisher.publish("/.well-known/oauth-authorization-server/oauth", document(&oauth, &publisher.url(PATH)));
    assert_eq!(find_key(&discover(&oauth), "a").await, Ok(()));

    let other = publisher.url("/other");
    publisher.publish("/other/.well-known/openid-configuration", document(&oidc, &publisher.url(PATH)));
    assert_eq!(find_key(&discover(&other), "a").await, Err(KeyError::Unavailable), "another issuer's metadata");

    let plain = publisher.url("/plain");
    let uri = publisher.url(PATH).replace("https", "http");
    publisher.publish("/plain/.well-known/openid-configuration", document(&plain, &uri));
    assert_eq!(find_key(&discover(&plain), "a").await, Err(KeyError::Unavailable), "keys without TLS");

    assert_eq!(find_key(&discover(&publisher.url("/nothing")), "a").await, Err(KeyError::Unavailable));
}
