//! Area AUTHN: authentication of the client and of the service.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, SanType};
use rustls::AlertDescription;
use rustls::pki_types::CertificateDer;

use crate::support::answer::Answer;
use crate::support::eventually;
use crate::support::pki::{self, Ca, Credentials};
use crate::support::workload::{FORM, Form, tls_config};
use crate::support::writ::{Setup, Writ, spiffe_id};

/// The rest of the policy of every client here.
const READS: &str = r#"
[[purpose]]
scope = "order.read"
accept = ["client_credentials"]
"#;

fn clerk() -> Writ {
    Setup::new().client("clerk", READS).client("porter", READS).start()
}

/// A client of that name and identity.
fn known_by(setup: Setup, id: &str, identity: &str) -> Setup {
    setup.policy(&format!("{id}.toml"), &format!("client_id = \"{id}\"\n{identity}\n{READS}"))
}

fn named(names: Vec<SanType>) -> CertificateParams {
    let mut params = pki::client("some workload");
    params.subject_alt_names = names;
    params
}

fn good() -> Form {
    Form::client_credentials("order.read")
}

fn ask(writ: &Writ, params: CertificateParams) -> Answer {
    writ.workload_with(&writ.setup.ca.issue(params)).token(&good())
}

#[track_caller]
fn is(id: &str, answer: &Answer) {
    assert_eq!(answer.issued().claims["req_wl"], id);
}

/// R-AUTHN-01, R-INTRO-06
#[test]
fn whoever_is_not_authenticated_learns_nothing_of_tokens_or_clients() {
    let writ = clerk();
    let token = writ.workload("clerk").token(&good()).issued().token;
    let stranger = writ.workload("nobody");
    let first = stranger.token(&good()).invalid_client("client_unknown");
    for form in [
        good().set("client_id", "clerk"),
        good().set("client_id", "unheard-of"),
        Form::redeem(&token, "order.read"),
        Form::redeem("no token at all", "order.read"),
    ] {
        let refused = stranger.token(&form).invalid_client("client_unknown");
        assert_eq!(refused.answer, first.answer);
        assert_eq!(writ.audit_of(&refused.request_id)["reason"], "client_unknown");
    }
    for token in [token.as_str(), "no token at all"] {
        assert_eq!(stranger.introspect(token).invalid_client("client_unknown").answer, first.answer);
    }
    assert_eq!(writ.stranger().alert(), AlertDescription::CertificateRequired);
}

/// R-AUTHN-01
#[test]
fn strangers_are_limited_without_harm_to_clients() {
    let writ = Setup::new().client("clerk", READS).set("limits.requests_per_second_per_client", 2).start();
    let stranger = writ.workload("nobody");
    let limited = (0..50).map(|_| stranger.token(&good())).find(|answer| answer.status() != 401);
    limited.expect("50 requests are more than 2 a second").refused(429, "temporarily_unavailable", "rate_limited");
    writ.workload("clerk").token(&good()).issued();
}

/// R-AUTHN-02
#[test]
fn a_second_way_to_authenticate_is_refused() {
    let writ = clerk();
    let client = writ.workload("clerk");
    client.token(&good().set("client_secret", "x")).invalid_request("parameter_unsupported");
    client.token(&good().set("client_assertion", "x.y.z")).invalid_request("parameter_unsupported");
    let headers = [("Content-Type", FORM), ("Authorization", "Basic Y2xlcms6eA==")];
    client.post(&headers, good().encode().as_bytes()).invalid_request("parameter_unsupported");
}

/// R-AUTHN-03
#[test]
fn a_client_has_a_valid_certificate_with_its_own_name() {
    let writ = clerk();
    let names = || named(vec![pki::uri(&spiffe_id("clerk"))]);
    is("clerk", &ask(&writ, names()));
    ask(&writ, named(vec![pki::uri(&spiffe_id("nobody"))])).invalid_client("client_unknown");
    ask(&writ, named(vec![])).invalid_client("client_unknown");

    let mut expired = names();
    expired.not_after = (SystemTime::now() - Duration::from_secs(60)).into();
    let expired = writ.workload_with(&writ.setup.ca.issue(expired));
    assert_eq!(expired.alert(), AlertDescription::CertificateExpired);
    let untrusted = writ.workload_with(&Ca::root("another authority").issue(names()));
    assert_eq!(untrusted.alert(), AlertDescription::UnknownCA);
    assert_eq!(writ.stranger().alert(), AlertDescription::CertificateRequired);
}

/// R-AUTHN-04; and R-AUTHN-01: whether there is a client of that name is not told.
#[test]
fn client_id_may_be_left_out_and_must_agree() {
    let writ = clerk();
    let client = writ.workload("clerk");
    is("clerk", &client.token(&good()));
    is("clerk", &client.token(&good().set("client_id", "clerk")));
    let [known, unknown] = ["porter", "unheard-of"]
        .map(|other| client.token(&good().set("client_id", other)).invalid_client("client_id_mismatch"));
    assert_eq!(known.answer, unknown.answer);
}

/// R-AUTHN-05
#[test]
fn each_kind_of_name_finds_its_client() {
    let setup = known_by(Setup::new(), "dns", "tls_client_auth_san_dns = \"job.example\"");
    let setup = known_by(setup, "email", "tls_client_auth_san_email = \"job@example.org\"");
    let setup = known_by(setup, "ip", "tls_client_auth_san_ip = \"2001:db8:0:0::1\"");
    let setup = known_by(setup, "uri", "tls_client_auth_san_uri = \"https://job.example/1\"");
    let writ = known_by(setup, "dn", "tls_client_auth_subject_dn = \"CN=Job,O=Example\"").start();
    let subject = |parts: &[(DnType, &str)]| {
        let mut params = named(vec![]);
        params.distinguished_name = pki::dn(parts);
        params
    };
    is("dns", &ask(&writ, named(vec![pki::dns("Job.EXAMPLE")])));
    is("email", &ask(&writ, named(vec![pki::email("job@example.org")])));
    is("ip", &ask(&writ, named(vec![pki::ip("2001:db8::1")])));
    is("uri", &ask(&writ, named(vec![pki::uri("https://job.example/1")])));
    is("dn", &ask(&writ, subject(&[(DnType::OrganizationName, "Example"), (DnType::CommonName, "Job")])));

    for other in [
        named(vec![pki::dns("*.example")]),
        named(vec![pki::email("Job@example.org")]),
        named(vec![pki::ip("2001:db8::2")]),
        named(vec![pki::uri("https://job.example/1/")]),
        named(vec![pki::uri("https://job.example/%31")]),
        named(vec![pki::email("job.example@example.org"), pki::uri("job.example")]),
        subject(&[(DnType::CommonName, "job.example")]),
        subject(&[(DnType::CommonName, "Job"), (DnType::OrganizationName, "Example")]),
    ] {
        ask(&writ, other).invalid_client("client_unknown");
    }
}

/// R-AUTHN-05
#[test]
fn a_client_has_exactly_one_identity() {
    known_by(Setup::new(), "clerk", "").run(&["check"]).exits(2).says("clerk.toml");
    let two = "tls_client_auth_san_dns = \"a.example\"\ntls_client_auth_san_uri = \"https://a.example\"";
    known_by(Setup::new(), "clerk", two).run(&["check"]).exits(2).says("clerk.toml");
}

/// R-AUTHN-06
#[test]
fn a_self_signed_certificate_is_the_registered_one_with_its_key() {
    let known = Credentials::self_signed(&pki::client("clerk"));
    let identity = format!("self_signed_tls_client_auth_x5t_s256 = [\"{}\"]", known.thumbprint());
    let writ = known_by(Setup::new(), "clerk", &identity).start();
    is("clerk", &writ.workload_with(&known).token(&good()));

    let mut other = Credentials::self_signed(&pki::client("clerk"));
    assert_eq!(writ.workload_with(&other).alert(), AlertDescription::UnknownCA);
    other.chain.clone_from(&known.chain);
    assert_eq!(writ.workload_with(&other).alert(), AlertDescription::DecryptError);
}

/// R-AUTHN-07
#[test]
fn a_spiffe_id_is_the_only_one_and_of_this_trust_domain() {
    let writ = clerk();
    is("clerk", &ask(&writ, named(vec![pki::uri(&spiffe_id("clerk")), pki::dns("clerk.example")])));
    ask(&writ, named(vec![pki::uri("spiffe://other.example/clerk")])).invalid_client("client_unknown");
    let two = vec![pki::uri(&spiffe_id("clerk")), pki::uri("spiffe://other.example/clerk")];
    ask(&writ, named(two)).invalid_client("client_unknown");
}

/// R-AUTHN-07, R-AUTHN-09: the ID is good for nothing unless the CA of its trust domain vouches for it.
#[test]
fn a_spiffe_id_is_validated_against_the_bundle_of_its_trust_domain() {
    let mut setup = Setup::new().client("clerk", READS);
    setup = known_by(setup, "partner", "tls_client_auth_san_uri = \"spiffe://partner.example/job\"");
    setup = known_by(setup, "dns", "tls_client_auth_san_dns = \"job.example\"");
    setup = known_by(setup, "dn", "tls_client_auth_subject_dn = \"CN=Job\"");
    let partner = Ca::root("partner");
    setup.write("certs/partner.pem", &partner.pem());
    let table = |file: &str, domain: &str| {
        let members = [("file", toml::Value::from(file)), ("trust_domains", vec![domain].into())];
        toml::Value::Table(members.map(|(name, value)| (name.to_owned(), value)).into_iter().collect())
    };
    let tables = vec![table("certs/ca.pem", "trust-domain.example"), table("certs/partner.pem", "partner.example")];
    setup.change("tls.client_ca", tables);
    setup.run(&["check"]).exits(0);
    let writ = setup.start();
    let by = |ca: &Ca, names: Vec<SanType>| writ.workload_with(&ca.issue(named(names)));
    let own_id = || pki::uri(&spiffe_id("clerk"));
    let partner_id = || pki::uri("spiffe://partner.example/job");
    is("clerk", &by(&writ.setup.ca, vec![own_id()]).token(&good()));
    is("partner", &by(&partner, vec![partner_id()]).token(&good()));
    // Beside its SPIFFE ID no name counts that such a CA writes.
    is("partner", &by(&partner, vec![partner_id(), pki::dns("job.example")]).token(&good()));
    let form = good().set("client_id", "dns");
    by(&partner, vec![partner_id(), pki::dns("job.example")]).token(&form).invalid_client("client_id_mismatch");
    let mut job = named(vec![partner_id()]);
    job.distinguished_name = pki::dn(&[(DnType::CommonName, "Job")]);
    let job = writ.workload_with(&partner.issue(job));
    job.token(&good().set("client_id", "dn")).invalid_client("client_id_mismatch");

    for client in [
        by(&partner, vec![own_id()]),
        by(&writ.setup.ca, vec![partner_id()]),
        by(&partner, vec![pki::dns("job.example")]),
        by(&partner, vec![]),
        by(&partner, vec![partner_id(), own_id()]),
    ] {
        let is_it = |line: &serde_json::Value| line["alert"] == "access_denied";
        let line = writ.expect_log("the refused handshake", || drop(client.try_token(&good())), is_it);
        assert!(line["cause"].as_str().unwrap().contains("may only vouch for SPIFFE IDs of "), "{line}");
        assert_eq!(client.alert(), AlertDescription::AccessDenied);
    }
}

/// R-AUTHN-07
#[test]
fn a_new_bundle_is_taken_over_without_a_restart() {
    let writ = clerk();
    let second = Ca::root("second authority");
    let client = writ.workload_with(&second.issue(named(vec![pki::uri(&spiffe_id("clerk"))])));
    assert_eq!(client.alert(), AlertDescription::UnknownCA);
    writ.setup.write("certs/ca.pem", &format!("{}{}", writ.setup.ca.pem(), second.pem()));
    writ.hup();
    eventually("the new authority", || client.is_let_in().then_some(()));
    is("clerk", &client.token(&good()));
}

/// R-AUTHN-09
#[test]
fn a_revoked_certificate_and_a_stale_crl_let_nobody_in() {
    let with_crl = |crl: &dyn Fn(&Setup) -> String| {
        let setup = Setup::new().client("clerk", READS).set("tls.client_crls", vec!["certs/crl.pem"]);
        setup.write("certs/crl.pem", &crl(&setup));
        setup.start()
    };
    let writ = with_crl(&|setup| setup.ca.crl(1, &[]));
    let revoked = writ.setup.credentials("clerk");
    is("clerk", &writ.workload_with(&revoked).token(&good()));
    writ.expect_event("certificates_reloaded", || {
        writ.setup.write("certs/crl.pem", &writ.setup.ca.crl(2, &[&revoked]));
        writ.hup();
    });
    assert_eq!(writ.workload_with(&revoked).alert(), AlertDescription::CertificateRevoked);
    is("clerk", &writ.workload("clerk").token(&good()));

    let hours_ago = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
    let stale = with_crl(&|setup| setup.ca.crl_valid(1, &[], hours_ago(2), hours_ago(1)));
    assert!(!stale.workload("clerk").is_let_in());
}

/// R-AUTHN-09
#[test]
fn a_certificate_that_cannot_be_read_is_refused_and_harms_nobody() {
    let writ = clerk();
    let good_one = writ.setup.credentials("clerk").chain[0].to_vec();
    let mut flipped = good_one.clone();
    flipped[good_one.len() / 2] ^= 0x55;
    for bad in [vec![0x30, 0x03, 2, 1], good_one[..good_one.len() / 2].to_vec(), flipped] {
        let mut credentials = writ.setup.credentials("clerk");
        credentials.chain = vec![CertificateDer::from(bad)];
        assert!(!writ.workload_with(&credentials).is_let_in());
    }
    is("clerk", &writ.workload("clerk").token(&good()));
}

/// R-AUTHN-09
#[test]
fn an_operator_can_shut_out_a_client() {
    let writ = clerk();
    writ.run(&["block", "add", "--client", "clerk"]).exits(0);
    writ.workload("clerk").token(&good()).invalid_request("blocked");
    writ.change_policy("porter.toml", None);
    writ.workload("porter").token(&good()).invalid_client("client_unknown");
}

/// R-AUTHN-13, R-VERIFY-08
#[test]
fn a_txn_token_authenticates_nobody() {
    let writ = clerk();
    let token = writ.workload("clerk").token(&good()).issued().token;
    let bearer = format!("Bearer {token}");
    let body = good().encode();
    for header in [("Authorization", bearer.as_str()), ("Txn-Token", token.as_str())] {
        let stranger = writ.workload("nobody").post(&[("Content-Type", FORM), header], body.as_bytes());
        stranger.invalid_client("client_unknown");
    }
    let client = writ.workload("clerk");
    let headers = [("Content-Type", FORM), ("Authorization", bearer.as_str())];
    client.post(&headers, body.as_bytes()).invalid_request("parameter_unsupported");
    client.token(&good().set("client_assertion", &token)).invalid_request("parameter_unsupported");
}

/// R-AUTHN-14
#[test]
fn nothing_in_a_request_changes_who_asks() {
    let writ = clerk();
    let other = writ.setup.credentials("porter");
    let forwarded = format!("By=spiffe://x;URI={}", spiffe_id("porter"));
    let headers = [
        ("Content-Type", FORM),
        ("Client-Cert", &format!(":{}:", other.certificate_pem.lines().skip(1).take(3).collect::<String>())),
        ("X-Forwarded-Client-Cert", forwarded.as_str()),
    ];
    let form = good().set("req_wl", "porter").set("sub", "porter").set("request_context", r#"{"req_wl":"porter"}"#);
    let issued = writ.workload("clerk").post(&headers, form.encode().as_bytes()).issued();
    assert_eq!((&issued.claims["req_wl"], &issued.claims["sub"]), (&"clerk".into(), &"clerk".into()));
}

/// R-AUTHN-15
#[test]
fn the_server_shows_a_certificate_that_its_clients_can_verify() {
    let writ = clerk();
    let credentials = writ.setup.credentials("clerk");
    is("clerk", &writ.workload_with(&credentials).token(&good()));
    let distrustful = tls_config(&Ca::root("clients and servers").pem(), Some(&credentials));
    let client = writ.stranger().with_tls_config((*distrustful).clone());
    let Err(error) = client.try_connect() else { panic!("connected to a server of another authority") };
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
}
