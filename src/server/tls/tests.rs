mod hostile_chains;
mod revocation;

use std::path::Path;

use tempfile::TempDir;

use super::super::pki::{self, Ca, Leaf};
use super::*;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn with_crl(folder: &Path, ca: &Ca, crl: &str) -> Settings {
    let file = folder.join("crl.pem");
    std::fs::write(&file, crl).unwrap();
    Settings { client_crls: vec![file], ..pki::settings(folder, ca) }
}

fn verify(trust: &Trust, leaf: &Leaf) -> Result<(), rustls::CertificateError> {
    verify_chain(trust, std::slice::from_ref(&leaf.der)).map_err(|refusal| match refusal.to_rustls() {
        rustls::Error::InvalidCertificate(cause) => cause,
        other => panic!("{other}"),
    })
}

fn verify_chain(trust: &Trust, chain: &[CertificateDer<'_>]) -> Result<(), Refusal> {
    trust.verify(chain, Timestamp::now()).map(drop)
}

/// The messages of `writ check` about the files.
fn check_messages(settings: &Settings) -> String {
    let findings = examine_clients(settings, Timestamp::now()).into_iter().map(|finding| match finding {
        Finding::Error(key, text) => format!("{key}: error: {text}"),
        Finding::Warning(key, text) => format!("{key}: warning: {text}"),
        Finding::Note(key, text) => format!("{key}: note: {text}"),
    });
    findings.collect::<Vec<_>>().join("\n")
}

fn problem(settings: Settings) -> String {
    Trust::load(settings).unwrap_err().to_string()
}

///
#[test]
fn a_crl_file_without_a_whole_crl_stops_the_start() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let whole = ca.crl(1, &[]);
    for (text, complaint) in [
        ("", "holds no X509 CRL block (PEM)"),
        ("no PEM at all", "holds no X509 CRL block (PEM)"),
        (ca.pem.as_str(), "block 1 is a CERTIFICATE, not a X509 CRL"),
        (&whole[..whole.len() / 2], "block 1 (X509 CRL) has no line -----END X509 CRL-----"),
        ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "block 1 cannot be read"),
    ] {
        let complained = problem(with_crl(folder.path(), &ca, text));
        assert!(complained.contains("crl.pem: ") && complained.ends_with(complaint), "{complained}");
    }
}

///
#[test]
fn a_pair_that_does_not_fit_stops_the_start() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let settings = pki::settings(folder.path(), &ca);
    std::fs::write(&settings.private_key, ca.server().key).unwrap();
    assert!(problem(settings.clone()).ends_with("server.pem: is a certificate for another private key"));
    std::fs::write(&settings.private_key, "").unwrap();
    assert!(problem(settings.clone()).ends_with("server.key: contains no usable private key"));
    let expired = ca.expired_client();
    std::fs::write(&settings.certificate, expired.pem).unwrap();
    std::fs::write(&settings.private_key, expired.key).unwrap();
    assert!(problem(settings.clone()).contains("server.pem: expired at "));
    std::fs::remove_file(&settings.certificate).unwrap();
    assert!(problem(settings).contains("server.pem: cannot be read"));
}

///
#[test]
fn revocation_fails_closed() {
    let (folder, ca, other) = (folder(), Ca::new("ca"), Ca::new("other"));
    let mut settings = with_crl(folder.path(), &ca, &ca.crl(1, &[7]));
    std::fs::write(&settings.client_ca[0].file, format!("{}{}", ca.pem, other.pem)).unwrap();
    let trust = Trust::load(settings.clone()).unwrap();
    assert_eq!(verify(&trust, &ca.client(8)), Ok(()));
    assert_eq!(verify(&trust, &ca.client(7)), Err(rustls::CertificateError::Revoked));
    assert_eq!(verify(&trust, &other.client(8)), Err(rustls::CertificateError::UnknownRevocationStatus));
    assert!(
        check_messages(&settings).contains("warning") && check_messages(&settings).contains("CN=other has no CRL"),
        "{}",
        check_messages(&settings)
    );

    settings = with_crl(folder.path(), &ca, &ca.crl_until(1, &[], 2021));
    let stale = Trust::load(settings.clone()).unwrap();
    assert_eq!(verify(&stale, &ca.client(8)), Err(rustls::CertificateError::ExpiredRevocationList));
    assert!(check_messages(&settings).contains("expired at 2021-01-01"), "{}", check_messages(&settings));
}

///
#[test]
fn a_certificate_of_an_expired_ca_is_expired() {
    let (folder, ca, old) = (folder(), Ca::new("ca"), Ca::valid("old", -3600, -1));
    let settings = pki::settings(folder.path(), &ca);
    std::fs::write(&settings.client_ca[0].file, format!("{}{}", ca.pem, old.pem)).unwrap();
    let trust = Trust::load(settings.clone()).unwrap();
    assert_eq!(verify(&trust, &old.client(1)), Err(rustls::CertificateError::Expired));
    assert_eq!(verify(&trust, &ca.client(1)), Ok(()));
    assert_eq!(verify(&trust, &Ca::new("stranger").client(1)), Err(rustls::CertificateError::UnknownIssuer));
    // the name of our CA is not its key.
    assert_eq!(verify(&trust, &Ca::new("ca").client(1)), Err(rustls::CertificateError::BadSignature));

    std::fs::write(&settings.client_ca[0].file, &old.pem).unwrap();
    let trust = Trust::load(settings.clone()).unwrap();
    assert_eq!(verify(&trust, &old.client(1)), Err(rustls::CertificateError::Expired));
    assert!(
        check_messages(&settings).contains("warning: ")
            && check_messages(&settings).contains("the CA CN=old is not valid now")
    );
}

///
#[test]
fn a_self_signed_certificate_passes_only_if_it_is_registered_and_in_time() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let trust = Trust::load(pki::settings(folder.path(), &ca)).unwrap();
    let (known, expired, unknown) = (pki::self_signed(3600), pki::self_signed(-1), pki::self_signed(3600));
    let generation = || trust.generation.load(Ordering::Acquire);
    let before = generation();
    let thumbprints: HashSet<_> = [&known, &expired].map(|leaf| Thumbprint::of(&leaf.der)).into();
    trust.register(thumbprints.clone());
    assert_eq!(generation(), before + 1);
    trust.register(thumbprints);
    assert_eq!(generation(), before + 1, "the same set is no change");
    assert_eq!(verify(&trust, &known), Ok(()));
    assert_eq!(verify(&trust, &expired), Err(rustls::CertificateError::Expired));
    assert_eq!(verify(&trust, &unknown), Err(rustls::CertificateError::UnknownIssuer));
    trust.register(HashSet::new());
    assert_eq!(verify(&trust, &known), Err(rustls::CertificateError::UnknownIssuer));
}

/// A thumbprint does not make a certificate of a CA acceptable.
#[test]
fn a_registered_certificate_of_a_stranger_is_still_unknown() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let trust = Trust::load(pki::settings(folder.path(), &ca)).unwrap();
    let stranger = Ca::new("stranger").client(1);
    trust.register([Thumbprint::of(&stranger.der)].into());
    assert_eq!(verify(&trust, &stranger), Err(rustls::CertificateError::UnknownIssuer));
}

///
#[test]
fn a_broken_change_keeps_the_last_good_set() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let trust = Trust::load(with_crl(folder.path(), &ca, &ca.crl(1, &[7]))).unwrap();
    assert_eq!(trust.reload(), None, "nothing changed");
    let shown = Arc::clone(&trust.pair.load().key);
    std::fs::write(&trust.settings.client_crls[0], "").unwrap();
    std::fs::write(&trust.settings.certificate, ca.server().pem).unwrap();
    assert_eq!(trust.reload(), None);
    assert_eq!(trust.generation.load(Ordering::Acquire), 0);
    assert_eq!(verify(&trust, &ca.client(7)), Err(rustls::CertificateError::Revoked));
    assert!(Arc::ptr_eq(&shown, &trust.pair.load().key));
}

/// A broken part does not prevent the other from taking effect.
#[test]
fn a_crl_takes_effect_beside_a_broken_pair() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let trust = Trust::load(with_crl(folder.path(), &ca, &ca.crl(1, &[]))).unwrap();
    std::fs::write(&trust.settings.certificate, "").unwrap();
    std::fs::write(&trust.settings.client_crls[0], ca.crl(2, &[7])).unwrap();
    let reloaded = trust.reload().unwrap();
    assert!(reloaded.clients && !reloaded.certificate);
    assert_eq!(verify(&trust, &ca.client(7)), Err(rustls::CertificateError::Revoked));
}

#[test]
fn a_new_pair_is_shown_and_told() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let trust = Trust::load(pki::settings(folder.path(), &ca)).unwrap();
    let renewed = ca.server();
    std::fs::write(&trust.settings.certificate, &renewed.pem).unwrap();
    assert_eq!(trust.reload(), None, "a half-written pair waits");
    std::fs::write(&trust.settings.private_key, &renewed.key).unwrap();
    let reloaded = trust.reload().unwrap();
    assert!(reloaded.certificate && !reloaded.clients);
    assert_eq!(reloaded.crl_expires_at, None);
    assert_eq!(trust.pair.load().key.cert, [renewed.der]);
}

/// a chain is verified again when something changed or ended, and not before.
#[test]
fn a_chain_is_verified_again_only_where_it_may_have_changed() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let trust = Trust::load(with_crl(folder.path(), &ca, &ca.crl(1, &[]))).unwrap();
    let now = Timestamp::now();
    let accepted = trust.verify(&[ca.client_until(60).der], now).unwrap();
    let in_seconds = |seconds| trust.still_holds(&accepted, now + std::time::Duration::from_secs(seconds));
    assert!(in_seconds(0) && in_seconds(59) && !in_seconds(62));
    std::fs::write(&trust.settings.client_crls[0], ca.crl(2, &[])).unwrap();
    trust.reload();
    assert!(!in_seconds(0));
}

/// Whoever has the key of an anchor can issue any client, so it must say that it is a CA.
#[test]
fn an_anchor_is_a_ca() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let settings = pki::settings(folder.path(), &ca);
    let mut no_cert_sign = pki::ca_params("encipherer");
    no_cert_sign.key_usages = vec![rcgen::KeyUsagePurpose::KeyEncipherment];
    // openssl req -x509 -days 36500 without extensions, version 1
    let version_1 = include_str!("tests/version-1.pem");
    for (second, complaint) in [
        (ca.server().pem, "ca.pem: block 2 is not a CA (basicConstraints lacks CA:TRUE)"),
        (pki::self_signed(3600).pem, "ca.pem: block 2 is not a CA"),
        (Ca::root(no_cert_sign).pem, "ca.pem: block 2 is a CA that may not sign certificates"),
        (version_1.to_owned(), "ca.pem: block 2 is an X.509 certificate of version 1"),
        (ca.crl(1, &[]), "ca.pem: block 2 is a X509 CRL, not a CERTIFICATE"),
        (ca.server().key, "ca.pem: block 2 is a PRIVATE KEY, not a CERTIFICATE"),
    ] {
        std::fs::write(&settings.client_ca[0].file, format!("{}{second}", ca.pem)).unwrap();
        let complained = problem(settings.clone());
        assert!(complained.contains(complaint), "{complained}");
        assert!(check_messages(&settings).contains(complaint), "{}", check_messages(&settings));
    }
    std::fs::write(&settings.client_ca[0].file, format!("\u{feff}{}\u{feff}{}", ca.pem, Ca::new("b").pem)).unwrap();
    assert_eq!(Trust::load(settings).unwrap().clients.load().verifier.anchors.len(), 2);
}

/// R-AUTHN-07
#[test]
fn a_ca_vouches_for_its_trust_domains_only() {
    let (folder, own, partner) = (folder(), Ca::new("own"), Ca::new("partner"));
    let mut settings = pki::settings(folder.path(), &own);
    let file = folder.path().join("partner.pem");
    std::fs::write(&file, &partner.pem).unwrap();
    settings.client_ca[0].trust_domains = Some(vec!["own.example".to_owned()]);
    settings
        .client_ca
        .push(ClientCa { file, trust_domains: Some(vec!["a.example".to_owned(), "b.example".to_owned()]) });
    let trust = Trust::load(settings).unwrap();
    let leaf = |ca: &Ca, names: &[&str]| {
        ca.leaf("client", |params| {
            let uri = |name: &&str| rcgen::SanType::URI((*name).try_into().unwrap());
            params.subject_alt_names.extend(names.iter().map(uri));
        })
    };
    let accepted = trust.verify(&[leaf(&partner, &["spiffe://b.example/x"]).der], Timestamp::now()).unwrap();
    assert!(accepted.certificate.is_held_to_spiffe());
    assert_eq!(verify(&trust, &leaf(&own, &["spiffe://own.example/x"])), Ok(()));
    for names in [
        &[][..],
        &["spiffe://own.example/x"],
        &["spiffe://a.example.evil/x"],
        &["spiffe://A.example/x"],
        &["spiffe://a.example"],
        &["https://a.example/x"],
        &["spiffe://a.example/x", "spiffe://b.example/x"],
        &["spiffe://a.example/x", "https://a.example/x"],
    ] {
        let refused = verify_chain(&trust, &[leaf(&partner, names).der]).unwrap_err();
        assert!(matches!(refused, Refusal::NotVouchedFor { .. }), "{names:?}: {refused}");
        assert_eq!(refused.to_rustls(), rustls::CertificateError::ApplicationVerificationFailure.into());
    }
    // What an operator registered by its thumbprint needs no CA to vouch for its names.
    let pinned = leaf(&partner, &[]);
    trust.register([Thumbprint::of(&pinned.der)].into());
    assert_eq!(verify(&trust, &pinned), Ok(()));
}
