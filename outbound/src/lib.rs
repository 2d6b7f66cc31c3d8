//! Calls to one configured HTTPS endpoint of another service, which requests wait for.
//!
//! A body comes in, the service's answer goes out. It goes where it is sent and never further, takes no longer than it
//! may, and fails at once while the service is away: others must not wait for what will not come.

mod breaker;
mod cause;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{self, SHA256};
use reqwest::header::{ACCEPT, HeaderMap};
use reqwest::{Client, StatusCode, redirect};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Handle;
use tokio::time::timeout;
use url::Url;
use writ_verifier::pem::{self, PemError};
use zeroize::Zeroizing;

use self::breaker::Breaker;
pub use self::cause::explain;
use writ_platform::bounded;
use writ_platform::secret_file::{self, SecretFileError};
use writ_platform::shares::Shares;

/// The largest body that is taken for an answer.
const MAX_BODY: usize = 64 * 1024;

/// Calls that are under way at one time, for all clients together: a quarter of the requests that Writ works on.
const MAX_CALLS: usize = 256;

/// How long an unused connection is kept: less than most servers and middleboxes do.
const IDLE: Duration = Duration::from_secs(20);

/// Where the service is, and how the two know each other.
#[derive(Debug, Clone)]
pub struct Settings {
    /// An `https` address without user name.
    pub endpoint: Url,
    /// Who signs the service's certificate, PEM; `None`: whom the system trusts.
    pub ca: Option<PathBuf>,
    /// What is shown to the service.
    pub identity: Option<Identity>,
    /// How long one call may take, its second attempt included.
    pub timeout: Duration,
}

/// A client certificate.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub private_key: PathBuf,
}

/// Why the service can never be called with these settings.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not `https`, or with a user name.
    #[error("{0} is not an https address")]
    Address(String),
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The private key's file is not taken.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// A file has no certificate, or a block that is none or cannot be used.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which block, and why.
        source: PemError,
    },
    /// A file has no private key that can be used.
    #[error("{}: holds no private key that can be used (PEM)", .0.display())]
    PrivateKey(PathBuf),
    /// Certificate and private key are not each other's.
    #[error("{}: is a certificate for another private key", .0.display())]
    Mismatch(PathBuf),
    /// No CA is named, and the system has none.
    #[error("the system has no root certificates")]
    NoRootCertificates,
    /// The HTTPS client cannot be made.
    #[error("the HTTPS client cannot be set up: {0}")]
    Client(String),
    /// There is nothing that calls could run on.
    #[error("calls need a runtime")]
    NoRuntime,
}

/// Why there is no answer; the text is for the log and has nothing of what was sent.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// It failed several times in a row and is left alone for a moment.
    #[error("it was not asked: it has failed several times in a row")]
    Resting,
    /// As many calls as may be are under way, or as many as this client may have.
    #[error("it was not asked: too many calls are under way")]
    Busy,
    /// There was no complete answer in time.
    #[error("it took too long")]
    Timeout,
    /// It was not reached, or went away before its answer was complete.
    #[error("{0}")]
    Broken(String),
    /// It says itself that it cannot (5xx).
    #[error("the answer was {0}")]
    Failing(StatusCode),
    /// The answer's body is larger than 64 KiB.
    #[error("the answer is too long")]
    TooLong,
    /// The call was ended from inside.
    #[error("the call was given up")]
    GivenUp,
}

/// What the service said; no redirect was followed and nothing was decompressed.
#[derive(Debug)]
pub struct Answer {
    /// Any status below 500.
    pub status: StatusCode,
    /// At most 64 KiB.
    pub body: Vec<u8>,
}

/// A service that can be called.
pub struct Outbound {
    settings: Settings,
    client: ArcSwap<Client>,
    /// What the files were when they were last looked at.
    seen: Mutex<Seen>,
    breaker: Arc<Mutex<Breaker>>,
    /// The calls under way, by the client that each is made for.
    calls: Arc<Shares<String>>,
    /// Connections are kept and shared, so they must not belong to the runtime of a worker that may end before others.
    runtime: Handle,
}

/// A state of the files.
#[derive(PartialEq, Eq)]
enum Seen {
    Files([u8; 32]),
    Fault(String),
}

impl Outbound {
    /// Reads the files; calls will run on the present runtime, wherever they are made.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let runtime = Handle::try_current().map_err(|_| SetupError::NoRuntime)?;
        let files = Files::read(&settings)?;
        Ok(Self {
            client: ArcSwap::from_pointee(client(&settings, &files)?),
            seen: Mutex::new(Seen::Files(files.digest())),
            settings,
            breaker: Arc::default(),
            calls: Shares::new(MAX_CALLS),
            runtime,
        })
    }

    /// Sends `body` on behalf of `client`; what it is, and whoever may ask, say the `headers`.
    ///
    /// Only for calls that may be repeated: one that the service did not answer, or with 5xx, is made once more. It
    /// goes on when nobody waits for it any more, so that its outcome is known to the next.
    ///
    /// # Errors
    /// [`Unreachable`], after [`Settings::timeout`] at the latest.
    pub async fn post(&self, client: &str, headers: HeaderMap, body: Vec<u8>) -> Result<Answer, Unreachable> {
        let place = self.calls.take(client.to_owned()).map_err(|_| Unreachable::Busy)?;
        if !locked(&self.breaker).admits(Instant::now()) {
            return Err(Unreachable::Resting);
        }
        let (client, breaker) = (self.client.load_full(), Arc::clone(&self.breaker));
        let (endpoint, time) = (self.settings.endpoint.clone(), self.settings.timeout);
        let call = async move {
            let outcome = timeout(time, post_twice(&client, &endpoint, &headers, &body)).await;
            let outcome = outcome.unwrap_or(Err(Unreachable::Timeout));
            let mut breaker = locked(&breaker);
            if outcome.as_ref().is_err_and(Unreachable::is_absence) {
                breaker.failed(Instant::now());
            } else {
                breaker.succeeded();
            }
            drop((breaker, place));
            outcome
        };
        self.runtime.spawn(call).await.unwrap_or(Err(Unreachable::GivenUp))
    }

    /// Reads the files again and takes what they are now, if all of them are sound; else the last good ones serve on.
    ///
    /// `None`: they are as they were when last looked at, so that one fault is told once.
    pub fn reload(&self) -> Option<Result<(), SetupError>> {
        let files = Files::read(&self.settings);
        let now = match &files {
            Ok(files) => Seen::Files(files.digest()),
            Err(error) => Seen::Fault(error.to_string()),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return None;
        }
        *seen = now;
        let renewed = files.and_then(|files| client(&self.settings, &files));
        Some(renewed.map(|client| self.client.store(Arc::new(client))))
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outbound").field(&place(&self.settings.endpoint)).finish_non_exhaustive()
    }
}

impl Unreachable {
    /// Whether the service seems to be away. What it answers, however badly, may be the fault of what one client
    /// sends, and must not keep the others from it.
    fn is_absence(&self) -> bool {
        match self {
            Self::Timeout | Self::Broken(_) => true,
            Self::Failing(status) => {
                [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT].contains(status)
            }
            Self::Resting | Self::Busy | Self::TooLong | Self::GivenUp => false,
        }
    }
}

impl From<reqwest::Error> for Unreachable {
    fn from(error: reqwest::Error) -> Self {
        // The address may have a query.
        Self::Broken(explain(&error.without_url()))
    }
}

fn locked(breaker: &Mutex<Breaker>) -> std::sync::MutexGuard<'_, Breaker> {
    breaker.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn post_twice(client: &Client, endpoint: &Url, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Unreachable> {
    match post(client, endpoint, headers, body).await {
        Err(Unreachable::Broken(_) | Unreachable::Failing(_)) => post(client, endpoint, headers, body).await,
        outcome => outcome,
    }
}

async fn post(client: &Client, endpoint: &Url, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Unreachable> {
    let request = client.post(endpoint.clone()).header(ACCEPT, "application/json").headers(headers.clone());
    let mut response = request.body(body.to_vec()).send().await?;
    let status = response.status();
    if status.is_server_error() {
        return Err(Unreachable::Failing(status));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Unreachable::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body })
}

/// The files, as read.
struct Files {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl Files {
    fn read(settings: &Settings) -> Result<Self, SetupError> {
        let ca = settings.ca.as_deref().map(read).transpose()?;
        let identity = match &settings.identity {
            Some(identity) => Some((read(&identity.certificate)?, secret_file::read(&identity.private_key)?)),
            None => None,
        };
        Ok(Self { ca, identity })
    }

    fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&SHA256);
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate.as_slice(), key]);
        for content in self.ca.iter().map(Vec::as_slice).chain(identity) {
            context.update(&content.len().to_be_bytes());
            context.update(content);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

fn read(path: &Path) -> Result<Vec<u8>, SetupError> {
    bounded::read(path).map_err(|source| SetupError::Unreadable { path: path.to_owned(), source })
}

/// Trusts what it is told to trust, goes where it is sent, and never further.
fn client(settings: &Settings, files: &Files) -> Result<Client, SetupError> {
    let endpoint = &settings.endpoint;
    if endpoint.scheme() != "https" || !endpoint.username().is_empty() || endpoint.password().is_some() {
        return Err(SetupError::Address(place(endpoint)));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::Client(error.to_string()))?
        .with_root_certificates(roots(settings, files)?);
    let tls = match (&settings.identity, &files.identity) {
        (Some(identity), Some((certificate, key))) => {
            // Certificate and key may stand in one file.
            let chain = certificates(certificate, &identity.certificate, pem::is_of_key)?;
            let unusable = || SetupError::PrivateKey(identity.private_key.clone());
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| unusable())?;
            tls.with_client_auth_cert(chain, key).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => SetupError::Mismatch(identity.certificate.clone()),
                rustls::Error::InvalidCertificate(_) => unreadable(&identity.certificate, 1),
                _ => unusable(),
            })?
        }
        _ => tls.with_no_client_auth(),
    };
    Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("writ/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| SetupError::Client(error.to_string()))
}

fn roots(settings: &Settings, files: &Files) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    match (&settings.ca, &files.ca) {
        (Some(path), Some(content)) => {
            for (index, certificate) in certificates(content, path, |_| false)?.into_iter().enumerate() {
                roots.add(certificate).map_err(|_| unreadable(path, index + 1))?;
            }
        }
        _ => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() { Err(SetupError::NoRootCertificates) } else { Ok(roots) }
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

fn unreadable(path: &Path, number: usize) -> SetupError {
    unusable(path, PemError::Content { number, label: pem::CERTIFICATE.to_owned() })
}

/// An address for people: without user name, query and fragment.
fn place(endpoint: &Url) -> String {
    format!(
        "{}://{}{}",
        endpoint.scheme(),
        endpoint.authority().rsplit('@').next().unwrap_or_default(),
        endpoint.path()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::SocketAddr;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use reqwest::header::AUTHORIZATION;
    use rustls::ServerConfig;
    use rustls::server::WebPkiClientVerifier;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::server::TlsStream;

    use super::*;
    use writ_platform::shares::Place;

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    const AWAY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    const MOVED: &str = "HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
    const HANG_UP: &str = "";
    const SILENCE: &str = "silence";

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A server that wants client certificates, and the files to call it with.
    struct Service {
        folder: TempDir,
        ca: CertifiedIssuer<'static, KeyPair>,
        address: SocketAddr,
        /// What it was asked, one for each request, with the number of the connection.
        asked: mpsc::UnboundedReceiver<(usize, String)>,
    }

    impl Service {
        /// Answers with `answers` in turn, the last one for ever.
        async fn start(answers: &'static [&'static str]) -> Self {
            let ca = authority("services");
            let mut roots = RootCertStore::empty();
            roots.add(ca.der().clone()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
            let key = KeyPair::generate().unwrap();
            let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
            let tls = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_client_cert_verifier(verifier)
                .with_single_cert(vec![leaf.der().clone()], key)
                .unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (tell, asked) = mpsc::unbounded_channel();
            tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), answers, tell));
            let service = Self { folder: tempfile::tempdir().unwrap(), ca, address, asked };
            service.write("ca.pem", &service.ca.pem());
            service.write_identity(&service.ca);
            service
        }

        fn write(&self, name: &str, content: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        }

        fn write_identity(&self, by: &CertifiedIssuer<'static, KeyPair>) {
            let key = KeyPair::generate().unwrap();
            let leaf = CertificateParams::new(vec!["writ".to_owned()]).unwrap().signed_by(&key, by).unwrap();
            self.write("writ.pem", &leaf.pem());
            self.write("writ.key", &key.serialize_pem());
        }

        fn settings(&self) -> Settings {
            let file = |name| self.folder.path().join(name);
            Settings {
                endpoint: format!("https://localhost:{}/ask?key=hidden", self.address.port()).parse().unwrap(),
                ca: Some(file("ca.pem")),
                identity: Some(Identity { certificate: file("writ.pem"), private_key: file("writ.key") }),
                timeout: Duration::from_secs(10),
            }
        }

        fn asked(&mut self) -> Vec<(usize, String)> {
            std::iter::from_fn(|| self.asked.try_recv().ok()).collect()
        }
    }

    async fn serve(
        listener: TcpListener,
        tls: TlsAcceptor,
        answers: &'static [&'static str],
        tell: mpsc::UnboundedSender<(usize, String)>,
    ) {
        let turn = Arc::new(AtomicUsize::new(0));
        for number in 0.. {
            let (socket, _) = listener.accept().await.unwrap();
            let (tls, turn, tell) = (tls.clone(), Arc::clone(&turn), tell.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = tls.accept(socket).await else { return };
                while let Some(request) = receive(&mut stream).await {
                    tell.send((number, request)).unwrap();
                    let answer = answers[turn.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1)];
                    match answer {
                        HANG_UP => return,
                        SILENCE => std::future::pending().await,
                        answer => stream.write_all(answer.as_bytes()).await.unwrap(),
                    }
                }
            });
        }
    }

    /// One request whose body is `{}`.
    async fn receive(stream: &mut TlsStream<TcpStream>) -> Option<String> {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n{}") {
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece).await.ok().filter(|length| *length > 0)?;
            read.extend_from_slice(&piece[..length]);
        }
        String::from_utf8(read).ok()
    }

    async fn ask(outbound: &Outbound) -> Result<Answer, Unreachable> {
        let mut secret: reqwest::header::HeaderValue = "Basic secret".parse().unwrap();
        secret.set_sensitive(true);
        outbound.post("gateway", HeaderMap::from_iter([(AUTHORIZATION, secret)]), b"{}".to_vec()).await
    }

    #[tokio::test]
    async fn a_call_brings_headers_body_and_client_certificate_and_connections_are_kept() {
        let mut service = Service::start(&[OK]).await;
        let outbound = Outbound::new(service.settings()).unwrap();
        for _ in 0..2 {
            let answer = ask(&outbound).await.unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::OK, b"{}".as_slice()));
        }
        let asked = service.asked();
        assert_eq!(asked.iter().map(|(connection, _)| connection).collect::<Vec<_>>(), [&0, &0]);
        let (_, text) = &asked[0];
        assert!(text.starts_with("POST /ask?key=hidden HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("authorization: Basic secret\r\n") && text.contains("accept: application/json\r\n"));
    }

    /// Workers of the listeners have runtimes of their own, which may end before others.
    #[test]
    fn a_kept_connection_outlives_the_runtime_that_asked_for_it() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let main = tokio::runtime::Runtime::new().unwrap();
        let (mut service, outbound) = main.block_on(async {
            let service = Service::start(&[OK]).await;
            let outbound = Outbound::new(service.settings()).unwrap();
            (service, outbound)
        });
        for _ in 0..2 {
            runtime().block_on(ask(&outbound)).unwrap();
        }
        assert_eq!(service.asked().iter().map(|(connection, _)| *connection).collect::<Vec<_>>(), [0, 0]);
    }

    #[tokio::test]
    async fn a_call_that_breaks_or_fails_is_made_once_more_and_no_more_often() {
        for first in [AWAY, HANG_UP] {
            let answers: &'static [&'static str] = if first == AWAY { &[AWAY, OK] } else { &[HANG_UP, OK] };
            let mut service = Service::start(answers).await;
            assert!(ask(&Outbound::new(service.settings()).unwrap()).await.is_ok(), "{first}");
            assert_eq!(service.asked().len(), 2, "{first}");
        }
        let mut service = Service::start(&[AWAY]).await;
        let error = ask(&Outbound::new(service.settings()).unwrap()).await.unwrap_err();
        assert!(matches!(error, Unreachable::Failing(StatusCode::SERVICE_UNAVAILABLE)), "{error}");
        assert_eq!(service.asked().len(), 2);
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_is_not_followed() {
        let mut service = Service::start(&[MOVED]).await;
        let answer = ask(&Outbound::new(service.settings()).unwrap()).await.unwrap();
        assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(service.asked().len(), 1);
    }

    #[tokio::test]
    async fn an_answer_may_have_64_kib_whatever_it_announces() {
        let answer = |length: usize, head: &str| -> &'static [&'static str] {
            let text = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{}", "x".repeat(length));
            vec![&*text.leak()].leak()
        };
        let service = Service::start(answer(MAX_BODY, "content-length: 65536")).await;
        assert_eq!(ask(&Outbound::new(service.settings()).unwrap()).await.unwrap().body.len(), MAX_BODY);
        let service = Service::start(answer(MAX_BODY + 1, "content-length: 65537")).await;
        let error = ask(&Outbound::new(service.settings()).unwrap()).await.unwrap_err();
        assert!(matches!(error, Unreachable::TooLong), "{error}");
    }

    #[tokio::test]
    async fn after_failures_in_a_row_it_is_not_asked_any_more() {
        let mut service = Service::start(&[HANG_UP]).await;
        let outbound = Outbound::new(service.settings()).unwrap();
        for _ in 0..5 {
            let error = ask(&outbound).await.unwrap_err();
            assert!(matches!(error, Unreachable::Broken(_)), "{error}");
        }
        assert_eq!(service.asked().len(), 10);
        let error = ask(&outbound).await.unwrap_err();
        assert!(matches!(error, Unreachable::Resting), "{error}");
        assert!(service.asked().is_empty());
    }

    /// The next caller profits from what the last one did not wait for.
    #[tokio::test]
    async fn a_call_that_nobody_waits_for_counts_all_the_same_and_its_place_is_given_back() {
        let service = Service::start(&[SILENCE]).await;
        let outbound = Outbound::new(Settings { timeout: Duration::from_millis(1), ..service.settings() }).unwrap();
        for _ in 0..5 {
            assert!(ask(&outbound).now_or_never().is_none());
        }
        let most = places(&Outbound::new(service.settings()).unwrap(), "gateway").len();
        while places(&outbound, "gateway").len() < most {
            tokio::task::yield_now().await;
        }
        assert!(matches!(ask(&outbound).await, Err(Unreachable::Resting)));
    }

    /// As many places for calls as `client` can have.
    fn places(outbound: &Outbound, client: &str) -> Vec<Place<String>> {
        std::iter::from_fn(|| outbound.calls.take(client.parse().unwrap()).ok()).collect()
    }

    /// R-INTRO-04
    #[tokio::test]
    async fn more_calls_than_may_be_under_way_fail_at_once_and_no_client_can_make_them_all() {
        let service = Service::start(&[OK]).await;
        let outbound = Outbound::new(service.settings()).unwrap();
        let other = places(&outbound, "other");
        assert!(ask(&outbound).await.is_ok(), "{} calls of another client", other.len());
        let own = places(&outbound, "gateway");
        assert!(!own.is_empty());
        assert!(matches!(ask(&outbound).await, Err(Unreachable::Busy)));
        drop(other);
        assert!(ask(&outbound).await.is_ok());
    }

    #[tokio::test]
    async fn a_fault_tells_nothing_of_what_was_sent() {
        let mut service = Service::start(&[OK]).await;
        service.write_identity(&authority("strangers"));
        let outbound = Outbound::new(service.settings()).unwrap();
        let error = ask(&outbound).await.unwrap_err();
        assert!(matches!(error, Unreachable::Broken(_)), "{error}");
        assert!(service.asked().is_empty());
        let told = format!("{error} {error:?} {outbound:?}");
        assert!(!told.contains("hidden") && !told.contains("secret"), "{told}");
    }

    #[tokio::test]
    async fn files_that_change_are_taken_when_they_are_sound_and_a_fault_is_told_once() {
        let mut service = Service::start(&[OK]).await;
        let outbound = Outbound::new(service.settings()).unwrap();
        assert!(outbound.reload().is_none());
        service.write("writ.pem", "no certificate");
        assert!(matches!(outbound.reload(), Some(Err(SetupError::Certificate { .. }))));
        assert!(outbound.reload().is_none());
        ask(&outbound).await.unwrap();
        service.write_identity(&authority("strangers"));
        assert!(matches!(outbound.reload(), Some(Ok(()))));
        ask(&outbound).await.unwrap_err();
        service.write_identity(&service.ca);
        assert!(matches!(outbound.reload(), Some(Ok(()))));
        ask(&outbound).await.unwrap();
        assert_eq!(service.asked().len(), 2);
    }

    #[tokio::test]
    async fn what_can_never_work_is_found_at_start() {
        let service = Service::start(&[OK]).await;
        let settings = service.settings();
        for endpoint in ["http://localhost/", "https://someone:secret@localhost/"] {
            let error =
                Outbound::new(Settings { endpoint: endpoint.parse().unwrap(), ..settings.clone() }).unwrap_err();
            assert!(matches!(error, SetupError::Address(_)) && !error.to_string().contains("secret"), "{error}");
        }
        let other = KeyPair::generate().unwrap().serialize_pem();
        let key = service.write("writ.key", &other);
        assert!(matches!(Outbound::new(settings.clone()), Err(SetupError::Mismatch(_))));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Outbound::new(settings.clone()), Err(SetupError::Secret(_))));
        service.write("writ.key", "no key");
        assert!(matches!(Outbound::new(settings.clone()), Err(SetupError::PrivateKey(_))));
        service.write("ca.pem", "no certificate");
        assert!(matches!(Outbound::new(settings.clone()), Err(SetupError::Certificate { .. })));
        fs::remove_file(service.folder.path().join("ca.pem")).unwrap();
        assert!(matches!(Outbound::new(settings), Err(SetupError::Unreadable { .. })));
    }
}
