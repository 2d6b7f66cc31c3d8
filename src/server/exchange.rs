//! The routes of the exchange listener: HTTP in, HTTP out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::web::{self, Payload, ServiceConfig};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, Resource};
use futures_util::StreamExt as _;

use super::connection::of_connection;
use super::guard::{RequestName, single};
use super::peer::Peer;
use super::{Holder, Room, Rooms, discovery, method_not_allowed};
use crate::server::response::{self, HttpRefusal};
use writ_core::client::{ClientId, PeerCertificate};
use writ_core::endpoint::{Ask, Endpoint};
use writ_platform::clock::Timestamp;
use writ_platform::shares::Shares;

/// The largest body that is read.
const MAX_BODY: usize = 64 * 1024;

/// The requests of all workers that are worked on, by client.
pub(super) type InWork = Shares<Option<ClientId>>;

const TOKEN: &str = "/token";
const INTROSPECT: &str = "/introspect";

/// The endpoint of that path.
pub(super) fn endpoint(path: &str) -> Option<Endpoint> {
    match path {
        TOKEN => Some(Endpoint::Token),
        INTROSPECT => Some(Endpoint::Introspection),
        _ => None,
    }
}

/// `/token`, `/introspect` and the discovery documents.
pub(super) fn routes(rooms: &Rooms, in_work: &Arc<InWork>, config: &mut ServiceConfig) {
    discovery::routes(rooms, config);
    let door = Door {
        in_work: Arc::clone(in_work),
        holder: Arc::clone(&rooms.holder),
        request_timeout: rooms.request_timeout,
    };
    config.service(door.to(TOKEN, &rooms.token, response::issued));
    config.service(door.to(INTROSPECT, &rooms.introspect, response::introspected));
}

/// What a request passes on its way to a room.
#[derive(Clone)]
struct Door {
    in_work: Arc<InWork>,
    holder: Holder,
    request_timeout: Duration,
}

impl Door {
    /// The resource at `path`: its requests are answered by `room`, and `answer` says how.
    fn to<T: 'static>(&self, path: &str, room: &Room<T>, answer: fn(&T) -> HttpResponse) -> Resource {
        let (door, room) = (self.clone(), Arc::clone(room));
        let post = web::post().to(move |request: HttpRequest, body| {
            let (door, room) = (door.clone(), Arc::clone(&room));
            async move {
                match door.pass(&request, body).await {
                    Ok(ask) => room(ask).await.map_or_else(|refusal| response::refusal(&refusal), |done| answer(&done)),
                    Err(refused) => refused,
                }
            }
        });
        web::resource(path).route(post).default_service(web::to(|| method_not_allowed("POST")))
    }

    /// Reads a request; from then on its room answers for it.
    async fn pass(&self, request: &HttpRequest, body: Payload) -> Result<Ask, HttpResponse> {
        let began = Instant::now();
        let read = async {
            check_head(request.headers())?;
            read_body(body).await
        };
        let body = read.await.map_err(|unread| match unread {
            Unread::Refused(refusal) => response::http(refusal),
            Unread::Broken => HttpResponse::BadRequest().force_close().finish(),
        })?;
        let holder = of_connection::<Peer>(request).and_then(|peer| (self.holder)(&peer.certificate()));
        let place = self.in_work.take(holder).map_err(|_| response::http(HttpRefusal::Overloaded))?;
        // Only now: reading took time, and a revocation counts when the request is decided.
        let certificate = admitted(request).map_err(response::http)?;
        let name = request.extensions().get::<RequestName>().cloned();
        let name = name.ok_or_else(|| response::http(HttpRefusal::Internal))?;
        name.handed_on.set(true);
        Ok(Ask {
            certificate,
            authorization: request.headers().contains_key(AUTHORIZATION),
            body,
            request_id: name.id,
            trace_id: name.trace_id,
            deadline: began + self.request_timeout * 9 / 10, // so that there is time left to say so
            place,
        })
    }
}

/// The client's certificate, if it would pass a handshake now. Without one nobody is let in.
pub(super) fn admitted(request: &HttpRequest) -> Result<Arc<PeerCertificate>, HttpRefusal> {
    let peer = of_connection::<Peer>(request).ok_or(HttpRefusal::CertificateRefused)?;
    peer.admit(Timestamp::now()).map_err(|refusal| {
        tracing::info!(cause = %refusal, "the certificate of an open connection is not accepted any more");
        HttpRefusal::CertificateRefused
    })
}

/// Why there is no body to work with.
enum Unread {
    Refused(HttpRefusal),
    /// It ended early or is no HTTP: nothing that could be answered in JSON.
    Broken,
}

impl From<HttpRefusal> for Unread {
    fn from(refusal: HttpRefusal) -> Self {
        Self::Refused(refusal)
    }
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
/// there may be nothing between two semicolons or after the last. `None` if it is something else.
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

/// What a quoted string says, whose first quote has been read, and what follows the last.
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

/// The body, up to the limit whatever its head announced.
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

    async fn ask(in_work: &Arc<InWork>) -> HttpRefusal {
        let request = actix_web::test::TestRequest::post().insert_header((CONTENT_TYPE, FORM)).set_payload("a=1");
        let (request, mut payload) = request.to_http_parts();
        let body = <Payload as actix_web::FromRequest>::from_request(&request, &mut payload).await.unwrap();
        let door = Door { in_work: Arc::clone(in_work), holder: Arc::new(|_| None), request_timeout: Duration::ZERO };
        let Err(answer) = door.pass(&request, body).await else { unreachable!("nothing may pass") };
        answer.extensions().get().copied().unwrap()
    }

    ///
    #[tokio::test]
    async fn one_more_than_can_be_worked_on_is_refused_at_once() {
        let in_work = InWork::new(1);
        let _place = in_work.take(None);
        assert_eq!(ask(&in_work).await, HttpRefusal::Overloaded);
    }

    #[tokio::test]
    async fn nobody_is_let_in_without_a_certificate() {
        assert_eq!(ask(&InWork::new(1)).await, HttpRefusal::CertificateRefused);
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
    fn an_announced_size_is_looked_at_before_the_media_type() {
        assert_eq!(check(&[("content-type", FORM), ("content-length", "65536")]), Ok(()));
        assert_eq!(check(&[("content-length", "65537")]), Err(HttpRefusal::BodyTooLarge));
    }
}
