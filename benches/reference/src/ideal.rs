//! The least that an exchange of a JWT for a Txn-Token can be: parse, verify, sign, answer.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, PRAGMA};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use uuid::Uuid;

use super::Error;

/// Lifetime of a Txn-Token, in seconds.
const LIFETIME: u64 = 60;
const TXN_TOKEN: &str = "urn:ietf:params:oauth:token-type:txn_token";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// Its own signing key, and the keys of one issuer by `kid`.
pub(crate) struct Ideal {
    issuer: String,
    audience: String,
    keys: HashMap<String, (Algorithm, ParsedPublicKey)>,
    signer: EcdsaKeyPair,
    /// The first part of every token that it signs.
    header: String,
    random: SystemRandom,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    ES256,
    RS256,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    alg: Algorithm,
    #[serde(flatten)]
    key: Numbers,
}

/// base64url.
#[derive(Deserialize)]
#[serde(untagged)]
enum Numbers {
    Ec { x: String, y: String },
    Rsa { n: String, e: String },
}

#[derive(Deserialize)]
struct Header<'a> {
    alg: Algorithm,
    #[serde(borrow)]
    kid: Cow<'a, str>,
    #[serde(borrow)]
    typ: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Subject<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    #[serde(borrow)]
    aud: Cow<'a, str>,
    exp: u64,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: u64,
    exp: u64,
    aud: &'a str,
    txn: &'a str,
    sub: &'a str,
    scope: &'a str,
    req_wl: &'a str,
}

#[derive(Serialize)]
struct Answer<'a> {
    access_token: &'a str,
    issued_token_type: &'a str,
    token_type: &'a str,
    expires_in: u64,
    scope: &'a str,
}

/// The parameters of a request.
#[derive(Default)]
struct Form<'a> {
    grant_type: Cow<'a, str>,
    requested_token_type: Cow<'a, str>,
    audience: Cow<'a, str>,
    scope: Cow<'a, str>,
    subject_token: Cow<'a, str>,
    subject_token_type: Cow<'a, str>,
}

impl Ideal {
    /// Parses every key once, and makes one to sign with.
    pub(crate) fn load(jwks: &str, issuer: &str, audience: &str) -> Result<Self, Error> {
        let jwks: Jwks = serde_json::from_slice(&std::fs::read(jwks)?)?;
        let mut keys = HashMap::new();
        for jwk in jwks.keys {
            keys.insert(jwk.kid, (jwk.alg, jwk.key.parse()?));
        }
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"txntoken+jwt","alg":"ES256","kid":"reference"}"#);
        Ok(Self {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            keys,
            signer: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
            header,
            random: SystemRandom::new(),
        })
    }

    /// Answers one request; 400 without a body for whatever it does not grant.
    pub(crate) fn exchange(&self, body: &[u8]) -> HttpResponse {
        self.issue(body).unwrap_or_else(|| HttpResponse::BadRequest().finish())
    }

    fn issue(&self, body: &[u8]) -> Option<HttpResponse> {
        let form = Form::parse(body)?;
        if form.grant_type != TOKEN_EXCHANGE
            || form.requested_token_type != TXN_TOKEN
            || form.subject_token_type != ACCESS_TOKEN
        {
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        let claims = self.verify(&form.subject_token)?;
        let subject: Subject = serde_json::from_slice(&claims).ok()?;
        if subject.iss != self.issuer || subject.aud != self.audience || subject.exp <= now {
            return None;
        }
        let token = self.sign(&Claims {
            iss: &self.issuer,
            iat: now,
            exp: now + LIFETIME,
            aud: &form.audience,
            txn: Uuid::now_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer()),
            sub: &subject.sub,
            scope: &form.scope,
            req_wl: "client",
        })?;
        let answer = Answer {
            access_token: &token,
            issued_token_type: TXN_TOKEN,
            token_type: "N_A",
            expires_in: LIFETIME,
            scope: &form.scope,
        };
        let mut response = HttpResponse::Ok();
        Some(response.insert_header((CACHE_CONTROL, "no-store")).insert_header((PRAGMA, "no-cache")).json(answer))
    }

    /// The claims of a token with a valid signature.
    fn verify(&self, token: &str) -> Option<Vec<u8>> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header = URL_SAFE_NO_PAD.decode(header).ok()?;
        let header: Header = serde_json::from_slice(&header).ok()?;
        let (algorithm, key) = self.keys.get(&*header.kid)?;
        if header.alg != *algorithm || header.typ != "at+jwt" {
            return None;
        }
        key.verify_sig(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        URL_SAFE_NO_PAD.decode(claims).ok()
    }

    fn sign(&self, claims: &Claims) -> Option<String> {
        let claims = serde_json::to_vec(claims).ok()?;
        let mut token = String::with_capacity(self.header.len() + claims.len() * 4 / 3 + 92);
        token.push_str(&self.header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self.signer.sign(&self.random, token.as_bytes()).ok()?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Some(token)
    }
}

impl Numbers {
    fn parse(self) -> Result<ParsedPublicKey, Error> {
        match self {
            Self::Ec { x, y } => {
                let point = [&[4][..], &URL_SAFE_NO_PAD.decode(x)?, &URL_SAFE_NO_PAD.decode(y)?].concat();
                Ok(ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)?)
            }
            Self::Rsa { n, e } => {
                let key = RsaPublicKeyComponents { n: URL_SAFE_NO_PAD.decode(n)?, e: URL_SAFE_NO_PAD.decode(e)? };
                Ok(key.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)?)
            }
        }
    }
}

impl<'a> Form<'a> {
    /// `None` for a parameter that it does not know.
    fn parse(body: &'a [u8]) -> Option<Self> {
        let mut form = Self::default();
        for (name, value) in form_urlencoded::parse(body) {
            *match &*name {
                "grant_type" => &mut form.grant_type,
                "requested_token_type" => &mut form.requested_token_type,
                "audience" => &mut form.audience,
                "scope" => &mut form.scope,
                "subject_token" => &mut form.subject_token,
                "subject_token_type" => &mut form.subject_token_type,
                _ => return None,
            } = value;
        }
        Some(form)
    }
}
