//! What one exchange costs: processor time of the service, as a ratio to one bare ES256 signature in the same run.
//!
//! Machines are noisy, ratios less so. `cargo bench --bench exchange` prints a line for each way in.
#![expect(clippy::unwrap_used, dead_code, reason = "the harness of the tests serves here too")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use support::issuer::Issuer;
use support::workload::{Form, Workload};
use support::writ::{Setup, Writ};

/// Exchanges that are measured together.
const ROUND: u32 = 1_000;

/// The kernel counts processor time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

const POLICY: &str = r#"
[[purpose]]
scope = "order.refund"
accept = ["access_token"]
granted_by = ["orders.write"]

[[purpose]]
scope = "mailbox.deliver"
accept = ["client_credentials"]

[[purpose]]
scope = "account.purge"
accept = ["client_credentials"]
"#;

const PURGE: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["expired_txn_token"]
[purpose.redemption]
issued_to = ["client"]
max_age = "1d"
"#;

fn main() {
    let signature = bare_signature();
    println!("one ES256 signature: {} µs of processor time", signature.as_micros());
    let issuer = Issuer::start();
    let setup = Setup::new().environment("WRIT_LOG", "info").issuer(&issuer);
    let writ = setup.client("client", POLICY).client("purge-job", PURGE).start();
    let client = writ.workload("client");
    let access_token = issuer.access_token().claim("scope", "orders.write").mint();
    let exchange = Form::exchange(&access_token, "order.refund");
    let (plain, recorded) = (Form::client_credentials("mailbox.deliver"), Form::client_credentials("account.purge"));
    for (name, form) in [("client credentials", &plain), ("put on record", &recorded), ("access token", &exchange)] {
        let cost = exchanges(&writ, &client, form);
        let ratio = cost.as_secs_f64() / signature.as_secs_f64();
        println!("one exchange, {name}: {} µs, {ratio:.1} signatures", cost.as_micros());
    }
    let connection = connections(&writ, &client, &plain);
    println!("one new mTLS connection with one exchange: {} µs", connection.as_micros());
}

fn bare_signature() -> Duration {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref()).expect("a key pair");
    let started = Instant::now();
    for _ in 0..ROUND {
        key.sign(&random, &[0; 600]).expect("a signature");
    }
    started.elapsed() / ROUND
}

/// On one connection, one after the other.
fn exchanges(writ: &Writ, client: &Workload, form: &Form) -> Duration {
    let mut session = client.connect();
    session.token(form).issued();
    let before = processor_time(writ);
    for _ in 0..ROUND {
        assert_eq!(session.token(form).status(), 200);
    }
    processor_time(writ).saturating_sub(before) / ROUND
}

fn connections(writ: &Writ, client: &Workload, form: &Form) -> Duration {
    let before = processor_time(writ);
    for _ in 0..ROUND {
        assert_eq!(client.token(form).status(), 200);
    }
    processor_time(writ).saturating_sub(before) / ROUND
}

/// User and system time of the service so far.
fn processor_time(writ: &Writ) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", writ.pid())).expect("it runs");
    let fields = stat.rsplit(')').next().expect("fields after the name").split_whitespace();
    let ticks: u32 = fields.skip(11).take(2).map(|field| field.parse::<u32>().expect("a number")).sum();
    TICK * ticks
}
