//! The service under test: who connects to it, with which credentials.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::Method;
use url::Url;
use zeroize::Zeroizing;

use crate::files::{self, FileError};
use crate::form::Form;
use crate::http::{self, HttpClient, HttpError, Resolve};
use crate::response::Response;

/// The media type of a token request.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

/// How the client authenticates, and which CA it trusts.
#[derive(Debug, clap::Args)]
pub(crate) struct Credentials {
    /// The CA of the target, PEM [default: the CAs of the system]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The client's certificate for mTLS, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The address of HOST, instead of asking a name server, as in curl; can be repeated
    #[arg(long, value_name = "HOST:PORT:ADDRESS")]
    resolve: Vec<Resolve>,
    /// A header of every request, for other ways to authenticate; the value may be `@FILE`
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = |text: &str| Pair::parse(text, ": "))]
    headers: Vec<Pair>,
    /// A form parameter of every token request (`client_id`, `client_secret`, …); the value may be `@FILE`
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = |text: &str| Pair::parse(text, "="))]
    parameters: Vec<Pair>,
}

/// A name with a value that may be secret.
#[derive(Clone)]
struct Pair {
    name: String,
    value: Zeroizing<String>,
}

/// Without the value.
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

    /// Name and value; for `@FILE` the value is the text of the file.
    fn read(&self) -> Result<(String, String), FileError> {
        let value = match self.value.strip_prefix('@') {
            Some(path) => files::read_text(path.as_ref())?,
            None => self.value.clone(),
        };
        Ok((self.name.clone(), value.as_str().to_owned()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// With all credentials of the command line.
    Client,
    /// Without any credentials.
    Anonymous,
    /// With a self-signed certificate as the only credential.
    SelfSigned,
}

pub(crate) struct Target {
    client: HttpClient,
    anonymous: HttpClient,
    /// Only if the client has a certificate.
    self_signed: Option<HttpClient>,
    headers: Vec<(String, String)>,
    parameters: Vec<(String, String)>,
}

/// Why there is no [`Target`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Http(#[from] HttpError),
}

impl Target {
    /// Reads the files that the credentials name. Connects to nothing.
    pub(crate) fn open(credentials: &Credentials) -> Result<Self, OpenError> {
        let read = |path: &Option<PathBuf>| path.as_deref().map(files::read).transpose();
        let (ca, certificate, key) = (read(&credentials.ca)?, read(&credentials.cert)?, read(&credentials.key)?);
        let ca = ca.as_ref().map(|pem| pem.as_slice());
        let identity = certificate.as_ref().zip(key.as_ref()).map(|(cert, key)| (cert.as_slice(), key.as_slice()));
        let resolve = credentials.resolve.as_slice();
        let pairs = |pairs: &[Pair]| pairs.iter().map(Pair::read).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            client: HttpClient::new(ca, identity, resolve)?,
            anonymous: HttpClient::new(ca, None, resolve)?,
            self_signed: identity.and_then(|_| self_signed_client(ca, resolve)),
            headers: pairs(&credentials.headers)?,
            parameters: pairs(&credentials.parameters)?,
        })
    }

    /// `--parameter`
    pub(crate) fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// Every value of the command line that may be secret.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().chain(&self.parameters).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has_certificate(&self) -> bool {
        self.self_signed.is_some()
    }

    /// Whether the client authenticates at all.
    pub(crate) fn has_credentials(&self) -> bool {
        self.has_certificate() || !self.headers.is_empty() || !self.parameters.is_empty()
    }

    pub(crate) async fn get(&self, caller: Caller, url: &Url) -> Result<Response, HttpError> {
        self.send(caller, Method::GET, url, None).await
    }

    /// Sends a token request. Callers other than the client leave out the parameters that authenticate it.
    pub(crate) async fn post_form(&self, caller: Caller, url: &Url, form: &Form) -> Result<Response, HttpError> {
        let mut form = form.clone();
        if caller != Caller::Client {
            form = self.parameters.iter().fold(form, |form, (name, _)| form.without(name));
        }
        self.post(caller, url, FORM, form.encode()).await
    }

    pub(crate) async fn post(
        &self,
        caller: Caller,
        url: &Url,
        media_type: &'static str,
        body: String,
    ) -> Result<Response, HttpError> {
        self.send(caller, Method::POST, url, Some((media_type, body))).await
    }

    async fn send(
        &self,
        caller: Caller,
        method: Method,
        url: &Url,
        body: Option<(&'static str, String)>,
    ) -> Result<Response, HttpError> {
        let client = match caller {
            Caller::Client => &self.client,
            Caller::Anonymous => &self.anonymous,
            Caller::SelfSigned => self.self_signed.as_ref().unwrap_or(&self.anonymous),
        };
        let mut request = client.for_url(url).request(method, url.clone());
        if caller == Caller::Client {
            request = self.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        }
        if let Some((media_type, body)) = body {
            request = request.header("content-type", media_type).body(body);
        }
        let response = request.send().await.map_err(|error| http::unreachable(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = http::read_body(response).await?;
        Ok(Response { status, headers, body, received_at: unix_now() })
    }
}

/// Unix seconds; a clock before 1970 reads as 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn self_signed_client(ca: Option<&[u8]>, resolve: &[Resolve]) -> Option<HttpClient> {
    let key = rcgen::KeyPair::generate().ok()?;
    let params = rcgen::CertificateParams::new(vec!["stranger.invalid".to_owned()]).ok()?;
    let certificate = params.self_signed(&key).ok()?;
    let key = Zeroizing::new(key.serialize_pem());
    HttpClient::new(ca, Some((certificate.pem().as_bytes(), key.as_bytes())), resolve).ok()
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
}
