//! The cost of `verify` against the bare check of its signature, for each algorithm, and of its parts.
//!
//! `cargo bench -p writ-verifier` prints one line for each: the median of several rounds, which alternate so that noise of
//! the machine touches all of them alike, and the ratio to the bare check in the same run. Times are CPU time of this
//! thread, as Linux reports it. The bare check has a parsed key.
#![expect(clippy::unwrap_used, unreachable_pub, reason = "uses the signer of the tests")]

#[path = "../tests/common/signer.rs"]
mod signer;

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use signer::{Signer, jwks};
use writ_verifier::json::{Limits, Members, check};
use writ_verifier::jws::Jws;
use writ_verifier::{TOKEN_MAX, TxnClaims, Verifier};

/// The rounds of each measurement.
const ROUNDS: usize = 15;

/// The time that one round takes.
const ROUND: Duration = Duration::from_millis(40);

/// Something to measure.
struct Case<'a> {
    name: String,
    run: Box<dyn FnMut() + 'a>,
    /// Nanoseconds of one run, by round.
    rounds: Vec<f64>,
}

impl<'a> Case<'a> {
    fn new(name: impl Into<String>, run: impl FnMut() + 'a) -> Self {
        Self { name: name.into(), run: Box::new(run), rounds: Vec::new() }
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn round(&mut self) {
        let (started, before, mut runs) = (Instant::now(), cpu_time(), 0_u64);
        while started.elapsed() < ROUND {
            (0..16).for_each(|_| (self.run)());
            runs += 16;
        }
        self.rounds.push((cpu_time() - before) as f64 / runs as f64);
    }

    fn median(&self) -> f64 {
        let mut rounds = self.rounds.clone();
        rounds.sort_by(f64::total_cmp);
        rounds[rounds.len() / 2]
    }
}

/// The nanoseconds for which this thread has run.
fn cpu_time() -> u64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    statistics.split(' ').next().unwrap().parse().unwrap()
}

/// Measures all `cases`, and prints each with its ratio to the first.
fn compare(mut cases: Vec<Case<'_>>) {
    for _ in 0..ROUNDS {
        cases.iter_mut().for_each(Case::round);
    }
    let unit = cases[0].median();
    for case in &cases {
        println!("{:<44} {:>9.2} µs {:>8.3}", case.name, case.median() / 1000.0, case.median() / unit);
    }
}

/// The claims of a token with details and context.
fn claims(number: u64) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({
        "iss": "https://tts.trust-domain.example", "iat": now, "exp": now + 3600, "aud": "trust-domain.example",
        "txn": format!("019a1f6e-2d3c-7b45-8c1a-{number:012}"), "sub": "ann@trust-domain.example",
        "scope": "order.refund", "req_wl": "gateway",
        "tctx": {"order": "o-20260728-0017", "amount": 1250, "currency": "EUR"},
        "rctx": {"req_ip": "192.0.2.17", "authn": "urn:ietf:rfc:6749"},
    })
}

fn parsed_key(signer: &Signer) -> ParsedPublicKey {
    let jwk = signer.jwk();
    let part = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    if signer.algorithm == Algorithm::ES256 {
        let point = [vec![4], part("x"), part("y")].concat();
        return ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).unwrap();
    }
    let components = RsaPublicKeyComponents { n: part("n"), e: part("e") };
    components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).unwrap()
}

fn measure(algorithm: Algorithm) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let signer = Signer::new("gPnL1VvB8mN8yqE6o0u2T3sW9xZ4rC5dF7hK1jL2mQ0", algorithm);
    let verifier = Verifier::builder("trust-domain.example").jwks_json(jwks(&[signer.jwk()])).build().unwrap();
    // More tokens than any cache holds.
    let tokens: Vec<_> = (0..if algorithm == Algorithm::ES256 { 20_000 } else { 2_000 })
        .map(|number| signer.token(&claims(number)))
        .collect();
    let key = parsed_key(&signer);
    let seen = tokens[0].as_str();
    let mut raw = tokens.iter().cycle().map(|token| token.rsplit_once('.').unwrap());
    let mut fresh = tokens.iter().cycle();
    let payload = URL_SAFE_NO_PAD.decode(seen.split('.').nth(1).unwrap()).unwrap();
    let text = std::str::from_utf8(&payload).unwrap();
    let verify = |token: &str| drop(black_box(runtime.block_on(verifier.verify(token)).unwrap()));
    println!("{algorithm:?}, {} bytes", seen.len());
    compare(vec![
        Case::new("bare signature check", || {
            let (message, signature) = raw.next().unwrap();
            let mut decoded = [0; 512];
            let len = URL_SAFE_NO_PAD.decode_slice(signature, &mut decoded).unwrap();
            key.verify_sig(message.as_bytes(), &decoded[..len]).unwrap();
        }),
        Case::new("verify, another token each time", || verify(fresh.next().unwrap())),
        Case::new("verify, a token verified before", || verify(seen)),
        Case::new("Jws::parse", || drop(black_box(Jws::parse(seen, TOKEN_MAX).unwrap()))),
        Case::new("json::check of the claims", || check(black_box(text), Limits::DEFAULT).unwrap()),
        Case::new("Members::parse of the claims", || {
            drop(black_box(Members::parse(text, Limits::DEFAULT).unwrap()));
        }),
        Case::new("TxnClaims::parse", || drop(black_box(TxnClaims::parse(&payload).unwrap()))),
    ]);
}

fn main() {
    measure(Algorithm::ES256);
    measure(Algorithm::RS256);
}
