//! Certificates: a certificate authority, what it signs and what it revokes.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
    /// What an intermediate authority's leaves must send along.
    chain: Vec<CertificateDer<'static>>,
}

/// A certificate with its chain and key.
pub(crate) struct Credentials {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
    key_der: Vec<u8>,
    serial: Option<SerialNumber>,
}

impl Ca {
    /// A root of that common name.
    pub(crate) fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name);
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate, chain: Vec::new() }
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Self { issuer: Issuer::new(params, key), certificate, chain }
    }

    /// The authority's own certificate.
    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// The authority's own certificate.
    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        self.certificate.der()
    }

    /// Signs a certificate for a fresh key.
    pub(crate) fn issue(&self, params: CertificateParams) -> Credentials {
        self.issue_for(params, &KeyPair::generate().unwrap())
    }

    /// Signs a certificate for a key that is already there.
    pub(crate) fn issue_for(&self, params: CertificateParams, key: &KeyPair) -> Credentials {
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        let mut credentials = Credentials::new(&certificate, key, params.serial_number);
        credentials.chain.extend(self.chain.iter().cloned());
        credentials
    }

    /// A revocation list in force from now for a day.
    pub(crate) fn crl(&self, number: u64, revoked: &[&Credentials]) -> String {
        self.crl_valid(number, revoked, SystemTime::now() - HOUR, SystemTime::now() + 24 * HOUR)
    }

    /// A revocation list in force between two times.
    pub(crate) fn crl_valid(&self, number: u64, revoked: &[&Credentials], from: SystemTime, to: SystemTime) -> String {
        let revoked_certs = revoked
            .iter()
            .map(|credentials| RevokedCertParams {
                serial_number: credentials.serial.clone().expect("every certificate here has a serial"),
                revocation_time: (SystemTime::now() - HOUR).into(),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        CertificateRevocationListParams {
            this_update: from.into(),
            next_update: to.into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .unwrap()
        .pem()
        .unwrap()
    }
}

impl Credentials {
    fn new(certificate: &Certificate, key: &KeyPair, serial: Option<SerialNumber>) -> Self {
        Self {
            chain: vec![certificate.der().clone()],
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key_der: key.serialize_der(),
            serial,
        }
    }

    /// A self-signed certificate.
    pub(crate) fn self_signed(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::new(&params.self_signed(&key).unwrap(), &key, params.serial_number.clone())
    }

    /// The private key, as rustls wants it.
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key_der.clone()).into()
    }

    /// `x5t#S256` of RFC 8705.
    pub(crate) fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &self.chain[0]))
    }
}

/// An authority's certificate of that common name.
pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = leaf(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = (SystemTime::now() + 30 * 24 * HOUR).into(); // longer than what tests set clocks ahead
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A client's certificate without names, valid from an hour ago for a day.
pub(crate) fn client(name: &str) -> CertificateParams {
    let mut params = leaf(name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// The certificate of a server on loopback.
pub(crate) fn server() -> CertificateParams {
    let mut params = leaf("localhost");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = vec![dns("localhost"), ip("127.0.0.1")];
    params
}

fn leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = dn(&[(DnType::CommonName, name)]);
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + 24 * HOUR).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    params
}

fn serial() -> SerialNumber {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes[0] &= 0x7f;
    bytes[0] |= 0x40;
    SerialNumber::from_slice(&bytes)
}

/// A distinguished name, in that order.
pub(crate) fn dn(parts: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (kind, value) in parts {
        name.push(kind.clone(), *value);
    }
    name
}

/// A URI as subject alternative name.
pub(crate) fn uri(value: &str) -> SanType {
    SanType::URI(value.try_into().unwrap())
}

/// A DNS name as subject alternative name.
pub(crate) fn dns(value: &str) -> SanType {
    SanType::DnsName(value.try_into().unwrap())
}

/// An e-mail address as subject alternative name.
pub(crate) fn email(value: &str) -> SanType {
    SanType::Rfc822Name(value.try_into().unwrap())
}

/// An IP address as subject alternative name.
pub(crate) fn ip(value: &str) -> SanType {
    SanType::IpAddress(value.parse::<IpAddr>().unwrap())
}
