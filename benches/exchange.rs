//! CPU time of the service for one exchange, as a multiple of one bare ES256 signature in the same run.
//!
//! The ratio varies less between machines and runs than the time. `cargo bench --bench exchange` prints one line for each
//! kind of request.
#![expect(clippy::unwrap_used, dead_code, reason = "uses the harness of the tests")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use support::issuer::Issuer;
use support::workload::{Form, Workload};
use support::writ::{Setup, Writ};

/// Number of exchanges in one measurement.
const ROUND: u32 = 1_000;

/// Resolution of the CPU time in `/proc`: 1/100 s.
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
    let signature = measure_signature();
    println!("one ES256 signature: {} µs of CPU time", signature.as_micros());
    let issuer = Issuer::start();
    let setup = Setup::new().environment("WRIT_LOG", "info").issuer(&issuer);
    let writ = setup.client("client", POLICY).client("purge-job", PURGE).start();
    let client = writ.workload("client");
    let access_token = issuer.access_token().claim("scope", "orders.write").mint();
    let exchange = Form::exchange(&access_token, "order.refund");
    let (plain, recorded) = (Form::client_credentials("mailbox.deliver"), Form::client_credentials("account.purge"));
    for (name, form) in [("client credentials", &plain), ("redeemable", &recorded), ("access token", &exchange)] {
        let cost = measure_exchange(&writ, &client, form);
        let ratio = cost.as_secs_f64() / signature.as_secs_f64();
        println!("one exchange, {name}: {} µs, {ratio:.1} signatures", cost.as_micros());
    }
    let connection = measure_connection(&writ, &client, &plain);
    println!("one new mTLS connection with one exchange: {} µs", connection.as_micros());
}

fn measure_signature() -> Duration {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref()).expect("a key pair");
    let started = Instant::now();
    for _ in 0..ROUND {
        key.sign(&random, &[0; 600]).expect("a signature");
    }
    started.elapsed() / ROUND
}

/// CPU time of one exchange; all run sequentially on one connection.
fn measure_exchange(writ: &Writ, client: &Workload, form: &Form) -> Duration {
    let mut session = client.connect();
    session.token(form).issued();
    let before = cpu_time(writ);
    for _ in 0..ROUND {
        assert_eq!(session.token(form).status(), 200);
    }
    cpu_time(writ).saturating_sub(before) / ROUND
}

/// CPU time of one exchange on a new connection, including the handshake.
fn measure_connection(writ: &Writ, client: &Workload, form: &Form) -> Duration {
    let before = cpu_time(writ);
    for _ in 0..ROUND {
        assert_eq!(client.token(form).status(), 200);
    }
    cpu_time(writ).saturating_sub(before) / ROUND
}

/// User and system CPU time of the service so far (fields 14 and 15 of `/proc/PID/stat`).
fn cpu_time(writ: &Writ) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", writ.pid())).expect("it runs");
    let fields = stat.rsplit(')').next().expect("fields after the name").split_whitespace();
    let ticks: u32 = fields.skip(11).take(2).map(|field| field.parse::<u32>().expect("a number")).sum();
    TICK * ticks
}
