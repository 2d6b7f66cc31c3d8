//! The documents that anyone may read and keep for a while.

use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, IF_NONE_MATCH};
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, guard};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::connection::of_connection;
use super::exchange::admitted;
use super::peer::Peer;
use super::{Document, Rooms, method_not_allowed};
use crate::server::response;

const JWKS: (&str, &str) = ("/.well-known/jwks.json", "application/jwk-set+json");
const METADATA: (&str, &str) = ("/.well-known/oauth-authorization-server", "application/json");

/// The JWKS and the metadata of RFC 8414.
pub(super) fn routes(rooms: &Rooms, config: &mut ServiceConfig) {
    serve(JWKS, &rooms.jwks, rooms.documents_max_age, config);
    serve(METADATA, &rooms.metadata, rooms.documents_max_age, config);
}

fn serve((path, media): (&str, &'static str), document: &Document, max_age: Duration, config: &mut ServiceConfig) {
    let document = Document::clone(document);
    let reads = guard::Any(guard::Get()).or(guard::Head());
    config.service(
        web::resource(path)
            .route(web::route().guard(reads).to(move |request: HttpRequest| {
                let answer = answer(&request, media, document(), max_age);
                async move { answer }
            }))
            .default_service(web::to(|| method_not_allowed("GET, HEAD"))),
    );
}

fn answer(request: &HttpRequest, media: &'static str, body: Vec<u8>, max_age: Duration) -> HttpResponse {
    // On the exchange listener a revoked client gets nothing at all.
    if of_connection::<Peer>(request).is_some()
        && let Err(refusal) = admitted(request)
    {
        return response::http(refusal);
    }
    let etag = etag_of(&body);
    let known = is_known(request.headers(), &etag);
    let mut answer = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    answer.insert_header((ETAG, etag));
    answer.insert_header((CACHE_CONTROL, format!("public, max-age={}", max_age.as_secs())));
    if known {
        return answer.finish();
    }
    answer.insert_header((CONTENT_TYPE, media)).body(body)
}

/// A strong validator: the same bytes have the same tag in every instance.
fn etag_of(body: &[u8]) -> String {
    format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, body)))
}

/// RFC 9110 §13.1.2: weak comparison, `*` matches whatever there is.
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn a_tag_that_is_known_is_found_in_any_list() {
        let known = |value| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static(value));
            is_known(&headers, "\"abc\"")
        };
        for value in ["\"abc\"", "W/\"abc\"", "\"x\", \"abc\"", "*"] {
            assert!(known(value), "{value}");
        }
        for value in ["", "abc", "\"ab\"", "\"abcd\", \"x\""] {
            assert!(!known(value), "{value}");
        }
    }
}
