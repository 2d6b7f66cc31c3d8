//! An HTTPS client: which CAs it trusts, which certificate it presents, and where `--resolve` sends it.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, redirect};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use url::Url;

/// For a whole request, connecting included.
const TIMEOUT: Duration = Duration::from_secs(30);
/// 256 KiB, far more than any response of a Transaction Token Service.
const MAX_BODY: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// `--ca`, `--cert` or `--key`.
    #[error("{0}")]
    Credentials(String),
    /// The connection failed: network, TLS, or the server closed it.
    #[error("no answer from the service: {0}")]
    Unreachable(String),
    /// The body is longer than 256 KiB.
    #[error("the answer is not from a Transaction Token Service (HTTP status {0})")]
    TooLong(u16),
}

/// `--resolve`: the addresses of a host at one port, as in curl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolve {
    /// Lower case.
    host: String,
    port: u16,
    addresses: Vec<IpAddr>,
}

/// `HOST:PORT:ADDRESS[,ADDRESS]…`; an IPv6 address may be in brackets.
impl FromStr for Resolve {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SYNTAX: &str = "must be HOST:PORT:ADDRESS, like tts.example:8443:127.0.0.1";
        let mut parts = text.splitn(3, ':');
        let (Some(host), Some(port), Some(addresses)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(SYNTAX);
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_name) {
            return Err(SYNTAX);
        }
        let address = |text: &str| {
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            bare.parse::<IpAddr>().map_err(|_| SYNTAX)
        };
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port: port.parse().ok().filter(|port| *port != 0).ok_or(SYNTAX)?,
            addresses: addresses.split(',').map(address).collect::<Result<_, _>>()?,
        })
    }
}

/// A client that follows no redirect and uses no proxy.
#[derive(Debug)]
pub(crate) struct HttpClient {
    /// For the ports that `--resolve` names: reqwest knows such entries by host alone.
    by_port: BTreeMap<u16, Client>,
    default: Client,
}

impl HttpClient {
    /// Trusts the certificates in `ca` alone (`None`: the CAs of the system). Presents `identity`, a certificate chain with
    /// its key. All are PEM.
    pub(crate) fn new(
        ca: Option<&[u8]>,
        identity: Option<(&[u8], &[u8])>,
        resolve: &[Resolve],
    ) -> Result<Self, HttpError> {
        let tls = tls_config(ca, identity)?;
        let by_port = resolve.iter().map(|entry| {
            let entries = resolve.iter().filter(|other| other.port == entry.port);
            build_client(&tls, entries).map(|client| (entry.port, client))
        });
        Ok(Self { by_port: by_port.collect::<Result<_, _>>()?, default: build_client(&tls, [].into_iter())? })
    }

    /// The client for requests to `url`.
    pub(crate) fn for_url(&self, url: &Url) -> &Client {
        url.port_or_known_default().and_then(|port| self.by_port.get(&port)).unwrap_or(&self.default)
    }
}

fn build_client<'a>(tls: &ClientConfig, resolve: impl Iterator<Item = &'a Resolve>) -> Result<Client, HttpError> {
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .redirect(redirect::Policy::none())
        .no_proxy()
        .timeout(TIMEOUT);
    for entry in resolve {
        // Port 0 stands for the port of the URL.
        let addresses: Vec<_> = entry.addresses.iter().map(|address| SocketAddr::new(*address, 0)).collect();
        builder = builder.resolve_to_addrs(&entry.host, &addresses);
    }
    builder.build().map_err(|error| unreachable(&error))
}

fn tls_config(ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<ClientConfig, HttpError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| credentials_error("TLS", error))?
        .with_root_certificates(root_store(ca)?);
    let Some((certificate, key)) = identity else { return Ok(config.with_no_client_auth()) };
    let chain = read_certificates("--cert", certificate)?;
    if is_encrypted(key) {
        let cure = "the file contains an encrypted key; decrypt it: openssl pkey -in KEY -out KEY.plain";
        return Err(credentials_error("--key", cure));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| credentials_error("--key", "the file contains no private key in PEM"))?;
    config.with_client_auth_cert(chain, key).map_err(|error| credentials_error("--cert, --key", error))
}

fn root_store(ca: Option<&[u8]>) -> Result<RootCertStore, HttpError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(ca) => {
            for root in read_certificates("--ca", ca)? {
                roots.add(root).map_err(|error| credentials_error("--ca", error))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    Ok(roots)
}

fn read_certificates(option: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let missing = || credentials_error(option, "the file contains no certificate in PEM");
    certificates.ok().filter(|certificates| !certificates.is_empty()).ok_or_else(missing)
}

/// PKCS #8 has the word in the label of the PEM block, older formats in a header.
fn is_encrypted(key: &[u8]) -> bool {
    let text = String::from_utf8_lossy(key);
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
}

fn credentials_error(option: &str, problem: impl std::fmt::Display) -> HttpError {
    HttpError::Credentials(format!("{option}: {problem}"))
}

/// The origin of the URL and the last cause, which is the specific one: no path and no query.
pub(crate) fn unreachable(error: &reqwest::Error) -> HttpError {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let origin = error.url().map(|url| format!("{}: ", url.origin().ascii_serialization())).unwrap_or_default();
    let cause = cause.to_string();
    let cure = if cause.contains("UnknownIssuer") { " (give the CA of the target with --ca)" } else { "" };
    HttpError::Unreachable(format!("{origin}{cause}{cure}"))
}

/// The whole body of a response.
pub(crate) async fn read_body(mut response: reqwest::Response) -> Result<Vec<u8>, HttpError> {
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(HttpError::TooLong(status));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_resolved_as_in_curl() {
        let entry = |host: &str, port, addresses: &[&str]| Resolve {
            host: host.to_owned(),
            port,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        for (text, expected) in [
            ("TTS.Example:8443:127.0.0.1", entry("tts.example", 8443, &["127.0.0.1"])),
            ("h:1:10.0.0.1,[::1],::2", entry("h", 1, &["10.0.0.1", "::1", "::2"])),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "h", "h:1", "h:1:", ":1:::1", "h:0:::1", "h:65536:::1", "h:1:localhost", "h:1:::1,", "/:1:::1"]
        {
            assert!(text.parse::<Resolve>().is_err(), "{text}");
        }
    }

    #[test]
    fn credentials_that_cannot_be_used_name_their_option() {
        let (key, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let (key, other) = (key.serialize_pem(), other.serialize_pem());
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let new = |ca: &str, certificate: &str, key: &str| {
            HttpClient::new(Some(ca.as_bytes()), Some((certificate.as_bytes(), key.as_bytes())), &[]).map(drop)
        };
        assert!(new(&certificate, &certificate, &key).is_ok());
        for (outcome, expected) in [
            (new("", &certificate, &key), "--ca: the file contains no certificate in PEM"),
            (new(&certificate, &key, &key), "--cert: the file contains no certificate in PEM"),
            (new(&certificate, &certificate, &certificate), "--key: the file contains no private key in PEM"),
            (new(&certificate, &certificate, encrypted), "--key: the file contains an encrypted key; decrypt it"),
            (new(&certificate, &certificate, &other), "--cert, --key: "),
        ] {
            let message = outcome.unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
