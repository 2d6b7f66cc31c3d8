//! Whether a downstream service would take a token.

use std::path::PathBuf;
use std::time::SystemTime;

use reqwest::StatusCode;
use url::Url;
use writ_verifier::jwks::KeySet;
use writ_verifier::{BuildError, TxnToken, Verifier, VerifyError};

use super::http::{Http, Resolve, body, unreachable};
use super::{TokenError, read};

/// Where the keys of the service are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keys {
    Url(String),
    File(PathBuf),
}

impl From<&str> for Keys {
    fn from(text: &str) -> Self {
        if text.starts_with("https://") || text.starts_with("http://") {
            Self::Url(text.to_owned())
        } else {
            Self::File(text.into())
        }
    }
}

/// What a downstream service would say to `token`; where the keys cannot be had, with the cause.
pub(super) async fn verify(
    audience: &str,
    keys: &Keys,
    ca: Option<&[u8]>,
    resolve: &[Resolve],
    token: &str,
) -> Result<(Result<TxnToken, VerifyError>, Option<String>), TokenError> {
    let verifier = verifier(audience, keys, ca)?;
    let Keys::Url(url) = keys else { return Ok((verifier.verify(token).await, None)) };
    match fetch(url, &Http::new(ca, None, resolve)?).await {
        Ok(set) => Ok((verifier.verify_at(token, &set, SystemTime::now()), None)),
        Err(cause) => Ok((Err(VerifyError::KeysUnavailable), Some(cause))),
    }
}

async fn fetch(url: &str, http: &Http) -> Result<KeySet, String> {
    let url = Url::parse(url).map_err(|cause| cause.to_string())?;
    let response = http.to(&url).get(url.clone()).send().await.map_err(|error| unreachable(&error).to_string())?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(format!("{url} answered {status}"));
    }
    let body = body(response).await.map_err(|error| error.to_string())?;
    KeySet::parse(&body).map_err(|cause| format!("{url}: {cause}"))
}

/// A verifier for `audience` with these keys; `ca` (PEM) instead of the roots of the system.
fn verifier(audience: &str, keys: &Keys, ca: Option<&[u8]>) -> Result<Verifier, TokenError> {
    let builder = Verifier::builder(audience);
    let mut builder = match keys {
        Keys::Url(url) => builder.jwks_url(url),
        Keys::File(path) => builder.jwks_json(read(path)?.to_vec()),
    };
    if let Some(ca) = ca {
        builder = builder.root_certificate_pem(ca)?;
    }
    Ok(builder.build()?)
}

impl From<BuildError> for TokenError {
    fn from(error: BuildError) -> Self {
        Self::Verifier(error)
    }
}

/// `{"valid":bool,"reason"}`
pub(super) fn to_json(verified: &Result<TxnToken, VerifyError>) -> String {
    let reason = verified.as_ref().err().map(VerifyError::reason);
    serde_json::json!({ "valid": verified.is_ok(), "reason": reason }).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use rcgen::KeyPair;
    use serde_json::json;

    use super::*;
    use writ_platform::clock::Timestamp;

    fn keys(dir: &Path, key: &KeyPair) -> Keys {
        let part = |range| URL_SAFE_NO_PAD.encode(&key.public_key_raw()[range]);
        let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "use": "sig", "x": part(1..33), "y": part(33..65)});
        let path = dir.join("jwks.json");
        std::fs::write(&path, json!({ "keys": [jwk] }).to_string()).unwrap();
        Keys::from(path.to_str().unwrap())
    }

    fn token(key: &KeyPair, exp: Timestamp) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some("txntoken+jwt".to_owned());
        header.kid = Some("k".to_owned());
        let claims = json!({
            "iat": exp.epoch() - 60, "exp": exp.epoch(), "aud": "d.example", "txn": "0199c0de-0000-7000-8000-000000000000",
            "sub": "a@d.example", "scope": "mailbox.deliver", "req_wl": "mda",
        });
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(&key.serialize_der())).unwrap()
    }

    #[tokio::test]
    async fn a_token_is_judged_as_a_downstream_service_does() {
        let (dir, key) = (tempfile::tempdir().unwrap(), KeyPair::generate().unwrap());
        let keys = keys(dir.path(), &key);
        let fresh = token(&key, Timestamp::now() + std::time::Duration::from_secs(60));
        let verified = verifier("d.example", &keys, None).unwrap().verify(&fresh).await;
        assert_eq!(to_json(&verified), r#"{"reason":null,"valid":true}"#);

        let stale = token(&key, Timestamp::from_epoch(1_793_000_060));
        for (audience, text, reason) in [
            ("other.example", fresh.clone(), "token_audience_mismatch"),
            ("d.example", stale, "token_expired"),
            ("d.example", token(&KeyPair::generate().unwrap(), Timestamp::now()), "token_signature_invalid"),
            ("d.example", "a.b.c".to_owned(), "token_malformed"),
        ] {
            let verified = verifier(audience, &keys, None).unwrap().verify(&text).await;
            assert_eq!(to_json(&verified), format!(r#"{{"reason":"{reason}","valid":false}}"#));
        }
    }

    #[test]
    fn what_no_verifier_can_be_made_of_is_told() {
        assert_eq!(Keys::from("https://t/jwks.json"), Keys::Url("https://t/jwks.json".to_owned()));
        let missing = verifier("d.example", &Keys::from("/nowhere/jwks.json"), None);
        assert!(matches!(missing, Err(TokenError::Io { .. })));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(verifier("d.example", &Keys::File(path), None), Err(TokenError::Verifier(_))));
        let url = Keys::from("https://t.example/jwks.json");
        assert!(matches!(verifier("d.example", &url, Some(b"no PEM")), Err(TokenError::Verifier(_))));
    }
}
