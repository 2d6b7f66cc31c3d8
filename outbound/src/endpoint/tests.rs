//! Calls to a server that requires client certificates and gives scripted answers.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::call::{MAX_BODY, Status};
use crate::files::Identity;
use writ_platform::shares::Place;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const MOVED: &str = "HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
const HANG_UP: &str = "";
const SILENCE: &str = "silence";

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server that requires client certificates, and the files to call it with.
struct Service {
    folder: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
    address: SocketAddr,
    /// The requests it received, each with the number of its connection.
    asked: mpsc::UnboundedReceiver<(usize, String)>,
}

impl Service {
    /// Answers with `answers` in turn, and then repeats the last one.
    async fn start(answers: &'static [&'static str]) -> Self {
        let ca = authority("services");
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
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
    outbound.post("gateway", Request::json(b"{}".to_vec()).authorize("Basic secret").unwrap()).await
}

#[tokio::test]
async fn a_call_sends_headers_body_and_client_certificate_and_connections_are_reused() {
    let mut service = Service::start(&[OK]).await;
    let outbound = Outbound::new(service.settings()).unwrap();
    for _ in 0..2 {
        let answer = ask(&outbound).await.unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (Status::OK, b"{}".as_slice()));
    }
    let asked = service.asked();
    assert_eq!(asked.iter().map(|(connection, _)| connection).collect::<Vec<_>>(), [&0, &0]);
    let (_, text) = &asked[0];
    assert!(text.starts_with("POST /ask?key=hidden HTTP/1.1\r\n"), "{text}");
    assert!(text.contains("authorization: Basic secret\r\n") && text.contains("accept: application/json\r\n"));
}

/// Workers of the listeners have runtimes of their own, which may end before others.
#[test]
fn a_pooled_connection_outlives_the_runtime_of_its_caller() {
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
async fn a_call_that_breaks_or_fails_is_retried_once() {
    for first in [UNAVAILABLE, HANG_UP] {
        let answers: &'static [&'static str] = if first == UNAVAILABLE { &[UNAVAILABLE, OK] } else { &[HANG_UP, OK] };
        let mut service = Service::start(answers).await;
        assert!(ask(&Outbound::new(service.settings()).unwrap()).await.is_ok(), "{first}");
        assert_eq!(service.asked().len(), 2, "{first}");
    }
    let mut service = Service::start(&[UNAVAILABLE]).await;
    let error = ask(&Outbound::new(service.settings()).unwrap()).await.unwrap_err();
    assert!(matches!(error, Unreachable::Failing(status) if status.as_u16() == 503), "{error}");
    assert_eq!(service.asked().len(), 2);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let mut service = Service::start(&[MOVED]).await;
    let answer = ask(&Outbound::new(service.settings()).unwrap()).await.unwrap();
    assert_eq!(answer.status.as_u16(), 307);
    assert_eq!(service.asked().len(), 1);
}

#[tokio::test]
async fn an_answer_may_have_64_kib_regardless_of_its_content_length() {
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
async fn after_consecutive_failures_it_is_not_called() {
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

/// The outcome counts even if the caller has stopped waiting.
#[tokio::test]
async fn an_abandoned_call_counts_and_releases_its_place() {
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

/// All places for calls that `client` can get.
fn places(outbound: &Outbound, client: &str) -> Vec<Place<String>> {
    std::iter::from_fn(|| outbound.calls.take(client.parse().unwrap()).ok()).collect()
}

/// R-INTRO-04
#[tokio::test]
async fn excess_calls_fail_at_once_and_no_client_can_use_all_places() {
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
async fn an_error_contains_nothing_of_the_request() {
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
async fn changed_files_are_used_if_valid_and_an_error_is_reported_once() {
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
async fn impossible_settings_are_refused_at_start() {
    let service = Service::start(&[OK]).await;
    let settings = service.settings();
    for endpoint in ["http://localhost/", "https://someone:secret@localhost/"] {
        let error = Outbound::new(Settings { endpoint: endpoint.parse().unwrap(), ..settings.clone() }).unwrap_err();
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
