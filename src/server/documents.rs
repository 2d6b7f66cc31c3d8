//! A minimal HTTPS server for the toy issuer of `writ quickstart`: one response for each connection, no client
//! certificates.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// A connection that takes longer is dropped.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// After the system has refused a connection, for instance because no file descriptor is free.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

const MAX_HEAD: usize = 8 * 1024;

/// The certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CertificateError(String);

/// A server that ends when this is dropped.
pub(crate) struct DocumentServer(JoinHandle<()>);

impl DocumentServer {
    /// Serves on `listener` with this certificate and key (PEM); `respond` makes a whole response of the head of a request.
    pub(crate) fn start(
        listener: TcpListener,
        certificate: &[u8],
        key: &[u8],
        respond: impl Fn(&[u8]) -> String + Send + Sync + 'static,
    ) -> Result<Self, CertificateError> {
        let acceptor = acceptor(certificate, key)?;
        Ok(Self(tokio::spawn(accept(listener, acceptor, Arc::new(respond)))))
    }
}

impl Drop for DocumentServer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn acceptor(certificate: &[u8], key: &[u8]) -> Result<TlsAcceptor, CertificateError> {
    let malformed = |error: rustls::pki_types::pem::Error| CertificateError(error.to_string());
    let unusable = |error: rustls::Error| CertificateError(error.to_string());
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(malformed)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(unusable)?;
    let config = config.with_no_client_auth().with_single_cert(chain, key).map_err(unusable)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept<F: Fn(&[u8]) -> String + Send + Sync + 'static>(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    respond: Arc<F>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            continue;
        };
        let (acceptor, respond) = (acceptor.clone(), Arc::clone(&respond));
        // A client whose connection fails sees the failure itself.
        tokio::spawn(async move { timeout(CONNECTION_TIMEOUT, answer(stream, acceptor, respond.as_ref())).await });
    }
}

async fn answer(stream: TcpStream, acceptor: TlsAcceptor, respond: impl Fn(&[u8]) -> String) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let head = read_head(&mut stream).await?;
    stream.write_all(respond(&head).as_bytes()).await?;
    stream.shutdown().await
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 || head.len() > MAX_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(head)
}
