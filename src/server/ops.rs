//! What operators and their tools ask: alive, ready, metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpResponse, guard};
use serde::Serialize;

use super::{Rooms, method_not_allowed};

/// The text format of Prometheus.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failing: Vec<&'static str>,
}

impl Health {
    fn answer(failing: Vec<&'static str>) -> HttpResponse {
        if failing.is_empty() {
            return HttpResponse::Ok().json(Self { status: "ok", failing });
        }
        HttpResponse::ServiceUnavailable().json(Self { status: "unavailable", failing })
    }
}

/// `/livez`, `/readyz` and `/metrics`.
pub(super) fn routes(rooms: &Rooms, draining: &Arc<AtomicBool>, config: &mut ServiceConfig) {
    // Whoever can answer is alive.
    serve("/livez", || Health::answer(Vec::new()), config);
    let (failing, draining) = (Arc::clone(&rooms.failing), Arc::clone(draining));
    serve("/readyz", move || Health::answer(failing_parts(failing(), &draining)), config);
    let render = Arc::clone(&rooms.metrics);
    serve("/metrics", move || HttpResponse::Ok().insert_header((CONTENT_TYPE, METRICS_TYPE)).body(render()), config);
}

fn failing_parts(mut failing: Vec<&'static str>, draining: &AtomicBool) -> Vec<&'static str> {
    if draining.load(Ordering::Relaxed) {
        failing.push("shutting_down");
    }
    failing
}

fn serve(path: &str, answer: impl Fn() -> HttpResponse + Clone + 'static, config: &mut ServiceConfig) {
    let reads = guard::Any(guard::Get()).or(guard::Head());
    config.service(
        web::resource(path)
            .route(web::route().guard(reads).to(move || {
                let answer = answer();
                async move { answer }
            }))
            .default_service(web::to(|| method_not_allowed("GET, HEAD"))),
    );
}
