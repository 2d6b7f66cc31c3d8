//! A certificate that Writ presents and its private key: whether peers can accept them.
//!
//! TLS itself is more lenient: a service starts with a certificate that all of its clients refuse. This finds beforehand
//! what a peer would refuse.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use writ_verifier::pem::{self, PemError};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use writ_platform::clock::Timestamp;
use writ_platform::{bounded, secret_file};

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate with less time left raises a warning.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 86_400);

/// Certificates with shorter lives are renewed automatically: they raise a warning in the last third of their life.
const SHORT_LIVED: Duration = Duration::from_secs(2 * 86_400);

/// The reaction of peers to such a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// They refuse it.
    Error,
    /// Some refuse it, or all will soon.
    Warning,
}

/// A problem, without the name of the file.
pub(crate) type Finding = (Severity, String);

/// Leaf first.
pub(crate) type Chain = Vec<CertificateDer<'static>>;

pub(crate) enum Usage<'a> {
    /// A server that is called by this host name, if it is known.
    Server(Option<&'a str>),
    /// A client.
    Client,
}

impl Usage<'_> {
    fn extended_key_usage(&self) -> &'static str {
        match self {
            Self::Server(_) => "serverAuth",
            Self::Client => "clientAuth",
        }
    }
}

/// The certificates of a file in their order, without the blocks whose labels `skip` selects.
pub(crate) fn read_chain(path: &Path, skip: impl Fn(&str) -> bool) -> Result<Chain, String> {
    let content = bounded::read(path).map_err(|cause| cause.to_string())?;
    let blocks = pem::blocks(&content, pem::CERTIFICATE, skip).map_err(|cause| match cause {
        PemError::Nothing(_) if content.starts_with(b"\x30") => {
            format!("{cause}; if it is DER, convert it: openssl x509 -inform DER")
        }
        cause => cause.to_string(),
    })?;
    let certificate = |block: pem::Block| match X509Certificate::from_der(&block.der) {
        Ok(([], _)) => Ok(CertificateDer::from(block.der)),
        _ => Err(format!("block {} ({}) cannot be read", block.number, pem::CERTIFICATE)),
    };
    blocks.into_iter().map(certificate).collect()
}

/// The private key in a file that strangers cannot read.
pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let content = secret_file::read(path).map_err(|cause| cause.reason())?;
    if content.starts_with(b"\xef\xbb\xbf") {
        return Err("begins with a byte order mark; save it as plain text without one".to_owned());
    }
    let labels = labels(&content);
    let is_encrypted =
        labels.iter().any(|label| label == "ENCRYPTED PRIVATE KEY") || has_line(&content, "Proc-Type: 4,ENCRYPTED");
    if is_encrypted {
        return Err("is encrypted, and no password can be entered at startup; decrypt it \
             (openssl pkey -in KEY -out KEY.plain), keep its mode at 0600, and protect it like the sealing key"
            .to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&content).map_err(|_| match labels.first() {
        Some(label) if label.ends_with("PRIVATE KEY") => {
            format!("holds a \"{label}\" that cannot be read; PKCS #8 can: openssl pkcs8 -topk8 -nocrypt")
        }
        Some(label) => format!("holds no private key (PEM), but a block of the kind \"{label}\""),
        None if content.starts_with(b"\x30") => {
            "holds no private key (PEM); if it is DER, convert it: openssl pkey -inform DER".to_owned()
        }
        None => "holds no private key (PEM)".to_owned(),
    })?;
    match any_supported_type(&key) {
        Ok(_) => Ok(key),
        Err(_) => {
            Err("is a private key that TLS cannot use here: RSA of 2048 bits or more, ECDSA on P-256, P-384 or P-521, \
             or Ed25519 is needed"
                .to_owned())
        }
    }
}

/// What a peer would refuse about the certificate at `now`; `key` is its key with the setting that names it, if the key
/// could be read.
pub(crate) fn judge(
    chain: &[CertificateDer<'_>],
    key: Option<(&PrivateKeyDer<'_>, &str)>,
    usage: &Usage<'_>,
    now: Timestamp,
) -> Vec<Finding> {
    let parsed: Vec<_> = chain.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1)).collect();
    let (Some(leaf), Some(der)) = (parsed.first(), chain.first()) else { return Vec::new() };
    let mut found = Vec::new();
    if let Some((key, setting)) = key
        && let Some(mismatch) = mismatch(&parsed, key, setting)
    {
        // It is the wrong certificate: other findings would mislead.
        return vec![(Severity::Error, mismatch)];
    }
    found.extend(form(leaf));
    found.extend(validity(leaf, now));
    found.extend(usages(leaf, usage));
    if let Usage::Server(Some(host)) = usage
        && let Some(text) = names(leaf, der, host)
    {
        found.push((Severity::Error, text));
    }
    found.extend(order(&parsed, now));
    found
}

/// Whether a server certificate is for this host, DNS name or address, as a client would see it.
pub(crate) fn is_for_host(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(certificate), ServerName::try_from(host)) else {
        return false;
    };
    verify_server_name(&parsed, &name).is_ok()
}

fn mismatch(chain: &[X509Certificate<'_>], key: &PrivateKeyDer<'_>, setting: &str) -> Option<String> {
    let signer = any_supported_type(key).ok()?;
    let public = signer.public_key()?;
    let at = chain.iter().position(|certificate| certificate.public_key().raw == public.as_ref());
    match at {
        Some(0) => None,
        Some(at) => Some(format!(
            "certificate {} of the file is that of the key in {setting}; it must come first, before those of its CAs",
            at + 1
        )),
        None => Some(format!("does not fit the key in {setting}: it is a certificate for another private key")),
    }
}

fn form(leaf: &X509Certificate<'_>) -> Vec<Finding> {
    const SHA1_AND_OLDER: [&str; 4] =
        ["1.2.840.113549.1.1.5", "1.2.840.113549.1.1.4", "1.2.840.10045.4.1", "1.3.14.3.2.29"];
    let mut found = Vec::new();
    if leaf.version().0 != 2 {
        found.push((
            Severity::Error,
            "is an X.509 certificate of version 1; only version 3 has the names that peers check".to_owned(),
        ));
    }
    let is_weak = SHA1_AND_OLDER.contains(&leaf.signature_algorithm.algorithm.to_id_string().as_str());
    if is_weak && leaf.subject() != leaf.issuer() {
        found.push((
            Severity::Error,
            "is signed with SHA-1 or MD5, which peers refuse; have it signed with SHA-256".to_owned(),
        ));
    }
    if leaf.is_ca() {
        found.push((
            Severity::Warning,
            "is the certificate of a CA; many peers refuse one as the certificate of a server or client".to_owned(),
        ));
    }
    found
}

fn validity(leaf: &X509Certificate<'_>, now: Timestamp) -> Option<Finding> {
    let (from, until) = bounds(leaf);
    if now > until {
        return Some((Severity::Error, format!("expired at {until}; renew it")));
    }
    if now < from {
        return Some((Severity::Error, format!("is not valid before {from}; check the clock, or wait")));
    }
    let (life, left) = (until.since(from), until.since(now));
    let margin = if life < SHORT_LIVED { life / 3 } else { EXPIRY_WARNING };
    (left < margin).then(|| {
        let days = left.as_secs() / DAY.as_secs();
        let left = if days > 0 { format!("in {days} d") } else { format!("in {} h", left.as_secs() / 3600) };
        (Severity::Warning, format!("expires {left}, at {until}; renew it (the file is watched, no restart is needed)"))
    })
}

fn bounds(certificate: &X509Certificate<'_>) -> (Timestamp, Timestamp) {
    let at = |seconds: i64| Timestamp::from_epoch(u64::try_from(seconds).unwrap_or(0));
    let validity = certificate.validity();
    (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()))
}

fn usages(leaf: &X509Certificate<'_>, usage: &Usage<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let wanted = usage.extended_key_usage();
    if let Ok(Some(extended)) = leaf.extended_key_usage() {
        let has = match usage {
            Usage::Server(_) => extended.value.server_auth,
            Usage::Client => extended.value.client_auth,
        };
        if !has {
            let text =
                format!("lacks the extended key usage {wanted}, so every peer refuses it; have one issued with it");
            found.push((Severity::Error, text));
        }
    }
    if leaf.key_usage().is_ok_and(|usage| usage.is_some_and(|usage| !usage.value.digital_signature())) {
        found.push((
            Severity::Warning,
            "lacks the key usage digitalSignature, which TLS 1.3 requires (RFC 8446, section 4.4.2.2)".to_owned(),
        ));
    }
    found
}

fn names(leaf: &X509Certificate<'_>, der: &CertificateDer<'_>, host: &str) -> Option<String> {
    if let Err(cause) = ParsedCertificate::try_from(der) {
        return Some(format!(
            "cannot be used by TLS: {cause}; issue it without critical extensions that peers do not know"
        ));
    }
    if is_for_host(der, host) {
        return None;
    }
    let names = leaf.subject_alternative_name().ok().flatten();
    let names: Vec<_> = names.iter().flat_map(|names| &names.value.general_names).filter_map(host_name).collect();
    let has = match names.split_last() {
        None => "for no host: it has no subject alternative name of a host, and the CN is ignored".to_owned(),
        Some((only, [])) => format!("only for {only}"),
        Some((last, first)) => format!("only for {} and {last}", first.join(", ")),
    };
    Some(format!("is not for {host}, the host of `issuer`, so every client refuses it; it is {has}"))
}

fn host_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

/// Peers that know only the root need each certificate in between.
fn order(chain: &[X509Certificate<'_>], now: Timestamp) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, pair) in chain.windows(2).enumerate() {
        let (number, issuer) = (at + 2, &pair[1]);
        if pair[0].issuer().as_raw() != issuer.subject().as_raw() {
            found.push((
                Severity::Warning,
                format!("certificate {number} of the file is not the issuer of the one before it; peers may not find the path to their CA"),
            ));
        }
        let (_, until) = bounds(issuer);
        if now > until {
            found.push((
                Severity::Warning,
                format!("certificate {number} of the file, a CA in between, expired at {until}"),
            ));
        }
    }
    found
}

/// The kinds of the PEM blocks in a file.
fn labels(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let label = |line: &str| {
        Some(line.trim().trim_start_matches('\u{feff}').strip_prefix("-----BEGIN ")?.strip_suffix("-----")?.to_owned())
    };
    text.lines().filter_map(label).collect()
}

fn has_line(content: &[u8], wanted: &str) -> bool {
    content.split(|byte| *byte == b'\n').any(|line| line.trim_ascii() == wanted.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::SystemTime;

    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    };

    use super::*;

    const HOST: &str = "tts.d.example";
    const SERVER: Usage<'_> = Usage::Server(Some(HOST));

    fn params(names: &[&str]) -> CertificateParams {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        (params.not_before, params.not_after) = (days(-30).into(), days(60).into());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params
    }

    fn days(count: i32) -> SystemTime {
        let span = DAY * count.unsigned_abs();
        let now = SystemTime::now();
        if count < 0 { now - span } else { now + span }
    }

    struct Ca(Issuer<'static, KeyPair>, CertificateDer<'static>);

    fn ca(name: &str, until: i32) -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (days(-90).into(), days(until).into());
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Ca(Issuer::new(params, key), der)
    }

    /// What is found about a chain of this leaf and `more`, with the leaf's key.
    fn judged(
        params: &CertificateParams,
        usage: &Usage<'_>,
        issuer: &Ca,
        more: &[CertificateDer<'static>],
    ) -> Vec<String> {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer.0).unwrap().der().clone();
        let chain = [&[leaf], more].concat();
        found(&chain, &key, usage)
    }

    fn found(chain: &[CertificateDer<'_>], key: &KeyPair, usage: &Usage<'_>) -> Vec<String> {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let severity = |severity| if severity == Severity::Error { "error" } else { "warning" };
        let found = judge(chain, Some((&key, "tls.private_key")), usage, Timestamp::now());
        found.into_iter().map(|(kind, text)| format!("{}: {text}", severity(kind))).collect()
    }

    /// Each certificate has one fault, and one finding.
    #[test]
    fn what_a_peer_would_refuse_is_found() {
        let issuer = ca("ca", 300);
        let change = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = params(&[HOST]);
            change(&mut params);
            params
        };
        let until = |count| change(&|params| params.not_after = days(count).into());
        let names = |names: &[&str]| {
            let mut params = params(names);
            params.distinguished_name.push(DnType::CommonName, HOST);
            params
        };
        let short = |from: SystemTime, until: SystemTime| {
            change(&|params| (params.not_before, params.not_after) = (from.into(), until.into()))
        };
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        for (params, expected) in [
            (params(&[HOST]), ""),
            (names(&["*.d.example"]), ""),
            (names(&["other.example", HOST]), ""),
            (
                names(&["other.example"]),
                "error: is not for tts.d.example, the host of `issuer`, so every client refuses it; it is only for other.example",
            ),
            (names(&["a.example", "10.0.0.1", "::1"]), "it is only for a.example, 10.0.0.1 and ::1"),
            (names(&["*.tts.d.example"]), "error: is not for tts.d.example"),
            (
                names(&[]),
                "error: is not for tts.d.example, the host of `issuer`, so every client refuses it; it is for no host",
            ),
            (until(-1), "error: expired at "),
            (change(&|params| params.not_before = days(1).into()), "error: is not valid before "),
            (until(20), ""),
            (until(13), "warning: expires in 1"),
            (until(1), "warning: expires in "),
            (short(now - 8 * hour, now + 16 * hour), ""),
            (short(now - 17 * hour, now + 7 * hour), "warning: expires in "),
            (
                change(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
                "error: lacks the extended key usage serverAuth",
            ),
            (change(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]), "error: lacks"),
            (change(&|params| params.extended_key_usages.clear()), ""),
            (
                change(&|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
                "warning: lacks the key usage",
            ),
            (
                change(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
                "warning: is the certificate of a CA",
            ),
        ] {
            let found = judged(&params, &SERVER, &issuer, &[]);
            assert!(found.len() <= 1 && found.is_empty() == expected.is_empty(), "{expected}: {found:?}");
            assert!(found.iter().all(|found| found.contains(expected)), "{expected}: {found:?}");
        }
        let address = |names: &[&str], host| judged(&params(names), &Usage::Server(Some(host)), &issuer, &[]);
        assert!(address(&["127.0.0.1"], "127.0.0.1").is_empty() && address(&["::1"], "[::1]").is_empty());
        assert_eq!(address(&["localhost"], "127.0.0.1").len(), 1, "a name is no address");
        assert!(judged(&names(&["other.example"]), &Usage::Server(None), &issuer, &[]).is_empty());
        let client = judged(&params(&[HOST]), &Usage::Client, &issuer, &[]);
        assert!(client.len() == 1 && client[0].contains("clientAuth"), "{client:?}");
    }

    #[test]
    fn a_chain_has_its_leaf_first_and_each_issuer_after() {
        let (issuer, other, expired) = (ca("ca", 300), ca("other", 300), ca("ca", -1));
        let ok = params(&[HOST]);
        assert!(judged(&ok, &SERVER, &issuer, std::slice::from_ref(&issuer.1)).is_empty());
        let wrong = judged(&ok, &SERVER, &issuer, std::slice::from_ref(&other.1));
        assert!(wrong.len() == 1 && wrong[0].contains("certificate 2 of the file is not the issuer"), "{wrong:?}");
        let late = judged(&ok, &SERVER, &expired, std::slice::from_ref(&expired.1));
        assert!(late.len() == 1 && late[0].starts_with("warning: certificate 2 of the file, a CA in between, expired"));

        let key = KeyPair::generate().unwrap();
        let leaf = ok.signed_by(&key, &issuer.0).unwrap().der().clone();
        let reversed = found(&[issuer.1.clone(), leaf.clone()], &key, &SERVER);
        assert_eq!(reversed.len(), 1);
        assert!(
            reversed[0].contains("certificate 2 of the file is that of the key in tls.private_key; it must come first")
        );
        let stranger = found(&[leaf], &KeyPair::generate().unwrap(), &SERVER);
        assert!(stranger.len() == 1 && stranger[0].contains("does not fit the key in tls.private_key"), "{stranger:?}");
    }

    fn file(text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.pem");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        (folder, path)
    }

    #[test]
    fn a_file_that_holds_no_usable_key_is_called_what_it_is() {
        let block = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        let key = KeyPair::generate().unwrap();
        let der = key.serialize_der();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        for (text, expected) in [
            (block("ENCRYPTED PRIVATE KEY", "AAAA").into_bytes(), "is encrypted, and no password"),
            (
                block("EC PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\r\nDEK-Info: AES-256-CBC,00\n\nAAAA").into_bytes(),
                "is encrypted, and no password",
            ),
            (certificate.clone().into_bytes(), "holds no private key (PEM), but a block of the kind \"CERTIFICATE\""),
            (block("OPENSSH PRIVATE KEY", "AAAA").into_bytes(), "holds a \"OPENSSH PRIVATE KEY\" that cannot be read"),
            (block("PUBLIC KEY", "AAAA").into_bytes(), "but a block of the kind \"PUBLIC KEY\""),
            (der, "if it is DER, convert it"),
            (b"x".to_vec(), "holds no private key (PEM)"),
            (block("PRIVATE KEY", "AAAA").into_bytes(), "is a private key that TLS cannot use here"),
        ] {
            let (_folder, path) = file(&text);
            let error = read_key(&path).unwrap_err();
            assert!(error.starts_with(expected) || error.contains(expected), "{expected}: {error}");
        }
        let (_folder, path) = file(format!("{certificate}{}", key.serialize_pem()).as_bytes());
        assert!(
            read_key(&path).is_ok() && read_chain(&path, pem::is_of_key).is_ok(),
            "a certificate and its key in one file"
        );
    }

    #[test]
    fn a_block_that_would_be_dropped_unseen_is_an_error() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        for (text, expected) in [
            (
                certificate.clone() + &certificate.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
                "block 2 is a TRUSTED CERTIFICATE, not a CERTIFICATE",
            ),
            (key.serialize_pem(), "block 1 is a PRIVATE KEY, not a CERTIFICATE"),
        ] {
            let (_folder, path) = file(text.as_bytes());
            let error = read_chain(&path, |_| false).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let (_folder, path) = file(format!("\u{feff}{certificate}\u{feff}{certificate}").as_bytes());
        assert_eq!(read_chain(&path, |_| false).unwrap().len(), 2);
    }
}
