//! The operators' listener: liveness, readiness, metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::HttpResponse;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::ServiceConfig;
use serde::Serialize;

use super::handlers::Handlers;
use super::routes::Route;

/// The text format of Prometheus.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failing: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pending: Vec<&'static str>,
}

impl Health {
    fn answer(failing: Vec<&'static str>, pending: Vec<&'static str>) -> HttpResponse {
        if failing.is_empty() {
            return HttpResponse::Ok().json(Self { status: "ok", failing, pending });
        }
        HttpResponse::ServiceUnavailable().json(Self { status: "unavailable", failing, pending: Vec::new() })
    }
}

/// `/livez`, `/readyz` and `/metrics`.
pub(super) fn configure(handlers: &Handlers, leaving: &Arc<AtomicBool>, config: &mut ServiceConfig) {
    serve(Route::Livez, || Health::answer(Vec::new(), Vec::new()), config);
    let (failing, pending) = (Arc::clone(&handlers.failing), Arc::clone(&handlers.pending));
    let leaving = Arc::clone(leaving);
    serve(Route::Readyz, move || Health::answer(failing_parts(failing(), &leaving), pending()), config);
    let render = Arc::clone(&handlers.metrics);
    let metrics = move || HttpResponse::Ok().insert_header((CONTENT_TYPE, METRICS_TYPE)).body(render());
    serve(Route::Metrics, metrics, config);
}

fn failing_parts(mut failing: Vec<&'static str>, leaving: &AtomicBool) -> Vec<&'static str> {
    if leaving.load(Ordering::Relaxed) {
        failing.push("shutting_down");
    }
    failing
}

fn serve(route: Route, answer: impl Fn() -> HttpResponse + Clone + 'static, config: &mut ServiceConfig) {
    config.service(route.resource(move || std::future::ready(answer())));
}
