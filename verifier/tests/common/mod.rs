//! Shared by the tests: a signer, valid claims, and a key publisher on the loopback interface.
#![expect(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod publisher;
pub mod signer;

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Seconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The claims of a valid Txn-Token, issued now.
pub fn claims() -> Value {
    json!({
        "iss": "https://tts.example", "iat": now(), "exp": now() + 60, "aud": "d.example", "txn": "t-1",
        "sub": "u-1", "scope": "order.refund order.read", "req_wl": "gateway",
        "tctx": {"amount": 100, "currency": "EUR"}, "rctx": {"req_ip": "192.0.2.1"},
    })
}
