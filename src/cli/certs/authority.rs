//! The development CA: its key, and the certificates and CRLs that it signs.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams,
    SanType, SerialNumber,
};
use writ_verifier::pem;
use x509_parser::certificate::X509Certificate;
use x509_parser::num_bigint::BigUint;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use writ_platform::clock::Timestamp;

/// The prefix of a development CA's name. Random digits follow: if two CAs had the same name, TLS would report that the
/// signature is wrong, not that the CA is.
const NAME: &str = "Writ development CA";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_DAYS: u32 = 3650;
const CRL_DAYS: u32 = 365;
/// Certificates become valid a little in the past, since the clocks of hosts differ by seconds.
const BACKDATED: Duration = Duration::from_secs(60);

/// Why the CA cannot sign.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// Malformed PEM or DER.
    #[error("a certificate, key or CRL of the development CA cannot be read")]
    Unreadable,
    /// Not made by [`Authority::create`], or a key that does not belong to the certificate.
    #[error("ca.pem and ca.key are not a development CA made by `writ certs init`")]
    NotOurs,
    #[error("the CRL was not signed by this development CA")]
    ForeignCrl,
    #[error("the system clock is outside the range of certificates")]
    Clock,
    #[error("the system provides no random numbers")]
    Random,
    #[error("the certificate cannot be created: {0}")]
    Make(#[from] rcgen::Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum San {
    Dns(String),
    /// For instance a SPIFFE ID.
    Uri(String),
    Email(String),
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

/// The extended key usage of a certificate.
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

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after: Timestamp,
}

impl Authority {
    /// Creates a CA with a new ES256 key.
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

    /// Loads a CA that [`Authority::create`] made.
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

    /// Signs a certificate for a new key, valid for `days` days but no longer than the CA itself.
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

    /// Signs the next CRL: the entries of the last one (PEM), and `certificate` (PEM) if given.
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
    fn read_crl(&self, text: &str) -> Result<(BigUint, Vec<RevokedCertParams>), AuthorityError> {
        let der = der_of(text, pem::CRL)?;
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
    let (Ok(der), Ok(crl)) = (certificate_der(certificate), der_of(crl, pem::CRL)) else { return false };
    let (Ok(certificate), Ok((_, crl))) = (parsed(&der), CertificateRevocationList::from_der(&crl)) else {
        return false;
    };
    crl.iter_revoked_certificates().any(|entry| entry.raw_serial() == certificate.raw_serial())
}

/// The parameters that all development CAs share.
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

/// 127 random bits: positive, and without a leading zero byte that encoding would remove.
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

fn certificate_der(text: &str) -> Result<Vec<u8>, AuthorityError> {
    der_of(text, pem::CERTIFICATE)
}

/// The first block with this label.
fn der_of(text: &str, label: &str) -> Result<Vec<u8>, AuthorityError> {
    let blocks = pem::blocks(text.as_bytes(), label, |_| true).map_err(|_| AuthorityError::Unreadable)?;
    blocks.into_iter().next().map(|block| block.der).ok_or(AuthorityError::Unreadable)
}

fn parsed(der: &[u8]) -> Result<X509Certificate<'_>, AuthorityError> {
    X509Certificate::from_der(der).map(|(_, certificate)| certificate).map_err(|_| AuthorityError::Unreadable)
}
