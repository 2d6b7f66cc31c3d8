//! A client of a TTS: metadata, published keys and token endpoint over mTLS.

use reqwest::{Method, StatusCode};
use serde_json::Value;
use url::{Url, form_urlencoded};
use writ_verifier::json::{self, Limits};

use super::error::ServiceError;
use super::http::{Http, Resolve, body, unreachable};
use writ_core::request::Source;

const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";

/// The parameters of a request to the token endpoint.
#[derive(Debug, Default)]
pub(crate) struct TokenRequest<'a> {
    pub(crate) audience: &'a str,
    /// Purposes, separated by single spaces.
    pub(crate) scope: &'a str,
    /// Without one, the grant is `client_credentials`.
    pub(crate) subject_token: Option<SubjectToken<'a>>,
    pub(crate) requested_subject: Option<&'a str>,
    /// `request_details`, JSON.
    pub(crate) details: Option<&'a str>,
    /// `request_context`, JSON.
    pub(crate) context: Option<&'a str>,
}

#[derive(Clone, Copy)]
pub(crate) struct SubjectToken<'a> {
    /// A URN.
    pub(crate) token_type: &'a str,
    pub(crate) token: &'a str,
}

/// Does not show the token.
impl std::fmt::Debug for SubjectToken<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubjectToken").field("token_type", &self.token_type).finish_non_exhaustive()
    }
}

/// The response of the token endpoint: a JSON object.
#[derive(Clone)]
pub(crate) enum Answer {
    /// With an `access_token`.
    Issued(Value),
    /// With an `error` and its `reason`.
    Refused(Value),
}

/// A TTS, and the client certificate for it.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    http: Http,
    url: Url,
    /// Without a final slash: issuers are compared byte for byte.
    issuer: String,
}

impl Service {
    /// Only the CA certificates `ca` are trusted; certificates and key are PEM.
    pub(crate) fn new(
        url: &str,
        ca: &[u8],
        certificate: &[u8],
        key: &[u8],
        resolve: &[Resolve],
    ) -> Result<Self, ServiceError> {
        let issuer = url.strip_suffix('/').unwrap_or(url).to_owned();
        let url = Url::parse(url).map_err(|_| ServiceError::Url)?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if url.scheme() != "https" || !bare {
            return Err(ServiceError::Url);
        }
        Ok(Self { http: Http::new(Some(ca), Some((certificate, key)), resolve)?, url, issuer })
    }

    /// The first trust domain in its metadata.
    pub(crate) async fn trust_domain(&self) -> Result<String, ServiceError> {
        let (status, metadata) = self.send(Method::GET, "/.well-known/oauth-authorization-server", None).await?;
        let found = metadata["issuer"].as_str().ok_or(ServiceError::Answer(status.as_u16()))?;
        if found != self.issuer {
            return Err(ServiceError::Issuer { found: found.to_owned(), expected: self.issuer.clone() });
        }
        let first = metadata.pointer("/txn_token_trust_domains_supported/0").and_then(Value::as_str);
        first.map(str::to_owned).ok_or(ServiceError::Answer(status.as_u16()))
    }

    pub(crate) async fn published_keys(&self) -> Result<Value, ServiceError> {
        let (status, keys) = self.send(Method::GET, "/.well-known/jwks.json", None).await?;
        if keys["keys"].is_array() { Ok(keys) } else { Err(ServiceError::Answer(status.as_u16())) }
    }

    pub(crate) async fn token(&self, request: &TokenRequest<'_>) -> Result<Answer, ServiceError> {
        let (status, answer) = self.send(Method::POST, "/token", Some(request.to_form())).await?;
        if status == StatusCode::OK && answer["access_token"].is_string() {
            Ok(Answer::Issued(answer))
        } else if status != StatusCode::OK && answer["error"].is_string() {
            Ok(Answer::Refused(answer))
        } else {
            Err(ServiceError::Answer(status.as_u16()))
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        form: Option<String>,
    ) -> Result<(StatusCode, Value), ServiceError> {
        let mut url = self.url.clone();
        url.set_path(path);
        let mut request = self.http.to(&url).request(method, url);
        if let Some(form) = form {
            request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        }
        let response = request.send().await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let value = json::from_slice(&body(response).await?, Limits::DOCUMENT)
            .map_err(|_| ServiceError::Answer(status.as_u16()))?;
        Ok((status, value))
    }
}

impl TokenRequest<'_> {
    fn to_form(&self) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("requested_token_type", &format!("{TOKEN_TYPE}txn_token"));
        form.append_pair("audience", self.audience).append_pair("scope", self.scope);
        match self.subject_token {
            Some(subject) => form
                .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
                .append_pair("subject_token_type", subject.token_type)
                .append_pair("subject_token", subject.token),
            None => form.append_pair("grant_type", "client_credentials"),
        };
        let optional = [
            ("requested_subject", self.requested_subject),
            ("request_details", self.details),
            ("request_context", self.context),
        ];
        form.extend_pairs(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        form.finish()
    }
}

/// The `subject_token_type` with this short name (`txn_token`) or URN.
pub(crate) fn subject_token_type(name: &str) -> Option<String> {
    match Source::from_name(name) {
        None => name.contains(':').then(|| name.to_owned()),
        Some(Source::ClientCredentials) => None,
        // The type is the same; whether the token has expired makes it the other source.
        Some(Source::ExpiredTxnToken) => Some(format!("{TOKEN_TYPE}{}", Source::TxnToken.name())),
        Some(source) => Some(format!("{TOKEN_TYPE}{}", source.name())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::path::Path;
    use std::thread::{self, JoinHandle};

    use rcgen::{CertificateParams, KeyPair};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;
    use crate::cli::certs;
    use writ_platform::clock::Timestamp;

    #[test]
    fn a_form_contains_the_given_parameters_only() {
        let request =
            TokenRequest { audience: "a", scope: "x y", details: Some("{\"q\":1}"), ..TokenRequest::default() };
        let form = request.to_form();
        assert!(form.contains("scope=x+y&grant_type=client_credentials&request_details=%7B%22q%22%3A1%7D"), "{form}");
        assert!(!form.contains("subject") && !form.contains("context"), "{form}");
        let subject_token = Some(SubjectToken { token_type: "t", token: "a.b+c" });
        let form = TokenRequest { subject_token, ..request }.to_form();
        assert!(form.contains("token-exchange&subject_token_type=t&subject_token=a.b%2Bc"), "{form}");
    }

    #[test]
    fn token_types_have_a_short_name_and_a_urn() {
        let urn = |name| format!("urn:ietf:params:oauth:token-type:{name}");
        assert_eq!(subject_token_type("self_signed"), Some(urn("self_signed")));
        assert_eq!(subject_token_type("expired_txn_token"), Some(urn("txn_token")));
        assert_eq!(subject_token_type(&urn("saml2")), Some(urn("saml2")));
        for bad in ["client_credentials", "saml2", ""] {
            assert_eq!(subject_token_type(bad), None, "{bad}");
        }
    }

    #[test]
    fn unusable_arguments_are_refused_before_anything_is_sent() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        let service = |url: &str, ca: &str, key: &KeyPair| {
            let key = key.serialize_pem();
            Service::new(url, ca.as_bytes(), certificate.as_bytes(), key.as_bytes(), &[])
        };
        assert!(service("https://tts.example:8443", &certificate, &key).is_ok());
        for url in ["http://tts.example", "https://tts.example/token", "https://tts.example/?a", "tts.example", ""] {
            assert!(matches!(service(url, &certificate, &key), Err(ServiceError::Url)), "{url}");
        }
        let no_ca = service("https://tts.example", "", &key);
        assert!(matches!(no_ca, Err(ServiceError::Credentials(_))));
        let other = service("https://tts.example", &certificate, &KeyPair::generate().unwrap());
        assert!(matches!(other, Err(ServiceError::Credentials(_))), "a key that is not the certificate's");
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", SubjectToken { token_type: "t", token: "secret" }).contains("secret"));
    }

    /// Answers one mTLS request with `answer`, and returns the request; empty if the handshake failed.
    fn answering(dir: &Path, answer: &str) -> (String, JoinHandle<String>) {
        let file = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&file("ca.pem")).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
        let key = PrivateKeyDer::from_pem_slice(&file("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_client_cert_verifier(verifier);
        let config = config
            .with_single_cert(
                CertificateDer::pem_slice_iter(&file("server.pem")).collect::<Result<_, _>>().unwrap(),
                key,
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("https://localhost:{port}");
        let answer = answer.replace("@PORT", &port.to_string());
        let serve = move || {
            let connection = ServerConnection::new(Arc::new(config)).unwrap();
            let mut stream = StreamOwned::new(connection, listener.accept().unwrap().0);
            let mut asked = vec![0; 16 * 1024];
            let Ok(mut length) = stream.read(&mut asked) else { return String::new() };
            if asked.starts_with(b"POST") && asked[..length].ends_with(b"\r\n\r\n") {
                length += stream.read(&mut asked[length..]).unwrap();
            }
            stream.write_all(answer.as_bytes()).unwrap();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            String::from_utf8(asked[..length].to_vec()).unwrap()
        };
        (url, thread::spawn(serve))
    }

    fn http(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    /// A folder with a development CA, and a client that trusts it.
    fn development() -> (tempfile::TempDir, impl Fn(&str) -> Service) {
        let dir = tempfile::tempdir().unwrap();
        certs::init(dir.path(), &[], Timestamp::now()).unwrap();
        let client = "mda".parse().unwrap();
        let name = certs::spiffe_id("trust-domain.example", &client);
        certs::issue(dir.path(), &client, &[name], 1, Timestamp::now()).unwrap();
        let file = |name| std::fs::read(dir.path().join(name)).unwrap();
        let (ca, certificate, key) = (file("ca.pem"), file("mda.pem"), file("mda.key"));
        (dir, move |url| Service::new(url, &ca, &certificate, &key, &[]).unwrap())
    }

    #[tokio::test]
    async fn a_token_is_requested_over_mutual_tls() {
        let (dir, service) = development();
        let (url, asked) = answering(dir.path(), &http("200 OK", r#"{"access_token":"a.b.c"}"#));
        let request = TokenRequest { audience: "d.example", scope: "s", ..TokenRequest::default() };
        let answer = service(&url).token(&request).await.unwrap();
        assert!(matches!(answer, Answer::Issued(answer) if answer["access_token"] == "a.b.c"));
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("POST /token HTTP/1.1\r\n"), "{asked}");
        assert!(asked.ends_with(&request.to_form()), "{asked}");
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer() {
        let (dir, service) = development();
        let body = r#"{"error":"invalid_request","reason":"subject_token_expired"}"#;
        let (url, _) = answering(dir.path(), &http("400 Bad Request", body));
        let answer = service(&url).token(&TokenRequest::default()).await.unwrap();
        assert!(matches!(answer, Answer::Refused(answer) if answer["reason"] == "subject_token_expired"));
    }

    #[tokio::test]
    async fn the_trust_domain_is_read_from_the_metadata() {
        let (dir, service) = development();
        let metadata = |issuer: &str| {
            http("200 OK", &format!(r#"{{"issuer":"{issuer}","txn_token_trust_domains_supported":["d.example"]}}"#))
        };
        // The port is known only once it is bound.
        let (url, asked) = answering(dir.path(), &metadata("https://localhost:@PORT"));
        assert_eq!(service(&url).trust_domain().await.unwrap(), "d.example");
        assert!(asked.join().unwrap().starts_with("GET /.well-known/oauth-authorization-server HTTP"));
        for other in ["https://localhost", "https://localhost:@PORT/", "https://other.example\u{1b}"] {
            let (url, _) = answering(dir.path(), &metadata(&other.replace('\u{1b}', "\\u001b")));
            let error = service(&url).trust_domain().await.unwrap_err();
            assert!(matches!(error, ServiceError::Issuer { .. }), "{other}: {error}");
            assert!(!error.to_string().contains('\u{1b}'), "{error}");
        }
    }

    /// An entry applies to its port only, as in curl.
    #[tokio::test]
    async fn resolve_replaces_dns_for_a_host_and_port() {
        let (dir, _) = development();
        let file = |name| std::fs::read(dir.path().join(name)).unwrap();
        let (url, asked) = answering(dir.path(), &http("200 OK", r#"{"access_token":"a.b.c"}"#));
        let port = url.rsplit(':').next().unwrap();
        let at = |resolve: String| {
            let url = format!("https://tts.trust-domain.example:{port}");
            let resolve = [resolve.parse().unwrap()];
            Service::new(&url, &file("ca.pem"), &file("mda.pem"), &file("mda.key"), &resolve).unwrap()
        };
        let elsewhere = at("tts.trust-domain.example:1:127.0.0.1".to_owned());
        let error = elsewhere.token(&TokenRequest::default()).await.err().unwrap();
        assert!(error.to_string().contains("the host name cannot be resolved"), "{error}");
        let service = at(format!("TTS.trust-domain.example:{port}:127.0.0.1"));
        assert!(matches!(service.token(&TokenRequest::default()).await, Ok(Answer::Issued(_))));
        assert!(asked.join().unwrap().contains("host: tts.trust-domain.example"));
    }

    #[tokio::test]
    async fn redirects_and_malformed_answers_are_errors() {
        let (dir, service) = development();
        for answer in [
            "HTTP/1.1 307 x\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".to_owned(),
            http("200 OK", "<html>"),
            http("200 OK", r#"{"error":"invalid_request"}"#),
            http("200 OK", &" ".repeat(256 * 1024 + 1)),
        ] {
            let (url, _) = answering(dir.path(), &answer);
            let answer = service(&url).token(&TokenRequest::default()).await;
            assert!(matches!(answer, Err(ServiceError::Answer(200 | 307))));
        }
    }

    #[tokio::test]
    async fn an_unknown_peer_ends_the_handshake_on_either_side() {
        let ((dir, service), (other_dir, _)) = (development(), development());
        let (url, asked) = answering(other_dir.path(), "");
        let error = service(&url).token(&TokenRequest::default()).await.err().unwrap();
        assert!(matches!(&error, ServiceError::Unreachable(why) if why.contains("certificate")), "{error}");
        assert_eq!(asked.join().unwrap(), "");

        for name in ["mda.pem", "mda.key"] {
            std::fs::copy(other_dir.path().join(name), dir.path().join(name)).unwrap();
        }
        let file = |name| std::fs::read(dir.path().join(name)).unwrap();
        let stranger = |url: &str| Service::new(url, &file("ca.pem"), &file("mda.pem"), &file("mda.key"), &[]).unwrap();
        let (url, asked) = answering(dir.path(), "");
        let error = stranger(&url).token(&TokenRequest::default()).await.err().unwrap();
        assert!(matches!(error, ServiceError::Unreachable(_)), "{error}");
        assert_eq!(asked.join().unwrap(), "");
    }
}
