//! Results of flows and refusals of the listener → HTTP responses.
//!
//! In: a token, the answer to an introspection, or a refusal. Out: status, headers and JSON.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, ContentType, RETRY_AFTER};
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use writ_verifier::TxnClaims;

use writ_core::exchange::Issued;
use writ_core::introspect::Introspected;
use writ_core::refusal::{OAuthError, Reason, Refusal};
use writ_core::request::TXN_TOKEN_TYPE;
use writ_platform::clock::Timestamp;

/// `token_type`: a Txn-Token is not an access token and must not be used as one (RFC 8693 §2.2.1).
const TOKEN_TYPE: &str = "N_A";

/// The bytes that most bodies need beside a token.
const USUAL_BODY: usize = 384;

/// The least `Retry-After`.
const MIN_RETRY_SECONDS: u64 = 1;

/// Why a request was refused before it reached its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpRefusal {
    /// No resource has this path.
    #[error("there is no such resource")]
    NotFound,
    /// The resource does not allow this method; the value is `Allow`.
    #[error("this resource allows only {0}")]
    MethodNotAllowed(&'static str),
    /// Head, body and work took longer than `limits.request_timeout`.
    #[error("the request took too long")]
    RequestTimeout,
    /// The body is larger than 64 KiB.
    #[error("the body is larger than 64 KiB")]
    BodyTooLarge,
    /// The body is not a plain form.
    #[error("the body must be application/x-www-form-urlencoded, in UTF-8 and without content coding")]
    MediaTypeUnsupported,
    /// The certificate passed the handshake but would not pass one now.
    #[error("the client's certificate is no longer accepted")]
    CertificateRefused,
    /// A fault of the service; its cause is only in the log.
    #[error("internal error")]
    Internal,
    /// The service, or this client's share of it, has reached the maximum number of concurrent requests.
    #[error("the service is handling too many requests, or too many from this client")]
    Overloaded,
    /// The service is draining.
    #[error("the service is shutting down")]
    ShuttingDown,
}

impl HttpRefusal {
    /// Its row of the error table, and whether the connection ends: what follows on it may be the rest of this request.
    const fn row(self) -> (Reason, bool) {
        match self {
            Self::NotFound => (Reason::NotFound, false),
            Self::MethodNotAllowed(_) => (Reason::MethodNotAllowed, false),
            Self::RequestTimeout => (Reason::RequestTimeout, true),
            Self::BodyTooLarge => (Reason::BodyTooLarge, true),
            Self::MediaTypeUnsupported => (Reason::MediaTypeUnsupported, false),
            Self::CertificateRefused => (Reason::ClientUnknown, true),
            Self::Internal => (Reason::Internal, false),
            Self::Overloaded => (Reason::Overloaded, false),
            Self::ShuttingDown => (Reason::ShuttingDown, true),
        }
    }

    /// `error` and HTTP status follow from it.
    pub(crate) const fn reason(self) -> Reason {
        self.row().0
    }

    const fn ends_connection(self) -> bool {
        self.row().1
    }

    /// Whether the service is at fault.
    pub(crate) const fn is_fault(self) -> bool {
        matches!(self.reason().error(), OAuthError::ServerError | OAuthError::TemporarilyUnavailable)
    }
}

/// RFC 6749 §5.2, with `reason` and the times that decided, so that a client does not depend on its own clock.
#[derive(Serialize)]
struct ErrorBody {
    error: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expired_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redeemable_at: Option<Timestamp>,
    error_description: String,
}

/// RFC 8693 §2.2.1, after `access_token`.
#[derive(Serialize)]
struct TokenBody<'a> {
    issued_token_type: &'a str,
    token_type: &'a str,
    expires_in: u64,
    expires_at: Timestamp,
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    redeemable_until: Option<Timestamp>,
}

/// RFC 7662 §2.2: only `active` where that is false.
#[derive(Serialize)]
struct IntrospectionBody<'a> {
    active: bool,
    #[serde(flatten)]
    claims: Option<&'a TxnClaims>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'a str>,
}

pub(super) fn issued(issued: &Issued) -> HttpResponse {
    let token = issued.token().as_str();
    let mut body = Vec::with_capacity(USUAL_BODY + token.len());
    // The longest member needs no escaping, so it is not searched for characters that do.
    body.extend_from_slice(b"{\"access_token\":\"");
    body.extend_from_slice(token.as_bytes());
    body.push(b'"');
    let seam = body.len();
    let rest = TokenBody {
        issued_token_type: TXN_TOKEN_TYPE,
        token_type: TOKEN_TYPE,
        expires_in: issued.expires_in(),
        expires_at: issued.expires_at(),
        scope: issued.scope(),
        redeemable_until: issued.redeemable_until(),
    };
    let written = serde_json::to_writer(&mut body, &rest);
    if let Some(begin) = body.get_mut(seam) {
        *begin = b',';
    }
    complete(HttpResponse::Ok(), written.map(|()| body))
}

pub(super) fn introspected(introspected: &Introspected) -> HttpResponse {
    let body = match introspected {
        Introspected::Active(claims) => {
            IntrospectionBody { active: true, claims: Some(&**claims), token_type: Some(TOKEN_TYPE) }
        }
        Introspected::Inactive => IntrospectionBody { active: false, claims: None, token_type: None },
    };
    json(HttpResponse::Ok(), &body)
}

/// The refusal of a flow.
pub(super) fn refusal(refusal: &Refusal) -> HttpResponse {
    let reason = refusal.reason();
    let mut answer = HttpResponse::build(status(reason));
    if let Some(wait) = refusal.retry_after() {
        answer.insert_header((RETRY_AFTER, whole_seconds(wait)));
    }
    let body = ErrorBody {
        expired_at: refusal.expired_at(),
        redeemable_at: refusal.redeemable_at(),
        ..ErrorBody::new(reason, refusal.description())
    };
    json(answer, &body)
}

/// A refusal of the listener itself. The answer carries it in its extensions, for the middleware that records it.
pub(super) fn http(refusal: HttpRefusal) -> HttpResponse {
    let reason = refusal.reason();
    let mut answer = HttpResponse::build(status(reason));
    if reason.error() == OAuthError::TemporarilyUnavailable {
        answer.insert_header((RETRY_AFTER, MIN_RETRY_SECONDS));
    }
    if let HttpRefusal::MethodNotAllowed(methods) = refusal {
        answer.insert_header((ALLOW, methods));
    }
    if refusal.ends_connection() {
        answer.force_close();
    }
    let mut answer = json(answer, &ErrorBody::new(reason, refusal.to_string()));
    answer.extensions_mut().insert(refusal);
    answer
}

fn json(answer: HttpResponseBuilder, body: &impl Serialize) -> HttpResponse {
    let mut text = Vec::with_capacity(USUAL_BODY);
    let written = serde_json::to_writer(&mut text, body);
    complete(answer, written.map(|()| text))
}

/// Completes an answer with a body. The bodies of this module always have a JSON form.
fn complete(mut answer: HttpResponseBuilder, body: serde_json::Result<Vec<u8>>) -> HttpResponse {
    match body {
        Ok(body) => answer.insert_header(ContentType::json()).body(body),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

impl ErrorBody {
    fn new(reason: Reason, error_description: String) -> Self {
        let (error, reason) = (reason.error().as_str(), reason.as_str());
        Self { error, reason, expired_at: None, redeemable_at: None, error_description }
    }
}

/// [`Reason::status`] is the one of the table; every status in it is a valid one.
fn status(reason: Reason) -> StatusCode {
    StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Rounded up, and at least one.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(MIN_RETRY_SECONDS)
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::rt::System;
    use serde_json::{Value, json};

    use super::*;
    use writ_core::client::ClientError;
    use writ_core::limits::RateLimited;
    use writ_core::subject::{SubjectError, SubjectFault};

    fn body(answer: HttpResponse) -> Value {
        let bytes = System::new().block_on(to_bytes(answer.into_body())).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn a_token_is_answered_with_its_times_and_scope() {
        let token = Issued::unsigned("a.b.c", "mailbox.deliver", 1_793_000_060, None);
        let expected = json!({
            "access_token": "a.b.c", "issued_token_type": "urn:ietf:params:oauth:token-type:txn_token",
            "token_type": "N_A", "expires_in": 60, "expires_at": 1_793_000_060, "scope": "mailbox.deliver",
        });
        assert_eq!(body(issued(&token)), expected);
        let on_record = Issued::unsigned("a.b.c", "mailbox.deliver", 1_793_000_060, Some(1_800_000_000));
        assert_eq!(body(issued(&on_record))["redeemable_until"], json!(1_800_000_000));
    }

    /// R-INTRO-06, R-INTRO-07: digit for digit, and nothing at all of what is not active.
    #[test]
    fn an_introspected_token_is_shown_as_it_was_signed() {
        let text = r#""iat":1,"exp":61,"aud":"d.example","txn":"t","sub":"u","scope":"a b","req_wl":"c","tctx":{"n":100000000000000000001,"rate":0.10}"#;
        let claims = serde_json::from_str(&format!("{{{text}}}")).unwrap();
        let written = |answer: HttpResponse| System::new().block_on(to_bytes(answer.into_body())).unwrap();
        let active = written(introspected(&Introspected::Active(Box::new(claims))));
        assert_eq!(active, format!(r#"{{"active":true,{text},"token_type":"N_A"}}"#));
        assert_eq!(written(introspected(&Introspected::Inactive)), r#"{"active":false}"#);
    }

    #[test]
    fn a_refusal_says_the_time_that_decided() {
        let answer = refusal(
            &SubjectError::from(SubjectFault::Expired { expired_at: Timestamp::from_epoch(1_793_000_060) }).into(),
        );
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let expected = json!({
            "error": "invalid_request", "reason": "subject_token_expired", "expired_at": 1_793_000_060,
            "error_description": "the subject token expired at 2026-10-26T07:34:20Z",
        });
        assert_eq!(body(answer), expected);
    }

    #[test]
    fn the_answer_has_the_status_of_the_table() {
        for cause in writ_core::refusal::samples::all() {
            assert_eq!(refusal(&cause).status().as_u16(), cause.reason().status(), "{cause}");
        }
        assert!(Reason::ALL.iter().all(|reason| status(*reason).as_u16() == reason.status()));
    }

    #[test]
    fn a_refusal_that_passes_says_when_to_retry() {
        assert_eq!(
            refusal(&RateLimited { retry_after: Duration::from_millis(1) }.into()).headers().get(RETRY_AFTER).unwrap(),
            "1"
        );
        assert_eq!(http(HttpRefusal::Overloaded).headers().get(RETRY_AFTER).unwrap(), "1");
        assert!(refusal(&Refusal::Client(ClientError::Unknown)).headers().get(RETRY_AFTER).is_none());
        assert!(http(HttpRefusal::NotFound).headers().get(RETRY_AFTER).is_none());
    }

    #[test]
    fn a_wrong_method_is_answered_with_the_right_ones() {
        let answer = http(HttpRefusal::MethodNotAllowed("POST"));
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers().get(ALLOW).unwrap(), "POST");
        assert_eq!(body(answer)["reason"], "method_not_allowed");
    }
}
