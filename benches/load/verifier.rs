//! The verifier crate against the bare verification of a signature.

use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use writ_verifier::Verifier;

use crate::results::{CPU, Results};
use crate::support::jose::Key;
use crate::support::{ISSUER, TRUST_DOMAIN, now};
use crate::{Scale, micros};

/// Tokens in one measurement.
const COUNT: u32 = 4_000;

/// `verifier/raw-es256`, `verifier/verify` and `verifier/verify-again`.
pub(crate) fn run(scale: &Scale, results: &mut Results) {
    let key = Key::es256("verifier");
    let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_bytes()).expect("a key on P-256");
    let header = json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": "verifier"}).to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for _ in 0..scale.rounds {
        let tokens: Vec<_> = (0..COUNT).map(|number| token(&key, &header, number)).collect();
        let raw: Vec<_> = tokens.iter().map(|token| split(token)).collect();
        // A new one each time, which knows none of the tokens.
        let jwks = json!({"keys": [key.jwk()]}).to_string();
        let verifier = Verifier::builder(TRUST_DOMAIN).jwks_json(jwks).build().expect("a verifier");
        let verify = |token: &String| {
            let token = runtime.block_on(verifier.verify(token)).expect("a valid token");
            black_box(token);
        };
        scale.cores.on_generator(|| {
            let mut note = |name: &str, work: &dyn Fn(usize)| {
                results.add(name, CPU, micros(cpu_time(|| (0..tokens.len()).for_each(work))) / f64::from(COUNT));
            };
            note("verifier/raw-es256", &|index| {
                let (signed, signature) = &raw[index];
                parsed.verify_sig(signed, signature).expect("a valid signature");
            });
            note("verifier/verify", &|index| verify(&tokens[index]));
            note("verifier/verify-again", &|_| verify(&tokens[0]));
        });
    }
}

fn token(key: &Key, header: &str, number: u32) -> String {
    let claims = json!({
        "iss": ISSUER, "aud": TRUST_DOMAIN, "iat": now(), "exp": now() + 300, "sub": "alice",
        "txn": format!("verifier-{number}"), "scope": "order.refund", "req_wl": "gateway",
    });
    key.token(header, &claims.to_string())
}

/// The signing input and the signature.
fn split(token: &str) -> (Vec<u8>, Vec<u8>) {
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    (signed.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(signature).expect("base64url"))
}

/// CPU time of this thread.
fn cpu_time(work: impl FnOnce()) -> Duration {
    let time = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
    };
    let before = time();
    work();
    time().saturating_sub(before)
}
