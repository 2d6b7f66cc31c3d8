//! The HTTPS clients of the command line: trusted CAs, client certificate, and `--resolve`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use reqwest::{Client, Response};
use url::Url;

use super::error::ServiceError;
use writ_outbound::explain;
use writ_outbound::https::{self, Tls, TlsError};

const TIMEOUT: Duration = Duration::from_secs(30);
/// A response of a TTS is far smaller.
const MAX_RESPONSE: usize = 256 * 1024;

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
        const FORM: &str = "must be HOST:PORT:ADDRESS, like tts.example:8443:127.0.0.1";
        let mut parts = text.splitn(3, ':');
        let (Some(host), Some(port), Some(addresses)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(FORM);
        };
        let address = |text: &str| {
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            bare.parse::<IpAddr>().map_err(|_| FORM)
        };
        let is_name =
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if !is_name {
            return Err(FORM);
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port: port.parse().ok().filter(|port| *port != 0).ok_or(FORM)?,
            addresses: addresses.split(',').map(address).collect::<Result<_, _>>()?,
        })
    }
}

/// The option `--resolve` of commands that call a service.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct ResolveArgs {
    /// The address of HOST instead of that from DNS, as in curl; can be repeated
    #[arg(long, value_name = "HOST:PORT:ADDRESS")]
    pub(super) resolve: Vec<Resolve>,
}

/// Clients that follow no redirects and use no proxy.
#[derive(Debug, Clone)]
pub(super) struct Http {
    /// By port, for ports named by `--resolve`.
    resolving: BTreeMap<u16, Client>,
    other: Client,
}

impl Http {
    /// Trusts only the CA certificates `ca` (`None`: those that the system trusts), and authenticates with a certificate
    /// and its key; all are PEM.
    pub(super) fn new(
        ca: Option<&[u8]>,
        identity: Option<(&[u8], &[u8])>,
        resolve: &[Resolve],
    ) -> Result<Self, ServiceError> {
        let tls = tls(ca, identity)?;
        let at_port =
            |port| client(&tls, resolve.iter().filter(|entry| entry.port == port)).map(|client| (port, client));
        Ok(Self {
            resolving: resolve.iter().map(|entry| at_port(entry.port)).collect::<Result<_, _>>()?,
            other: client(&tls, [].into_iter())?,
        })
    }

    /// The client for this address.
    pub(super) fn to(&self, url: &Url) -> &Client {
        url.port_or_known_default().and_then(|port| self.resolving.get(&port)).unwrap_or(&self.other)
    }
}

fn client<'a>(tls: &Tls, resolve: impl Iterator<Item = &'a Resolve>) -> Result<Client, ServiceError> {
    let mut builder = https::client_builder(tls.clone()).timeout(TIMEOUT);
    for entry in resolve {
        // Port 0: the port of the URL is used.
        let addresses: Vec<_> = entry.addresses.iter().map(|address| SocketAddr::new(*address, 0)).collect();
        builder = builder.resolve_to_addrs(&entry.host, &addresses);
    }
    builder.build().map_err(|error| unreachable(&error))
}

fn tls(ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<Tls, ServiceError> {
    let tls = Tls::from_pem(ca, identity);
    tls.map_err(|error| match (error, identity) {
        (TlsError::NoCa, _) => ServiceError::Credentials("the file of the CA contains no certificate in PEM"),
        (TlsError::UnusableCa, _) => ServiceError::Credentials(
            "the file of the CA contains a certificate that TLS cannot use: not X.509 version 3, or damaged",
        ),
        (TlsError::NoCertificate, _) => {
            ServiceError::Credentials("the file of the certificate contains no certificate in PEM")
        }
        (_, Some((_, key))) if is_encrypted(key) => ServiceError::Credentials(
            "the file of the key contains an encrypted key; decrypt it: openssl pkey -in KEY -out KEY.plain",
        ),
        (TlsError::NoKey, _) => ServiceError::Credentials("the file of the key contains no private key in PEM"),
        (TlsError::Mismatch, _) => ServiceError::Credentials("the key in the file does not belong to the certificate"),
        (TlsError::UnusableCertificate, _) => ServiceError::Credentials(
            "the file of the certificate contains one that TLS cannot use: not X.509 version 3, or damaged",
        ),
        (other @ TlsError::Library(_), _) => ServiceError::Tls(other),
    })
}

/// PKCS #8 names the encryption in the label of its block, older formats in a header.
fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// Reads a whole response body of limited size.
pub(in crate::cli) async fn body(mut response: Response) -> Result<Vec<u8>, ServiceError> {
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > MAX_RESPONSE {
            return Err(ServiceError::Answer(status));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Includes all causes of the error.
pub(super) fn unreachable(error: &reqwest::Error) -> ServiceError {
    let url = error.url().map(|url| format!("{}: ", url.origin().ascii_serialization())).unwrap_or_default();
    ServiceError::Unreachable(format!("{url}{}", explain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolve_entries_are_those_of_curl() {
        let entry = |host: &str, port, addresses: &[&str]| Resolve {
            host: host.to_owned(),
            port,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        for (text, expected) in [
            ("tts.example:8443:127.0.0.1", entry("tts.example", 8443, &["127.0.0.1"])),
            ("TTS.Example:1:::1", entry("tts.example", 1, &["::1"])),
            ("h:65535:[2001:db8::1]", entry("h", 65535, &["2001:db8::1"])),
            ("h:1:10.0.0.1,[::1],::2", entry("h", 1, &["10.0.0.1", "::1", "::2"])),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in
            ["", "h", "h:1", "h:1:", ":1:::1", "h:0:::1", "h:65536:::1", "h:x:::1", "h:1:localhost", "h:1:::1,", "-h:1"]
        {
            assert!(text.parse::<Resolve>().is_err(), "{text}");
        }
    }
}
