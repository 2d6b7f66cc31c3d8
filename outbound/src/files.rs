//! The files of one endpoint (trusted CAs, client certificate and key) → its HTTPS client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Client;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;
use writ_verifier::pem::{self, PemError};
use zeroize::Zeroizing;

use crate::https::{self, CertifiedKey, Tls};
use writ_platform::bounded;
use writ_platform::digest::sha256_of_parts;
use writ_platform::secret_file::{self, SecretFileError};

/// How long an idle connection is kept open: less than most servers and middleboxes do.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The address of the service, and the credentials for mutual authentication.
#[derive(Debug, Clone)]
pub struct Settings {
    /// An `https` address without user name or password.
    pub endpoint: Url,
    /// The CAs, PEM, one of which must have issued the service's certificate; `None`: the system's root certificates.
    pub ca: Option<PathBuf>,
    /// The client certificate, sent if the service requests one.
    pub identity: Option<Identity>,
    /// The time limit for one call, including a second attempt.
    pub timeout: Duration,
}

/// A client certificate.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM, readable by its owner alone; may be the same file.
    pub private_key: PathBuf,
}

/// Why the service can never be called with these settings.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address is not `https`, or has a user name or password.
    #[error("{0} is not an https address")]
    Address(String),
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The private key's file cannot be read, or other users can read it.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// A file has no certificate, or a PEM block that is not a usable certificate.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The number of the block, and its error.
        source: PemError,
    },
    /// A file has no usable private key.
    #[error("{}: contains no usable private key (PEM)", .0.display())]
    PrivateKey(PathBuf),
    /// The certificate and the private key do not match.
    #[error("{}: is a certificate for another private key", .0.display())]
    Mismatch(PathBuf),
    /// No CA is configured, and the system trusts none.
    #[error("the system has no root certificates")]
    NoRootCertificates,
    /// The HTTPS client cannot be built.
    #[error("the HTTPS client cannot be set up: {0}")]
    Client(String),
    /// There is no current Tokio runtime for the calls.
    #[error("calls need a Tokio runtime")]
    NoRuntime,
}

/// The contents of the files that [`Settings`] name.
pub(crate) struct Files {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl Files {
    pub(crate) fn read(settings: &Settings) -> Result<Self, SetupError> {
        let ca = settings.ca.as_deref().map(read).transpose()?;
        let identity = match &settings.identity {
            Some(identity) => Some((read(&identity.certificate)?, secret_file::read(&identity.private_key)?)),
            None => None,
        };
        Ok(Self { ca, identity })
    }

    pub(crate) fn digest(&self) -> [u8; 32] {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate.as_slice(), key]);
        sha256_of_parts(self.ca.iter().map(Vec::as_slice).chain(identity))
    }

    /// Builds the client for `settings`, from which the files were read.
    pub(crate) fn client(&self, settings: &Settings) -> Result<Client, SetupError> {
        let endpoint = &settings.endpoint;
        if endpoint.scheme() != "https" || !endpoint.username().is_empty() || endpoint.password().is_some() {
            return Err(SetupError::Address(public_part(endpoint)));
        }
        let identity = settings.identity.as_ref();
        let tls = Tls::new(self.roots(settings)?, self.certified_key(settings)?);
        let tls = tls.map_err(|error| match (identity, error) {
            (Some(identity), rustls::Error::InconsistentKeys(_)) => SetupError::Mismatch(identity.certificate.clone()),
            (Some(identity), rustls::Error::InvalidCertificate(_)) => unusable_block(&identity.certificate, 1),
            (Some(identity), _) => SetupError::PrivateKey(identity.private_key.clone()),
            (None, error) => SetupError::Client(error.to_string()),
        })?;
        https::client_builder(tls)
            .https_only(true)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("writ/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| SetupError::Client(error.to_string()))
    }

    fn roots(&self, settings: &Settings) -> Result<RootCertStore, SetupError> {
        let (Some(path), Some(content)) = (&settings.ca, &self.ca) else {
            let roots = https::system_roots();
            return if roots.is_empty() { Err(SetupError::NoRootCertificates) } else { Ok(roots) };
        };
        let mut roots = RootCertStore::empty();
        for (index, certificate) in certificates(content, path, |_| false)?.into_iter().enumerate() {
            roots.add(certificate).map_err(|_| unusable_block(path, index + 1))?;
        }
        if roots.is_empty() { Err(SetupError::NoRootCertificates) } else { Ok(roots) }
    }

    fn certified_key(&self, settings: &Settings) -> Result<Option<CertifiedKey>, SetupError> {
        let (Some(identity), Some((certificate, key))) = (&settings.identity, &self.identity) else { return Ok(None) };
        // Certificate and key may be in one file.
        let chain = certificates(certificate, &identity.certificate, pem::is_of_key)?;
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|_| SetupError::PrivateKey(identity.private_key.clone()))?;
        Ok(Some((chain, key)))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, SetupError> {
    bounded::read(path).map_err(|source| SetupError::Unreadable { path: path.to_owned(), source })
}

fn certificates(
    content: &[u8],
    path: &Path,
    skip: impl Fn(&str) -> bool,
) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let blocks = pem::blocks(content, pem::CERTIFICATE, skip).map_err(|source| unusable(path, source))?;
    Ok(blocks.into_iter().map(|block| CertificateDer::from(block.der)).collect())
}

fn unusable(path: &Path, source: PemError) -> SetupError {
    SetupError::Certificate { path: path.to_owned(), source }
}

fn unusable_block(path: &Path, number: usize) -> SetupError {
    unusable(path, PemError::Content { number, label: pem::CERTIFICATE.to_owned() })
}

/// The address without user name, query and fragment, any of which may be secret.
pub(crate) fn public_part(endpoint: &Url) -> String {
    format!(
        "{}://{}{}",
        endpoint.scheme(),
        endpoint.authority().rsplit('@').next().unwrap_or_default(),
        endpoint.path()
    )
}
