//! How the cost of a request, the start and the memory grow with policies, keys, records, connections and token size.

use std::fs;
use std::thread;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};
use writ_store::{Settings, Store, testing};

use crate::generator::{Generator, Request};
use crate::loads::{self, CONNECTIONS, WARM_UP};
use crate::results::{IDLE, RESIDENT, Results, START, WHOLE};
use crate::site::{GATEWAY, Kind, PURGE_JOB, Server, Site};
use crate::support::jose::Key;
use crate::support::workload::Form;
use crate::support::{ISSUER, TRUST_DOMAIN, now};
use crate::{Scale, measure, micros, record};

/// Something that may grow.
pub(crate) struct Experiment {
    /// Of its measurements: this, a slash and the size; `full` is the largest one.
    pub(crate) name: &'static str,
    sizes: &'static [usize],
    /// Those of a quick run.
    quick: &'static [usize],
    run: fn(&Scale, usize, &str, &mut Results),
}

pub(crate) const EXPERIMENTS: &[Experiment] = &[
    Experiment { name: "policies", sizes: &[10, 100, 1_000, 10_000], quick: &[10, 10_000], run: policies },
    Experiment { name: "history", sizes: &[4, 100, 1_000, 4_000], quick: &[4, 4_000], run: history },
    Experiment { name: "ledger", sizes: &[1_000, 10_000, 100_000, 1_000_000], quick: &[1_000_000], run: ledger },
    Experiment { name: "connections", sizes: &[1, 10, 100, 1_000], quick: &[], run: connections },
    Experiment { name: "size", sizes: &[512, 2_048, 4_096, 8_192, 12_288], quick: &[], run: token_size },
];

/// How long a service is left alone after its start.
const SETTLING: Duration = Duration::from_secs(5);

impl Experiment {
    pub(crate) fn run(&self, scale: &Scale, results: &mut Results) {
        let sizes = if scale.is_quick { self.quick } else { self.sizes };
        for &size in sizes {
            eprintln!("{} {size}", self.name);
            (self.run)(scale, size, &format!("{}/{size}", self.name), results);
        }
        if let Some(largest) = sizes.last() {
            results.copy(&format!("{}/{largest}", self.name), &format!("{}/full", self.name));
        }
    }
}

fn policies(scale: &Scale, extent: usize, name: &str, results: &mut Results) {
    let site = Site::new(extent, scale.cores);
    for _ in 0..scale.rounds {
        let server = site.start(Kind::Writ);
        note_first_answer(&site, &server, name, results);
        // The files are read once more in the first seconds.
        thread::sleep(SETTLING);
        note_idle(&server, name, results);
        client_credentials(scale, &site, &server, name, results);
        results.add(name, RESIDENT, server.process.resident_mib());
    }
}

/// Redeems tokens that one of the historical keys has signed.
fn history(scale: &Scale, extent: usize, name: &str, results: &mut Results) {
    let site = Site::new(100, scale.cores);
    let (export, key, from) = export_of_historical_keys(extent);
    site.setup.write("export.json", &export.to_string());
    for _ in 0..scale.rounds {
        // Absent at the first start.
        let _ = fs::remove_dir_all(site.setup.path("data"));
        let import = site.setup.command(&["keys", "import", "export.json"]).output().expect("writ runs");
        assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
        let server = site.restart();
        note_first_answer(&site, &server, name, results);
        let header = json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": key.thumbprint()}).to_string();
        let requests: Vec<_> = (0..scale.requests / 2 + WARM_UP)
            .map(|number| {
                let claims = json!({
                    "iss": ISSUER, "aud": TRUST_DOMAIN, "iat": from + 60, "exp": from + 120, "sub": "alice",
                    "txn": format!("history-{number}"), "scope": "archive.read", "req_wl": GATEWAY,
                });
                let token = key.token(&header, &claims.to_string());
                Request::post("/token", &Form::redeem(&token, "archive.read").encode())
            })
            .collect();
        run(&site, &server, PURGE_JOB, &requests, 32, name, results);
        results.add(name, RESIDENT, server.process.resident_mib());
    }
}

/// Keys as `writ keys import` takes them, one of them with its private half, and since when they signed.
pub(crate) fn export_of_historical_keys(count: usize) -> (Value, Key, u64) {
    let (from, until) = (now() - 7200, now() - 3600);
    let time = |epoch: u64| {
        let time = DateTime::from_timestamp(epoch.cast_signed(), 0).expect("a time of this century");
        time.to_rfc3339_opts(SecondsFormat::Secs, true)
    };
    let mut signer = None;
    let mut export = || {
        let key = Key::es256("");
        let mut jwk = key.jwk();
        jwk["kid"] = json!(key.thumbprint());
        jwk["state"] = json!("historical");
        jwk["signs_from"] = json!(time(from));
        jwk["signs_until"] = json!(time(until));
        signer = Some(key);
        jwk
    };
    let keys: Vec<_> = (0..count).map(|_| export()).collect();
    (json!({"keys": keys}), signer.expect("at least one key"), from)
}

/// Starts on a store with that many records of tokens.
fn ledger(scale: &Scale, extent: usize, name: &str, results: &mut Results) {
    let site = Site::new(100, scale.cores);
    site.start(Kind::Writ).process.terminate();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(fill(&site, extent));
    for _ in 0..scale.rounds {
        let server = site.restart();
        note_first_answer(&site, &server, name, results);
        let recorded = Request::post("/token", &Form::client_credentials("account.purge").encode());
        note_ledger_ready(&site, &server, &recorded, name, results);
        run(&site, &server, GATEWAY, &vec![recorded; scale.requests / 2 + WARM_UP], CONNECTIONS, name, results);
        results.add(name, RESIDENT, server.process.resident_mib());
        server.process.terminate();
    }
}

/// Writes records of redeemable tokens into a store that no service has open.
pub(crate) async fn fill(site: &Site, extent: usize) {
    let store = Store::open(&Settings::Sled { path: site.setup.path("data") }).await.expect("a store");
    let numbers: Vec<usize> = (0..extent).collect();
    for batch in numbers.chunks(100) {
        let records: Vec<_> = batch
            .iter()
            .map(|number| {
                let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &number.to_be_bytes());
                let record = json!({"txn": format!("ledger-{number}"), "keep_until": now() + 30 * 24 * 3600});
                ([b"tokens/", hash.as_ref()].concat(), record.to_string())
            })
            .collect();
        let writes: Vec<_> = records.iter().map(|(key, value)| (key.as_slice(), Some(value.as_bytes()))).collect();
        testing::write(&store, &writes).await.expect("the store takes records");
    }
    store.close().await;
}

fn connections(scale: &Scale, extent: usize, name: &str, results: &mut Results) {
    let site = Site::new(100, scale.cores);
    for _ in 0..scale.rounds {
        let server = site.start(Kind::Writ);
        let request = Request::post("/token", &Form::client_credentials("mailbox.deliver").encode());
        run(&site, &server, GATEWAY, &vec![request; scale.requests + WARM_UP.max(extent)], extent, name, results);
        results.add(name, RESIDENT, server.process.resident_mib());
    }
}

/// Exchanges access tokens of that many bytes, signed with ES256: RS256 needs more than the smallest ones have.
fn token_size(scale: &Scale, extent: usize, name: &str, results: &mut Results) {
    let site = Site::new(100, scale.cores);
    let draft = |padding: usize| loads::es256_token(&site).claim("p", "x".repeat(padding));
    // base64 makes four characters of three bytes.
    let padding = extent.saturating_sub(draft(0).mint().len()) * 3 / 4;
    let tokens = loads::mint(scale.requests / 4 + WARM_UP, || draft(padding));
    for _ in 0..scale.rounds {
        for (kind, name) in [(Kind::Ideal, format!("ideal-{name}")), (Kind::Writ, name.to_owned())] {
            let server = site.start(kind);
            run(&site, &server, GATEWAY, &loads::exchanges(&tokens), CONNECTIONS, &name, results);
        }
    }
}

fn client_credentials(scale: &Scale, site: &Site, server: &Server, name: &str, results: &mut Results) {
    let request = Request::post("/token", &Form::client_credentials("mailbox.deliver").encode());
    run(site, server, GATEWAY, &vec![request; scale.requests + WARM_UP], CONNECTIONS, name, results);
}

/// Sends these requests, of which the first are the warm-up; each must be granted.
fn run(
    site: &Site,
    server: &Server,
    client: &str,
    requests: &[Request],
    connections: usize,
    name: &str,
    results: &mut Results,
) {
    let endpoint = site.endpoint(server, client);
    let (warm_up, requests) = requests.split_at(WARM_UP);
    let (outcome, cpu) = measure(site, &server.process, |begin| {
        let mut generator = Generator::connect(&endpoint, connections);
        generator.run_closed(warm_up);
        begin();
        generator.run_closed(requests)
    });
    for response in &outcome.responses {
        assert_eq!(response.status, 200, "{name}: {}", String::from_utf8_lossy(&response.body));
    }
    record(name, &outcome, cpu, results);
}

/// Asks for one token as soon as the server listens.
fn note_first_answer(site: &Site, server: &Server, name: &str, results: &mut Results) {
    let request = Request::post("/token", &Form::client_credentials("mailbox.deliver").encode());
    let outcome = Generator::connect(&site.endpoint(server, GATEWAY), 1).run_closed(&[request]);
    assert_eq!(outcome.responses[0].status, 200);
    results.add(name, START, micros(server.process.age()) / 1000.0);
}

/// Until the ledger is proven whole, a token that must be on record is refused as unavailable.
fn note_ledger_ready(site: &Site, server: &Server, recorded: &Request, name: &str, results: &mut Results) {
    let mut generator = Generator::connect(&site.endpoint(server, GATEWAY), 1);
    while generator.run_closed(std::slice::from_ref(recorded)).responses[0].status == 503 {
        thread::sleep(Duration::from_millis(10));
    }
    results.add(name, WHOLE, micros(server.process.age()) / 1000.0);
}

/// What the server uses without a request.
fn note_idle(server: &Server, name: &str, results: &mut Results) {
    const PERIOD: Duration = Duration::from_secs(10);
    let before = server.process.cpu_time();
    thread::sleep(PERIOD);
    let used = server.process.cpu_time().saturating_sub(before);
    results.add(name, IDLE, used.as_secs_f64() / PERIOD.as_secs_f64() * 100.0);
}
