//! A toy authorization server: it publishes one key and signs access tokens of RFC 9068. No one has to log in.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::json;
use tokio::net::TcpListener;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::server::{CertificateError, DocumentServer};
use writ_platform::clock::Timestamp;

/// `iss` of its tokens.
pub(super) const NAME: &str = "https://login.trust-domain.example";
/// `aud` of its tokens.
pub(super) const AUDIENCE: &str = "https://api.trust-domain.example";
pub(super) const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Why the toy issuer cannot run.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssuerError {
    #[error("no RSA key can be generated: {0}")]
    Make(#[from] rcgen::Error),
    #[error("the key of the toy issuer cannot be used: {0}")]
    Key(#[from] jsonwebtoken::errors::Error),
    #[error("the certificate of the toy issuer cannot be used: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the toy issuer cannot listen on port {port}: {source}")]
    Listen { port: u16, source: io::Error },
}

/// A key, its `kid`, and the published set with it.
pub(super) struct Issuer {
    key: EncodingKey,
    kid: String,
    jwks: String,
}

impl Issuer {
    /// A new RSA key in PEM.
    pub(super) fn new_key() -> Result<Zeroizing<String>, IssuerError> {
        Ok(Zeroizing::new(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?.serialize_pem()))
    }

    pub(super) fn from_pem(key: &str) -> Result<Self, IssuerError> {
        let key = EncodingKey::from_rsa_pem(key.as_bytes())?;
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256)?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let jwks = json!(JwkSet { keys: vec![jwk] }).to_string();
        Ok(Self { key, kid, jwks })
    }

    /// An access token for `subject`, valid for [`LIFETIME`].
    pub(super) fn access_token(
        &self,
        subject: &str,
        scope: &str,
        now: Timestamp,
    ) -> Result<Zeroizing<String>, IssuerError> {
        let mut header = Header::new(Algorithm::RS256);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(self.kid.clone());
        let claims = json!({
            "iss": NAME, "aud": AUDIENCE, "sub": subject, "client_id": "web-app", "scope": scope,
            "iat": now, "exp": now + LIFETIME, "jti": Uuid::new_v4().to_string(),
        });
        Ok(Zeroizing::new(jsonwebtoken::encode(&header, &claims, &self.key)?))
    }

    /// Publishes the keys and the metadata on loopback, with this certificate and key (PEM).
    pub(super) async fn serve(&self, port: u16, certificate: &[u8], key: &[u8]) -> Result<DocumentServer, IssuerError> {
        let listen = |source| IssuerError::Listen { port, source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(listen)?;
        let site = Site { jwks: self.jwks.clone(), metadata: metadata(port) };
        Ok(DocumentServer::start(listener, certificate, key, move |head| site.answer(head))?)
    }
}

/// The documents that it serves.
struct Site {
    jwks: String,
    metadata: String,
}

impl Site {
    /// The response to a request with this head.
    fn answer(&self, head: &[u8]) -> String {
        let first = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let (status, body) = match first {
            b"GET /jwks HTTP/1.1" => ("200 OK", self.jwks.as_str()),
            b"GET /.well-known/openid-configuration HTTP/1.1" => ("200 OK", self.metadata.as_str()),
            _ => ("404 Not Found", "{}"),
        };
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

fn metadata(port: u16) -> String {
    json!({
        "issuer": NAME,
        "jwks_uri": jwks_uri(port),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    })
    .to_string()
}

pub(super) fn jwks_uri(port: u16) -> String {
    format!("https://127.0.0.1:{port}/jwks")
}

/// The file of its key, relative to the folder.
pub(super) fn key_file() -> PathBuf {
    ["issuer", "key.pem"].iter().collect()
}

#[cfg(test)]
mod tests {
    use writ_verifier::jwks::KeySet;
    use writ_verifier::jws::Jws;

    use super::*;

    fn site() -> (Issuer, Site) {
        let issuer = Issuer::from_pem(&Issuer::new_key().unwrap()).unwrap();
        let site = Site { jwks: issuer.jwks.clone(), metadata: metadata(8445) };
        (issuer, site)
    }

    #[test]
    fn tokens_follow_rfc_9068_and_verify_with_the_published_key() {
        let (issuer, _) = site();
        let token = issuer.access_token("ann@d.example", "a b", Timestamp::from_epoch(1_793_000_000)).unwrap();
        let jws = Jws::parse(&token, 4096).unwrap();
        assert_eq!(jws.typ.as_deref(), Some("at+jwt"));
        let keys = KeySet::parse(issuer.jwks.as_bytes()).unwrap();
        assert!(keys.find(jws.kid.as_deref(), jws.algorithm).unwrap().verify(&jws));
        let claims: serde_json::Value = serde_json::from_slice(&jws.payload).unwrap();
        for (name, value) in [("iss", NAME), ("aud", AUDIENCE), ("sub", "ann@d.example"), ("scope", "a b")] {
            assert_eq!(claims[name], value);
        }
        assert_eq!(claims["exp"], 1_793_003_600);
        assert!(claims["client_id"].is_string() && claims["jti"].is_string());
    }

    #[test]
    fn a_kept_key_is_the_same_issuer() {
        let pem = Issuer::new_key().unwrap();
        assert_eq!(Issuer::from_pem(&pem).unwrap().jwks, Issuer::from_pem(&pem).unwrap().jwks);
        assert!(matches!(Issuer::from_pem("no key"), Err(IssuerError::Key(_))));
    }

    #[test]
    fn two_documents_are_served_and_nothing_else() {
        let (issuer, site) = site();
        assert!(site.answer(b"GET /jwks HTTP/1.1\r\nhost: x\r\n\r\n").ends_with(&issuer.jwks));
        let metadata = site.answer(b"GET /.well-known/openid-configuration HTTP/1.1\r\n\r\n");
        assert!(metadata.contains(r#""jwks_uri":"https://127.0.0.1:8445/jwks""#), "{metadata}");
        for head in ["POST /jwks HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "", "\r\n\r\n"] {
            assert!(site.answer(head.as_bytes()).starts_with("HTTP/1.1 404 "), "{head:?}");
        }
    }
}
