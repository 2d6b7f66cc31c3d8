//! The common parts of `/token` and `/introspect`: the request as received from the listener, client authentication, and
//! the guarantees of a flow.
//!
//! In: an [`IncomingRequest`]. Out: the answer of the flow, after its audit event was written. Work that has begun is
//! finished even if the client disconnects, a panic becomes a refusal, and all waiting ends at the request's deadline.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::mpsc;

pub use crate::audit::Endpoint;
use crate::audit::{Audit, AuditContext, Event};
use crate::blocks::Blocks;
use crate::claims;
use crate::client::{ClientError, ClientId, PeerCertificate};
use crate::exchange_metrics::ExchangeMetrics;
use crate::keys::KeyRing;
use crate::keys::ring::{Found, VerifyingKey};
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::pdp::Pdp;
use crate::policy::{ClientPolicy, Policies, PolicySet};
use crate::refusal::Refusal;
use crate::request::{Form, RequestError};
use crate::subject::issuers::Issuers;
use crate::subject::own_token::{KnownKey, SignedBy};
use writ_platform::clock::Clock;
use writ_platform::deadline::before;
use writ_platform::shares::Place;
use writ_platform::telemetry::LogError;

/// The time allowed for writing an audit event after the request's deadline.
const AUDIT_GRACE: Duration = Duration::from_millis(50);

/// A request as received from the listener: the proven identity, and a body that has not been parsed.
pub struct IncomingRequest {
    /// The client certificate of the connection, accepted for this request.
    pub certificate: Arc<PeerCertificate>,
    /// Whether the request has an `Authorization` header, which is refused (RFC 6749 §2.3: one method only).
    pub has_authorization: bool,
    /// The form, not yet parsed.
    pub body: Vec<u8>,
    /// `X-Request-Id`, for logs and responses.
    pub request_id: Arc<str>,
    /// From `traceparent`.
    pub trace_id: Option<Arc<str>>,
    /// The deadline for all waiting, computed once when the request arrived.
    pub deadline: Instant,
    /// A place among the concurrent requests; released when the work is done, not when the client disconnects.
    pub place: Place<Option<ClientId>>,
}

/// Held by every running flow; the receiver ends when the last one has finished.
pub type InFlight = mpsc::Sender<std::convert::Infallible>;

/// Everything that the flows of `/token` ([`exchange`](Self::exchange)) and `/introspect`
/// ([`introspect`](Self::introspect)) depend on.
pub struct TokenService {
    /// Settings that apply to every token.
    pub settings: claims::Settings,
    /// The policies in force.
    pub policies: Arc<Policies>,
    /// The external decision point, if one is configured.
    pub pdp: Option<Arc<Pdp>>,
    /// The issuers of subject tokens.
    pub issuers: Arc<Issuers>,
    /// The signing key, and the keys that may have signed a Txn-Token.
    pub keys: Arc<KeyRing>,
    /// Spent uses and tokens on record.
    pub ledger: Arc<Ledger>,
    /// The kill switch.
    pub blocks: Arc<Blocks>,
    /// Read once for each request.
    pub clock: Arc<Clock>,
    /// The rate limit of each client, over both endpoints.
    pub limits: Arc<Limits>,
    /// Where every outcome is recorded.
    pub audit: Audit,
    /// Counts every exchange.
    pub metrics: ExchangeMetrics,
    /// Cloned into each flow, and dropped at its end.
    pub in_flight: InFlight,
}

impl IncomingRequest {
    /// Waits for `work` until the deadline; `late` is the error if it passes.
    pub(crate) async fn wait_for<T, E: Into<Refusal>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
        late: impl FnOnce() -> E,
    ) -> Result<T, Refusal> {
        before(self.deadline, work).await.unwrap_or_else(|| Err(late())).map_err(Into::into)
    }

    pub(crate) fn audit_context<'r>(&'r self, policies: &'r PolicySet) -> AuditContext<'r> {
        AuditContext::new(&self.request_id, self.trace_id.as_deref(), &self.certificate).with_policies(policies)
    }

    /// Identifies the client. In order: certificate, form, `client_id`, no other client authentication.
    ///
    /// # Errors
    /// The first [`Refusal`] in that order: a client without a policy learns nothing about its form.
    pub(crate) fn authenticate<'a>(
        &self,
        policies: &'a PolicySet,
        limits: &Limits,
        context: &mut AuditContext<'a>,
    ) -> Result<(&'a ClientPolicy, Form), Refusal> {
        if Instant::now() >= self.deadline {
            return Err(Refusal::Timeout); // reading the body used up the time
        }
        let candidates = policies.candidates(&self.certificate).or_else(|unknown| {
            limits.take(None)?;
            tracing::warn!(
                request_id = &*self.request_id,
                names = crate::client::offered(&self.certificate),
                thumbprint = self.certificate.x5t_s256(),
                near = policies.near_match(&self.certificate),
                "no policy names this certificate"
            );
            Err(Refusal::from(unknown))
        })?;
        let form = Form::parse(&self.body)?;
        let client = candidates.choose(form.client_id()).inspect_err(|error| {
            tracing::info!(
                request_id = &*self.request_id,
                clients = %candidates,
                cause = %error,
                "the certificate and client_id do not identify one client"
            );
        })?;
        let client = policies.of(client).ok_or(ClientError::Unknown)?;
        context.set_client(&client.client_id);
        tracing::debug!(
            request_id = &*self.request_id,
            client = client.client_id.as_str(),
            by = client.identity.kind().name(),
            name = %client.identity,
            "the certificate is a client's"
        );
        if self.has_authorization {
            return Err(RequestError::Unsupported("Authorization").into());
        }
        form.refuse_second_authentication()?;
        Ok((client, form))
    }
}

impl TokenService {
    /// Writes the audit event of an outcome before it is sent.
    ///
    /// # Errors
    /// [`Refusal::NotAudited`]: the outcome must not be sent.
    pub(crate) async fn record(&self, request: &IncomingRequest, event: Event<'_>) -> Result<(), Refusal> {
        let until = request.deadline.max(Instant::now() + AUDIT_GRACE);
        let written = before(until, self.audit.write(&event)).await;
        written.unwrap_or(Err(LogError)).map_err(Refusal::NotAudited)
    }

    /// Writes the audit event of a refusal and, for a fault of the service, logs its cause.
    ///
    /// # Errors
    /// The refusal to answer with: `refusal`, or [`Refusal::NotAudited`].
    pub(crate) async fn record_refusal<T>(
        &self,
        endpoint: Endpoint,
        request: &IncomingRequest,
        context: &AuditContext<'_>,
        refusal: Refusal,
    ) -> Result<T, Refusal> {
        if matches!(refusal, Refusal::NotAudited(_)) {
            return Err(refusal); // the log has just failed to write this request's event
        }
        if refusal.is_fault() {
            tracing::error!(request_id = %context.request_id(), cause = %refusal.cause(), "a request failed");
        }
        self.record(request, Event::refused(endpoint, context, &refusal)).await?;
        Err(refusal)
    }
}

/// The client whose share of the concurrent requests a connection with `certificate` uses; `None`: that of all unknown
/// certificates together.
pub fn share_of(certificate: &PeerCertificate, policies: &PolicySet) -> Option<ClientId> {
    policies.candidates(certificate).ok()?.first().cloned()
}

/// Turns a panic into a refusal, which is audited and counted like any other.
///
/// # Errors
/// Those of `work`; [`Refusal::Internal`] if it panics.
pub(crate) async fn catch_panic<T>(work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or(Err(Refusal::Internal))
}

/// Converts the key ring's result for the subject module, which does not depend on the key ring.
pub fn known_key(found: Found) -> KnownKey {
    let signing = |key: VerifyingKey, published| {
        KnownKey::Signing(SignedBy {
            public: key.public.verification_key().cloned(),
            published,
            state: key.state.as_str(),
            from: key.signs_from(),
            until: key.signs_until(),
            max_lifetime: key.max_lifetime,
        })
    };
    match found {
        Found::Published(key) => signing(key, true),
        Found::Historical(key) => signing(key, false),
        Found::Revoked | Found::Forgotten => KnownKey::Gone,
        Found::Unknown => KnownKey::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    ///
    #[tokio::test]
    async fn a_panic_is_a_refusal() {
        let outcome: Result<(), Refusal> = catch_panic(async { panic!("secret") }).await;
        assert!(matches!(outcome, Err(Refusal::Internal)));
    }
}
