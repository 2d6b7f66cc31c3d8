//! The service that is tried: where it is, how it is asked, what it answers.

use std::path::PathBuf;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Map, Value};
use url::Url;
use writ_verifier::json::{self, Limits};
use zeroize::Zeroizing;

use super::form::Form;
use crate::cli::token::{self, Http, Resolve, ResolveArgs, ServiceError, TokenError};
use writ_platform::clock::Timestamp;

/// The media type of a request.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// How the client proves who it is, and whom it trusts.
#[derive(Debug, clap::Args)]
pub(super) struct Credentials {
    /// The CA of the target, PEM; by default the CAs of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The client's certificate for mTLS, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    #[command(flatten)]
    resolve: ResolveArgs,
    /// A header of every request, for other ways to authenticate; the value may be `@FILE`
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = |text: &str| Pair::parse(text, ": "))]
    headers: Vec<Pair>,
    /// A form parameter of every token request (`client_id`, `client_secret`, …); the value may be `@FILE`
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = |text: &str| Pair::parse(text, "="))]
    parameters: Vec<Pair>,
}

/// A name and a value that may be secret.
#[derive(Clone)]
pub(super) struct Pair {
    name: String,
    value: Zeroizing<String>,
}

/// The name alone.
impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Pair {
    fn parse(text: &str, separator: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(separator).ok_or_else(|| format!("no `{separator}` in it"))?;
        Ok(Self { name: name.to_owned(), value: Zeroizing::new(value.to_owned()) })
    }

    /// The value itself, or what is in the file that it names.
    fn read(&self) -> Result<(String, String), TokenError> {
        let value = match self.value.strip_prefix('@') {
            Some(path) => token::read_token(path.as_ref())?,
            None => self.value.clone(),
        };
        Ok((self.name.clone(), value.as_str().to_owned()))
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// The client, with everything that proves it.
    Client,
    /// The same without any proof.
    Nobody,
    /// Someone with a certificate that nobody signed.
    Stranger,
}

/// The clients to ask with.
pub(super) struct Access {
    client: Http,
    nobody: Http,
    /// Only where a certificate is what proves the client.
    stranger: Option<Http>,
    headers: Vec<(String, String)>,
    parameters: Vec<(String, String)>,
}

/// What came.
pub(super) struct Reply {
    pub(super) status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    /// When the whole of it was there.
    pub(super) at: Timestamp,
}

impl Access {
    /// Reads what the credentials name.
    pub(super) fn open(credentials: &Credentials) -> Result<Self, TokenError> {
        let read = |path: &Option<PathBuf>| path.as_deref().map(token::read).transpose();
        let (ca, certificate, key) = (read(&credentials.ca)?, read(&credentials.cert)?, read(&credentials.key)?);
        let ca = ca.as_ref().map(|pem| pem.as_slice());
        let identity = certificate.as_ref().zip(key.as_ref()).map(|(cert, key)| (cert.as_slice(), key.as_slice()));
        let resolve = credentials.resolve.resolve.as_slice();
        let pairs = |pairs: &[Pair]| pairs.iter().map(Pair::read).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            client: Http::new(ca, identity, resolve)?,
            nobody: Http::new(ca, None, resolve)?,
            stranger: identity.and_then(|_| stranger(ca, resolve)),
            headers: pairs(&credentials.headers)?,
            parameters: pairs(&credentials.parameters)?,
        })
    }

    /// The parameters that prove the client.
    pub(super) fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// Everything given on the command line that may be secret.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().chain(&self.parameters).map(|(_, value)| value.as_str())
    }

    /// Whether the client shows a certificate.
    pub(super) fn has_certificate(&self) -> bool {
        self.stranger.is_some()
    }

    /// Whether anything proves the client.
    pub(super) fn has_proof(&self) -> bool {
        self.has_certificate() || !self.headers.is_empty() || !self.parameters.is_empty()
    }

    /// Fetches a document.
    pub(super) async fn get(&self, caller: Caller, url: &Url) -> Result<Reply, ServiceError> {
        self.send(caller, Method::GET, url, None).await
    }

    /// Asks a token endpoint. Whoever is not the client leaves its parameters out.
    pub(super) async fn token(&self, caller: Caller, url: &Url, form: &Form) -> Result<Reply, ServiceError> {
        let mut form = form.clone();
        if caller != Caller::Client {
            form = self.parameters.iter().fold(form, |form, (name, _)| form.without(name));
        }
        self.post(caller, url, FORM, form.encode()).await
    }

    /// Sends a body of any media type.
    pub(super) async fn post(
        &self,
        caller: Caller,
        url: &Url,
        media_type: &'static str,
        body: String,
    ) -> Result<Reply, ServiceError> {
        self.send(caller, Method::POST, url, Some((media_type, body))).await
    }

    async fn send(
        &self,
        caller: Caller,
        method: Method,
        url: &Url,
        body: Option<(&'static str, String)>,
    ) -> Result<Reply, ServiceError> {
        let client = match caller {
            Caller::Client => &self.client,
            Caller::Nobody => &self.nobody,
            Caller::Stranger => self.stranger.as_ref().unwrap_or(&self.nobody),
        };
        let mut request = client.to(url).request(method, url.clone());
        if caller == Caller::Client {
            request = self.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        }
        if let Some((media_type, body)) = body {
            request = request.header("content-type", media_type).body(body);
        }
        let response = request.send().await.map_err(|error| token::unreachable(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Reply { status, headers, body: token::body(response).await?, at: Timestamp::now() })
    }
}

impl Reply {
    /// The values of that header, joined as RFC 9110 section 5.3 has it; empty if there is none.
    pub(super) fn header(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?"));
        values.collect::<Vec<_>>().join(", ")
    }

    /// The media type in lower case, without parameters.
    pub(super) fn media_type(&self) -> String {
        self.header("content-type").split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// Whether no cache may keep it.
    pub(super) fn is_no_store(&self) -> bool {
        let directives = self.header("cache-control").to_ascii_lowercase();
        directives.split(',').any(|directive| directive.trim() == "no-store")
    }

    /// The members of the body, if it is one JSON object.
    pub(super) fn members(&self) -> Option<Map<String, Value>> {
        json::from_slice(&self.body, Limits::DOCUMENT).ok()
    }

    /// `error`, if it is a text of the form that RFC 6749 section 5.2 gives it.
    pub(super) fn error(&self) -> Option<String> {
        let members = self.members()?;
        let code = members.get("error")?.as_str()?;
        let fits = (1..=100).contains(&code.len()) && code.bytes().all(is_of_error);
        fits.then(|| code.to_owned())
    }

    /// Whether a token came.
    pub(super) fn is_issued(&self) -> bool {
        self.status < 300
            && self.members().is_some_and(|members| members.get("access_token").is_some_and(|token| !token.is_null()))
    }

    /// Whether the body repeats this text.
    pub(super) fn repeats(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Status and error code.
    pub(super) fn summary(&self) -> String {
        match self.error() {
            _ if self.is_issued() => format!("{}, a token", self.status),
            Some(error) => format!("{} {error}", self.status),
            None => format!("{} without a readable error code", self.status),
        }
    }
}

/// What `error` and `error_description` may hold (RFC 6749 section 5.2): printable ASCII save `"` and `\`.
pub(super) fn is_of_error(byte: u8) -> bool {
    (0x20..=0x7e).contains(&byte) && byte != b'"' && byte != b'\\'
}

/// A client with a certificate that it signed itself just now.
fn stranger(ca: Option<&[u8]>, resolve: &[Resolve]) -> Option<Http> {
    let key = rcgen::KeyPair::generate().ok()?;
    let certificate =
        rcgen::CertificateParams::new(vec!["stranger.invalid".to_owned()]).ok()?.self_signed(&key).ok()?;
    let key = Zeroizing::new(key.serialize_pem());
    Http::new(ca, Some((certificate.pem().as_bytes(), key.as_bytes())), resolve).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_in_debug() {
        let pair = Pair::parse("client_secret=s3cr=et", "=").unwrap();
        assert_eq!(pair.read().unwrap(), ("client_secret".to_owned(), "s3cr=et".to_owned()));
        assert!(!format!("{pair:?}").contains("s3cr"));
        assert!(Pair::parse("Authorization", ": ").is_err());
    }

    #[test]
    fn a_value_can_be_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "s3cret\n").unwrap();
        let pair = Pair::parse(&format!("client_secret=@{}", path.display()), "=").unwrap();
        assert_eq!(pair.read().unwrap().1, "s3cret");
    }

    #[test]
    fn replies_are_read_as_the_standards_have_it() {
        let reply = |status, header: &'static str, body: &str| Reply {
            status,
            headers: HeaderMap::from_iter([(reqwest::header::CACHE_CONTROL, header.parse().unwrap())]),
            body: body.as_bytes().to_vec(),
            at: Timestamp::now(),
        };
        let refused = reply(400, "private, No-Store", r#"{"error":"invalid_scope","x":"abc"}"#);
        assert!(refused.is_no_store() && refused.repeats("abc") && !refused.is_issued());
        assert_eq!(refused.summary(), "400 invalid_scope");
        assert!(!reply(200, "max-age=60, x=no-store", "{}").is_no_store());
        assert_eq!(reply(400, "", r#"{"error":"a\"b"}"#).error(), None);
        assert!(reply(200, "", r#"{"access_token":"t"}"#).is_issued());
        assert!(!reply(200, "", r#"{"access_token":null}"#).is_issued());
    }
}
