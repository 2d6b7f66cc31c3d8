//! Connects the listeners to the service: endpoints, documents, readiness and metrics.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::readiness;
use crate::config::Config;
use crate::server::{Handlers, HttpRefusal, metadata};
use writ_core::audit::{AuditContext, Event};
use writ_core::endpoint::{self, Endpoint, TokenService};
use writ_platform::telemetry::Metrics;
use writ_store::Store;

pub(super) fn handlers(config: &Config, tokens: &Arc<TokenService>, store: &Store, metrics: Metrics) -> Handlers {
    let document = metadata::Settings {
        issuer: config.issuer.clone(),
        discovery_url: config.discovery_url.clone(),
        trust_domain: config.trust_domain.to_string(),
        algorithm: config.keys.algorithm,
    };
    let each = || Arc::clone(tokens);
    let (exchange, introspect, shares, rejected) = (each(), each(), each(), each());
    let (published, described, checked, observed) = (each(), each(), each(), each());
    let ledger = Arc::clone(&tokens.ledger);
    let (store, ring, jwks_max_age) = (store.clone(), store.ring(), config.jwks_max_age);
    Handlers {
        token: Arc::new(move |request| exchange.exchange(request).boxed_local()),
        introspect: Arc::new(move |request| introspect.introspect(request).boxed_local()),
        share_of: Arc::new(move |certificate| endpoint::share_of(certificate, &shares.policies.snapshot())),
        rejected: Arc::new(move |request| {
            if request.endpoint == Endpoint::Token {
                count_rejected(request.refusal);
            }
            let audit = rejected.audit.clone();
            async move {
                let context = AuditContext::new(request.request_id, request.trace_id, request.certificate);
                let (reason, description) = (request.refusal.reason(), request.refusal.to_string());
                // No token depends on it: the refusal is sent even if the log cannot be written.
                if let Err(error) = audit.write(&Event::rejected(request.endpoint, &context, reason, description)).await
                {
                    tracing::error!(%error, "a refusal could not be recorded");
                }
            }
            .boxed_local()
        }),
        jwks: Arc::new(move || published.keys.jwks().body.clone().into_bytes()),
        metadata: Arc::new(move || document.render(&described.policies.snapshot())),
        documents_max_age: Arc::new(move || if ring.holds_lease() { jwks_max_age } else { Duration::ZERO }),
        failing: Arc::new(move || readiness::failing_parts(&store, &checked)),
        pending: Arc::new(move || readiness::pending_parts(&ledger)),
        metrics: Arc::new(move || {
            observed.keys.observe(observed.clock.now());
            observed.ledger.observe();
            metrics.render()
        }),
    }
}

/// Counts a `POST /token` that a listener rejected.
fn count_rejected(refusal: HttpRefusal) {
    let outcome = if refusal.is_fault() { "error" } else { "refused" };
    metrics::counter!("writ_token_requests_total",
        "client" => "-", "source" => "-", "outcome" => outcome, "reason" => refusal.reason().as_str())
    .increment(1);
}
