//! A Transaction Token Service with a fault of choice, and the command that tests it.

pub(crate) mod exchange;
pub(crate) mod fault;
#[path = "../../../tests/support/jose.rs"]
#[expect(dead_code, reason = "shared with the tests of the service")]
mod jose;
#[path = "../../../tests/support/pki.rs"]
#[expect(dead_code, reason = "shared with the tests of the service")]
pub(crate) mod pki;
pub(crate) mod report;
pub(crate) mod tts;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a connection may take before the service gives up on it.
const DEADLINE: Duration = Duration::from_secs(30);

const TRUST_DOMAIN: &str = "trust-domain.example";

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";
const TXN_TOKEN: &str = "urn:ietf:params:oauth:token-type:txn_token";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const FORM: &str = "application/x-www-form-urlencoded";

/// Unix seconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}
