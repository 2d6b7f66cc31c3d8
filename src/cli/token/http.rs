//! The HTTPS clients of the command line: whom they trust, what they show, and where a host is that no name server knows.

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
/// Far more than any answer of a TTS.
const ANSWER_MAX: usize = 256 * 1024;

/// `--resolve`: where a host is, at one port, as curl has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolve {
    /// Lower case.
    host: String,
    port: u16,
    addresses: Vec<IpAddr>,
}

/// `HOST:PORT:ADDRESS[,ADDRESS]…`; an IPv6 address may stand in brackets.
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
pub struct ResolveArgs {
    /// Where HOST is, instead of asking a name server; as curl has it, also several times
    #[arg(long, value_name = "HOST:PORT:ADDRESS")]
    pub(in crate::cli) resolve: Vec<Resolve>,
}

/// Clients that go where they are sent and no further.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Http {
    /// Those for ports at which some host is not looked up.
    resolving: BTreeMap<u16, Client>,
    other: Client,
}

impl Http {
    /// Trusts the CA certificates `ca` alone (`None`: whom the system trusts) and shows this certificate with its key, if
    /// any; all are PEM.
    pub(in crate::cli) fn new(
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
    pub(in crate::cli) fn to(&self, url: &Url) -> &Client {
        url.port_or_known_default().and_then(|port| self.resolving.get(&port)).unwrap_or(&self.other)
    }
}

fn client<'a>(tls: &Tls, resolve: impl Iterator<Item = &'a Resolve>) -> Result<Client, ServiceError> {
    let mut builder = https::client_builder(tls.clone()).timeout(TIMEOUT);
    for entry in resolve {
        // The port is that of the URL.
        let addresses: Vec<_> = entry.addresses.iter().map(|address| SocketAddr::new(*address, 0)).collect();
        builder = builder.resolve_to_addrs(&entry.host, &addresses);
    }
    builder.build().map_err(|error| unreachable(&error))
}

fn tls(ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<Tls, ServiceError> {
    let tls = Tls::from_pem(ca, identity);
    tls.map_err(|error| match (error, identity) {
        (TlsError::NoCa, _) => ServiceError::Credentials("the file of the CA holds no certificate in PEM"),
        (TlsError::UnusableCa, _) => ServiceError::Credentials(
            "the file of the CA holds a certificate that TLS cannot use: not X.509 version 3, or damaged",
        ),
        (TlsError::NoCertificate, _) => ServiceError::Credentials("the file of the certificate holds none in PEM"),
        (_, Some((_, key))) if is_encrypted(key) => ServiceError::Credentials(
            "the file of the key holds an encrypted one; decrypt it: openssl pkey -in KEY -out KEY.plain",
        ),
        (TlsError::NoKey, _) => ServiceError::Credentials("the file of the key holds none in PEM"),
        (TlsError::Mismatch, _) => ServiceError::Credentials("the file of the key is not the key of the certificate"),
        (TlsError::UnusableCertificate, _) => ServiceError::Credentials(
            "the file of the certificate holds one that TLS cannot use: not X.509 version 3, or damaged",
        ),
        (other @ TlsError::Library(_), _) => other.into(),
    })
}

/// PKCS #8 says it in the label of its block, older forms in a header.
fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// The whole body of an answer, unless it is longer than any of a TTS.
pub(in crate::cli) async fn body(mut response: Response) -> Result<Vec<u8>, ServiceError> {
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > ANSWER_MAX {
            return Err(ServiceError::Answer(status));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Why there was no answer, to its last cause.
pub(in crate::cli) fn unreachable(error: &reqwest::Error) -> ServiceError {
    let url = error.url().map(|url| format!("{}: ", url.origin().ascii_serialization())).unwrap_or_default();
    ServiceError::Unreachable(format!("{url}{}", explain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_resolved_as_curl_has_it() {
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
