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
    trust.verify(std::slice::from_ref(&leaf.der), Timestamp::now()).map_err(|error| match error {
        rustls::Error::InvalidCertificate(cause) => cause,
        other => panic!("{other}"),
    })
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
        ("", "holds no CRL"),
        ("no PEM at all", "holds no CRL"),
        (ca.pem.as_str(), "holds no CRL"),
        (&whole[..whole.len() / 2], "is not well-formed PEM"),
        ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "holds a CRL that cannot be used"),
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
    assert!(problem(settings.clone()).ends_with("server.key: holds no private key that can be used"));
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
    std::fs::write(&settings.client_ca, format!("{}{}", ca.pem, other.pem)).unwrap();
    let trust = Trust::load(settings.clone()).unwrap();
    assert_eq!(verify(&trust, &ca.client(8)), Ok(()));
    assert_eq!(verify(&trust, &ca.client(7)), Err(rustls::CertificateError::Revoked));
    assert_eq!(verify(&trust, &other.client(8)), Err(rustls::CertificateError::UnknownRevocationStatus));
    assert!(trust.warnings().iter().any(|warning| warning.contains("other") && warning.contains("has no CRL")));

    settings = with_crl(folder.path(), &ca, &ca.crl_until(1, &[], 2021));
    let stale = Trust::load(settings).unwrap();
    assert!(matches!(
        verify(&stale, &ca.client(8)),
        Err(rustls::CertificateError::ExpiredRevocationListContext { .. })
    ));
    assert!(stale.warnings().iter().any(|warning| warning.contains("crl.pem: a CRL expired at 2021-01-01")));
}

///
#[test]
fn a_certificate_of_an_expired_ca_is_expired() {
    let (folder, ca, old) = (folder(), Ca::new("ca"), Ca::valid("old", -3600, -1));
    let settings = pki::settings(folder.path(), &ca);
    std::fs::write(&settings.client_ca, format!("{}{}", ca.pem, old.pem)).unwrap();
    let trust = Trust::load(settings.clone()).unwrap();
    assert_eq!(verify(&trust, &old.client(1)), Err(rustls::CertificateError::Expired));
    assert_eq!(verify(&trust, &ca.client(1)), Ok(()));
    assert_eq!(verify(&trust, &Ca::new("stranger").client(1)), Err(rustls::CertificateError::UnknownIssuer));
    // the name of our CA is not its key.
    assert_eq!(verify(&trust, &Ca::new("ca").client(1)), Err(rustls::CertificateError::BadSignature));

    std::fs::write(&settings.client_ca, &old.pem).unwrap();
    let trust = Trust::load(settings).unwrap();
    assert_eq!(verify(&trust, &old.client(1)), Err(rustls::CertificateError::Expired));
    assert_eq!(trust.warnings().len(), 1);
}

///
#[test]
fn a_self_signed_certificate_passes_only_if_it_is_registered_and_in_time() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let trust = Trust::load(pki::settings(folder.path(), &ca)).unwrap();
    let (known, expired, unknown) = (pki::self_signed(3600), pki::self_signed(-1), pki::self_signed(3600));
    let before = trust.generation();
    let thumbprints: HashSet<_> = [&known, &expired].map(|leaf| Thumbprint::of(&leaf.der)).into();
    trust.register(thumbprints.clone());
    assert_eq!(trust.generation(), before + 1);
    trust.register(thumbprints);
    assert_eq!(trust.generation(), before + 1, "the same set is no change");
    assert_eq!(verify(&trust, &known), Ok(()));
    assert_eq!(verify(&trust, &expired), Err(rustls::CertificateError::Expired));
    assert_eq!(verify(&trust, &unknown), Err(rustls::CertificateError::UnknownIssuer));
    trust.register(HashSet::new());
    assert_eq!(verify(&trust, &known), Err(rustls::CertificateError::UnknownIssuer));
}

/// A thumbprint says nothing about a certificate that a CA answers for.
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
    assert_eq!(trust.generation(), 0);
    assert_eq!(verify(&trust, &ca.client(7)), Err(rustls::CertificateError::Revoked));
    assert!(Arc::ptr_eq(&shown, &trust.pair.load().key));
}

/// One broken part must not keep the other from taking effect.
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

///
#[test]
fn an_older_crl_does_not_bring_a_revoked_certificate_back() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let trust = Trust::load(with_crl(folder.path(), &ca, &ca.crl(2, &[7]))).unwrap();
    std::fs::write(&trust.settings.client_crls[0], ca.crl(1, &[])).unwrap();
    assert_eq!(trust.reload(), None);
    let complaint = trust.complaints.lock().unwrap().clients.take().unwrap().text;
    assert!(complaint.ends_with("crl.pem: holds a CRL that is older than the one in force"), "{complaint}");
    assert_eq!(verify(&trust, &ca.client(7)), Err(rustls::CertificateError::Revoked));
    std::fs::write(&trust.settings.client_crls[0], ca.crl(3, &[])).unwrap();
    assert!(trust.reload().is_some_and(|reloaded| reloaded.clients));
    assert_eq!(verify(&trust, &ca.client(7)), Ok(()));
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
