//! A mixed load for a long time, while keys are rotated and policies reloaded: nothing may fail, and memory must not grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::generator::{Generator, Request, Response};
use crate::growth::fill;
use crate::loads::{CONNECTIONS, access_token, exchanges, mint};
use crate::micros;
use crate::process::Cores;
use crate::results::{CPU, P50, P99, RATE, RESIDENT, Results};
use crate::site::{GATEWAY, Kind, PURGE_JOB, Server, Site};
use crate::support::workload::Form;

/// How long, how much, and on how many records.
pub(crate) struct Soak {
    minutes: u32,
    /// Requests a second.
    rate: usize,
    /// Records of the ledger at the start.
    records: usize,
}

/// Of its measurements: one value a minute.
const NAME: &str = "soak";

/// How long the tokens that are redeemed live, by the policy of their purpose.
const LIFETIME: Duration = Duration::from_secs(1);

/// Redemptions of each burst, by requests of the gateway.
const REDEEMED_PART: usize = 10;

/// Requests of the gateway: five kinds in turn.
struct Mix {
    fresh: Vec<Request>,
    next: usize,
    others: [Request; 4],
}

impl Soak {
    /// From `BENCH_SOAK_MINUTES`, `BENCH_SOAK_RATE` and `BENCH_SOAK_RECORDS`.
    pub(crate) fn choose() -> Self {
        let number =
            |name, otherwise| std::env::var(name).ok().map_or(otherwise, |text| text.parse::<u32>().expect("a number"));
        let size = |name, otherwise| usize::try_from(number(name, otherwise)).expect("a small number");
        Self {
            minutes: number("BENCH_SOAK_MINUTES", 30),
            rate: size("BENCH_SOAK_RATE", 300),
            records: size("BENCH_SOAK_RECORDS", 1_000_000),
        }
    }

    /// Every minute has new connections, and every ten seconds a policy changes. Any answer but the right one ends it.
    pub(crate) fn run(&self, cores: Cores, results: &mut Results) {
        let mut site = Site::new(100, cores);
        site.logs_to_file = true;
        // Some rotations in half an hour.
        for (setting, value) in [
            ("keys.rotation_period", "4m"),
            ("tokens.jwks_max_age", "30s"),
            ("tokens.lifetime", "30s"),
            ("tokens.max_lifetime", "60s"),
        ] {
            site.setup.change(setting, value);
        }
        site.start(Kind::Writ).process.terminate();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(fill(&site, self.records));
        let server = site.restart();
        let mut mix = Mix::new(&site);
        for minute in 1..=self.minutes {
            self.run_minute(&site, &server, &mut mix, results);
            let resident = server.process.resident_mib();
            results.add(NAME, RESIDENT, resident);
            eprintln!("minute {minute} of {}: {resident:.1} MiB resident", self.minutes);
        }
        server.process.terminate();
        note_log(&site, results);
    }

    fn run_minute(&self, site: &Site, server: &Server, mix: &mut Mix, results: &mut Results) {
        let mut gateway = Generator::connect(&site.endpoint(server, GATEWAY), CONNECTIONS);
        let mut purge_job = Generator::connect(&site.endpoint(server, PURGE_JOB), CONNECTIONS);
        let (began, cpu) = (Instant::now(), server.process.cpu_time());
        let (mut latencies, mut issued) = (Vec::new(), VecDeque::new());
        for second in 0..60 {
            if second % 10 == 0 {
                site.change_policy();
            }
            let requests = mix.take(self.rate);
            let mut outcome = gateway.run_closed(&requests);
            check(&outcome.responses, requests.len() / Mix::KINDS);
            latencies.append(&mut outcome.latencies);
            let mut expired = Vec::new();
            while issued.front().is_some_and(|(_, expiry)| *expiry < Instant::now()) {
                expired.extend(issued.pop_front().map(|(request, _)| request));
            }
            let mut outcome = purge_job.run_closed(&expired);
            check(&outcome.responses, 0);
            latencies.append(&mut outcome.latencies);
            let closing = Request::post("/token", &Form::client_credentials("account.close").encode());
            let outcome = gateway.run_closed(&vec![closing; self.rate / REDEEMED_PART]);
            check(&outcome.responses, 0);
            let expiry = Instant::now() + LIFETIME + Duration::from_secs(1); // times in tokens are whole seconds
            issued.extend(outcome.responses.iter().map(|response| (redemption(response), expiry)));
            std::thread::sleep((began + Duration::from_secs(second + 1)).saturating_duration_since(Instant::now()));
        }
        let answers = f64::from(u32::try_from(latencies.len()).expect("some thousands"));
        latencies.sort_unstable();
        results.add(NAME, CPU, micros(server.process.cpu_time().saturating_sub(cpu)) / answers);
        results.add(NAME, RATE, answers / began.elapsed().as_secs_f64());
        results.add(NAME, P50, micros(latencies[latencies.len() / 2]));
        results.add(NAME, P99, micros(latencies[latencies.len() * 99 / 100]));
    }
}

impl Mix {
    /// A fresh token, a token seen before, the client itself, a recorded token, and a request that is refused.
    const KINDS: usize = 5;

    fn new(site: &Site) -> Self {
        let fresh = exchanges(&mint(20_000, || access_token(site)));
        let seen = access_token(site).mint();
        let forms = [
            Form::exchange(&seen, "order.refund"),
            Form::client_credentials("mailbox.deliver"),
            Form::client_credentials("account.purge"),
            Form::exchange(&seen, "order.forget"),
        ];
        Self { fresh, next: 0, others: forms.map(|form| Request::post("/token", &form.encode())) }
    }

    /// As many requests, rounded down to the same number of each kind.
    fn take(&mut self, count: usize) -> Vec<Request> {
        let mut requests = Vec::with_capacity(count);
        for _ in 0..count / Self::KINDS {
            requests.push(self.fresh[self.next % self.fresh.len()].clone());
            self.next += 1;
            requests.extend(self.others.iter().cloned());
        }
        requests
    }
}

/// The redemption of the token that this answer contains.
fn redemption(issued: &Response) -> Request {
    let body: serde_json::Value = serde_json::from_slice(&issued.body).expect("JSON");
    let token = body["access_token"].as_str().expect("a token");
    Request::post("/token", &Form::redeem(token, "account.close").encode())
}

/// Exactly so many requests were refused, and all others granted.
fn check(responses: &[Response], refused: usize) {
    let wrong = responses.iter().find(|response| !matches!(response.status, 200 | 400));
    if let Some(response) = wrong {
        panic!("{}: {}", response.status, String::from_utf8_lossy(&response.body));
    }
    let found = responses.iter().filter(|response| response.status == 400).count();
    let first = responses.iter().find(|response| response.status == 400).map(|response| &*response.body);
    assert_eq!(found, refused, "{}", String::from_utf8_lossy(first.unwrap_or_default()));
}

/// What the log says of the time: rotations, reloads, and not one error.
fn note_log(site: &Site, results: &mut Results) {
    let log = std::fs::read_to_string(site.setup.path("logs/writ.log")).expect("the log");
    let count = |text: &str| f64::from(u32::try_from(log.matches(text).count()).expect("a small number"));
    assert!(!log.contains(r#""level":"ERROR""#), "the log contains an error");
    results.add(NAME, "rotations", count(r#""event":"key_rotated""#));
    results.add(NAME, "reloads", count(r#""event":"policies_reloaded""#));
}
