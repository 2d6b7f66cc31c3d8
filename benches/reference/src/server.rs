//! mTLS and HTTP/1.1 with the settings of Writ's exchange listener: TLS 1.3, a client certificate, no resumption.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use actix_http::{HttpService, KeepAlive, Protocol};
use actix_server::Server;
use actix_service::{ServiceFactoryExt as _, fn_service, map_config};
use actix_web::App;
use actix_web::dev::AppConfig;
use actix_web::web::ServiceConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::Error;

/// Adds the resources of a server.
pub(crate) type Routes = Arc<dyn Fn(&mut ServiceConfig) + Send + Sync>;

/// Serves on a free port of loopback, which it prints, until the process is killed. `files`: the server's chain, its key,
/// and the CAs of clients.
pub(crate) fn run(files: [&str; 3], routes: Routes) -> Result<(), Error> {
    let acceptor = TlsAcceptor::from(tls(files.map(Path::new))?);
    let socket = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", socket.local_addr()?);
    let service = move || {
        let acceptor = acceptor.clone();
        let accept = move |socket: TcpStream| {
            let acceptor = acceptor.clone();
            async move {
                socket.set_nodelay(true).map_err(drop)?;
                let address: Option<SocketAddr> = socket.peer_addr().ok();
                let stream = acceptor.accept(socket).await.map_err(drop)?;
                Ok((stream, Protocol::Http1, address))
            }
        };
        let routes = Arc::clone(&routes);
        let app = App::new().configure(move |config| routes(config));
        let http = HttpService::build()
            .keep_alive(KeepAlive::Os)
            .finish(map_config(app, |()| AppConfig::default()))
            .map_err(drop);
        fn_service(accept).and_then(http)
    };
    let workers = std::thread::available_parallelism()?.get();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        Server::build().workers(workers).disable_signals().listen("reference", socket, service)?.run().await
    })?;
    Ok(())
}

fn tls([certificate, key, client_ca]: [&Path; 3]) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(client_ca)? {
        roots.add(root?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.alpn_protocols.push(b"http/1.1".to_vec());
    Ok(Arc::new(config))
}
