//! The discovery documents, JWKS and metadata: public, and cacheable for a while.

use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, IF_NONE_MATCH};
use actix_web::web::ServiceConfig;
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::handlers::{Document, Handlers, MaxAge};
use super::peer::{self, Peer};
use super::request::of_connection;
use super::response;
use super::routes::Route;
use writ_platform::digest::sha256;

const JWKS_TYPE: &str = "application/jwk-set+json";
const METADATA_TYPE: &str = "application/json";

/// The JWKS and the metadata of RFC 8414.
pub(super) fn configure(handlers: &Handlers, config: &mut ServiceConfig) {
    serve(Route::Jwks, JWKS_TYPE, &handlers.jwks, &handlers.documents_max_age, config);
    serve(Route::Metadata, METADATA_TYPE, &handlers.metadata, &handlers.documents_max_age, config);
}

fn serve(route: Route, media: &'static str, document: &Document, max_age: &MaxAge, config: &mut ServiceConfig) {
    let (document, max_age) = (Document::clone(document), MaxAge::clone(max_age));
    config.service(route.resource(move |request: HttpRequest| {
        let answer = answer(&request, media, document(), max_age());
        async move { answer }
    }));
}

fn answer(request: &HttpRequest, media: &'static str, body: Vec<u8>, max_age: Duration) -> HttpResponse {
    // On the exchange listener a revoked client gets no document either.
    if of_connection::<Peer>(request).is_some()
        && let Err(refusal) = peer::admitted(request)
    {
        return response::http(refusal);
    }
    let etag = etag_of(&body);
    let is_cached = matches_etag(request.headers(), &etag);
    let mut answer = if is_cached { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    answer.insert_header((ETAG, etag));
    answer.insert_header((CACHE_CONTROL, format!("public, max-age={}", max_age.as_secs())));
    if is_cached {
        return answer.finish();
    }
    answer.insert_header((CONTENT_TYPE, media)).body(body)
}

/// A strong validator: the same bytes have the same tag on every instance.
fn etag_of(body: &[u8]) -> String {
    format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(sha256(body)))
}

/// RFC 9110 §13.1.2: weak comparison, `*` matches anything.
fn matches_etag(headers: &HeaderMap, etag: &str) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn a_cached_tag_is_found_in_any_list() {
        let is_cached = |value| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static(value));
            matches_etag(&headers, "\"abc\"")
        };
        for value in ["\"abc\"", "W/\"abc\"", "\"x\", \"abc\"", "*"] {
            assert!(is_cached(value), "{value}");
        }
        for value in ["", "abc", "\"ab\"", "\"abcd\", \"x\""] {
            assert!(!is_cached(value), "{value}");
        }
    }
}
