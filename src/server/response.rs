//! Token, answer about one, or refusal → HTTP.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER};
use serde::Serialize;
use writ_verifier::TxnClaims;

use writ_core::exchange::Issued;
use writ_core::introspect::Introspected;
use writ_core::refusal::Refusal;
use writ_core::request::TXN_TOKEN_TYPE;
use writ_platform::clock::Timestamp;

/// `token_type`: a Txn-Token is no access token, and nothing takes it as `Bearer` (RFC 8693 §2.2.1).
const TOKEN_TYPE: &str = "N_A";

/// What a client that is turned away for now waits at least.
const RETRY_SECONDS: u64 = 1;

/// A request that never reached the room it was meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpRefusal {
    /// No resource has this path.
    #[error("there is no such resource")]
    NotFound,
    /// The resource does not take this method; the value lists those it takes.
    #[error("this resource takes only {0}")]
    MethodNotAllowed(&'static str),
    /// Head, body and work took longer than `limits.request_timeout`.
    #[error("the request took too long")]
    RequestTimeout,
    /// The body is larger than what is ever read.
    #[error("the body is larger than 64 KiB")]
    BodyTooLarge,
    /// The body is no plain form.
    #[error("the body must be application/x-www-form-urlencoded, in UTF-8 and without content coding")]
    MediaTypeUnsupported,
    /// The certificate was accepted in the handshake and is not any more.
    #[error("the client's certificate is not accepted any more")]
    CertificateRefused,
    /// Our own failure; its cause is in the log alone.
    #[error("the service failed; its log says why")]
    Internal,
    /// More requests are being worked on than the service takes, or than the client has a share in.
    #[error("too many requests are being worked on, or too many of this client")]
    Overloaded,
    /// The service stops.
    #[error("the service is shutting down")]
    ShuttingDown,
}

impl HttpRefusal {
    /// The code of RFC 6749 §5.2.
    pub const fn error(self) -> &'static str {
        match self {
            Self::NotFound
            | Self::MethodNotAllowed(_)
            | Self::RequestTimeout
            | Self::BodyTooLarge
            | Self::MediaTypeUnsupported => "invalid_request",
            Self::CertificateRefused => "invalid_client",
            Self::Internal => "server_error",
            Self::Overloaded | Self::ShuttingDown => "temporarily_unavailable",
        }
    }

    /// The stable code of this service.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::MediaTypeUnsupported => "media_type_unsupported",
            Self::CertificateRefused => "client_unknown",
            Self::Internal => "internal",
            Self::Overloaded => "overloaded",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// Whether the fault is ours.
    pub const fn is_fault(self) -> bool {
        matches!(self, Self::Internal | Self::Overloaded | Self::ShuttingDown)
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaTypeUnsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::CertificateRefused => StatusCode::UNAUTHORIZED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Overloaded | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether nothing more is to be read from the connection: what follows may be the rest of this request.
    const fn ends_connection(self) -> bool {
        matches!(self, Self::RequestTimeout | Self::BodyTooLarge | Self::CertificateRefused | Self::ShuttingDown)
    }
}

/// RFC 6749 §5.2 with `reason` and, where they help, the times that a client would otherwise have to guess.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expired_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redeemable_at: Option<Timestamp>,
    error_description: String,
}

/// RFC 8693 §2.2.1.
#[derive(Serialize)]
struct TokenBody<'a> {
    access_token: &'a str,
    issued_token_type: &'a str,
    token_type: &'a str,
    expires_in: u64,
    expires_at: Timestamp,
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    redeemable_until: Option<Timestamp>,
}

/// RFC 7662 §2.2: nothing but `active` where that is false.
#[derive(Serialize)]
struct IntrospectionBody<'a> {
    active: bool,
    #[serde(flatten)]
    claims: Option<&'a TxnClaims>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'a str>,
}

/// A token that leaves.
pub fn issued(issued: &Issued) -> HttpResponse {
    HttpResponse::Ok().json(TokenBody {
        access_token: issued.token.as_str(),
        issued_token_type: TXN_TOKEN_TYPE,
        token_type: TOKEN_TYPE,
        expires_in: issued.expires_in,
        expires_at: issued.expires_at,
        scope: &issued.scope,
        redeemable_until: issued.redeemable_until,
    })
}

/// What is known of a token.
pub fn introspected(introspected: &Introspected) -> HttpResponse {
    HttpResponse::Ok().json(match introspected {
        Introspected::Active(claims) => {
            IntrospectionBody { active: true, claims: Some(&**claims), token_type: Some(TOKEN_TYPE) }
        }
        Introspected::Inactive => IntrospectionBody { active: false, claims: None, token_type: None },
    })
}

/// A refusal of the rooms below.
pub fn refusal(refusal: &Refusal) -> HttpResponse {
    let code = refusal.code();
    let status = status_of(code.error, code.reason);
    let mut answer = HttpResponse::build(status);
    if let Some(seconds) = retry_after(status, refusal) {
        answer.insert_header((RETRY_AFTER, seconds));
    }
    answer.json(ErrorBody {
        error: code.error,
        reason: code.reason,
        expired_at: refusal.expired_at(),
        redeemable_at: refusal.redeemable_at(),
        error_description: refusal.description(),
    })
}

/// A refusal of the listener itself. The answer carries it in its extensions, for whoever counts and records.
pub fn http(refusal: HttpRefusal) -> HttpResponse {
    let mut answer = HttpResponse::build(refusal.status());
    if refusal.status() == StatusCode::SERVICE_UNAVAILABLE {
        answer.insert_header((RETRY_AFTER, RETRY_SECONDS));
    }
    if let HttpRefusal::MethodNotAllowed(methods) = refusal {
        answer.insert_header((ALLOW, methods));
    }
    if refusal.ends_connection() {
        answer.force_close();
    }
    let mut answer = answer.json(ErrorBody {
        error: refusal.error(),
        reason: refusal.reason(),
        expired_at: None,
        redeemable_at: None,
        error_description: refusal.to_string(),
    });
    answer.extensions_mut().insert(refusal);
    answer
}

/// The contract's first column (3.6).
fn status_of(error: &str, reason: &str) -> StatusCode {
    match (error, reason) {
        ("invalid_client", _) => StatusCode::UNAUTHORIZED,
        ("unauthorized_client", "introspection_not_allowed") => StatusCode::FORBIDDEN,
        ("invalid_request", "request_timeout") => StatusCode::REQUEST_TIMEOUT,
        ("temporarily_unavailable", "rate_limited") => StatusCode::TOO_MANY_REQUESTS,
        ("temporarily_unavailable", _) => StatusCode::SERVICE_UNAVAILABLE,
        ("server_error", _) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Whole seconds, rounded up and at least one.
fn retry_after(status: StatusCode, refusal: &Refusal) -> Option<u64> {
    let busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let wait = refusal.retry_after().unwrap_or_default();
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    busy.then(|| seconds.max(RETRY_SECONDS))
}

#[cfg(test)]
mod description;

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::rt::System;
    use serde_json::{Value, json};

    use super::*;
    use std::time::Duration;

    use writ_core::client::ClientError;
    use writ_core::keys::TxnToken;
    use writ_core::limits::RateLimited;
    use writ_core::subject::{SubjectError, SubjectFault};

    fn body(answer: HttpResponse) -> Value {
        let bytes = System::new().block_on(to_bytes(answer.into_body())).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn a_token_comes_with_what_its_holder_must_know() {
        let token = Issued {
            token: TxnToken::unsigned("a.b.c"),
            expires_in: 60,
            expires_at: Timestamp::from_epoch(1_793_000_060),
            scope: "mailbox.deliver".to_owned(),
            redeemable_until: None,
        };
        let expected = json!({
            "access_token": "a.b.c", "issued_token_type": "urn:ietf:params:oauth:token-type:txn_token",
            "token_type": "N_A", "expires_in": 60, "expires_at": 1_793_000_060, "scope": "mailbox.deliver",
        });
        assert_eq!(body(issued(&token)), expected);
        let on_record = Issued { redeemable_until: Some(Timestamp::from_epoch(1_800_000_000)), ..token };
        assert_eq!(body(issued(&on_record))["redeemable_until"], json!(1_800_000_000));
    }

    /// R-INTRO-06, R-INTRO-07: digit for digit, and nothing at all of what is not active.
    #[test]
    fn a_token_is_told_as_it_was_signed() {
        let text = r#""iat":1,"exp":61,"aud":"d.example","txn":"t","sub":"u","scope":"a b","req_wl":"c","tctx":{"n":100000000000000000001,"rate":0.10}"#;
        let claims = serde_json::from_str(&format!("{{{text}}}")).unwrap();
        let written = |answer: HttpResponse| System::new().block_on(to_bytes(answer.into_body())).unwrap();
        let active = written(introspected(&Introspected::Active(Box::new(claims))));
        assert_eq!(active, format!(r#"{{"active":true,{text},"token_type":"N_A"}}"#));
        assert_eq!(written(introspected(&Introspected::Inactive)), r#"{"active":false}"#);
    }

    #[test]
    fn a_refusal_tells_the_time_that_it_turns_on() {
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
    fn status_follows_error_and_reason() {
        for (error, reason, status) in [
            ("invalid_request", "parameter_missing", 400),
            ("invalid_scope", "purpose_not_allowed", 400),
            ("unauthorized_client", "source_not_allowed", 400),
            ("unauthorized_client", "introspection_not_allowed", 403),
            ("invalid_client", "client_ambiguous", 401),
            ("temporarily_unavailable", "rate_limited", 429),
            ("temporarily_unavailable", "store_unavailable", 503),
            ("server_error", "internal", 500),
        ] {
            assert_eq!(status_of(error, reason).as_u16(), status, "{error}/{reason}");
        }
    }

    #[test]
    fn whoever_is_turned_away_for_now_is_told_when_to_come_back() {
        assert_eq!(
            refusal(&RateLimited { retry_after: Duration::from_millis(1) }.into()).headers().get(RETRY_AFTER).unwrap(),
            "1"
        );
        assert_eq!(http(HttpRefusal::Overloaded).headers().get(RETRY_AFTER).unwrap(), "1");
        assert!(refusal(&Refusal::Client(ClientError::Unknown)).headers().get(RETRY_AFTER).is_none());
        assert!(http(HttpRefusal::NotFound).headers().get(RETRY_AFTER).is_none());
    }

    #[test]
    fn a_wrong_method_learns_the_right_ones() {
        let answer = http(HttpRefusal::MethodNotAllowed("POST"));
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers().get(ALLOW).unwrap(), "POST");
        assert_eq!(body(answer)["reason"], "method_not_allowed");
    }
}
