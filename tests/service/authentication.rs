//! Which client a certificate authenticates, and that nothing else in a request does (CONTRACT 3.1; A-012, A-015 to
//! A-025, A-068; area AUTHN). Whether the TLS handshake succeeds at all is tested in `handshakes`.

use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CrlDistributionPoint, DnType, OtherNameValue, SanType};
use rustls::AlertDescription;

use crate::scene::{self, MAILER};
use crate::support::answer::Answer;
use crate::support::pki::{self, Ca, Credentials};
use crate::support::workload::{FORM, Form, Session};
use crate::support::writ::{Setup, Writ, spiffe_id};
use crate::support::{eventually, now, wait_until};

const DELIVER: &str = "mailbox.deliver";

/// Adds a client of that name and identity.
fn known_by(setup: Setup, id: &str, identity: &str) -> Setup {
    setup.policy(&format!("{id}.toml"), &format!("client_id = \"{id}\"\n{identity}\n{MAILER}"))
}

/// A service with one client of that identity.
fn client_known_by(identity: &str) -> Writ {
    known_by(Setup::new(), "mailer", identity).start()
}

fn named(names: Vec<SanType>) -> CertificateParams {
    let mut params = pki::client("some workload");
    params.subject_alt_names = names;
    params
}

fn ask(writ: &Writ, params: CertificateParams) -> Answer {
    ask_with(writ, &writ.setup.ca.issue(params))
}

fn ask_with(writ: &Writ, credentials: &Credentials) -> Answer {
    writ.workload_with(credentials).token(&Form::client_credentials(DELIVER))
}

#[track_caller]
fn is(id: &str, answer: &Answer) {
    assert_eq!(answer.issued().claims["req_wl"], id);
}

#[track_caller]
fn is_mailer(answer: &Answer) {
    is("mailer", answer);
}

fn good() -> Form {
    Form::client_credentials(DELIVER)
}

/// R-AUTHN-05, R-AUTHN-07
#[test]
fn a_client_is_known_by_one_name_of_its_certificate_of_any_kind() {
    let setup = Setup::new().client("spiffe", MAILER);
    let setup = known_by(setup, "dns", "tls_client_auth_san_dns = \"job.example\"");
    let setup = known_by(setup, "email", "tls_client_auth_san_email = \"job@example.org\"");
    let setup = known_by(setup, "ip", "tls_client_auth_san_ip = \"2001:db8:0:0::1\"");
    let setup = known_by(setup, "uri", "tls_client_auth_san_uri = \"https://job.example/1?x=1\"");
    let setup = known_by(setup, "dn", "tls_client_auth_subject_dn = \"CN=Job,OU=Jobs,O=Example\"");
    let writ = known_by(setup, "comma", r"tls_client_auth_subject_dn = 'CN=mailer\, EU,O=Example'").start();
    let (cn, ou, o) = (DnType::CommonName, DnType::OrganizationalUnitName, DnType::OrganizationName);
    let subject = |parts: &[(&DnType, &str)]| {
        with_dn(&parts.iter().map(|(kind, value)| ((*kind).clone(), *value)).collect::<Vec<_>>())
    };
    for (id, params) in [
        ("spiffe", named(vec![pki::uri(&spiffe_id("spiffe"))])),
        ("dns", named(vec![pki::dns("job.example")])),
        ("dns", named(vec![pki::dns("Job.EXAMPLE")])),
        ("email", named(vec![pki::email("job@example.org")])),
        ("ip", named(vec![pki::ip("2001:db8::1")])),
        ("uri", named(vec![pki::uri("https://job.example/1?x=1")])),
        ("dn", subject(&[(&o, "Example"), (&ou, "Jobs"), (&cn, "Job")])),
        ("comma", subject(&[(&o, "Example"), (&cn, "mailer, EU")])),
    ] {
        is(id, &ask(&writ, params));
    }
    for other in [
        named(vec![]),
        named(vec![pki::dns("*.example")]),
        named(vec![pki::dns("2001.db8")]),
        named(vec![pki::email("Job@example.org")]),
        named(vec![pki::ip("2001:db8::2")]),
        named(vec![pki::uri("https://job.example/1?x=1/")]),
        named(vec![pki::uri("https://job.example/%31?x=1")]),
        named(vec![pki::email("job.example@example.org"), pki::uri("job.example")]),
        subject(&[(&cn, "job.example")]),
        subject(&[(&cn, "Job"), (&ou, "Jobs"), (&o, "Example")]),
    ] {
        ask(&writ, other).invalid_client("client_unknown");
    }
}

fn with_dn(parts: &[(DnType, &str)]) -> CertificateParams {
    let mut params = pki::client("");
    params.distinguished_name = pki::dn(parts);
    params
}

/// A-021: names are compared part by part, never as joined text.
#[test]
fn a_subject_that_only_looks_alike_is_unknown() {
    let writ = client_known_by("tls_client_auth_subject_dn = \"CN=mailer,OU=Jobs,O=Example\"");
    let (cn, ou, o) = (DnType::CommonName, DnType::OrganizationalUnitName, DnType::OrganizationName);
    for parts in [
        vec![(cn.clone(), "mailer"), (ou.clone(), "Jobs"), (o.clone(), "Example")],
        vec![(o.clone(), "Example"), (cn.clone(), "mailer")],
        vec![(o.clone(), "Example"), (ou.clone(), "Jobs"), (cn.clone(), "mailer"), (DnType::LocalityName, "x")],
        vec![(o.clone(), "Example"), (cn.clone(), "mailer,OU=Jobs")],
        vec![(cn.clone(), "mailer,OU=Jobs,O=Example")],
        vec![(o.clone(), "Example"), (ou.clone(), "Jobs"), (cn.clone(), "mailer+x")],
        vec![(o, "Example"), (cn, "Jobs"), (ou, "mailer")],
    ] {
        ask(&writ, with_dn(&parts)).invalid_client("client_unknown");
    }
}

/// R-AUTHN-06: one of the registered thumbprints, and only with the key of that certificate.
#[test]
fn a_self_signed_certificate_is_known_by_its_thumbprint() {
    let (old, new) = (Credentials::self_signed(&pki::client("m")), Credentials::self_signed(&pki::client("m")));
    let identity =
        format!("self_signed_tls_client_auth_x5t_s256 = [\"{}\", \"{}\"]", old.thumbprint(), new.thumbprint());
    let writ = client_known_by(&identity);
    is_mailer(&ask_with(&writ, &old));
    is_mailer(&ask_with(&writ, &new));
    let mut impostor = Credentials::self_signed(&pki::client("m"));
    impostor.chain.clone_from(&new.chain);
    assert_eq!(writ.workload_with(&impostor).alert(), AlertDescription::DecryptError);
}

/// A-025, R-AUTHN-06
#[test]
fn an_unregistered_self_signed_certificate_is_refused_in_the_handshake() {
    let known = Credentials::self_signed(&pki::client("m"));
    let writ = client_known_by(&format!("self_signed_tls_client_auth_x5t_s256 = [\"{}\"]", known.thumbprint()));
    let other = Credentials::self_signed(&pki::client("m"));
    assert_eq!(writ.workload_with(&other).alert(), AlertDescription::UnknownCA);
    is_mailer(&ask_with(&writ, &known));
}

/// A-025
#[test]
fn a_registered_certificate_that_has_expired_is_refused_in_the_handshake() {
    let mut params = pki::client("m");
    params.not_after = (SystemTime::now() - Duration::from_secs(60)).into();
    let known = Credentials::self_signed(&params);
    let writ = client_known_by(&format!("self_signed_tls_client_auth_x5t_s256 = [\"{}\"]", known.thumbprint()));
    assert_eq!(writ.workload_with(&known).alert(), AlertDescription::CertificateExpired);
}

/// A-016: only the configured kind of name counts, and never the common name.
#[test]
fn a_name_in_the_wrong_place_does_not_count() {
    let writ = client_known_by("tls_client_auth_san_dns = \"mailer.example\"");
    let mut common_name = named(vec![pki::dns("other.example")]);
    common_name.distinguished_name = pki::dn(&[(DnType::CommonName, "mailer.example")]);
    let mut common_name_alone = pki::client("mailer.example");
    common_name_alone.subject_alt_names = Vec::new();
    let upn = SanType::OtherName((
        vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3],
        OtherNameValue::Utf8String("mailer.example".into()),
    ));
    for params in [
        common_name,
        common_name_alone,
        named(vec![pki::uri("https://mailer.example")]),
        named(vec![pki::uri("mailer.example")]),
        named(vec![pki::email("x@mailer.example")]),
        named(vec![pki::email("mailer.example@x.example")]),
        named(vec![upn]),
    ] {
        ask(&writ, params).invalid_client("client_unknown");
    }
}

/// A-016
#[test]
fn a_spiffe_id_in_the_common_name_does_not_count() {
    let writ = scene::shared_mailer();
    ask(&writ, pki::client(&spiffe_id("mailer"))).invalid_client("client_unknown");
    ask(&writ, named(vec![pki::dns("trust-domain.example")])).invalid_client("client_unknown");
}

/// A-017
#[test]
fn a_dns_name_that_only_looks_alike_is_unknown() {
    let writ = client_known_by("tls_client_auth_san_dns = \"mailer.example\"");
    for name in [
        "*.example",
        "mailer.example.",
        "x.mailer.example",
        "mailer.example.evil.example",
        "xmailer.example",
        "mailer",
        "xn--mailr-kva.example",
        " mailer.example",
    ] {
        ask(&writ, named(vec![pki::dns(name)])).invalid_client("client_unknown");
    }
    let nul = writ.setup.ca.issue(named(vec![pki::dns("mailer.example\0.evil.example")]));
    if let Ok(answer) = writ.workload_with(&nul).try_token(&Form::client_credentials(DELIVER)) {
        answer.invalid_client("client_unknown");
    }
}

/// A-018, R-AUTHN-07
#[test]
fn a_spiffe_id_that_only_looks_alike_is_unknown() {
    let writ = scene::shared_mailer();
    for id in [
        "spiffe://other-domain.example/mailer",
        "spiffe://trust-domain.example/x/../mailer",
        "spiffe://trust-domain.example/%6dailer",
        "spiffe://trust-domain.example/mailer?x",
        "spiffe://trust-domain.example/mailer#x",
        "spiffe://trust-domain.example:443/mailer",
        "spiffe://trust-domain.example/mailer/",
        "spiffe://trust-domain.example//mailer",
        "spiffe://Trust-Domain.example/mailer",
        "SPIFFE://trust-domain.example/mailer",
        "spiffe://trust-domain.example/Mailer",
        "spiffe://user@trust-domain.example/mailer",
    ] {
        ask(&writ, named(vec![pki::uri(id)])).invalid_client("client_unknown");
    }
}

/// A-018, CONTRACT 3.1, R-AUTHN-07: other names beside the one SPIFFE ID are allowed.
#[test]
fn a_certificate_with_two_spiffe_ids_matches_none() {
    let writ = scene::shared_mailer();
    for other in ["spiffe://trust-domain.example/other", "spiffe://elsewhere.example/mailer"] {
        let params = named(vec![pki::uri(&spiffe_id("mailer")), pki::uri(other)]);
        ask(&writ, params).invalid_client("client_unknown");
    }
    is_mailer(&ask(&writ, named(vec![pki::uri(&spiffe_id("mailer")), pki::dns("mailer.example")])));
}

fn two_clients() -> Setup {
    Setup::new().client("mailer", MAILER).policy(
        "postman.toml",
        &format!("client_id = \"postman\"\ntls_client_auth_san_dns = \"postman.example\"\n{MAILER}"),
    )
}

/// A-019
#[test]
fn a_certificate_that_matches_two_clients_needs_a_client_id() {
    let writ = two_clients().start();
    let both = writ.setup.ca.issue(named(vec![pki::uri(&spiffe_id("mailer")), pki::dns("postman.example")]));
    let form = Form::client_credentials(DELIVER);
    let client = writ.workload_with(&both);
    client.token(&form).invalid_client("client_ambiguous");
    for id in ["mailer", "postman"] {
        assert_eq!(client.token(&form.clone().set("client_id", id)).issued().claims["req_wl"], id);
    }
    client.token(&form.set("client_id", "other")).invalid_client("client_id_mismatch");
}

/// A-022, R-AUTHN-04; and R-AUTHN-01: the answer does not reveal whether another client exists.
#[test]
fn client_id_may_be_left_out_and_must_match_the_certificate() {
    let writ = two_clients().start();
    let client = writ.workload("mailer");
    let form = Form::client_credentials(DELIVER);
    is_mailer(&client.token(&form));
    is_mailer(&client.token(&form.clone().set("client_id", "mailer")));
    let mut answers = Vec::new();
    for id in ["postman", "unheard-of", "Mailer", "mailer ", "../mailer"] {
        answers.push(client.token(&form.clone().set("client_id", id)).invalid_client("client_id_mismatch").answer);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "whether there is such a client is not revealed");
}

/// A-020
#[test]
fn two_policies_with_one_identity_are_refused() {
    let text = format!("client_id = \"twin\"\ntls_client_auth_san_uri = \"{}\"\n{MAILER}", spiffe_id("mailer"));
    let setup = Setup::new().client("mailer", MAILER).policy("twin.toml", &text);
    setup.run(&["check"]).exits(2).says("mailer.toml").says("twin.toml");
}

/// R-AUTHN-05
#[test]
fn a_policy_has_exactly_one_identity() {
    let none = Setup::new().policy("mailer.toml", &format!("client_id = \"mailer\"\n{MAILER}"));
    none.run(&["check"]).exits(2).says("mailer.toml");
    let two = format!("tls_client_auth_san_dns = \"a.example\"\n{MAILER}");
    Setup::new().client("mailer", &two).run(&["check"]).exits(2).says("mailer.toml");
}

/// A-024
#[test]
fn nothing_is_fetched_from_a_certificate() {
    let writ = scene::mailer();
    let bait = TcpListener::bind("127.0.0.1:0").unwrap();
    bait.set_nonblocking(true).unwrap();
    let mut params = named(vec![pki::uri(&spiffe_id("mailer"))]);
    let uris = vec![format!("http://{}/crl", bait.local_addr().unwrap())];
    params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
    is_mailer(&ask(&writ, params));
    assert!(bait.accept().is_err(), "somebody came");
}

/// The next request on an open connection is not served: 401, or the connection has ended.
fn is_shut_out(session: &mut Session) -> Option<()> {
    match session.try_token(&Form::client_credentials(DELIVER)) {
        Ok(answer) if answer.status() == 200 => None,
        Ok(answer) => {
            answer.invalid_client("client_unknown");
            Some(())
        }
        Err(_) => Some(()),
    }
}

/// A-012, R-AUTHN-09
#[test]
fn a_client_whose_policy_is_removed_loses_its_open_connection() {
    let writ = Setup::new().client("mailer", MAILER).client("other", MAILER).start();
    let mut session = writ.workload("mailer").connect();
    session.token(&Form::client_credentials(DELIVER)).issued();
    writ.change_policy("mailer.toml", None);
    is_shut_out(&mut session).expect("a removed client is shut out");
    writ.workload("other").token(&Form::client_credentials(DELIVER)).issued();
}

/// A-012, R-AUTHN-09
#[test]
fn a_client_that_is_revoked_loses_its_open_connection() {
    let setup = Setup::new().client("mailer", MAILER).set("tls.client_crls", vec!["certs/crl.pem"]);
    setup.write("certs/crl.pem", &setup.ca.crl(1, &[]));
    let writ = setup.start();
    let credentials = writ.setup.credentials("mailer");
    let mut session = writ.workload_with(&credentials).connect();
    session.token(&Form::client_credentials(DELIVER)).issued();
    writ.setup.write("certs/crl.pem", &writ.setup.ca.crl(2, &[&credentials]));
    eventually("the revoked client is shut out", || is_shut_out(&mut session));
    assert_eq!(writ.workload_with(&credentials).alert(), AlertDescription::CertificateRevoked);
    writ.workload("mailer").token(&Form::client_credentials(DELIVER)).issued();
}

/// A-012
#[test]
fn a_client_whose_certificate_expires_loses_its_open_connection() {
    let writ = scene::shared_mailer();
    let mut params = named(vec![pki::uri(&spiffe_id("mailer"))]);
    let end = now() + 2;
    params.not_after = (SystemTime::UNIX_EPOCH + Duration::from_secs(end)).into();
    let mut session = writ.workload_with(&writ.setup.ca.issue(params)).connect();
    session.token(&Form::client_credentials(DELIVER)).issued();
    wait_until(end + 1);
    is_shut_out(&mut session).expect("an expired certificate serves no longer");
}

/// A-015, R-AUTHN-01, R-INTRO-06, R-RESP-06: one answer, 401 without a challenge, whatever is asked.
#[test]
fn an_unknown_client_learns_nothing_of_tokens_or_clients() {
    let writ = scene::shared_mailer();
    let token = writ.workload("mailer").token(&good()).issued().token;
    let stranger = writ.workload("nobody");
    let first = stranger.token(&good()).invalid_client("client_unknown");
    for form in [
        good().set("client_id", "mailer"),
        good().set("client_id", "unheard-of"),
        Form::redeem(&token, DELIVER),
        Form::redeem("no token at all", DELIVER),
    ] {
        let refused = stranger.token(&form).invalid_client("client_unknown");
        assert_eq!(refused.answer, first.answer);
        assert_eq!(writ.audit_of(&refused.request_id)["reason"], "client_unknown");
    }
    let headers = [("Content-Type", FORM), ("Authorization", "Basic eDp5")];
    let basic = stranger.post(&headers, good().encode().as_bytes());
    assert_eq!(basic.invalid_client("client_unknown").answer, first.answer);
    assert_eq!(basic.response.header("www-authenticate"), None);
    for token in [token.as_str(), "no token at all"] {
        assert_eq!(stranger.introspect(token).invalid_client("client_unknown").answer, first.answer);
    }
}

/// R-AUTHN-01
#[test]
fn unknown_clients_share_a_rate_limit_of_their_own() {
    let writ = Setup::new().client("mailer", MAILER).set("limits.requests_per_second_per_client", 2).start();
    let stranger = writ.workload("nobody");
    let limited = (0..50).map(|_| stranger.token(&good())).find(|answer| answer.status() != 401);
    limited.expect("50 requests are more than 2 a second").refused(429, "temporarily_unavailable", "rate_limited");
    writ.workload("mailer").token(&good()).issued();
}

/// R-AUTHN-07, R-AUTHN-09: the ID counts only if the CA of its trust domain issued the certificate.
#[test]
fn a_spiffe_id_is_validated_against_the_bundle_of_its_trust_domain() {
    let mut setup = Setup::new().client("mailer", MAILER);
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
    let own_id = || pki::uri(&spiffe_id("mailer"));
    let partner_id = || pki::uri("spiffe://partner.example/job");
    is("mailer", &by(&writ.setup.ca, vec![own_id()]).token(&good()));
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

/// A-022, R-AUTHN-02
#[test]
fn a_second_authentication_method_is_refused() {
    let writ = scene::shared_mailer();
    writ.workload("mailer").token(&good().set("client_secret", "x")).invalid_request("parameter_unsupported");
    writ.workload("mailer").token(&good().set("client_assertion", "x")).invalid_request("parameter_unsupported");
    for value in ["Basic bWFpbGVyOng=", "Bearer x", "x"] {
        let headers = [("Content-Type", FORM), ("Authorization", value)];
        let answer = writ.workload("mailer").post(&headers, good().encode().as_bytes());
        answer.invalid_request("parameter_unsupported");
    }
}

/// A-068, R-AUTHN-13, R-VERIFY-08
#[test]
fn a_txn_token_does_not_authenticate_a_client() {
    let writ = scene::shared_mailer();
    let token = writ.workload("mailer").token(&good()).issued().token;
    let bearer = format!("Bearer {token}");
    let body = good().encode();
    for header in [("Authorization", bearer.as_str()), ("Txn-Token", token.as_str())] {
        let stranger = writ.workload("nobody").post(&[("Content-Type", FORM), header], body.as_bytes());
        stranger.invalid_client("client_unknown");
    }
    let client = writ.workload("mailer");
    let headers = [("Content-Type", FORM), ("Authorization", bearer.as_str())];
    client.post(&headers, body.as_bytes()).invalid_request("parameter_unsupported");
    client.token(&good().set("client_assertion", &token)).invalid_request("parameter_unsupported");
}

/// A-023, R-AUTHN-14: neither what proxies put into headers nor what a form claims.
#[test]
fn headers_and_parameters_do_not_change_which_client_asks() {
    let writ = two_clients().client("porter", MAILER).start();
    let other = writ.setup.credentials("porter");
    let body: String = other.certificate_pem.lines().skip(1).take(3).collect();
    let headers = [
        ("Content-Type", FORM),
        ("Client-Cert", &format!(":{body}:")),
        ("X-Forwarded-Client-Cert", &format!("By=spiffe://x;URI={}", spiffe_id("porter"))),
        ("X-SSL-Client-S-DN", "CN=porter"),
    ];
    let claims = good().set("req_wl", "porter").set("sub", "porter").set("request_context", r#"{"req_wl":"porter"}"#);
    for form in [good(), claims] {
        writ.workload("nobody").post(&headers, form.encode().as_bytes()).invalid_client("client_unknown");
        let issued = writ.workload("mailer").post(&headers, form.encode().as_bytes()).issued();
        assert_eq!((&issued.claims["req_wl"], &issued.claims["sub"]), (&"mailer".into(), &"mailer".into()));
    }
}
