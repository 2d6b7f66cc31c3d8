//! What the listeners call: the handlers of the endpoints, the documents, readiness and metrics.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;

use super::files::LoadedFiles;
use super::readiness;
use super::state::PersistentState;
use crate::config::Config;
use crate::server::response::HttpRefusal;
use crate::server::{Document, Rooms, Unheard, UnheardRequest, metadata};
use writ_core::audit::{Audit, Decision};
use writ_core::endpoint::{self, Endpoint};
use writ_core::exchange::Exchange;
use writ_core::introspect::Introspection;
use writ_core::limits::Limits;
use writ_platform::clock::Clock;
use writ_platform::telemetry::Metrics;

/// What handlers and background tasks are built from.
pub(super) struct Dependencies<'a> {
    pub(super) config: &'a Config,
    pub(super) state: &'a PersistentState,
    pub(super) files: &'a LoadedFiles,
    pub(super) clock: Arc<Clock>,
    pub(super) audit: Audit,
    pub(super) metrics: Metrics,
}

impl Dependencies<'_> {
    /// Each request holds a clone of `in_flight` until its work is done, even if its client has gone away.
    pub(super) fn handlers(&self, in_flight: mpsc::Sender<Infallible>) -> Rooms {
        let limits = Arc::new(Limits::new(self.config.limits));
        let exchange = Arc::new(self.exchange(Arc::clone(&limits), in_flight.clone()));
        let introspection = Arc::new(self.introspection(limits, in_flight));
        let (policies, keys) = (Arc::clone(&self.files.policies), Arc::clone(&self.state.keys));
        let readiness = readiness::Sources::new(self.state, self.audit.clone());
        Rooms {
            token: Arc::new(move |ask| {
                let exchange = Arc::clone(&exchange);
                async move { exchange.token(ask).await }.boxed_local()
            }),
            introspect: Arc::new(move |ask| {
                let introspection = Arc::clone(&introspection);
                async move { introspection.introspect(ask).await }.boxed_local()
            }),
            holder: Arc::new(move |certificate| endpoint::holder(certificate, &policies.snapshot())),
            unheard: record_rejected(self.audit.clone()),
            request_timeout: self.config.listener.request_timeout,
            jwks: Arc::new(move || keys.jwks().body.clone().into_bytes()),
            metadata: self.metadata(),
            documents_max_age: self.config.jwks_max_age,
            failing: Arc::new(move || readiness.failing()),
            metrics: self.metrics_text(),
        }
    }

    fn exchange(&self, limits: Arc<Limits>, in_flight: mpsc::Sender<Infallible>) -> Exchange {
        Exchange {
            settings: self.config.claims.clone(),
            policies: Arc::clone(&self.files.policies),
            pdp: self.files.pdp.clone(),
            issuers: Arc::clone(&self.files.issuers),
            keys: Arc::clone(&self.state.keys),
            ledger: Arc::clone(&self.state.ledger),
            blocks: Arc::clone(&self.state.blocks),
            clock: Arc::clone(&self.clock),
            limits,
            audit: self.audit.clone(),
            in_flight,
        }
    }

    fn introspection(&self, limits: Arc<Limits>, in_flight: mpsc::Sender<Infallible>) -> Introspection {
        Introspection {
            trust_domain: self.config.trust_domain.clone(),
            policies: Arc::clone(&self.files.policies),
            keys: Arc::clone(&self.state.keys),
            ledger: Arc::clone(&self.state.ledger),
            blocks: Arc::clone(&self.state.blocks),
            clock: Arc::clone(&self.clock),
            limits,
            audit: self.audit.clone(),
            in_flight,
        }
    }

    fn metadata(&self) -> Document {
        let settings = metadata::Settings {
            issuer: self.config.issuer.clone(),
            discovery_url: self.config.discovery_url.clone(),
            trust_domain: self.config.trust_domain.to_string(),
            algorithm: self.config.keys.algorithm,
        };
        let policies = Arc::clone(&self.files.policies);
        Arc::new(move || settings.render(&policies.snapshot()))
    }

    fn metrics_text(&self) -> Arc<dyn Fn() -> String + Send + Sync> {
        let (keys, ledger) = (Arc::clone(&self.state.keys), Arc::clone(&self.state.ledger));
        let (clock, metrics) = (Arc::clone(&self.clock), self.metrics.clone());
        Arc::new(move || {
            keys.observe(clock.now());
            ledger.observe();
            metrics.render()
        })
    }
}

/// Records and counts requests that a listener rejected before they reached their handler.
fn record_rejected(audit: Audit) -> Unheard {
    Arc::new(move |request| {
        if request.endpoint == Endpoint::Token {
            count_rejected(request.refusal);
        }
        let (audit, event) = (audit.clone(), request.endpoint.event(rejected(&request), true));
        async move {
            // No token depends on it: the refusal is sent even if the log cannot be written.
            if let Err(error) = audit.write(&event).await {
                tracing::error!(%error, "a refusal could not be recorded");
            }
        }
        .boxed_local()
    })
}

fn rejected(request: &UnheardRequest<'_>) -> Decision {
    Decision {
        request_id: request.name.id.clone(),
        trace_id: request.name.trace_id.clone(),
        client_certificate: request.certificate.map(|certificate| certificate.x5t_s256().to_owned()),
        error: Some(request.refusal.error()),
        reason: Some(request.refusal.reason()),
        cause: Some(request.refusal.to_string()),
        ..Decision::default()
    }
}

fn count_rejected(refusal: HttpRefusal) {
    let outcome = if refusal.is_fault() { "error" } else { "refused" };
    metrics::counter!("writ_token_requests_total",
        "client" => "-", "source" => "-", "outcome" => outcome, "reason" => refusal.reason())
    .increment(1);
}
