//! What a downstream service makes of the tokens, with the verifier and the published keys (CONTRACT 9; ).

use std::future::Future;
use std::time::Duration;

use writ_verifier::{TxnToken, Verifier, VerifyError};

use crate::scene::{self, MAILER, delayed, expired, redeem};
use crate::support::answer::Issued;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{ISSUER, TRUST_DOMAIN, eventually};

/// A runtime to wait on: the verifier fetches in the background.
fn wait<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap()).block_on(future)
}

/// A verifier as a service of the trust domain configures it.
fn verifier(writ: &Writ) -> Verifier {
    let port = writ.site().endpoints().discovery.unwrap().port();
    Verifier::builder(TRUST_DOMAIN)
        .jwks_url(format!("https://localhost:{port}/.well-known/jwks.json"))
        .root_certificate_pem(&writ.site().ca)
        .unwrap()
        .issuer(ISSUER)
        .require_issuer(true)
        .build()
        .unwrap()
}

fn verify(verifier: &Verifier, token: &str) -> Result<TxnToken, VerifyError> {
    wait(verifier.verify(token))
}

fn issue(writ: &Writ) -> Issued {
    writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued()
}

/// R-VERIFY-02 to R-VERIFY-06
#[test]
fn a_token_verifies_with_the_published_keys() {
    let writ = scene::mailer();
    let issued = issue(&writ);
    let token = verify(&verifier(&writ), &issued.token).unwrap();
    assert_eq!((token.transaction(), token.subject(), token.requesting_workload()), (issued.txn(), "mailer", "mailer"));
    token.require_scope("mailbox.deliver").unwrap();
    token.require_scope("mailbox.report").unwrap_err();
    assert_eq!(token.require_delayed(Duration::ZERO).unwrap_err().reason(), "token_not_delayed");
}

/// CONTRACT 9
#[test]
fn a_redeemed_token_shows_how_long_it_was_delayed() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let redeemed = writ.workload("batch").token(&redeem(&original)).issued();
    let token = verify(&verifier(&writ), &redeemed.token).unwrap();
    assert_eq!(token.requesting_workloads(), ["accounts", "batch"]);
    let by_then = token.require_delayed(Duration::ZERO).unwrap();
    assert_eq!((by_then.iat, by_then.exp, by_then.use_number), (original.iat(), original.exp(), 1));
    token.require_delayed(Duration::from_secs(3600)).unwrap_err();
}

/// R-VERIFY-05: redemption changes nothing for verifiers.
#[test]
fn an_expired_token_does_not_verify() {
    let writ = delayed("").start();
    let original = expired(&writ);
    assert!(verify(&verifier(&writ), &original.token).is_err());
}

/// R-VERIFY-04
#[test]
fn a_token_of_another_trust_domain_does_not_verify() {
    let writ = scene::mailer();
    let port = writ.site().endpoints().discovery.unwrap().port();
    let stranger = Verifier::builder("other.example")
        .jwks_url(format!("https://localhost:{port}/.well-known/jwks.json"))
        .root_certificate_pem(&writ.site().ca)
        .unwrap()
        .build()
        .unwrap();
    assert!(verify(&stranger, &issue(&writ).token).is_err());
}

/// R-KEYS-04: whoever holds the keys of before a rotation verifies what is signed after it.
#[test]
fn a_rotation_takes_no_verifier_by_surprise() {
    let writ = Setup::new().client("mailer", MAILER).short_keys(3600).start();
    let verifier = verifier(&writ);
    let before = issue(&writ);
    verify(&verifier, &before.token).unwrap();
    for _ in 0..2 {
        writ.rotate();
        let after = issue(&writ);
        assert_ne!(after.kid(), before.kid());
        verify(&verifier, &after.token).unwrap();
    }
}

///
#[test]
fn tokens_of_a_revoked_key_soon_verify_no_more() {
    let writ = Setup::new()
        .client("mailer", MAILER)
        .set("tokens.jwks_max_age", "1s")
        .set("tokens.max_lifetime", "60s")
        .start();
    let verifier = verifier(&writ);
    let issued = issue(&writ);
    verify(&verifier, &issued.token).unwrap();
    writ.run(&["keys", "revoke", issued.kid()]).exits(0);
    eventually("the verifier learns of it", || verify(&verifier, &issued.token).err());
    verify(&verifier, &issue(&writ).token).unwrap();
}

/// cached keys serve while the service is away.
#[test]
fn tokens_verify_while_the_service_is_away() {
    let mut writ = scene::mailer();
    let verifier = verifier(&writ);
    let issued = issue(&writ);
    verify(&verifier, &issued.token).unwrap();
    writ.kill();
    verify(&verifier, &issued.token).unwrap();
}

/// CONTRACT 8
#[test]
fn a_token_can_be_asked_for_on_the_command_line() {
    let writ = scene::mailer();
    let credentials = writ.setup.credentials("mailer");
    writ.setup.write("mailer.pem", &credentials.certificate_pem);
    writ.setup.write("mailer.key", &credentials.key_pem);
    let url = format!("https://localhost:{}", writ.site().endpoints().exchange.port());
    let request = |scope: &str| {
        let arguments =
            ["token", "request", "--url", &url, "--ca", "certs/ca.pem", "--cert", "mailer.pem", "--key", "mailer.key"];
        writ.run(&[&arguments[..], &["--scope", scope, "--audience", TRUST_DOMAIN]].concat())
    };
    let token = request("mailbox.deliver").exits(0).stdout;
    verify(&verifier(&writ), token.trim()).unwrap();
    request("other").exits(1).says("purpose_not_allowed");
}

/// CONTRACT 8: the first thing that anybody tries.
#[test]
fn quickstart_runs_its_flows_to_the_end() {
    let setup = Setup::new();
    let folder = setup.path("quick");
    let once = ["quickstart", "--once", "--dir", folder.to_str().unwrap()];
    setup.run(&once).exits(0);
    setup.run(&once).exits(0);
}

/// CONTRACT 8: a service under its real name, before any name server knows it.
#[test]
fn a_service_is_found_under_a_name_that_no_name_server_knows() {
    let setup = Setup::new().client("mailer", MAILER);
    let mut params = crate::support::pki::server();
    params.subject_alt_names.push(crate::support::pki::dns("tts.corp.example"));
    let server = setup.ca.issue(params);
    setup.write("certs/server.pem", &server.certificate_pem);
    setup.write("certs/server.key", &server.key_pem);
    let credentials = setup.credentials("mailer");
    setup.write("mailer.pem", &credentials.certificate_pem);
    setup.write("mailer.key", &credentials.key_pem);
    let writ = setup.start();
    let endpoints = writ.site().endpoints();
    let (exchange, discovery) = (endpoints.exchange.port(), endpoints.discovery.unwrap().port());
    let ask = |resolve: &str| {
        let url = format!("https://tts.corp.example:{exchange}");
        let arguments = ["token", "request", "--url", &url, "--ca", "certs/ca.pem", "--cert", "mailer.pem", "--key"];
        let rest = ["mailer.key", "--scope", "mailbox.deliver", "--audience", TRUST_DOMAIN, "--resolve", resolve];
        writ.run(&[&arguments[..], &rest].concat())
    };
    let token = ask(&format!("tts.corp.example:{exchange}:127.0.0.1")).exits(0).stdout;
    ask(&format!("tts.corp.example:{discovery}:127.0.0.1")).exits(1).says("the host name cannot be resolved");
    writ.setup.write("token", token.trim());
    let url = format!("https://tts.corp.example:{discovery}/.well-known/jwks.json");
    let verify = |url: &str, ca: &str| {
        let resolve = format!("tts.corp.example:{discovery}:127.0.0.1");
        let arguments =
            ["token", "verify", "--jwks", url, "--ca", ca, "--audience", TRUST_DOMAIN, "--resolve", &resolve];
        writ.run(&[&arguments[..], &["token"]].concat())
    };
    verify(&url, "certs/ca.pem").exits(0).says("valid until");
    writ.setup.write("other.pem", &crate::support::pki::Ca::root("somebody else").pem());
    for (url, ca, cause) in [
        (url.as_str(), "other.pem", "not issued by a CA that is trusted here"),
        ("https://localhost:1/jwks.json", "certs/ca.pem", "the connection was refused"),
        (&format!("https://tts.corp.example:{discovery}/nowhere"), "certs/ca.pem", "answered 404 Not Found"),
    ] {
        verify(url, ca).exits(1).says("keys_unavailable").says(cause);
    }
}

/// CONTRACT 8, RFC 8414 section 3.3: the metadata of another issuer are not believed.
#[test]
fn metadata_of_another_issuer_are_not_believed() {
    let writ = scene::mailer();
    let credentials = writ.setup.credentials("mailer");
    writ.setup.write("mailer.pem", &credentials.certificate_pem);
    writ.setup.write("mailer.key", &credentials.key_pem);
    let url = format!("https://localhost:{}", writ.site().endpoints().exchange.port());
    let arguments = ["token", "request", "--url", &url, "--ca", "certs/ca.pem", "--cert", "mailer.pem", "--key"];
    let output = writ.run(&[&arguments[..], &["mailer.key", "--scope", "mailbox.deliver"]].concat()).exits(1);
    output.says("calls itself https://localhost:8443: use --url https://localhost:8443");
}
