//! The harness of the black-box tests: fresh certificates, a subject issuer on loopback, the `writ` executable in a
//! folder of its own, and clients that talk TLS to it. Nothing of the server is imported; what it answers is judged as
//! a downstream service would judge it.

pub(crate) mod answer;
pub(crate) mod cli;
pub(crate) mod description;
pub(crate) mod http;
pub(crate) mod issuer;
pub(crate) mod jose;
pub(crate) mod pdp;
pub(crate) mod pki;
pub(crate) mod workload;
pub(crate) mod writ;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const TRUST_DOMAIN: &str = "trust-domain.example";

/// The issuer of every test. Clients connect to the address that the service logs, with `localhost` as server name.
pub(crate) const ISSUER: &str = "https://localhost:8443";

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}

/// Returns at the first moment of the second `epoch`.
pub(crate) fn wait_until(epoch: u64) {
    while let Ok(left) = (UNIX_EPOCH + Duration::from_secs(epoch)).duration_since(SystemTime::now()) {
        std::thread::sleep(left + Duration::from_millis(1));
    }
}

/// Asks `probe` again and again until it answers; panics with `what` after [`DEADLINE`].
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
