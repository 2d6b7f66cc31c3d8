//! TLS: which handshakes succeed, and how certificates and authorities are renewed (CONTRACT 2;
//! R-AUTHN-03, R-AUTHN-09, R-AUTHN-15, R-REQ-17).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, CustomExtension, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, NameConstraints,
};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, ProtocolVersion, SignatureScheme};

use crate::scene::{self, MAILER};
use crate::support::eventually;
use crate::support::pki::{self, Ca, Credentials};
use crate::support::workload::{Form, Workload, tls_config, tls_roots};
use crate::support::writ::{Setup, Writ, spiffe_id};

const HOUR: Duration = Duration::from_secs(3600);

fn mailer_params() -> CertificateParams {
    let mut params = pki::client("mailer");
    params.subject_alt_names = vec![pki::uri(&spiffe_id("mailer"))];
    params
}

#[track_caller]
fn is_served(client: &Workload) {
    client.token(&Form::client_credentials("mailbox.deliver")).issued();
}

#[track_caller]
fn refused_as(writ: &Writ, params: CertificateParams, alerts: &[AlertDescription]) {
    let credentials = writ.setup.ca.issue(params);
    fails_as(&writ.workload_with(&credentials), alerts);
}

#[track_caller]
fn fails_as(client: &Workload, alerts: &[AlertDescription]) {
    let alert = client.alert();
    assert!(alerts.contains(&alert), "{alert:?}");
}

/// The same client speaking this version of TLS only.
fn speaking(
    writ: &Writ,
    version: &'static rustls::SupportedProtocolVersion,
    credentials: Option<&Credentials>,
) -> Workload {
    let roots = tls_roots(&writ.site().ca);
    let builder = ClientConfig::builder_with_protocol_versions(&[version]).with_root_certificates(roots);
    let config = match credentials {
        None => builder.with_no_client_auth(),
        Some(credentials) => builder.with_client_auth_cert(credentials.chain.clone(), credentials.key()).unwrap(),
    };
    writ.anonymous().with_tls_config(config)
}

/// A-001, R-AUTHN-01, R-AUTHN-03, R-INTRO-05
#[test]
fn a_peer_without_a_certificate_is_refused_but_may_read_the_keys() {
    let writ = scene::mailer();
    assert_eq!(writ.anonymous().alert(), AlertDescription::CertificateRequired);
    assert_eq!(writ.site().discover("/.well-known/jwks.json", &[]).status, 200);
}

///
#[test]
fn a_peer_without_a_certificate_is_refused_with_tls_1_2_too() {
    let writ = Setup::new().client("mailer", MAILER).set("tls.min_version", "1.2").start();
    assert_eq!(speaking(&writ, &TLS12, None).alert(), AlertDescription::CertificateRequired);
}

/// A-014, R-REQ-17
#[test]
fn tls_1_2_is_refused_unless_it_is_configured() {
    let strict = scene::mailer();
    let credentials = strict.setup.credentials("mailer");
    let session = strict.workload("mailer").connect();
    assert_eq!(session.connection.handshake.unwrap().version, ProtocolVersion::TLSv1_3);
    assert_eq!(speaking(&strict, &TLS12, Some(&credentials)).alert(), AlertDescription::ProtocolVersion);

    let lenient = Setup::new().client("mailer", MAILER).set("tls.min_version", "1.2").start();
    let credentials = lenient.setup.credentials("mailer");
    let old = speaking(&lenient, &TLS12, Some(&credentials));
    is_served(&old);
    assert_eq!(old.connect().connection.handshake.unwrap().version, ProtocolVersion::TLSv1_2);
    is_served(&speaking(&lenient, &TLS13, Some(&credentials)));
    Setup::new().client("mailer", MAILER).set("tls.min_version", "1.1").run(&["check"]).exits(2).says("min_version");
}

/// the handshake of an old client is written by hand.
#[test]
fn old_versions_and_weak_suites_are_refused() {
    let writ = Setup::new().client("mailer", MAILER).set("tls.min_version", "1.2").start();
    for (version, suite) in [(0x0301, 0x002f), (0x0302, 0xc013), (0x0303, 0x002f), (0x0303, 0xc013), (0x0303, 0x003c)] {
        let mut socket = TcpStream::connect(writ.site().endpoints().exchange).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.write_all(&client_hello(version, suite)).unwrap();
        let mut record = [0; 7];
        socket.read_exact(&mut record).unwrap();
        // alert, fatal, handshake_failure or protocol_version
        assert_eq!((record[0], record[5]), (21, 2), "{version:x} {suite:x}");
        assert!(matches!(record[6], 40 | 70), "{version:x} {suite:x}: {}", record[6]);
    }
}

fn client_hello(version: u16, suite: u16) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2]);
    body.extend(suite.to_be_bytes());
    body.extend([1, 0]);
    // signature_algorithms: ecdsa_secp256r1_sha256, rsa_pkcs1_sha256; supported_groups: secp256r1
    let extensions = [0, 13, 0, 6, 0, 4, 4, 3, 4, 1, 0, 10, 0, 4, 0, 2, 0, 23];
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut hello = vec![1, 0];
    hello.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    hello.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(hello.len()).unwrap().to_be_bytes());
    record.extend(hello);
    record
}

/// A-002, R-AUTHN-03
#[test]
fn a_certificate_outside_its_validity_is_refused() {
    let writ = scene::shared_mailer();
    let expired = |ago: Duration| {
        let mut params = mailer_params();
        params.not_after = (SystemTime::now() - ago).into();
        params
    };
    let mut early = mailer_params();
    early.not_before = (SystemTime::now() + HOUR).into();
    for params in [expired(HOUR / 2), expired(Duration::from_secs(1)), early] {
        refused_as(&writ, params, &[AlertDescription::CertificateExpired]);
    }
}

///
#[test]
fn a_certificate_whose_issuer_has_expired_is_refused() {
    let writ = scene::shared_mailer();
    let mut params = pki::ca_params("old intermediate");
    params.not_after = (SystemTime::now() - Duration::from_secs(60)).into();
    let credentials = writ.setup.ca.intermediate(params).issue(mailer_params());
    fails_as(&writ.workload_with(&credentials), &[AlertDescription::CertificateExpired]);
}

#[test]
fn a_certificate_below_an_intermediate_is_accepted() {
    let writ = scene::shared_mailer();
    let credentials = writ.setup.ca.intermediate(pki::ca_params("intermediate")).issue(mailer_params());
    is_served(&writ.workload_with(&credentials));
}

///
#[test]
fn a_certificate_for_another_use_is_refused() {
    let writ = scene::shared_mailer();
    for usage in
        [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::CodeSigning, ExtendedKeyUsagePurpose::Any]
    {
        let mut params = mailer_params();
        params.extended_key_usages = vec![usage];
        refused_as(&writ, params, &[AlertDescription::UnsupportedCertificate]);
    }
    let mut any = mailer_params();
    any.extended_key_usages = Vec::new();
    is_served(&writ.workload_with(&writ.setup.ca.issue(any)));
}

/// A-004, R-AUTHN-03: trust is in keys, not in names.
#[test]
fn an_authority_with_our_name_and_another_key_is_unknown() {
    let writ = scene::shared_mailer();
    let twin = Ca::root("clients and servers");
    let credentials = twin.issue(mailer_params());
    fails_as(&writ.workload_with(&credentials), &[AlertDescription::UnknownCA, AlertDescription::DecryptError]);
}

/// A-004, R-AUTHN-03: the chain that is sent is only a hint.
#[test]
fn an_authority_that_is_sent_along_is_not_trusted() {
    let writ = scene::shared_mailer();
    let other = Ca::root("attacker");
    let mut credentials = other.issue(mailer_params());
    credentials.chain.push(other.der().clone());
    fails_as(&writ.workload_with(&credentials), &[AlertDescription::UnknownCA, AlertDescription::DecryptError]);
    fails_as(&writ.workload_with(&other.issue(mailer_params())), &[AlertDescription::UnknownCA]);
}

const BROKEN_CHAIN: [AlertDescription; 4] = [
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
];

///
#[test]
fn a_certificate_signed_by_an_ordinary_client_is_refused() {
    let writ = scene::shared_mailer();
    let credentials = writ.setup.ca.intermediate(pki::client("ordinary")).issue(mailer_params());
    fails_as(&writ.workload_with(&credentials), &BROKEN_CHAIN);
}

///
#[test]
fn a_chain_longer_than_its_authority_allows_is_refused() {
    let writ = scene::shared_mailer();
    let mut params = pki::ca_params("no further");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let last = writ.setup.ca.intermediate(params);
    is_served(&writ.workload_with(&last.issue(mailer_params())));
    let beyond = last.intermediate(pki::ca_params("further"));
    fails_as(&writ.workload_with(&beyond.issue(mailer_params())), &BROKEN_CHAIN);
}

/// the authority of a team cannot issue names of another team.
#[test]
fn a_name_outside_the_authoritys_constraints_is_refused() {
    let writ = scene::shared_mailer();
    let mut params = pki::ca_params("only its own");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("team.example".into())],
        excluded_subtrees: Vec::new(),
    });
    let team = writ.setup.ca.intermediate(params);
    let mut outside = mailer_params();
    outside.subject_alt_names.push(pki::dns("other.example"));
    fails_as(&writ.workload_with(&team.issue(outside)), &BROKEN_CHAIN);
}

///
#[test]
fn a_chain_of_twelve_is_refused_quickly() {
    let writ = scene::shared_mailer();
    let mut ca = writ.setup.ca.intermediate(pki::ca_params("1"));
    for depth in 2..=12 {
        ca = ca.intermediate(pki::ca_params(&depth.to_string()));
    }
    fails_as(&writ.workload_with(&ca.issue(mailer_params())), &BROKEN_CHAIN);
    is_served(&writ.workload("mailer"));
}

///
#[test]
fn an_authoritys_certificate_authenticates_no_client() {
    let writ = scene::shared_mailer();
    let mut params = pki::ca_params("mailer");
    params.subject_alt_names = mailer_params().subject_alt_names;
    refused_as(&writ, params, &BROKEN_CHAIN);
}

///
#[test]
fn an_unknown_critical_extension_is_refused() {
    let writ = scene::shared_mailer();
    let mut params = mailer_params();
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    params.custom_extensions = vec![extension];
    refused_as(&writ, params, &BROKEN_CHAIN);
}

/// Presents a certificate with the key of another one.
#[derive(Debug)]
struct Impostor(Arc<CertifiedKey>);

impl ResolvesClientCert for Impostor {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

///
#[test]
fn a_certificate_without_its_key_is_refused() {
    let writ = scene::shared_mailer();
    let (victim, own) = (writ.setup.credentials("mailer"), writ.setup.credentials("own"));
    let key = any_supported_type(&own.key()).unwrap();
    let impostor = Impostor(Arc::new(CertifiedKey::new(victim.chain.clone(), key)));
    let client = writ.anonymous().with_tls(|tls| tls.client_auth_cert_resolver = Arc::new(impostor));
    fails_as(&client, &[AlertDescription::DecryptError]);
}

fn with_crl(crl: impl FnOnce(&Setup) -> String) -> Setup {
    let setup = Setup::new().client("mailer", MAILER).set("tls.client_crls", vec!["certs/crl.pem"]);
    setup.write("certs/crl.pem", &crl(&setup));
    setup
}

/// A-007, R-AUTHN-09
#[test]
fn a_revoked_certificate_is_refused() {
    let setup = Setup::new().client("mailer", MAILER).set("tls.client_crls", vec!["certs/crl.pem"]);
    let revoked = setup.credentials("mailer");
    setup.write("certs/crl.pem", &setup.ca.crl(1, &[&revoked]));
    let writ = setup.start();
    assert_eq!(writ.workload_with(&revoked).alert(), AlertDescription::CertificateRevoked);
    is_served(&writ.workload("mailer"));
}

/// another implementation checked the first distribution point only.
#[test]
fn a_revoked_certificate_with_two_distribution_points_is_refused() {
    let setup = Setup::new().client("mailer", MAILER).set("tls.client_crls", vec!["certs/crl.pem"]);
    let mut params = mailer_params();
    let point = |name: &str| CrlDistributionPoint { uris: vec![format!("http://crl.example/{name}")] };
    params.crl_distribution_points = vec![point("a"), point("b")];
    let revoked = setup.ca.issue(params);
    setup.write("certs/crl.pem", &setup.ca.crl(1, &[&revoked]));
    let writ = setup.start();
    assert_eq!(writ.workload_with(&revoked).alert(), AlertDescription::CertificateRevoked);
}

/// A-008, R-AUTHN-09: stale revocation data do not count.
#[test]
fn an_expired_crl_refuses_every_certificate_of_its_authority() {
    let setup = with_crl(|setup| setup.ca.crl_valid(1, &[], SystemTime::now() - 2 * HOUR, SystemTime::now() - HOUR));
    setup.run(&["check"]).says("crl.pem");
    let writ = setup.start();
    let client = writ.workload("mailer");
    fails_as(
        &client,
        &[AlertDescription::UnknownCA, AlertDescription::CertificateExpired, AlertDescription::CertificateUnknown],
    );
}

///
#[test]
fn an_authority_without_a_crl_has_all_its_certificates_refused() {
    let setup = with_crl(|setup| setup.ca.crl(1, &[]));
    let other = Ca::root("second authority");
    setup.write("certs/ca.pem", &format!("{}{}", setup.ca.pem(), other.pem()));
    setup.run(&["check"]).says("second authority");
    let writ = setup.start();
    fails_as(&writ.workload_with(&other.issue(mailer_params())), &[AlertDescription::UnknownCA]);
    is_served(&writ.workload("mailer"));
}

/// an empty list would switch revocation off.
#[test]
fn a_crl_file_without_a_crl_stops_the_start() {
    for content in ["", "not a CRL", "-----BEGIN X509 CRL-----\nAAAA\n"] {
        let setup = with_crl(|_| content.to_owned());
        setup.run(&["check"]).exits(2).says("crl.pem");
        setup.run(&["serve"]).exits(2).says("crl.pem");
    }
}

///
#[test]
fn a_crl_that_breaks_while_running_leaves_the_old_one_in_force() {
    let setup = Setup::new().client("mailer", MAILER).set("tls.client_crls", vec!["certs/crl.pem"]);
    let revoked = setup.credentials("mailer");
    setup.write("certs/crl.pem", &setup.ca.crl(1, &[&revoked]));
    let writ = setup.start();
    writ.setup.write("certs/crl.pem", "");
    writ.hup();
    writ.wait_for_log("the broken CRL", |line| line["level"] == "ERROR" && line.to_string().contains("crl.pem"));
    assert_eq!(writ.workload_with(&revoked).alert(), AlertDescription::CertificateRevoked);
    is_served(&writ.workload("mailer"));
    assert_eq!(writ.site().ops("/readyz").status, 200);
}

/// a genuine older CRL must not admit a revoked client again.
#[test]
fn an_older_crl_is_not_accepted() {
    let setup = Setup::new().client("mailer", MAILER).set("tls.client_crls", vec!["certs/crl.pem"]);
    let revoked = setup.credentials("mailer");
    let old = setup.ca.crl(1, &[]);
    setup.write("certs/crl.pem", &setup.ca.crl(2, &[&revoked]));
    let writ = setup.start();
    writ.setup.write("certs/crl.pem", &old);
    writ.hup();
    writ.wait_for_log("the older CRL", |line| line["level"] != "INFO" && line.to_string().contains("crl.pem"));
    assert_eq!(writ.workload_with(&revoked).alert(), AlertDescription::CertificateRevoked);
}

/// no tickets, so no session lives on beyond its checks, and there is no early data.
#[test]
fn no_session_is_resumed() {
    let writ = Setup::new().client("mailer", MAILER).set("tls.min_version", "1.2").start();
    let credentials = writ.setup.credentials("mailer");
    for version in [&TLS12, &TLS13] {
        let client = speaking(&writ, version, Some(&credentials)).with_tls(|tls| tls.enable_early_data = true);
        for _ in 0..3 {
            let mut session = client.connect();
            session.token(&Form::client_credentials("mailbox.deliver")).issued();
            assert!(!session.connection.handshake.unwrap().is_resumed, "{version:?}");
        }
    }
}

/// CONTRACT 2: HTTP/2 only where it is switched on.
#[test]
fn http_2_is_off_by_default() {
    let offering = |writ: &Writ| {
        let offer = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = writ.workload("mailer").with_tls(|tls| tls.alpn_protocols = offer);
        client.connect().connection.handshake.unwrap().protocol
    };
    assert_ne!(offering(&scene::mailer()).as_deref(), Some(b"h2".as_slice()));
    let modern = Setup::new().client("mailer", MAILER).set("listen.http2", true).start();
    assert_eq!(offering(&modern).as_deref(), Some(b"h2".as_slice()));
}

/// Every refused handshake is counted and logged with its alert and the peer.
#[test]
fn handshakes_are_counted_by_their_outcome() {
    let writ = scene::mailer();
    writ.anonymous().alert();
    is_served(&writ.workload("mailer"));
    eventually("the refused handshake is counted", || {
        writ.metric("writ_tls_handshakes_total", &[("outcome", "certificate_required")]).filter(|&count| count >= 1.0)
    });
    assert!(writ.metric("writ_tls_handshakes_total", &[("outcome", "ok")]).unwrap() >= 1.0);
    writ.wait_for_log("the refused handshake", |line| {
        let text = line.to_string();
        text.contains("certificate_required") && text.contains("127.0.0.1")
    });
}

/// The last line about a failed handshake, of this client.
#[track_caller]
fn failure(writ: &Writ, client: &Workload) -> serde_json::Value {
    let is_it = |line: &serde_json::Value| line["message"] == "TLS handshake failed";
    writ.expect_log(
        "the failed handshake",
        || drop(client.try_token(&Form::client_credentials("mailbox.deliver"))),
        is_it,
    )
}

/// One line of the log says who refused whom, and why.
#[test]
fn the_log_says_why_a_handshake_failed() {
    let setup = Setup::new().client("mailer", MAILER).set("tls.client_crls", vec!["certs/crl.pem", "certs/old.pem"]);
    let (revoked, second) = (setup.credentials("mailer"), Ca::root("second authority"));
    setup.write("certs/ca.pem", &format!("{}{}", setup.ca.pem(), second.pem()));
    setup.write("certs/crl.pem", &setup.ca.crl(4, &[&revoked]));
    setup.write("certs/old.pem", &second.crl_valid(1, &[], SystemTime::now() - 2 * HOUR, SystemTime::now() - HOUR));
    let writ = setup.start();
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = mailer_params();
        change(&mut params);
        writ.setup.ca.issue(params)
    };
    let policies = |params: &mut CertificateParams| {
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 32], vec![0x30, 6, 0x30, 4, 6, 2, 0x2a, 3]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    };
    let server = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names.push(pki::dns("mail.example"));
    };
    let intermediate = writ.setup.ca.intermediate(pki::ca_params("team"));
    for (credentials, cause) in [
        (with(&policies), "CN=mailer has the critical extension certificatePolicies (2.5.29.32)"),
        (with(&server), "CN=mailer is not for clients: its extended key usage lacks clientAuth"),
        (revoked, "is revoked by CRL "),
        (second.issue(mailer_params()), "of CN=second authority, the newest, expired at "),
        (intermediate.issue(mailer_params()), "there is no usable CRL of CN=team in tls.client_crls for CN=mailer"),
        (Ca::root("stranger").issue(mailer_params()), "no CA in tls.client_ca has the name of the issuer, CN=stranger"),
    ] {
        let line = failure(&writ, &writ.workload_with(&credentials));
        assert!(line["cause"].as_str().unwrap().contains(cause), "{line}");
        assert_eq!((&line["refused_by"], &line["subject"]), (&"writ".into(), &"CN=mailer".into()), "{line}");
        assert!(line["names"].as_str().unwrap().starts_with(&format!("URI:{}", spiffe_id("mailer"))), "{line}");
        assert!(line["issuer"].is_string() && line["serial"].is_string(), "{line}");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    let revoked = writ.log_text();
    assert!(revoked.contains("crl.pem (number 4, thisUpdate "), "the list is named");

    let distrustful = ClientConfig::builder()
        .with_root_certificates(tls_roots(&Ca::root("clients and servers").pem()))
        .with_no_client_auth();
    let line = failure(&writ, &writ.anonymous().with_tls_config(distrustful));
    assert_eq!((&line["refused_by"], &line["alert"]), (&"peer".into(), &"decrypt_error".into()), "{line}");
    let line = failure(&writ, &writ.anonymous());
    assert_eq!(line["cause"], "the client presented no certificate");
}

/// A certificate of X.509 version 1 has no extensions, so nothing says what it is for.
#[test]
fn a_certificate_of_version_1_is_refused_with_an_explanation() {
    let writ = scene::mailer();
    let mut credentials = writ.setup.credentials("mailer");
    // The version is a field of its own in front of the serial number: [0] { INTEGER 2 }.
    let der = credentials.chain[0].to_vec();
    let at = der.windows(5).position(|window| window == [0xa0, 3, 2, 1, 2]).unwrap();
    let mut version_1 = der;
    version_1[at + 4] = 0;
    credentials.chain = vec![CertificateDer::from(version_1)];
    let line = failure(&writ, &writ.workload_with(&credentials));
    assert!(line["cause"].as_str().unwrap().contains("is an X.509 certificate of version 1"), "{line}");
}

/// peers without a trusted certificate cannot take time from those that have one.
#[test]
fn clients_are_served_while_others_present_hostile_chains() {
    const STRANGERS: usize = 4;
    const HONEST: usize = 20;
    let writ = scene::mailer();
    let name = "clients and servers";
    let stranger = Ca::root(name);
    let mut credentials = stranger.issue(pki::client("nobody"));
    credentials.chain.extend((0..8).map(|_| stranger.intermediate(pki::ca_params(name)).der().clone()));
    let client = writ.workload_with(&credentials);
    let running = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        let strangers: Vec<_> = (0..STRANGERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut shaken = 0;
                    while running.load(std::sync::atomic::Ordering::Relaxed) {
                        shaken += usize::from(!client.is_accepted());
                    }
                    shaken
                })
            })
            .collect();
        for _ in 0..HONEST {
            is_served(&writ.workload("mailer"));
        }
        running.store(false, std::sync::atomic::Ordering::Relaxed);
        let shaken: usize = strangers.into_iter().map(|stranger| stranger.join().unwrap()).sum();
        assert!(shaken > 0);
    });
}

fn server_certificate(writ: &Writ) -> CertificateDer<'static> {
    writ.workload("mailer").connect().connection.handshake.unwrap().certificate
}

///
#[test]
fn a_renewed_server_certificate_is_used_without_a_restart() {
    let writ = scene::mailer();
    let renewed = writ.setup.ca.issue(pki::server());
    writ.setup.write("certs/server.key", &renewed.key_pem);
    writ.setup.write("certs/server.pem", &renewed.certificate_pem);
    eventually("the new certificate", || (server_certificate(&writ) == renewed.chain[0]).then_some(()));
    is_served(&writ.workload("mailer"));
}

/// the clock of its CA is ahead. The files do not change again when it becomes valid.
#[test]
fn a_server_certificate_from_the_future_is_used_once_it_is_valid() {
    let writ = scene::mailer();
    let mut params = pki::server();
    params.not_before = (SystemTime::now() + Duration::from_secs(5)).into();
    let early = writ.setup.ca.issue(params);
    let replace = || {
        writ.setup.write("certs/server.key", &early.key_pem);
        writ.setup.write("certs/server.pem", &early.certificate_pem);
    };
    let is_refused = |line: &serde_json::Value| line["error"].as_str().is_some_and(|error| error.contains("valid"));
    writ.expect_log("it is refused", replace, is_refused);
    // In less than the minute after which all files are read in any case.
    eventually("the new certificate", || (server_certificate(&writ) == early.chain[0]).then_some(()));
}

/// the old pair is used until a complete matching pair is there.
#[test]
fn a_broken_server_certificate_leaves_the_old_one_in_use() {
    let other = Ca::root("other").issue(pki::server());
    for content in ["", "nonsense", &other.certificate_pem] {
        let writ = scene::mailer();
        let old = server_certificate(&writ);
        let refuse = || {
            writ.setup.write("certs/server.pem", content);
            writ.hup();
        };
        let error = writ.expect_log("the broken pair", refuse, |line| line["level"] == "ERROR");
        assert!(error.to_string().contains("server"), "{error}");
        assert_eq!(server_certificate(&writ), old);
        assert_eq!(writ.site().ops("/readyz").status, 200);
    }
}

/// CONTRACT 6, R-AUTHN-07: the authorities are watched too.
#[test]
fn a_new_authority_is_trusted_without_a_restart() {
    let writ = scene::mailer();
    let second = Ca::root("second authority");
    let client = writ.workload_with(&second.issue(mailer_params()));
    assert_eq!(client.alert(), AlertDescription::UnknownCA);
    writ.setup.write("certs/ca.pem", &format!("{}{}", writ.setup.ca.pem(), second.pem()));
    writ.hup();
    eventually("the new authority", || client.is_accepted().then_some(()));
    is_served(&client);
    is_served(&writ.workload("mailer"));
}

/// R-AUTHN-09
#[test]
fn a_certificate_that_cannot_be_read_is_refused_and_the_service_goes_on() {
    let writ = scene::shared_mailer();
    let good_one = writ.setup.credentials("mailer").chain[0].to_vec();
    let mut flipped = good_one.clone();
    flipped[good_one.len() / 2] ^= 0x55;
    for bad in [vec![0x30, 0x03, 2, 1], good_one[..good_one.len() / 2].to_vec(), flipped] {
        let mut credentials = writ.setup.credentials("mailer");
        credentials.chain = vec![CertificateDer::from(bad)];
        assert!(!writ.workload_with(&credentials).is_accepted());
    }
    is_served(&writ.workload("mailer"));
}

/// R-AUTHN-15
#[test]
fn the_server_shows_a_certificate_that_its_clients_can_verify() {
    let writ = scene::shared_mailer();
    let credentials = writ.setup.credentials("mailer");
    is_served(&writ.workload_with(&credentials));
    let distrustful = tls_config(&Ca::root("clients and servers").pem(), Some(&credentials));
    let client = writ.anonymous().with_tls_config((*distrustful).clone());
    let Err(error) = client.try_connect() else { panic!("connected to a server of another authority") };
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
}
