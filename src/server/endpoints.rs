//! The endpoints of the exchange listener.
//!
//! In: a request whose certificate passed the handshake. Out: an [`IncomingRequest`] for its handler, whose result becomes
//! the answer; or a refusal without the handler (size, media type, capacity, certificate).

use std::sync::Arc;

use actix_web::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::web::{Payload, ServiceConfig};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};
use futures_util::StreamExt as _;

use super::handlers::{Handler, Handlers, ShareOf};
use super::peer::{self, Peer};
use super::request::{RequestContext, of_connection, single};
use super::response::{self, HttpRefusal};
use super::routes::Route;
use writ_core::client::ClientId;
use writ_core::endpoint::IncomingRequest;
use writ_core::limits::MAX_IN_WORK;
use writ_platform::shares::Shares;

/// The largest body that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The concurrent requests of all workers, by client.
type InWork = Shares<Option<ClientId>>;

/// `/token` and `/introspect`.
#[derive(Clone)]
pub(super) struct Endpoints {
    handlers: Handlers,
    in_work: Arc<InWork>,
}

impl Endpoints {
    pub(super) fn new(handlers: &Handlers) -> Self {
        Self { handlers: handlers.clone(), in_work: InWork::new(MAX_IN_WORK) }
    }

    pub(super) fn configure(&self, config: &mut ServiceConfig) {
        self.serve(Route::Token, &self.handlers.token, response::issued, config);
        self.serve(Route::Introspect, &self.handlers.introspect, response::introspected, config);
    }

    /// Serves `route` by `handler`; `answer` turns its result into a response.
    fn serve<T: 'static>(
        &self,
        route: Route,
        handler: &Handler<T>,
        answer: fn(&T) -> HttpResponse,
        config: &mut ServiceConfig,
    ) {
        let reader =
            RequestReader { in_work: Arc::clone(&self.in_work), share_of: Arc::clone(&self.handlers.share_of) };
        let handler = Arc::clone(handler);
        config.service(route.resource(move |request: HttpRequest, body: Payload| {
            let (reader, handler) = (reader.clone(), Arc::clone(&handler));
            async move {
                let request = match reader.read(&request, body).await {
                    Ok(request) => request,
                    Err(refused) => return refused,
                };
                handler(request).await.map_or_else(|refusal| response::refusal(&refusal), |result| answer(&result))
            }
        }));
    }
}

/// Reads the requests of an endpoint.
#[derive(Clone)]
struct RequestReader {
    in_work: Arc<InWork>,
    share_of: ShareOf,
}

impl RequestReader {
    /// The request for its handler, which records and counts it from then on.
    async fn read(&self, request: &HttpRequest, body: Payload) -> Result<IncomingRequest, HttpResponse> {
        let body = read_form(request.headers(), body).await.map_err(|unread| match unread {
            Unread::Refused(refusal) => response::http(refusal),
            Unread::Broken => HttpResponse::BadRequest().force_close().finish(),
        })?;
        let client = of_connection::<Peer>(request).and_then(|peer| (self.share_of)(&peer.certificate()));
        let place = self.in_work.take(client).map_err(|_| response::http(HttpRefusal::Overloaded))?;
        // Only now: reading took time, and a revocation counts when the request is decided.
        let certificate = peer::admitted(request).map_err(response::http)?;
        let context = request.extensions().get::<RequestContext>().cloned();
        let context = context.ok_or_else(|| response::http(HttpRefusal::Internal))?;
        context.hand_over();
        Ok(IncomingRequest {
            certificate,
            has_authorization: request.headers().contains_key(AUTHORIZATION),
            body,
            request_id: context.request_id,
            trace_id: context.trace_id,
            deadline: context.work_due,
            place,
        })
    }
}

/// Why the body was not read.
enum Unread {
    Refused(HttpRefusal),
    /// It ended early or is not HTTP: answered without JSON, and the connection ends.
    Broken,
}

impl From<HttpRefusal> for Unread {
    fn from(refusal: HttpRefusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn read_form(headers: &HeaderMap, body: Payload) -> Result<Vec<u8>, Unread> {
    check_head(headers)?;
    read_body(body).await
}

/// Size first, then media type, both before a byte of the body is read.
fn check_head(headers: &HeaderMap) -> Result<(), HttpRefusal> {
    let announced = single(headers, &CONTENT_LENGTH).and_then(|length| length.trim().parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(HttpRefusal::BodyTooLarge);
    }
    let is_form = single(headers, &CONTENT_TYPE).is_some_and(is_form);
    if !is_form || headers.contains_key(CONTENT_ENCODING) {
        return Err(HttpRefusal::MediaTypeUnsupported);
    }
    Ok(())
}

/// `application/x-www-form-urlencoded`, with `charset=utf-8` at most.
fn is_form(content_type: &str) -> bool {
    let (media, rest) = content_type.split_at(content_type.find(';').unwrap_or(content_type.len()));
    let is_utf8 =
        |(name, value): &(&str, String)| name.eq_ignore_ascii_case("charset") && value.eq_ignore_ascii_case("utf-8");
    media.trim_matches(OWS).eq_ignore_ascii_case("application/x-www-form-urlencoded")
        && parameters(rest).is_some_and(|all| all.len() <= 1 && all.iter().all(is_utf8))
}

const OWS: [char; 2] = [' ', '\t'];

/// The parameters after a media type, each with its value: `*( OWS ";" OWS [ parameter ] )` (RFC 9110 §5.6.6), so that
/// a parameter may be empty. `None` if the text has another form.
fn parameters(mut text: &str) -> Option<Vec<(&str, String)>> {
    let is_token_char = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let token = |text| str::find(text, |c| !is_token_char(c)).unwrap_or(str::len(text));
    let owned = |(value, rest): (&str, _)| (value.to_owned(), rest);
    let mut all = Vec::new();
    loop {
        text = text.trim_start_matches(OWS);
        if text.is_empty() {
            return Some(all);
        }
        text = text.strip_prefix(';')?.trim_start_matches(OWS);
        if text.is_empty() || text.starts_with(';') {
            continue;
        }
        let (name, rest) = text.split_at(token(text));
        let rest = rest.strip_prefix('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(rest) => unquoted(rest)?,
            None => Some(rest.split_at(token(rest))).filter(|(value, _)| !value.is_empty()).map(owned)?,
        };
        if name.is_empty() {
            return None;
        }
        all.push((name, value));
        text = rest;
    }
}

/// The value of a quoted string after its opening quote, and the text after its closing quote.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(chars.next()?.1),
            (_, c) => value.push(c),
        }
    }
}

/// The body, up to [`MAX_BODY`] regardless of the announced length.
async fn read_body(mut body: Payload) -> Result<Vec<u8>, Unread> {
    let mut read = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| Unread::Broken)?;
        if read.len() + chunk.len() > MAX_BODY {
            return Err(HttpRefusal::BodyTooLarge.into());
        }
        read.extend_from_slice(&chunk);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";

    fn check(pairs: &[(&'static str, &'static str)]) -> Result<(), HttpRefusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        check_head(&headers)
    }

    async fn refused(in_work: &Arc<InWork>) -> HttpRefusal {
        let request = actix_web::test::TestRequest::post().insert_header((CONTENT_TYPE, FORM)).set_payload("a=1");
        let (request, mut payload) = request.to_http_parts();
        let body = <Payload as actix_web::FromRequest>::from_request(&request, &mut payload).await.unwrap();
        let reader = RequestReader { in_work: Arc::clone(in_work), share_of: Arc::new(|_| None) };
        let Err(answer) = reader.read(&request, body).await else { unreachable!("nothing is handed over") };
        answer.extensions().get().copied().unwrap()
    }

    ///
    #[tokio::test]
    async fn one_request_more_than_the_capacity_is_refused_at_once() {
        let in_work = InWork::new(1);
        let _place = in_work.take(None);
        assert_eq!(refused(&in_work).await, HttpRefusal::Overloaded);
    }

    #[tokio::test]
    async fn a_request_without_a_certificate_is_refused() {
        assert_eq!(refused(&InWork::new(1)).await, HttpRefusal::CertificateRefused);
    }

    ///
    #[test]
    fn only_one_plain_form_is_a_form() {
        for good in [FORM, "Application/X-WWW-Form-URLencoded", "application/x-www-form-urlencoded;charset=utf-8"] {
            assert_eq!(check(&[("content-type", good)]), Ok(()), "{good}");
        }
        for parameters in [
            ";",
            " ;",
            "; ",
            ";;",
            " ; ; ;\t",
            ";charset=utf-8;",
            ";; charset=utf-8 ;",
            "; charset=utf-8; ;",
            " ; Charset=\"UTF-8\"",
            "; charset=\"utf-8\";",
            ";\tcharset=\"u\\tf-\\8\"\t",
        ] {
            let content_type: &str = format!("{FORM}{parameters}").leak();
            assert_eq!(check(&[("content-type", content_type)]), Ok(()), "{content_type}");
        }
        for bad in [
            "",
            "application/json",
            "text/plain",
            "multipart/form-data; boundary=x",
            "application/x-www-form-urlencoded; charset=utf-16",
            "application/x-www-form-urlencoded; charset=utf-8; charset=utf-8",
            "application/x-www-form-urlencoded; boundary=x",
            "application/x-www-form-urlencoded, application/json",
            ";",
            "; application/x-www-form-urlencoded",
            "application/x-www-form-urlencoded charset=utf-8",
            "application/x-www-form-urlencoded; charset",
            "application/x-www-form-urlencoded; charset=",
            "application/x-www-form-urlencoded; =utf-8",
            "application/x-www-form-urlencoded; charset =utf-8",
            "application/x-www-form-urlencoded; charset= utf-8",
            "application/x-www-form-urlencoded; charset=utf-8 utf-8",
            "application/x-www-form-urlencoded; charset=\"utf-8",
            "application/x-www-form-urlencoded; charset=\"utf-8\"x",
            "application/x-www-form-urlencoded; charset=\"utf-8\\",
            "application/x-www-form-urlencoded; charset=\"utf-8; charset=utf-16\"",
            "application/x-www-form-urlencoded; charset=\"\"",
            "application/x-www-form-urlencoded;; charset=utf-8; x=y",
        ] {
            assert_eq!(check(&[("content-type", bad)]), Err(HttpRefusal::MediaTypeUnsupported), "{bad}");
        }
        assert_eq!(check(&[]), Err(HttpRefusal::MediaTypeUnsupported));
        let twice = [("content-type", FORM), ("content-type", FORM)];
        assert_eq!(check(&twice), Err(HttpRefusal::MediaTypeUnsupported));
    }

    ///
    #[test]
    fn a_coded_body_is_never_decoded() {
        for coding in ["gzip", "identity"] {
            let head = [("content-type", FORM), ("content-encoding", coding)];
            assert_eq!(check(&head), Err(HttpRefusal::MediaTypeUnsupported), "{coding}");
        }
    }

    ///
    #[test]
    fn an_announced_size_is_checked_before_the_media_type() {
        assert_eq!(check(&[("content-type", FORM), ("content-length", "65536")]), Ok(()));
        assert_eq!(check(&[("content-length", "65537")]), Err(HttpRefusal::BodyTooLarge));
    }
}
