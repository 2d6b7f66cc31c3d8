//! The development CA: its key, and what it signs.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::num_bigint::BigUint;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use writ_platform::clock::Timestamp;

/// What the names of all development CAs begin with. A few random digits follow: of two CAs of one name, TLS says of what
/// the other signed that its signature is wrong, not that the CA is.
const NAME: &str = "Writ development CA";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_DAYS: u32 = 3650;
const CRL_DAYS: u32 = 365;
/// Certificates begin a little in the past: machines of one developer differ by seconds.
const BACKDATED: Duration = Duration::from_secs(60);

/// Why the CA cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Bad PEM or DER.
    #[error("a certificate, key or CRL of the development CA cannot be read")]
    Unreadable,
    /// A certificate of someone else, or a key that is not its own.
    #[error("ca.pem and ca.key are not a development CA made by `writ certs init`")]
    NotOurs,
    /// The list would be rejected by whoever trusts the CA.
    #[error("the CRL was not signed by this development CA")]
    ForeignCrl,
    /// The clock is beyond what a certificate can say.
    #[error("the system's clock is outside the range of certificates")]
    Clock,
    /// No randomness.
    #[error("the system has no random numbers")]
    Random,
    /// The library that makes certificates refused.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A name that a certificate is issued for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum San {
    /// A host name.
    Dns(String),
    /// A URI; a SPIFFE ID for instance.
    Uri(String),
    /// An e-mail address.
    Email(String),
    /// An IP address.
    Ip(IpAddr),
}

impl San {
    fn to_rcgen(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            Self::Uri(uri) => SanType::URI(uri.as_str().try_into()?),
            Self::Email(address) => SanType::Rfc822Name(address.as_str().try_into()?),
            Self::Ip(ip) => SanType::IpAddress(*ip),
        })
    }
}

/// What the holder of a certificate may use it for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    Server,
    Client,
}

/// A certificate and its private key, PEM.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: Zeroizing<String>,
}

/// A CA that can sign.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after: Timestamp,
}

impl Authority {
    /// A new CA, with an ES256 key.
    pub(super) fn create(now: Timestamp) -> Result<(Self, Pair), AuthorityError> {
        let key = KeyPair::generate()?;
        let not_after = now + DAY * CA_DAYS;
        let mut params = params(&new_name()?);
        params.not_before = at(now - BACKDATED)?.to_datetime();
        params.not_after = at(not_after)?.to_datetime();
        params.serial_number = Some(random_serial()?);
        let pair = Pair { certificate: params.self_signed(&key)?.pem(), key: Zeroizing::new(key.serialize_pem()) };
        Ok((Self { issuer: Issuer::new(params, key), not_after }, pair))
    }

    /// The CA that [`Authority::create`] made.
    pub(super) fn load(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let der = certificate_der(certificate)?;
        let certificate = parsed(&der)?;
        let key = KeyPair::from_pem(key).map_err(|_| AuthorityError::Unreadable)?;
        let mut names = certificate.subject().iter_attributes();
        let name = names.next().and_then(|name| name.as_str().ok()).filter(|name| name.starts_with(NAME));
        let name = name.filter(|_| names.next().is_none()).ok_or(AuthorityError::NotOurs)?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::NotOurs);
        }
        let not_after = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self { issuer: Issuer::new(params(name), key), not_after: Timestamp::from_epoch(not_after) })
    }

    /// Signs a certificate for a new key, for so many days but not longer than the CA itself lives.
    pub(super) fn issue(
        &self,
        common_name: &str,
        names: &[San],
        usage: Usage,
        days: u32,
        now: Timestamp,
    ) -> Result<Pair, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_before = at(now - BACKDATED)?.to_datetime();
        params.not_after = at((now + DAY * days).min(self.not_after))?.to_datetime();
        params.serial_number = Some(random_serial()?);
        params.distinguished_name = distinguished_name(common_name);
        params.subject_alt_names = names.iter().map(San::to_rcgen).collect::<Result<_, _>>()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: Zeroizing::new(key.serialize_pem()) })
    }

    /// Signs the next CRL: what the last one listed, and `certificate` (PEM) where one is given.
    pub(super) fn revoke(
        &self,
        last: Option<&str>,
        certificate: Option<&str>,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let (number, mut revoked) = last.map_or(Ok((BigUint::ZERO, Vec::new())), |pem| self.read_crl(pem))?;
        if let Some(pem) = certificate {
            let serial = parsed(&certificate_der(pem)?)?.raw_serial().to_vec();
            if !revoked.iter().any(|entry| entry.serial_number.to_bytes() == serial) {
                revoked.push(entry(&serial, at(now)?));
            }
        }
        let params = CertificateRevocationListParams {
            this_update: at(now)?.to_datetime(),
            next_update: at(now + DAY * CRL_DAYS)?.to_datetime(),
            crl_number: SerialNumber::from_slice(&(number + 1u32).to_bytes_be()),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }

    /// The number and the entries of a CRL of this CA.
    fn read_crl(&self, pem: &str) -> Result<(BigUint, Vec<RevokedCertParams>), AuthorityError> {
        let unreadable = |_| AuthorityError::Unreadable;
        let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).map_err(unreadable)?;
        let (_, crl) = CertificateRevocationList::from_der(&der).map_err(|_| AuthorityError::Unreadable)?;
        if !signed_by(&crl, self.issuer.key()) {
            return Err(AuthorityError::ForeignCrl);
        }
        let number = crl.crl_number().cloned().unwrap_or_default();
        let entries = crl.iter_revoked_certificates().map(|old| entry(old.raw_serial(), old.revocation_date));
        Ok((number, entries.collect()))
    }
}

/// Whether `certificate` (PEM) is listed in `crl` (PEM); `false` if one of them cannot be read.
pub(super) fn is_listed(crl: &str, certificate: &str) -> bool {
    let Ok(der) = certificate_der(certificate) else { return false };
    let Ok(crl) = CertificateRevocationListDer::from_pem_slice(crl.as_bytes()) else { return false };
    let (Ok(certificate), Ok((_, crl))) = (parsed(&der), CertificateRevocationList::from_der(&crl)) else {
        return false;
    };
    crl.iter_revoked_certificates().any(|entry| entry.raw_serial() == certificate.raw_serial())
}

/// What does not change from one development CA to the next.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn new_name() -> Result<String, AuthorityError> {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes[1..]).map_err(|_| AuthorityError::Random)?;
    Ok(format!("{NAME} {:06x}", u32::from_be_bytes(bytes)))
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn entry(serial: &[u8], revoked_at: ASN1Time) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: revoked_at.to_datetime(),
        reason_code: None,
        invalidity_date: None,
    }
}

/// 127 random bits: positive, and never shortened by a leading zero.
fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn signed_by(crl: &CertificateRevocationList<'_>, key: &KeyPair) -> bool {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key_raw())
        .verify(crl.tbs_cert_list.as_ref(), &crl.signature_value.data)
        .is_ok()
}

fn at(time: Timestamp) -> Result<ASN1Time, AuthorityError> {
    let seconds = i64::try_from(time.epoch()).map_err(|_| AuthorityError::Clock)?;
    ASN1Time::from_timestamp(seconds).map_err(|_| AuthorityError::Clock)
}

fn certificate_der(pem: &str) -> Result<CertificateDer<'static>, AuthorityError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| AuthorityError::Unreadable)
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, AuthorityError> {
    X509Certificate::from_der(der).map(|(_, certificate)| certificate).map_err(|_| AuthorityError::Unreadable)
}
