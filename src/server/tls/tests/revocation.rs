//! Which CRLs are in force.

use std::time::Duration;

use rcgen::{CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, KeyUsagePurpose, date_time_ymd};
use rustls::CertificateError;

use super::*;
use crate::server::tls::crl::CLOCK_SKEW;

/// The CAs of a folder and their CRLs, one file each.
fn settings(folder: &Path, cas: &[&Ca], crls: &[&str]) -> Settings {
    let mut settings = pki::settings(folder, cas[0]);
    std::fs::write(&settings.client_ca[0].file, cas.iter().map(|ca| ca.pem.as_str()).collect::<String>()).unwrap();
    for (index, crl) in crls.iter().enumerate() {
        let file = folder.join(format!("{index}.crl"));
        std::fs::write(&file, crl).unwrap();
        settings.client_crls.push(file);
    }
    settings
}

fn load(folder: &Path, cas: &[&Ca], crls: &[&str]) -> Arc<Trust> {
    Trust::load(settings(folder, cas, crls)).unwrap()
}

fn change(trust: &Trust, crl: &str) {
    std::fs::write(&trust.settings.client_crls[0], crl).unwrap();
    trust.reload();
}

const REVOKED: Result<(), CertificateError> = Err(CertificateError::Revoked);
const NO_CRL: Result<(), CertificateError> = Err(CertificateError::UnknownRevocationStatus);

#[test]
fn the_newest_crl_is_in_force_whichever_file_it_is_in() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let (old, new, expired) = (ca.crl(1, &[]), ca.crl(3, &[7]), ca.crl_until(2, &[], 2021));
    let (both, reverse) = (format!("{old}{new}"), format!("{new}{old}"));
    for files in [
        &[old.as_str(), new.as_str()][..],
        &[&new, &old],
        &[&both],
        &[&reverse],
        &[&expired, &new],
        &[&new, &expired],
        &[&old, &expired, &new],
        &[&new, &new],
    ] {
        let settings = settings(folder.path(), &[&ca], files);
        let trust = Trust::load(settings.clone()).unwrap();
        assert_eq!(verify(&trust, &ca.client(7)), REVOKED);
        assert_eq!(verify(&trust, &ca.client(8)), Ok(()));
        let messages = check_messages(&settings);
        assert!(messages.contains("note: ") && messages.contains("in force for the CA CN=ca: CRL "), "{messages}");
        assert!(
            messages
                .contains("(number 3, thisUpdate 2020-01-01T00:00:00Z, nextUpdate 2099-01-01T00:00:00Z, 1 revoked)")
        );
        assert!(!messages.contains("warning"), "{messages}");
    }
    let stale = load(folder.path(), &[&ca], &[&ca.crl(1, &[]), &expired]);
    assert_eq!(
        verify(&stale, &ca.client(8)),
        Err(CertificateError::ExpiredRevocationList),
        "the newest is what counts"
    );
}

/// A list that is a DER file, or has text around it.
#[test]
fn crls_come_in_der_and_with_text() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let crl = ca.crl(1, &[7]);
    let der = writ_verifier::pem::blocks(crl.as_bytes(), writ_verifier::pem::CRL, |_| false).unwrap()[0].der.clone();
    let with_text = format!("Certificate Revocation List (CRL):\n    Version 2 (0x1)\n{crl}").replace('\n', "\r\n");
    for content in [der.as_slice(), with_text.as_bytes()] {
        let settings = settings(folder.path(), &[&ca], &[""]);
        std::fs::write(&settings.client_crls[0], content).unwrap();
        let trust = Trust::load(settings).unwrap();
        assert_eq!(verify(&trust, &ca.client(7)), REVOKED);
        assert_eq!(verify(&trust, &ca.client(8)), Ok(()));
    }
}

/// A CA that was given a new key keeps its name; both are trusted for a while, each with its own CRL.
#[test]
fn each_key_of_one_name_has_its_own_crl() {
    let (folder, old, new) = (folder(), Ca::new("ca"), Ca::new("ca"));
    let (of_old, of_new) = (old.crl(9, &[7]), new.crl(1, &[8]));
    for cas in [[&old, &new], [&new, &old]] {
        for crls in [[&of_old, &of_new], [&of_new, &of_old]] {
            let trust = load(folder.path(), &cas, &crls.map(String::as_str));
            assert_eq!([7, 8].map(|serial| verify(&trust, &old.client(serial))), [REVOKED, Ok(())]);
            assert_eq!([7, 8].map(|serial| verify(&trust, &new.client(serial))), [Ok(()), REVOKED]);
        }
    }
    let trust = load(folder.path(), &[&old, &new], &[&of_old]);
    assert_eq!([&old, &new].map(|ca| verify(&trust, &ca.client(1))), [Ok(()), NO_CRL]);
}

///
#[test]
fn no_number_of_steps_leads_back_to_an_older_crl() {
    let (folder, ca, other) = (folder(), Ca::new("ca"), Ca::new("other"));
    let (old, new) = (ca.crl(1, &[]), ca.crl(2, &[7]));
    let trust = load(folder.path(), &[&ca], &[&new]);
    for steps in [
        vec![old.clone()],
        vec![other.crl(1, &[]), old.clone()],
        vec![other.crl(1, &[]), other.crl(2, &[]), old.clone()],
        vec![old.clone(), new.clone(), old.clone()],
        vec![format!("{}{old}", other.crl(1, &[]))],
    ] {
        for crl in steps {
            change(&trust, &crl);
            assert_eq!(verify(&trust, &ca.client(7)), REVOKED);
            assert_eq!(verify(&trust, &ca.client(8)), Ok(()));
        }
    }
    // Neither does a set without the CA.
    std::fs::write(&trust.settings.client_ca[0].file, &other.pem).unwrap();
    change(&trust, &other.crl(3, &[]));
    assert_eq!(verify(&trust, &ca.client(7)), Err(CertificateError::UnknownIssuer));
    std::fs::write(&trust.settings.client_ca[0].file, &ca.pem).unwrap();
    change(&trust, &old);
    assert_eq!(verify(&trust, &ca.client(7)), REVOKED);
    let notices = &trust.clients.load().notices;
    let has_warning = |text: &str| notices.iter().any(|(_, notice)| notice.is_warning && notice.text.contains(text));
    assert!(has_warning("is older than the one in force") && has_warning("was removed from the files"), "{notices:?}");
    change(&trust, &ca.crl(3, &[]));
    assert_eq!(verify(&trust, &ca.client(7)), Ok(()));
}

#[test]
fn a_forged_or_future_crl_blocks_no_genuine_one() {
    let (folder, ca, twin) = (folder(), Ca::new("ca"), Ca::new("ca"));
    let genuine = ca.crl(2, &[7]);
    let ahead =
        |by: Duration| ca.crl_with(9, &[], |params| params.this_update = (std::time::SystemTime::now() + by).into());
    let future = ahead(CLOCK_SKEW + Duration::from_secs(3600));
    for (bad, complaint) in [(twin.crl(9, &[]), "is not signed by the key of any CA"), (future, "is from the future")] {
        for files in [[&bad, &genuine], [&genuine, &bad]] {
            let settings = settings(folder.path(), &[&ca], &files.map(String::as_str));
            let trust = Trust::load(settings.clone()).unwrap();
            assert_eq!(verify(&trust, &ca.client(7)), REVOKED);
            assert_eq!(verify(&trust, &ca.client(8)), Ok(()));
            assert!(check_messages(&settings).contains(complaint), "{}", check_messages(&settings));
            // Alone it is not a list, and replaces nothing in force.
            change(&trust, &bad);
            assert_eq!(verify(&trust, &ca.client(7)), REVOKED);
        }
        let alone = load(folder.path(), &[&ca], &[&bad]);
        assert_eq!(verify(&alone, &ca.client(8)), NO_CRL);
        change(&alone, &genuine);
        assert_eq!(verify(&alone, &ca.client(8)), Ok(()), "{complaint}: the genuine one that comes later counts");
    }
    // Its time comes without a change of the files.
    let settings = settings(folder.path(), &[&ca], &[&genuine, &ahead(Duration::from_secs(3600))]);
    let now = Timestamp::now();
    let read =
        |now| ClientTrust::parse(&settings, &files::read_clients(&settings, now).unwrap(), &Arc::default()).unwrap();
    let before = read(now);
    let revoked = [ca.client(7).der];
    assert!(before.verifier.verify(&revoked, &HashSet::new(), now).is_err() && !before.is_due(now));
    let then = now + Duration::from_secs(3590);
    assert!(before.is_due(then) && !read(then).is_due(then));
    assert!(read(then).verifier.verify(&revoked, &HashSet::new(), now).is_ok());

    let in_step = load(folder.path(), &[&ca], &[&genuine, &ahead(Duration::from_secs(30))]);
    assert_eq!(verify(&in_step, &ca.client(7)), Ok(()), "clocks differ a little");
}

/// Two lists that disagree about which is newer: what either revokes is refused.
#[test]
fn where_neither_of_two_crls_is_newer_both_count() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let later = ca.crl_with(1, &[8], |params| params.this_update = date_time_ymd(2021, 1, 1));
    for second in [later, ca.crl(2, &[8])] {
        let settings = settings(folder.path(), &[&ca], &[&ca.crl(2, &[7]), &second]);
        let trust = Trust::load(settings.clone()).unwrap();
        assert_eq!([7, 8, 9].map(|serial| verify(&trust, &ca.client(serial))), [REVOKED, REVOKED, Ok(())]);
        assert!(
            check_messages(&settings).contains("certificates that either one revokes are refused"),
            "{}",
            check_messages(&settings)
        );
    }
}

/// a root's CRL is about its intermediates, and each intermediate needs its own.
#[test]
fn an_intermediate_is_revoked_too() {
    let (folder, root) = (folder(), Ca::new("root"));
    let team = root.intermediate("team", |params| params.serial_number = Some(9_u64.into()));
    let chain = |serial| [team.client(serial).der, team.der.clone()];
    let (of_root, of_team) = (root.crl(1, &[]), team.crl(1, &[7]));
    let trust = load(folder.path(), &[&root], &[&of_root, &of_team]);
    assert_eq!(verify_chain(&trust, &chain(8)), Ok(()));
    assert!(matches!(verify_chain(&trust, &chain(7)), Err(Refusal::Revoked { .. })));
    let strange = check_messages(&settings(folder.path(), &[&root], &[&of_root, &of_team]));
    assert!(
        strange.contains("note: ") && strange.contains("is from CN=team, which is not in tls.client_ca"),
        "{strange}"
    );

    let without = load(folder.path(), &[&root], &[&of_root]);
    assert!(matches!(verify_chain(&without, &chain(8)), Err(Refusal::NoCrl { .. })));
    let revoked = load(folder.path(), &[&root], &[&root.crl(2, &[9]), &of_team]);
    let refused = verify_chain(&revoked, &chain(8)).unwrap_err();
    assert!(refused.to_string().starts_with("CN=team (serial 09) is revoked by CRL "), "{refused}");
    // Of an intermediate no older list comes back either.
    std::fs::write(&trust.settings.client_crls[1], team.crl(0, &[])).unwrap();
    trust.reload();
    assert!(matches!(verify_chain(&trust, &chain(7)), Err(Refusal::Revoked { .. })));
}

/// A-010, for a CA that no client presented while the newer list was in the files.
#[test]
fn no_older_crl_of_an_intermediate_comes_back_in_force() {
    let (folder, root) = (folder(), Ca::new("root"));
    let (team, twin) = (root.intermediate("team", |_| {}), Ca::new("team"));
    let chain = |serial| [team.client(serial).der, team.der.clone()];
    let (of_root, old, new) = (root.crl(1, &[]), team.crl(1, &[]), team.crl(2, &[7]));
    let start = |list: &str| load(folder.path(), &[&root], &[list, &of_root]);
    let is_revoked = |trust: &Trust| {
        assert!(matches!(verify_chain(trust, &chain(7)), Err(Refusal::Revoked { .. })));
        assert_eq!(verify_chain(trust, &chain(8)), Ok(()));
    };
    let forged: Vec<_> = (3..6).map(|number| twin.crl(number, &[])).collect();
    for steps in [
        vec![&new, &old],
        vec![&new, &of_root, &old],
        vec![&new, &forged[0], &forged[1], &old],
        vec![&new, &old, &forged[2], &old],
    ] {
        for met_before in [false, true] {
            let trust = start(&old);
            if met_before {
                assert_eq!(verify_chain(&trust, &chain(7)), Ok(()));
            }
            for list in &steps {
                change(&trust, list);
            }
            let notices = &trust.clients.load().notices;
            let has_warning =
                |text: &str| notices.iter().any(|(_, notice)| notice.is_warning && notice.text.contains(text));
            assert!(has_warning("is from CN=team and older than "), "{notices:?}");
            is_revoked(&trust);
        }
    }
    // More than are kept: in their order they are harmless.
    let trust = start(&old);
    (2..40).for_each(|number| change(&trust, &team.crl(number, &[7])));
    change(&trust, &old);
    is_revoked(&trust);
    // If the newest may be among the forgotten ones, there is none.
    let trust = start(&new);
    (3..40).for_each(|number| change(&trust, &twin.crl(number, &[])));
    for list in [&old, &new] {
        change(&trust, list);
        assert!(matches!(verify_chain(&trust, &chain(8)), Err(Refusal::NoCrl { .. })));
    }
    let notices = &trust.clients.load().notices;
    let has_warning = |text: &str| notices.iter().any(|(_, notice)| notice.is_warning && notice.text.contains(text));
    assert!(has_warning("too many CRLs of CAs that no client presented"), "{notices:?}");
    change(&trust, &team.crl(99, &[7]));
    is_revoked(&trust);
}

/// of how many CAs ever the files hold lists.
#[test]
fn discarded_crls_are_never_in_force() {
    let (folder, root, filler) = (folder(), Ca::new("root"), Ca::new("filler"));
    let team = root.intermediate("team", |_| {});
    let chain = [team.client(8).der, team.der.clone()];
    let part = |name: usize| {
        filler.crl_with(1, &[], |params| {
            let distribution_point = CrlDistributionPoint { uris: vec![format!("http://crl.example/{name}")] };
            params.issuing_distribution_point = Some(CrlIssuingDistributionPoint { distribution_point, scope: None });
        })
    };
    let parts: String = (0..1024).map(part).collect();
    let trust = load(folder.path(), &[&root], &[&parts, &root.crl(1, &[])]);
    change(&trust, &team.crl(1, &[]));
    assert!(matches!(verify_chain(&trust, &chain), Err(Refusal::NoCrl { .. })));
    change(&trust, &root.crl(2, &[9]));
    assert_eq!(verify(&trust, &root.client(9)), REVOKED, "a CA that is known is not concerned");
}

/// RFC 5280 §5.2.5: a CA may split what it revoked over several lists.
#[test]
fn a_partition_counts_for_the_certificates_that_name_it() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let part = |number, revoked: &[u8], name: &str, scope| {
        ca.crl_with(number, revoked, |params| {
            let distribution_point = CrlDistributionPoint { uris: vec![format!("http://crl.example/{name}")] };
            params.issuing_distribution_point = Some(CrlIssuingDistributionPoint { distribution_point, scope });
        })
    };
    let client = |serial: u8, points: &[&str]| {
        ca.leaf("client", |params| {
            params.serial_number = Some(vec![serial].into());
            let point = |name: &&str| CrlDistributionPoint { uris: vec![format!("http://crl.example/{name}")] };
            params.crl_distribution_points = points.iter().map(point).collect();
        })
    };
    let a = part(1, &[7], "a", None);
    let (old_b, b) = (part(1, &[], "b", None), part(2, &[8], "b", Some(CrlScope::UserCertsOnly)));
    let for_cas = part(3, &[9], "a", Some(CrlScope::CaCertsOnly));
    let trust = load(folder.path(), &[&ca], &[&b, &a, &for_cas]);
    assert_eq!(verify(&trust, &client(7, &["a"])), REVOKED);
    assert_eq!(verify(&trust, &client(7, &["b"])), Ok(()));
    assert_eq!(verify(&trust, &client(8, &["a", "b"])), REVOKED);
    assert_eq!(verify(&trust, &client(9, &["a"])), Ok(()), "that list is about CAs");
    assert_eq!(verify(&trust, &client(1, &["c"])), NO_CRL);
    assert_eq!([7, 8, 9].map(|serial| verify(&trust, &client(serial, &[]))), [REVOKED, REVOKED, Ok(())]);
    let newer = load(folder.path(), &[&ca], &[&old_b, &part(2, &[8], "b", None)]);
    assert_eq!(verify(&newer, &client(8, &["b"])), REVOKED, "within a partition the newest counts");
}

#[test]
fn a_ca_that_may_not_sign_crls_has_none() {
    let folder = folder();
    let mut params = pki::ca_params("ca");
    let ca = Ca::root(params.clone());
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // The same name and key; only its certificate allows less.
    let certificate = params.self_signed(ca.issuer.key()).unwrap();
    let settings = settings(folder.path(), &[&ca], &[&ca.crl(1, &[])]);
    std::fs::write(&settings.client_ca[0].file, certificate.pem()).unwrap();
    let trust = Trust::load(settings.clone()).unwrap();
    assert_eq!(verify(&trust, &ca.client(8)), NO_CRL);
    assert!(
        check_messages(&settings).contains("the CA CN=ca may not sign CRLs (keyUsage lacks cRLSign)"),
        "{}",
        check_messages(&settings)
    );
}

/// A certificate that a delta or an indirect list leaves out would count as not revoked.
#[test]
fn partial_lists_are_refused_with_a_reason() {
    use x509_parser::asn1_rs::FromDer as _;
    let (folder, ca) = (folder(), Ca::new("ca"));
    let crl = ca.crl(1, &[7]);
    let der = writ_verifier::pem::blocks(crl.as_bytes(), writ_verifier::pem::CRL, |_| false).unwrap()[0].der.clone();
    let (_, parsed) = x509_parser::prelude::CertificateRevocationList::from_der(&der).unwrap();
    // The object identifier of the CRL number, changed into another of the same length: deltaCRLIndicator.
    let at = der.windows(3).position(|window| window == [0x55, 0x1d, 20]).unwrap();
    assert!(parsed.crl_number().is_some());
    let mut delta = der.clone();
    delta[at + 2] = 27;
    let settings = settings(folder.path(), &[&ca], &[&crl]);
    std::fs::write(&settings.client_crls[0], delta).unwrap();
    assert!(problem(settings.clone()).ends_with("0.crl: block 1 is a delta CRL; Writ needs complete CRLs"));
    assert!(check_messages(&settings).contains("error: ") && check_messages(&settings).contains("is a delta CRL"));
}
