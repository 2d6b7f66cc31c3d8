//! Certificates for tests.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::tls::{ClientCa, MinVersion, Settings};

pub(super) struct Ca {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) params: CertificateParams,
    pub(super) pem: String,
    pub(super) der: CertificateDer<'static>,
}

pub(super) struct Leaf {
    pub(super) pem: String,
    pub(super) key: String,
    pub(super) der: CertificateDer<'static>,
}

/// Seconds from now.
fn validity(params: &mut CertificateParams, from: i64, until: i64) {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let at = |offset: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(now + offset).unwrap());
    (params.not_before, params.not_after) = (at(from), at(until));
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    validity(&mut params, -3600, 3600);
    params
}

pub(super) fn ca_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.subject_alt_names.clear();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        Self::valid(name, -3600, 3600)
    }

    pub(super) fn valid(name: &str, from: i64, until: i64) -> Self {
        let mut params = ca_params(name);
        validity(&mut params, from, until);
        Self::root(params)
    }

    pub(super) fn root(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self::made(&certificate, params, key)
    }

    fn made(certificate: &Certificate, params: CertificateParams, key: KeyPair) -> Self {
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params.clone(), key), params, pem, der }
    }

    /// A CA of that name below this one.
    pub(super) fn intermediate(&self, name: &str, with: impl FnOnce(&mut CertificateParams)) -> Self {
        self.intermediate_for(name, KeyPair::generate().unwrap(), with)
    }

    pub(super) fn intermediate_for(&self, name: &str, key: KeyPair, with: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        with(&mut params);
        Self::made(&params.signed_by(&key, &self.issuer).unwrap(), params, key)
    }

    /// The same CA, its name and key, as `other` answers for it.
    pub(super) fn cross_signed_by(&self, other: &Self) -> CertificateDer<'static> {
        self.params.signed_by(self.issuer.key(), &other.issuer).unwrap().der().clone()
    }

    pub(super) fn server(&self) -> Leaf {
        self.leaf("server", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])
    }

    pub(super) fn client(&self, serial: u8) -> Leaf {
        self.leaf("client", |params| {
            params.serial_number = Some(SerialNumber::from(vec![serial]));
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    pub(super) fn expired_client(&self) -> Leaf {
        self.client_until(-1)
    }

    /// Ends in this many seconds.
    pub(super) fn client_until(&self, seconds: i64) -> Leaf {
        self.leaf("client", |params| validity(params, -3600, seconds))
    }

    pub(super) fn future_client(&self) -> Leaf {
        self.leaf("client", |params| validity(params, 600, 3600))
    }

    pub(super) fn leaf(&self, name: &str, with: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = named(name);
        with(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { pem: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }

    /// A CRL that is in date.
    pub(super) fn crl(&self, number: u8, revoked: &[u8]) -> String {
        self.crl_until(number, revoked, date_time_ymd(2099, 1, 1).year())
    }

    pub(super) fn crl_until(&self, number: u8, revoked: &[u8], year: i32) -> String {
        self.crl_with(number, revoked, |params| params.next_update = date_time_ymd(year, 1, 1))
    }

    pub(super) fn crl_with(
        &self,
        number: u8,
        revoked: &[u8],
        with: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> String {
        let revoked_certs = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let mut params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(vec![number]),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        with(&mut params);
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

pub(super) fn self_signed(until: i64) -> Leaf {
    let mut params = named("self");
    validity(&mut params, -3600, until);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Leaf { pem: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
}

/// The files of a server in `folder`, without CRLs.
pub(super) fn settings(folder: &Path, ca: &Ca) -> Settings {
    let file = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name)
    };
    let server = ca.server();
    Settings {
        certificate: file("server.pem", &server.pem),
        private_key: file("server.key", &server.key),
        client_ca: vec![ClientCa { file: file("ca.pem", &ca.pem), trust_domains: None }],
        client_crls: Vec::new(),
        min_version: MinVersion::Tls13,
    }
}

/// How a client speaks TLS.
pub(super) fn client_config(ca: &Ca, leaf: Option<&Leaf>, versions: MinVersion) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = match versions {
        MinVersion::Tls12 => [&rustls::version::TLS12],
        MinVersion::Tls13 => [&rustls::version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![leaf.der.clone()], key).unwrap()
        }
    }
}
