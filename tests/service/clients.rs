//! Who is asking: certificates and the policies they match (CONTRACT 3.1; A-012, A-015 to A-025; area AUTHN).

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CrlDistributionPoint, DnType, OtherNameValue, SanType};
use rustls::AlertDescription;

use crate::scene::{self, MAILER};
use crate::support::answer::Answer;
use crate::support::pki::{self, Credentials};
use crate::support::workload::{Form, Session};
use crate::support::writ::{Setup, Writ, spiffe_id};
use crate::support::{eventually, now, wait_until};

const DELIVER: &str = "mailbox.deliver";

/// A service with one client of that identity.
fn client_known_by(identity: &str) -> Writ {
    Setup::new().policy("mailer.toml", &format!("client_id = \"mailer\"\n{identity}\n{MAILER}")).start()
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
fn is_mailer(answer: &Answer) {
    assert_eq!(answer.issued().claims["req_wl"], "mailer");
}

/// R-AUTHN-07
#[test]
fn a_client_is_known_by_its_spiffe_id() {
    let writ = client_known_by("tls_client_auth_san_uri = \"spiffe://trust-domain.example/mail/delivery\"");
    is_mailer(&ask(&writ, named(vec![pki::uri("spiffe://trust-domain.example/mail/delivery")])));
}

/// R-AUTHN-05
#[test]
fn a_client_is_known_by_another_uri() {
    let writ = client_known_by("tls_client_auth_san_uri = \"https://mail.example/agent?x=1\"");
    is_mailer(&ask(&writ, named(vec![pki::uri("https://mail.example/agent?x=1")])));
}

/// R-AUTHN-05
#[test]
fn a_client_is_known_by_its_dns_name_in_any_case() {
    let writ = client_known_by("tls_client_auth_san_dns = \"mail.trust-domain.example\"");
    is_mailer(&ask(&writ, named(vec![pki::dns("mail.trust-domain.example")])));
    is_mailer(&ask(&writ, named(vec![pki::dns("Mail.Trust-Domain.EXAMPLE")])));
}

/// R-AUTHN-05
#[test]
fn a_client_is_known_by_its_mail_address() {
    let writ = client_known_by("tls_client_auth_san_email = \"mailer@trust-domain.example\"");
    is_mailer(&ask(&writ, named(vec![pki::email("mailer@trust-domain.example")])));
    ask(&writ, named(vec![pki::email("Mailer@trust-domain.example")])).invalid_client("client_unknown");
}

/// R-AUTHN-05
#[test]
fn a_client_is_known_by_its_ip_address_by_octets() {
    let writ = client_known_by("tls_client_auth_san_ip = \"2001:db8:0:0:0:0:0:1\"");
    is_mailer(&ask(&writ, named(vec![pki::ip("2001:db8::1")])));
    ask(&writ, named(vec![pki::ip("2001:db8::2")])).invalid_client("client_unknown");
    ask(&writ, named(vec![pki::dns("2001.db8")])).invalid_client("client_unknown");
}

fn with_dn(parts: &[(DnType, &str)]) -> CertificateParams {
    let mut params = pki::client("");
    params.distinguished_name = pki::dn(parts);
    params
}

/// R-AUTHN-05
#[test]
fn a_client_is_known_by_its_subject() {
    let writ = client_known_by("tls_client_auth_subject_dn = \"CN=mailer,OU=Jobs,O=Example\"");
    let parts = [
        (DnType::OrganizationName, "Example"),
        (DnType::OrganizationalUnitName, "Jobs"),
        (DnType::CommonName, "mailer"),
    ];
    is_mailer(&ask(&writ, with_dn(&parts)));
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

/// R-AUTHN-05
#[test]
fn a_comma_in_a_subject_is_escaped_in_the_policy() {
    let writ = client_known_by(r"tls_client_auth_subject_dn = 'CN=mailer\, EU,O=Example'");
    let parts = [(DnType::OrganizationName, "Example"), (DnType::CommonName, "mailer, EU")];
    is_mailer(&ask(&writ, with_dn(&parts)));
}

/// R-AUTHN-06
#[test]
fn a_self_signed_certificate_is_known_by_its_thumbprint() {
    let (old, new) = (Credentials::self_signed(&pki::client("m")), Credentials::self_signed(&pki::client("m")));
    let identity =
        format!("self_signed_tls_client_auth_x5t_s256 = [\"{}\", \"{}\"]", old.thumbprint(), new.thumbprint());
    let writ = client_known_by(&identity);
    is_mailer(&ask_with(&writ, &old));
    is_mailer(&ask_with(&writ, &new));
}

/// A-025
#[test]
fn a_self_signed_certificate_that_nobody_registered_is_refused_in_the_handshake() {
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

/// A-015
#[test]
fn a_certificate_without_a_policy_is_unknown_and_learns_nothing() {
    let writ = scene::mailer();
    let stranger = writ.workload("nobody");
    let form = Form::client_credentials(DELIVER);
    let existing = stranger.token(&form.clone().set("client_id", "mailer")).invalid_client("client_unknown");
    let missing = stranger.token(&form.clone().set("client_id", "unheard-of")).invalid_client("client_unknown");
    let none = stranger.token(&form).invalid_client("client_unknown");
    assert_eq!(existing.answer, missing.answer);
    assert_eq!(existing.answer, none.answer);
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
    let writ = scene::mailer();
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

/// A-018
#[test]
fn a_spiffe_id_that_only_looks_alike_is_unknown() {
    let writ = scene::mailer();
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

/// A-018, CONTRACT 3.1
#[test]
fn a_certificate_with_two_spiffe_ids_matches_none() {
    let writ = scene::mailer();
    for other in ["spiffe://trust-domain.example/other", "spiffe://elsewhere.example/mailer"] {
        let params = named(vec![pki::uri(&spiffe_id("mailer")), pki::uri(other)]);
        ask(&writ, params).invalid_client("client_unknown");
    }
}

fn two_clients() -> Setup {
    Setup::new().client("mailer", MAILER).policy(
        "postman.toml",
        &format!("client_id = \"postman\"\ntls_client_auth_san_dns = \"postman.example\"\n{MAILER}"),
    )
}

/// A-019
#[test]
fn a_certificate_of_two_clients_must_say_which_it_is() {
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

/// A-022
#[test]
fn a_client_id_must_be_the_certificates_own() {
    let writ = two_clients().start();
    let client = writ.workload("mailer");
    let form = Form::client_credentials(DELIVER);
    client.token(&form.clone().set("client_id", "mailer")).issued();
    for id in ["postman", "unheard-of", "Mailer", "mailer ", "../mailer"] {
        client.token(&form.clone().set("client_id", id)).invalid_client("client_id_mismatch");
    }
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

/// A-012
#[test]
fn a_client_whose_policy_is_removed_loses_its_open_connection() {
    let writ = Setup::new().client("mailer", MAILER).client("other", MAILER).start();
    let mut session = writ.workload("mailer").connect();
    session.token(&Form::client_credentials(DELIVER)).issued();
    fs::remove_file(writ.setup.path("policies/mailer.toml")).unwrap();
    eventually("the removed client is shut out", || is_shut_out(&mut session));
    writ.workload("other").token(&Form::client_credentials(DELIVER)).issued();
}

/// A-012
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
    writ.workload("mailer").token(&Form::client_credentials(DELIVER)).issued();
}

/// A-012
#[test]
fn a_client_whose_certificate_expires_loses_its_open_connection() {
    let writ = scene::mailer();
    let mut params = named(vec![pki::uri(&spiffe_id("mailer"))]);
    let end = now() + 3;
    params.not_after = (SystemTime::UNIX_EPOCH + Duration::from_secs(end)).into();
    let mut session = writ.workload_with(&writ.setup.ca.issue(params)).connect();
    session.token(&Form::client_credentials(DELIVER)).issued();
    wait_until(end + 1);
    is_shut_out(&mut session).expect("an expired certificate serves no longer");
}
