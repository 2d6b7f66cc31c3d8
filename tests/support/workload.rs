//! A client: a certificate, a connection, requests to the endpoints.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, ClientConfig, RootCertStore};

use super::answer::Answer;
use super::http::{Connection, Response};
use super::pki::Credentials;
use super::writ::Site;
use super::{TRUST_DOMAIN, description};

/// The token-exchange grant.
pub(crate) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub(crate) const TXN_TOKEN: &str = "urn:ietf:params:oauth:token-type:txn_token";
/// The media type of a request.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";
pub(crate) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

#[derive(Clone)]
pub(crate) struct Workload {
    site: Arc<Site>,
    tls: Arc<ClientConfig>,
}

/// An open connection of a client.
pub(crate) struct Session {
    site: Arc<Site>,
    /// For what no well-behaved client would send.
    pub(crate) connection: Connection,
}

/// The parameters of a request, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Form(Vec<(String, String)>);

impl Workload {
    pub(crate) fn new(site: &Arc<Site>, credentials: Option<&Credentials>) -> Self {
        Self { site: Arc::clone(site), tls: tls_config(&site.ca, credentials) }
    }

    /// The same client with its TLS changed.
    pub(crate) fn with_tls(&self, change: impl FnOnce(&mut ClientConfig)) -> Self {
        let mut tls = ClientConfig::clone(&self.tls);
        change(&mut tls);
        Self { site: Arc::clone(&self.site), tls: Arc::new(tls) }
    }

    /// The same client with another configuration of TLS.
    pub(crate) fn with_tls_config(&self, tls: ClientConfig) -> Self {
        Self { site: Arc::clone(&self.site), tls: Arc::new(tls) }
    }

    /// `POST /token` on a connection of its own.
    #[track_caller]
    pub(crate) fn token(&self, form: &Form) -> Answer {
        self.try_token(form).expect("the token endpoint answers")
    }

    /// The same where the connection may break.
    pub(crate) fn try_token(&self, form: &Form) -> io::Result<Answer> {
        self.try_connect()?.try_token(form)
    }

    /// `POST /introspect` about this token, on a connection of its own.
    #[track_caller]
    pub(crate) fn introspect(&self, token: &str) -> Answer {
        self.connect().introspect(&Form::default().set("token", token))
    }

    /// `POST /token` with this body and these headers and no others save `Host` and `Content-Length`.
    #[track_caller]
    pub(crate) fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.connect().post("/token", headers, body)
    }

    /// Sends bytes as they are and reads one answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> io::Result<Response> {
        let mut session = self.try_connect()?;
        session.connection.send(bytes)?;
        session.connection.receive()
    }

    /// A connection to the exchange listener.
    #[track_caller]
    pub(crate) fn connect(&self) -> Session {
        self.try_connect().expect("a connection")
    }

    /// The same where it may fail.
    pub(crate) fn try_connect(&self) -> io::Result<Session> {
        let connection = Connection::tls(self.site.endpoints().exchange, &self.tls)?;
        Ok(Session { site: Arc::clone(&self.site), connection })
    }

    /// The alert that ends the handshake. In TLS 1.3 the client hears of it only when it reads; it must not write
    /// before that, or the end of the connection may overtake the alert.
    #[track_caller]
    pub(crate) fn alert(&self) -> AlertDescription {
        let error = self.try_connect().and_then(|mut session| session.connection.receive()).expect_err("no handshake");
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            _ => panic!("no alert: {error:?}"),
        }
    }

    /// Whether a handshake succeeds and requests are read.
    pub(crate) fn is_accepted(&self) -> bool {
        self.raw(b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .is_ok_and(|response| response.status == 200)
    }
}

impl Session {
    /// `POST /token`.
    #[track_caller]
    pub(crate) fn token(&mut self, form: &Form) -> Answer {
        self.try_token(form).expect("the token endpoint answers")
    }

    /// The same where the connection may break.
    pub(crate) fn try_token(&mut self, form: &Form) -> io::Result<Answer> {
        let headers = [("Content-Type", FORM)];
        self.try_post("/token", &headers, form.encode().as_bytes())
    }

    /// `POST /introspect`.
    #[track_caller]
    pub(crate) fn introspect(&mut self, form: &Form) -> Answer {
        self.post("/introspect", &[("Content-Type", FORM)], form.encode().as_bytes())
    }

    /// `POST` with this body and these headers and no others save `Host` and `Content-Length`.
    #[track_caller]
    pub(crate) fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_post(path, headers, body).expect("an answer")
    }

    /// Any request without a body.
    #[track_caller]
    pub(crate) fn get(&mut self, method: &str, path: &str) -> Answer {
        Answer::new(&self.site, super::writ::get(&mut self.connection, method, path, &[]))
    }

    fn try_post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        let mut request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            write!(request, "{name}: {value}\r\n").expect("a string takes it");
        }
        let mut bytes = format!("{request}\r\n").into_bytes();
        bytes.extend_from_slice(body);
        self.connection.send(&bytes)?;
        let response = self.connection.receive()?;
        if let Some(path @ ("/token" | "/introspect")) = path.split('?').next() {
            self.site.note(&response);
            description::validate("POST", path, &response);
        }
        Ok(Answer::new(&self.site, response))
    }
}

impl Form {
    /// Exchanges an access token.
    pub(crate) fn exchange(access_token: &str, scope: &str) -> Self {
        Self::token_exchange(access_token, ACCESS_TOKEN, scope)
    }

    /// Redeems or replaces a Txn-Token.
    pub(crate) fn redeem(txn_token: &str, scope: &str) -> Self {
        Self::token_exchange(txn_token, TXN_TOKEN, scope)
    }

    /// Exchanges a subject token of any type.
    pub(crate) fn token_exchange(subject_token: &str, subject_token_type: &str, scope: &str) -> Self {
        Self::default()
            .set("grant_type", TOKEN_EXCHANGE)
            .set("requested_token_type", TXN_TOKEN)
            .set("audience", TRUST_DOMAIN)
            .set("scope", scope)
            .set("subject_token", subject_token)
            .set("subject_token_type", subject_token_type)
    }

    /// Asks for a token in one call.
    pub(crate) fn client_credentials(scope: &str) -> Self {
        Self::default()
            .set("grant_type", "client_credentials")
            .set("requested_token_type", TXN_TOKEN)
            .set("audience", TRUST_DOMAIN)
            .set("scope", scope)
    }

    /// Sets a parameter, once.
    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        match self.0.iter_mut().find(|(other, _)| other == name) {
            Some(parameter) => value.clone_into(&mut parameter.1),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Adds a parameter, even if it is there already.
    pub(crate) fn add(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a parameter out.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(other, _)| other != name);
        self
    }

    /// The names, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The body of the request.
    pub(crate) fn encode(&self) -> String {
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish()
    }
}

/// TLS as a client with these credentials speaks it, trusting `ca`.
pub(crate) fn tls_config(ca: &str, credentials: Option<&Credentials>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder().with_root_certificates(tls_roots(ca));
    Arc::new(match credentials {
        None => builder.with_no_client_auth(),
        // Not `with_client_auth_cert`, which would refuse what the service is to refuse.
        Some(credentials) => {
            let key = any_supported_type(&credentials.key()).expect("a key");
            let certified = CertifiedKey::new(credentials.chain.clone(), key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    })
}

/// Trust in `ca` alone.
pub(crate) fn tls_roots(ca: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("an authority");
    roots
}
