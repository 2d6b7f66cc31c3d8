//! What `/token` and `/introspect` have in common: who asks, that work which was begun is finished, and that what became
//! of it is in the log before it leaves.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use tracing::Instrument as _;

use crate::audit::{Audit, Decision, Event};
use crate::client::{ClientError, ClientId, Identity, PeerCertificate, candidates};
use crate::keys::ring::{Found, VerifyingKey};
use crate::limits::Limits;
use crate::policy::{ClientPolicy, PolicySet};
use crate::refusal::Refusal;
use crate::request::{Form, RequestError};
use crate::subject::own_token::{KnownKey, SignedBy};
use writ_platform::shares::Place;
use writ_platform::telemetry::LogError;

/// What the log is given at least to take the decision, though all of the request's time is spent.
const LAST_WORD: Duration = Duration::from_millis(50);

/// Where a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /token`.
    Token,
    /// `POST /introspect`.
    Introspection,
}

/// What the listener hands on: identity and bytes.
pub struct Ask {
    /// The certificate that the connection proved.
    pub certificate: Arc<PeerCertificate>,
    /// Whether an `Authorization` header was sent.
    pub authorization: bool,
    /// The form, as it came.
    pub body: Vec<u8>,
    /// Names the request in logs and answers.
    pub request_id: String,
    /// The trace that it belongs to.
    pub trace_id: Option<String>,
    /// Until when waiting for others makes sense.
    pub deadline: Instant,
    /// A place among the requests that are worked on, given back when the work is done.
    pub place: Place<Option<ClientId>>,
}

/// A sign of life of work that its client may not wait for any more; all are gone when the receiver says so.
pub type InFlight = mpsc::Sender<std::convert::Infallible>;

impl Endpoint {
    /// The line that tells of `decision`.
    pub fn event(self, decision: Decision, is_refused: bool) -> Event {
        let decision = Box::new(decision);
        match self {
            Self::Token if is_refused => Event::TokenRefused(decision),
            Self::Token => Event::TokenIssued(decision),
            Self::Introspection => Event::TokenIntrospected(decision),
        }
    }

    /// Writes the decision to the log; only then may its outcome leave.
    ///
    /// # Errors
    /// The refusal that `outcome` is, or the one that it became because the log does not take it.
    pub async fn record<T>(
        self,
        audit: &Audit,
        ask: &Ask,
        outcome: Result<T, Refusal>,
        decision: &mut Decision,
    ) -> Result<T, Refusal> {
        if let Err(refusal) = &outcome {
            decision.refuses(refusal);
            if refusal.is_fault() {
                tracing::error!(request_id = %decision.request_id, cause = %refusal.cause(), "a request failed");
            }
        }
        let event = self.event(decision.clone(), outcome.is_err());
        let until = ask.deadline.max(Instant::now() + LAST_WORD);
        let written = timeout_at(until.into(), audit.write(&event)).await;
        if let Err(error) = written.unwrap_or(Err(LogError)) {
            let refusal = Refusal::from(error);
            decision.refuses(&refusal);
            return Err(refusal);
        }
        outcome
    }
}

impl Ask {
    /// Reads who asks and what: certificate, form, `client_id`, and nothing else that would authenticate the client.
    ///
    /// # Errors
    /// The first [`Refusal`] in that order: whoever no policy knows hears so before the form is looked at.
    pub fn open<'a>(
        &self,
        policies: &'a PolicySet,
        limits: &Limits,
        decision: &mut Decision,
    ) -> Result<(&'a ClientPolicy, Form), Refusal> {
        if Instant::now() >= self.deadline {
            return Err(Refusal::Timeout); // reading it took all the time there was
        }
        let candidates = candidates(&self.certificate, registered(policies)).or_else(|unknown| {
            limits.take(None)?;
            tracing::warn!(
                request_id = self.request_id,
                names = crate::client::offered(&self.certificate),
                thumbprint = self.certificate.x5t_s256(),
                near = crate::client::nearly(&self.certificate, registered(policies)),
                "no policy names this certificate"
            );
            Err(Refusal::from(unknown))
        })?;
        let form = Form::parse(&self.body)?;
        let client = candidates.choose(form.client_id()).inspect_err(|error| {
            tracing::info!(
                request_id = self.request_id,
                clients = %candidates,
                cause = %error,
                "the certificate and client_id do not say who asks"
            );
        })?;
        let client = policies.of(client).ok_or(ClientError::Unknown)?;
        decision.client = Some(client.client_id.to_string());
        tracing::debug!(
            request_id = self.request_id,
            client = client.client_id.as_str(),
            by = client.identity.kind().name(),
            name = %client.identity,
            "the certificate is a client's"
        );
        if self.authorization {
            return Err(RequestError::Unsupported("Authorization").into());
        }
        form.refuse_second_authentication()?;
        Ok((client, form))
    }
}

fn registered(policies: &PolicySet) -> impl Iterator<Item = (&ClientId, &Identity)> {
    policies.iter().map(|policy| (&policy.client_id, &policy.identity))
}

/// Whose share of the places the requests with `certificate` use; `None`: that of strangers.
pub fn holder(certificate: &PeerCertificate, policies: &PolicySet) -> Option<ClientId> {
    candidates(certificate, registered(policies)).ok()?.first().cloned()
}

/// Does `work` to its end even if the client goes away: what was counted belongs with its line in the log.
///
/// # Errors
/// Those of `work`.
pub async fn to_its_end<T: Send + 'static>(
    in_flight: InFlight,
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let work = async move {
        let outcome = work.await;
        drop(in_flight);
        outcome
    };
    tokio::spawn(work.in_current_span()).await.unwrap_or(Err(Refusal::Internal))
}

/// A panic is an answer too: it is recorded and counted like any other.
///
/// # Errors
/// Those of `work`.
pub async fn or_internal<T>(work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or(Err(Refusal::Internal))
}

/// The key ring's answer in the words of the subject room, which knows no key ring.
pub fn known_key(found: Found) -> KnownKey {
    let signing = |key: VerifyingKey, published| {
        KnownKey::Signing(SignedBy {
            public: key.public.decoding_key().clone(),
            algorithm: key.public.algorithm().into(),
            published,
            state: key.state.as_str(),
            from: key.signs_from(),
            until: key.signs_until(),
            longest_lifetime: key.longest_lifetime,
        })
    };
    match found {
        Found::Published(key) => signing(key, true),
        Found::Historical(key) => signing(key, false),
        Found::Revoked | Found::Forgotten => KnownKey::Gone,
        Found::Unknown => KnownKey::Unknown,
    }
}

/// What is known of a decision from the start, and of one that was never made.
impl Decision {
    /// Nothing is decided yet.
    pub fn begin(ask: &Ask, policies: &PolicySet) -> Self {
        Self {
            request_id: ask.request_id.clone(),
            trace_id: ask.trace_id.clone(),
            client_certificate: Some(ask.certificate.x5t_s256().to_owned()),
            policies: Some(policies.digest().to_owned()),
            ..Self::default()
        }
    }

    fn refuses(&mut self, refusal: &Refusal) {
        let code = refusal.code();
        (self.error, self.reason) = (Some(code.error), Some(code.reason));
        self.cause = Some(refusal.description());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    ///
    #[tokio::test]
    async fn a_panic_is_a_refusal() {
        let outcome: Result<(), Refusal> = or_internal(async { panic!("secret") }).await;
        assert!(matches!(outcome, Err(Refusal::Internal)));
    }
}
