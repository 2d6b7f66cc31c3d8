//! One fetch of a key set over HTTPS, without redirects and proxies, with limits on time and size.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, CACHE_CONTROL, ETAG, HeaderMap, IF_NONE_MATCH};
use reqwest::{Client, Response, StatusCode, redirect};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use url::{Host, Url};

use super::settings::{Location, Settings};
use crate::json::{self, Limits};
use crate::jwks::{DOCUMENT_MAX, JwksError, KeySet};
use crate::pem::{self, PemError};

/// Why the settings do not allow to fetch keys.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The location is not an absolute `https` URL, or it is an issuer with query or fragment.
    #[error("{0:?} is not an https URL")]
    Address(String),
    /// The PEM text of the root certificates contains no certificate, or a block that is not a certificate.
    #[error("the PEM text of the root certificates {0}")]
    RootCertificates(PemError),
    /// The settings name no root certificates, and the system has none.
    #[error("the system has no root certificates")]
    NoRootCertificates,
    /// The HTTPS client cannot be created; `source()` gives the cause.
    #[error("the HTTPS client cannot be created")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The result of a successful fetch.
pub(super) enum Fetched {
    New { keys: KeySet, etag: Option<String>, max_age: Option<Duration> },
    Unchanged { max_age: Option<Duration> },
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the request timed out")]
    Timeout,
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("the response status was {0}")]
    Status(StatusCode),
    #[error("the response is longer than 1 MiB")]
    TooLong,
    #[error(transparent)]
    Jwks(#[from] JwksError),
    #[error("the issuer's metadata is not acceptable: {0}")]
    Metadata(&'static str),
    #[error("the fetch was cancelled")]
    Cancelled,
}

/// The error with all its causes: the outermost error of the HTTP client alone says little.
pub(super) fn error_chain(error: &FetchError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.extend([": ", &error.to_string()]);
        cause = error.source();
    }
    text
}

pub(super) struct Fetcher {
    location: Location,
    client: Client,
    timeout: Duration,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Location::JwksUri(uri) => f.write_str(uri.as_str()),
            Location::Discovery { issuer } => f.write_str(issuer),
        }
    }
}

impl Fetcher {
    pub(super) fn new(settings: &Settings) -> Result<Self, SetupError> {
        match &settings.location {
            Location::JwksUri(uri) if uri.scheme() == "https" => {}
            Location::JwksUri(uri) => return Err(SetupError::Address(uri.to_string())),
            Location::Discovery { issuer } => {
                metadata_uris(issuer).ok_or_else(|| SetupError::Address(issuer.clone()))?;
            }
        }
        Ok(Self { location: settings.location.clone(), client: build_client(settings)?, timeout: settings.timeout })
    }

    /// Fetches the set; with `etag`, the publisher may answer that this version is still current (RFC 9110 §13.1.2).
    pub(super) async fn fetch(&self, etag: Option<&str>) -> Result<Fetched, FetchError> {
        tokio::time::timeout(self.timeout, self.fetch_without_timeout(etag)).await.map_err(|_| FetchError::Timeout)?
    }

    async fn fetch_without_timeout(&self, etag: Option<&str>) -> Result<Fetched, FetchError> {
        let uri = match &self.location {
            Location::JwksUri(uri) => uri.clone(),
            Location::Discovery { issuer } => self.discover_jwks_uri(issuer).await?,
        };
        let response = self.get(uri, etag).await?;
        let max_age = parse_max_age(response.headers());
        match response.status() {
            StatusCode::OK => {
                let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
                let keys = KeySet::parse(&read_body(response).await?)?;
                Ok(Fetched::New { keys, etag, max_age })
            }
            StatusCode::NOT_MODIFIED if etag.is_some() => Ok(Fetched::Unchanged { max_age }),
            other => Err(FetchError::Status(other)),
        }
    }

    async fn get(&self, uri: Url, etag: Option<&str>) -> Result<Response, FetchError> {
        let request = self.client.get(uri).header(ACCEPT, "application/jwk-set+json, application/json");
        let request = match etag {
            Some(etag) => request.header(IF_NONE_MATCH, etag),
            None => request,
        };
        Ok(request.send().await?)
    }

    /// The current `jwks_uri` of the issuer. Requested for each fetch, because an issuer may move its keys.
    async fn discover_jwks_uri(&self, issuer: &str) -> Result<Url, FetchError> {
        let uris = metadata_uris(issuer).ok_or(FetchError::Metadata("the issuer is not an https URL"))?;
        let mut last_status = StatusCode::NOT_FOUND;
        for uri in uris {
            let response = self.get(uri, None).await?;
            match response.status() {
                StatusCode::OK => return parse_jwks_uri(&read_body(response).await?, issuer),
                other => last_status = other,
            }
        }
        Err(FetchError::Status(last_status))
    }
}

/// A client that trusts only the configured root certificates, and follows no redirect and no proxy settings.
fn build_client(settings: &Settings) -> Result<Client, SetupError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::Client(error.into()))?
        .with_root_certificates(load_roots(settings.root_certificates_pem.as_deref())?)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        // Fetches are rare, and a pooled connection would belong to a runtime that may have stopped.
        .pool_max_idle_per_host(0)
        .connect_timeout(settings.connect_timeout)
        .timeout(settings.timeout)
        .user_agent(concat!("writ-verifier/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| SetupError::Client(error.into()))
}

/// Checks that `pem` contains at least one certificate, and that each of them is valid.
pub(crate) fn check_root_certificates(pem: &[u8]) -> Result<(), SetupError> {
    load_roots(Some(pem)).map(drop)
}

fn load_roots(pem: Option<&[u8]>) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    let Some(pem) = pem else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(SetupError::NoRootCertificates) } else { Ok(roots) };
    };
    for block in pem::blocks(pem, pem::CERTIFICATE, |_| false).map_err(SetupError::RootCertificates)? {
        let invalid = PemError::Content { number: block.number, label: pem::CERTIFICATE.to_owned() };
        roots.add(CertificateDer::from(block.der)).map_err(|_| SetupError::RootCertificates(invalid))?;
    }
    Ok(roots)
}

/// The body as sent, at most [`DOCUMENT_MAX`] bytes. It is never decompressed.
async fn read_body(mut response: Response) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > DOCUMENT_MAX {
            return Err(FetchError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// `max-age` of `Cache-Control` (RFC 9111 §5.2.2.1). `max-age=0`, `no-cache` and `no-store` count as absent: servers
/// send them for all content alike, and a key set cannot be fetched for each token.
fn parse_max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    let seconds = directives.flat_map(|value| value.split(',')).find_map(|directive| {
        let (name, value) = directive.trim().split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse::<u64>().ok())?
    });
    seconds.filter(|&seconds| seconds > 0).map(Duration::from_secs)
}

/// The URLs of an issuer's metadata: with the well-known path appended to the issuer (OIDC Discovery 1.0
/// §4.1), and inserted between host and path (RFC 8414 §3.1). `None` if the issuer is not acceptable.
fn metadata_uris(issuer: &str) -> Option<[Url; 2]> {
    let url = Url::parse(issuer).ok()?;
    if url.scheme() != "https" || url.query().is_some() || url.fragment().is_some() {
        return None;
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let with_path = |path: &str| {
        let mut uri = url.clone();
        uri.set_path(path);
        uri
    };
    Some([
        with_path(&format!("{path}/.well-known/openid-configuration")),
        with_path(&format!("/.well-known/oauth-authorization-server{path}")),
    ])
}

/// `jwks_uri` of the metadata, which must be that of `issuer` (RFC 8414 §3.3).
fn parse_jwks_uri(document: &[u8], issuer: &str) -> Result<Url, FetchError> {
    #[derive(Deserialize)]
    struct Metadata {
        issuer: String,
        jwks_uri: String,
    }
    let text = std::str::from_utf8(document).map_err(|_| FetchError::Metadata("not JSON"))?;
    let limits = Limits { members: 1000, ..Limits::DEFAULT };
    json::check(text, limits).map_err(|_| FetchError::Metadata("not JSON"))?;
    let metadata: Metadata =
        serde_json::from_str(text).map_err(|_| FetchError::Metadata("issuer or jwks_uri is missing"))?;
    if metadata.issuer != issuer {
        return Err(FetchError::Metadata("it belongs to another issuer"));
    }
    Url::parse(&metadata.jwks_uri)
        .ok()
        .filter(|uri| uri.scheme() == "https" && !is_internal(uri, issuer))
        .ok_or(FetchError::Metadata("jwks_uri is not an https URL with a public host name"))
}

/// Whether the host of `jwks_uri` is an IP address or this host, although the operator did not configure it as the
/// issuer's host. Public key sets have a host name; such a URL could make this process call internal services.
fn is_internal(jwks_uri: &Url, issuer: &str) -> bool {
    let is_issuer_host = Url::parse(issuer).is_ok_and(|issuer| issuer.host() == jwks_uri.host());
    let is_local = match jwks_uri.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        _ => true,
    };
    is_local && !is_issuer_host
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://login.example/tenant/";

    #[test]
    fn metadata_urls_follow_openid_connect_and_rfc_8414() {
        assert_eq!(
            metadata_uris(ISSUER).unwrap().map(String::from),
            [
                "https://login.example/tenant/.well-known/openid-configuration",
                "https://login.example/.well-known/oauth-authorization-server/tenant"
            ]
        );
        for bad in ["http://login.example", "login.example", "https://login.example?x", "https://login.example#x", ""] {
            assert!(metadata_uris(bad).is_none(), "{bad}");
        }
    }

    /// A-072
    #[test]
    fn metadata_of_another_issuer_or_with_an_internal_jwks_uri_is_refused() {
        let read = |issuer: &str, uri: &str| {
            parse_jwks_uri(format!(r#"{{"issuer":"{issuer}","jwks_uri":"{uri}"}}"#).as_bytes(), ISSUER).is_ok()
        };
        assert!(read(ISSUER, "https://keys.example/jwks"));
        for issuer in ["https://login.example/tenant", "https://LOGIN.example/tenant/", "https://evil.example"] {
            assert!(!read(issuer, "https://keys.example/jwks"), "{issuer}");
        }
        for uri in [
            "http://login.example/jwks",
            "file:///etc/passwd",
            "/jwks",
            "https://localhost/jwks",
            "https://127.0.0.1/jwks",
            "https://2130706433/jwks",
            "https://169.254.169.254/latest",
            "https://[::1]/jwks",
        ] {
            assert!(!read(ISSUER, uri), "{uri}");
        }
        let raw = r#"{"$serde_json::private::RawValue":"\"https://keys.example/jwks\""}"#;
        let smuggled = format!(r#"{{"issuer":"{ISSUER}","jwks_uri":{raw}}}"#);
        for text in ["", "[]", "{}", r#"{"issuer":"https://login.example/tenant/"}"#, &smuggled] {
            assert!(parse_jwks_uri(text.as_bytes(), ISSUER).is_err(), "{text}");
        }
    }

    #[test]
    fn max_age_is_read_and_zero_is_ignored() {
        let read =
            |value: &'static str| parse_max_age(&HeaderMap::from_iter([(CACHE_CONTROL, value.parse().unwrap())]));
        assert_eq!(read("public, Max-Age=600"), Some(Duration::from_secs(600)));
        assert_eq!(read("max-age=\"60\", must-revalidate"), Some(Duration::from_secs(60)));
        for value in ["no-cache, no-store, max-age=0", "max-age=-1", "max-age=x", "s-maxage=5", ""] {
            assert_eq!(read(value), None, "{value}");
        }
    }

    #[test]
    fn root_certificates_must_be_present_and_valid() {
        let params = rcgen::CertificateParams::default();
        let root = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        assert!(check_root_certificates(format!("\u{feff}{root}{root}").as_bytes()).is_ok());
        let second = check_root_certificates(format!("{root}{}", root.replace("CERT", "TRUSTED CERT")).as_bytes());
        let message = second.unwrap_err().to_string();
        assert!(message.ends_with("block 2 is a TRUSTED CERTIFICATE, not a CERTIFICATE"), "{message}");
        for pem in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(check_root_certificates(pem.as_bytes()), Err(SetupError::RootCertificates(_))), "{pem}");
        }
    }
}
