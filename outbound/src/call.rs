//! One HTTP call: request → answer.

use std::fmt;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode};
use url::Url;

use crate::cause::explain;

/// The maximum length of an answer's body in bytes.
pub(crate) const MAX_BODY: usize = 64 * 1024;

/// A `POST` request.
#[derive(Debug, Clone)]
pub struct Request {
    headers: HeaderMap,
    body: Vec<u8>,
}

/// The value is not valid in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header may contain only visible ASCII characters")]
pub struct InvalidHeader;

impl Request {
    /// A JSON body.
    pub fn json(body: Vec<u8>) -> Self {
        Self::new("application/json", body)
    }

    /// A body of `application/x-www-form-urlencoded`.
    pub fn form(body: Vec<u8>) -> Self {
        Self::new("application/x-www-form-urlencoded", body)
    }

    fn new(content_type: &'static str, body: Vec<u8>) -> Self {
        let headers = HeaderMap::from_iter([
            (ACCEPT, HeaderValue::from_static("application/json")),
            (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        ]);
        Self { headers, body }
    }

    /// Adds `Authorization`, which `Debug` does not show.
    ///
    /// # Errors
    /// [`InvalidHeader`]
    pub fn authorize(mut self, credentials: &str) -> Result<Self, InvalidHeader> {
        let mut credentials = HeaderValue::from_str(credentials).map_err(|_| InvalidHeader)?;
        credentials.set_sensitive(true);
        self.headers.insert(AUTHORIZATION, credentials);
        Ok(self)
    }

    /// Adds `X-Request-Id`.
    ///
    /// # Errors
    /// [`InvalidHeader`]
    pub fn identify(mut self, request_id: &str) -> Result<Self, InvalidHeader> {
        let id = HeaderValue::from_str(request_id).map_err(|_| InvalidHeader)?;
        self.headers.insert(HeaderName::from_static("x-request-id"), id);
        Ok(self)
    }
}

/// An HTTP status; shown with its reason phrase.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(StatusCode);

impl Status {
    /// 200
    pub const OK: Self = Self(StatusCode::OK);

    /// The number.
    pub fn as_u16(self) -> u16 {
        self.0.as_u16()
    }

    /// Whether it is 502, 503 or 504, which a gateway returns if the service behind it is unavailable.
    fn is_gateway_error(self) -> bool {
        [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT].contains(&self.0)
    }
}

/// A number from 100 to 999.
impl TryFrom<u16> for Status {
    type Error = InvalidStatus;

    fn try_from(number: u16) -> Result<Self, InvalidStatus> {
        StatusCode::from_u16(number).map(Self).map_err(|_| InvalidStatus)
    }
}

/// The number is not an HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an HTTP status is a number from 100 to 999")]
pub struct InvalidStatus;

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The answer of a service. No redirect was followed and nothing was decompressed.
#[derive(Debug)]
pub struct Answer {
    /// Any status below 500.
    pub status: Status,
    /// At most 64 KiB.
    pub body: Vec<u8>,
}

/// Why there is no answer. The text is for the log and contains nothing of the request.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// Not called, because the last five calls failed and it is too soon for another attempt.
    #[error("it was not called: the last calls failed")]
    Resting,
    /// Not called, because too many calls are in progress, for all clients together or for this one.
    #[error("it was not called: too many calls are in progress")]
    Busy,
    /// No complete answer in time.
    #[error("it took too long")]
    Timeout,
    /// The connection failed, or ended before the answer was complete.
    #[error("{0}")]
    Broken(String),
    /// A status of 500 or more.
    #[error("the answer was {0}")]
    Failing(Status),
    /// A body of more than 64 KiB.
    #[error("the answer is too long")]
    TooLong,
    /// The task of the call was cancelled, or panicked.
    #[error("the call was cancelled")]
    GivenUp,
}

impl Unreachable {
    /// Whether the service seems to be unavailable. Any other failure may be caused by one client's request, and must not
    /// block other clients.
    pub(crate) fn is_unavailability(&self) -> bool {
        match self {
            Self::Timeout | Self::Broken(_) => true,
            Self::Failing(status) => status.is_gateway_error(),
            Self::Resting | Self::Busy | Self::TooLong | Self::GivenUp => false,
        }
    }
}

impl From<reqwest::Error> for Unreachable {
    fn from(error: reqwest::Error) -> Self {
        // The address may have a secret query.
        Self::Broken(explain(&error.without_url()))
    }
}

/// Sends `request`, and once more if the connection failed or the status is 500 or more.
pub(crate) async fn post_with_retry(client: &Client, endpoint: &Url, request: &Request) -> Result<Answer, Unreachable> {
    match post(client, endpoint, request).await {
        Err(Unreachable::Broken(_) | Unreachable::Failing(_)) => post(client, endpoint, request).await,
        outcome => outcome,
    }
}

async fn post(client: &Client, endpoint: &Url, request: &Request) -> Result<Answer, Unreachable> {
    let call = client.post(endpoint.clone()).headers(request.headers.clone()).body(request.body.clone());
    let mut response = call.send().await?;
    let status = Status(response.status());
    if response.status().is_server_error() {
        return Err(Unreachable::Failing(status));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Unreachable::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        let request = Request::form(Vec::new()).authorize("Basic c2VjcmV0").unwrap();
        assert_eq!(request.headers[AUTHORIZATION], "Basic c2VjcmV0");
        assert!(!format!("{request:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn a_request_has_its_id() {
        assert_eq!(Request::json(Vec::new()).identify("a.b-c_1").unwrap().headers["x-request-id"], "a.b-c_1");
        assert_eq!(Request::json(Vec::new()).identify("a\nb").unwrap_err(), InvalidHeader);
    }
}
