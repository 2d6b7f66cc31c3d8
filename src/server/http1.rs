//! A filter for HTTP/1.1 requests, before the framework parses them: no line may be parsed in two ways, and no protocol
//! upgrade is accepted.
//!
//! In: the bytes of a connection. Out: the bytes that the framework may parse. The framework also ends lines at a bare LF,
//! and lets `Upgrade: websocket` replace the length of a body. So requests are followed here first, heads line by line and
//! bodies by their length (RFC 9112 §2.2, §6, §7.1). A malformed line is replaced by bytes that the framework answers with
//! 400. A header `Upgrade`, and the connection option of that name, are renamed to names without a meaning: a server may
//! ignore them (RFC 9110 §7.8).

use memchr::{memchr, memchr2};

/// Bytes of a line that are buffered until its end arrives.
const MAX_BUFFERED: usize = 16 * 1024;
/// Bytes that the framework rejects wherever a line could begin or continue.
const MALFORMED: &[u8] = b"\r\0";
const UPGRADE: &[u8] = b"upgrade";
/// As long as [`UPGRADE`].
const IGNORED: &[u8] = b"ignored";

/// Follows the requests on one connection.
#[derive(Debug, Default)]
pub(super) struct RequestFilter {
    state: State,
    head: Head,
    /// The line so far, or the rest of it if its beginning has been passed on.
    line: Vec<u8>,
    is_part: bool,
    last: u8,
}

/// What is expected next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first line of a request, after any number of empty ones.
    #[default]
    Start,
    Headers,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// After `CONNECT`, whose connection the framework ends.
    Tunnel,
    /// After the last request of the connection; nothing after it is a request (RFC 9112 §9.6).
    Ended,
    /// A malformed line was found: nothing more is passed on.
    Broken,
}

/// The framing of a body, as the head describes it.
#[derive(Debug, Default)]
struct Head {
    length: Option<u64>,
    is_chunked: bool,
    is_connect: bool,
    is_http_1_0: bool,
    /// Whether the connection ends after this request, if the sender says so.
    closes: Option<bool>,
}

/// A line that is malformed, or that could be parsed in two ways.
#[derive(Debug)]
struct Malformed;

impl RequestFilter {
    /// Appends to `output` what the framework may parse of `input`.
    pub(super) fn pass(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while !input.is_empty() {
            let consumed = match self.state {
                State::Body(left) => {
                    let (consumed, left) = copy(left, input, output);
                    self.state = if left == 0 { self.head.after() } else { State::Body(left) };
                    consumed
                }
                State::Chunk(left) => {
                    let (consumed, left) = copy(left, input, output);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    consumed
                }
                State::Tunnel => {
                    output.extend_from_slice(input);
                    input.len()
                }
                State::Ended | State::Broken => input.len(),
                State::Start | State::Headers | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    self.lines(input, output).unwrap_or_else(|Malformed| {
                        output.extend_from_slice(MALFORMED);
                        self.state = State::Broken;
                        input.len()
                    })
                }
            };
            input = &input[consumed..];
        }
    }

    /// Takes bytes up to the end of the line, or as many as are buffered; returns how many.
    fn lines(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<usize, Malformed> {
        let end = memchr(b'\n', input).map_or(input.len(), |at| at + 1);
        let part = &input[..end.min(MAX_BUFFERED - self.line.len())];
        let is_end = part.ends_with(b"\n");
        // CR must be followed by LF, and LF preceded by CR.
        let (content, is_after_cr) = if is_end { (&part[..part.len() - 1], true) } else { (part, false) };
        let last = content.last().copied().unwrap_or(self.last);
        let is_plain = match memchr2(b'\r', 0, content) {
            Some(at) => content[at] == b'\r' && at + 1 == content.len(),
            None => true,
        };
        let follows_cr = self.last == b'\r' && !content.is_empty();
        if !is_plain || follows_cr || (is_after_cr && last != b'\r') {
            return Err(Malformed);
        }
        self.last = last;
        self.line.extend_from_slice(part);
        if is_end {
            self.end_line()?;
            output.append(&mut self.line);
            (self.last, self.is_part) = (0, false);
        } else if self.line.len() == MAX_BUFFERED {
            self.begin_long_line()?;
            output.append(&mut self.line);
        }
        Ok(part.len())
    }

    /// Passes on the beginning of a line that is too long to buffer: allowed only where its value is not evaluated here.
    fn begin_long_line(&mut self) -> Result<(), Malformed> {
        if !self.is_part {
            match self.state {
                State::Start => self.begin_request(),
                State::Headers => match name_of(&self.line) {
                    Some(name) if Field::of(name) == Field::Other => {}
                    _ => return Err(Malformed),
                },
                _ => return Err(Malformed),
            }
        }
        self.is_part = true;
        Ok(())
    }

    fn begin_request(&mut self) {
        self.head = Head { is_connect: self.line.starts_with(b"CONNECT "), ..Head::default() };
    }

    fn end_line(&mut self) -> Result<(), Malformed> {
        let is_empty = !self.is_part && self.line == b"\r\n";
        self.state = match self.state {
            State::Start if is_empty => State::Start,
            State::Trailers if is_empty => self.head.after(),
            State::Start => {
                if !self.is_part {
                    self.begin_request();
                }
                self.head.is_http_1_0 = self.line.ends_with(b"HTTP/1.0\r\n");
                State::Headers
            }
            State::Headers if is_empty => self.head.body()?,
            State::Headers => {
                if !self.is_part {
                    self.head.field(&mut self.line)?;
                }
                State::Headers
            }
            State::ChunkSize => match chunk_size(&self.line)? {
                0 => State::Trailers,
                size => State::Chunk(size),
            },
            State::ChunkEnd if is_empty => State::ChunkSize,
            State::Trailers if name_of(&self.line).is_some() => State::Trailers,
            _ => return Err(Malformed),
        };
        Ok(())
    }
}

impl Head {
    /// Evaluates one header line, and removes an upgrade from it.
    fn field(&mut self, line: &mut [u8]) -> Result<(), Malformed> {
        let name = name_of(line).ok_or(Malformed)?;
        let (kind, value_at) = (Field::of(name), name.len() + 1);
        let (name, value) = line.split_at_mut(value_at);
        match kind {
            Field::Length => {
                let length = decimal(trimmed(value)).ok_or(Malformed)?;
                if self.length.replace(length).is_some() {
                    return Err(Malformed);
                }
            }
            Field::Coding => {
                if self.is_chunked || !trimmed(value).eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed);
                }
                self.is_chunked = true;
            }
            Field::Upgrade => name[..IGNORED.len()].copy_from_slice(IGNORED),
            Field::Connection => {
                for option in value.split_mut(|&byte| byte == b',') {
                    let begin = option.len() - option.trim_ascii_start().len();
                    let is = |other: &[u8]| option.trim_ascii().eq_ignore_ascii_case(other);
                    if is(b"close") {
                        self.closes = Some(true);
                    } else if is(b"keep-alive") {
                        self.closes.get_or_insert(false);
                    }
                    if is(UPGRADE) {
                        option[begin..begin + IGNORED.len()].copy_from_slice(IGNORED);
                    }
                }
            }
            Field::Other => {}
        }
        Ok(())
    }

    /// The state after the head.
    fn body(&self) -> Result<State, Malformed> {
        match (self.length, self.is_chunked) {
            (Some(_), true) => Err(Malformed),
            (None, true) => Ok(State::ChunkSize),
            (Some(length @ 1..), false) => Ok(State::Body(length)),
            (Some(0) | None, false) => Ok(if self.is_connect { State::Tunnel } else { self.after() }),
        }
    }

    /// The state after the request (RFC 9112 §9.3).
    fn after(&self) -> State {
        if self.closes.unwrap_or(self.is_http_1_0) { State::Ended } else { State::Start }
    }
}

/// The header fields that are evaluated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Length,
    Coding,
    Connection,
    Upgrade,
    Other,
}

impl Field {
    fn of(name: &[u8]) -> Self {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match name.len() {
            7 if is(UPGRADE) => Self::Upgrade,
            10 if is(b"connection") => Self::Connection,
            14 if is(b"content-length") => Self::Length,
            17 if is(b"transfer-encoding") => Self::Coding,
            _ => Self::Other,
        }
    }
}

/// The name before the colon (RFC 9112 §5.1), not empty and without white space. A folded line has none.
fn name_of(line: &[u8]) -> Option<&[u8]> {
    let name = &line[..memchr(b':', line)?];
    let is_plain = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    is_plain.then_some(name)
}

/// Without the white space around it: SP and HTAB, and the end of the line.
fn trimmed(value: &[u8]) -> &[u8] {
    let value = value.strip_suffix(b"\r\n").unwrap_or(value);
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let begin = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(begin, |last| last + 1);
    &value[begin..end]
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// The size before the extensions of a chunk (RFC 9112 §7.1).
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let rest = trimmed(rest);
    if !(rest.is_empty() || rest.starts_with(b";")) {
        return Err(Malformed);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    u64::from_str_radix(digits, 16).map_err(|_| Malformed)
}

/// Passes on up to `left` bytes; returns how many, and how many are still to come.
fn copy(left: u64, input: &[u8], output: &mut Vec<u8>) -> (usize, u64) {
    let consumed = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    output.extend_from_slice(&input[..consumed]);
    (consumed, left - consumed as u64)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use actix_http::h1::{Codec, Message};
    use actix_web::web::BytesMut;
    use proptest::prelude::*;
    use tokio::task::LocalSet;
    use tokio_util::codec::Decoder as _;

    use super::*;

    /// What the framework parses: each request's path and body, and whether an error ended it.
    #[derive(Debug, Default, PartialEq)]
    struct Read {
        requests: Vec<(String, Vec<u8>)>,
        /// Of these, how many are complete.
        complete: usize,
        is_error: bool,
    }

    fn read(bytes: &[u8]) -> Read {
        // The codec keeps the date up to date by a task.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        LocalSet::new().block_on(&runtime, async { read_now(bytes) })
    }

    fn read_now(bytes: &[u8]) -> Read {
        let (mut codec, mut bytes, mut read) = (Codec::default(), BytesMut::from(bytes), Read::default());
        loop {
            match codec.decode(&mut bytes) {
                Ok(Some(Message::Item(request))) => {
                    read.requests.push((request.path().to_owned(), Vec::new()));
                    if matches!(codec.message_type(), actix_http::h1::MessageType::None) {
                        read.complete += 1;
                    }
                }
                Ok(Some(Message::Chunk(Some(part)))) => read.requests.last_mut().unwrap().1.extend_from_slice(&part),
                Ok(Some(Message::Chunk(None))) => read.complete += 1,
                Ok(None) => return read,
                Err(_) => {
                    read.is_error = true;
                    return read;
                }
            }
        }
    }

    /// What is passed on, and how many requests were seen to end, where `size` bytes come at a time.
    fn passed_in_parts(input: &[u8], size: usize) -> (Vec<u8>, usize) {
        let (mut filter, mut output, mut ended) = (RequestFilter::default(), Vec::new(), 0);
        for part in input.chunks(size) {
            let is_between = |state| matches!(state, State::Start | State::Ended);
            let before = filter.state;
            filter.pass(part, &mut output);
            ended += usize::from(is_between(filter.state) && !is_between(before));
        }
        (output, ended)
    }

    #[track_caller]
    fn passed(input: &[u8]) -> Vec<u8> {
        let (whole, _) = passed_in_parts(input, input.len().max(1));
        for size in [1, 2, 3, 5, 7, 64] {
            let (parts, _) = passed_in_parts(input, size);
            assert_eq!(parts, whole, "{size} at a time: {}", input.escape_ascii());
        }
        whole
    }

    const NEXT: &str = "GET /next HTTP/1.1\r\nHost: x\r\n\r\n";

    fn post(fields: &str, body: &str) -> String {
        format!("POST /token HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}{NEXT}")
    }

    #[test]
    fn requests_without_an_upgrade_are_passed_on_unchanged() {
        for request in [
            NEXT.to_owned(),
            format!("\r\n\r\n{NEXT}"),
            post("Content-Length: 5\r\n", "a=b\nc"),
            post("Transfer-Encoding: chunked\r\n", "3;x=\"y\"\r\na\r\n\r\n2 \r\nbc\r\n0\r\nT: v\r\n\r\n"),
            post("content-length:0\r\nX-Upgrade: websocket\r\nConnection: keep-alive, upgraded\r\n", ""),
            post(&format!("X-Long: {}\r\nContent-Length: 1\r\n", "x".repeat(3 * MAX_BUFFERED)), "\n"),
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n{NEXT}", "y".repeat(2 * MAX_BUFFERED)),
        ] {
            assert_eq!(
                passed(request.as_bytes()).escape_ascii().to_string(),
                request.as_bytes().escape_ascii().to_string()
            );
            assert!(!read(request.as_bytes()).is_error, "the example is one");
        }
    }

    /// RFC 9110 §7.8
    #[test]
    fn an_offer_to_change_the_protocol_is_ignored_and_the_body_keeps_its_length() {
        let offers = [
            "Upgrade: websocket\r\n",
            "UPGRADE: WebSocket\r\n",
            "upgrade:websocket\r\n",
            "Connection: Upgrade\r\n",
            "Connection: keep-alive , uPGRADE,Upgrade\r\n",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            "Upgrade: TLS/1.2\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n",
            "Upgrade: websocket, foo/2\r\nConnection: upgrade\r\nConnection: upgrade\r\n",
        ];
        for offer in offers {
            for (framing, sent) in
                [("Content-Length: 3\r\n", "a=b"), ("Transfer-Encoding: chunked\r\n", "1\r\na\r\n2\r\n=b\r\n0\r\n\r\n")]
            {
                for fields in [format!("{offer}{framing}"), format!("{framing}{offer}")] {
                    let through = passed(post(&fields, sent).as_bytes());
                    let requests = vec![("/token".to_owned(), b"a=b".to_vec()), ("/next".to_owned(), Vec::new())];
                    assert_eq!(read(&through), Read { requests, complete: 2, is_error: false }, "{fields}");
                    let text = String::from_utf8(through).unwrap().to_ascii_lowercase();
                    assert!(!text.contains("upgrade:") && !text.contains("upgrade\r"), "{text}");
                }
            }
            let get = format!("GET /a HTTP/1.1\r\nHost: x\r\n{offer}\r\n{NEXT}");
            assert_eq!(read(&passed(get.as_bytes())).complete, 2, "without a body: {offer}");
        }
    }

    /// A-033: it is an error however the framework would parse it, and nothing after it is a request.
    #[test]
    fn a_line_that_could_be_read_in_two_ways_is_an_error() {
        let good = post("Content-Length: 3\r\n", "a=b");
        let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
        let mut bad = vec![
            good.replace("HTTP/1.1\r\nHost: x\r\nContent", "HTTP/1.1\nHost: x\r\nContent"),
            good.replacen("Host: x\r\n", "Host: x\n", 1),
            good.replace("3\r\n\r\n", "3\r\n\n"),
            good.replace("3\r\n\r\n", "3\n\n"),
            good.replacen("Host: x\r\n", "Host: x\r", 1),
            good.replacen("Host: x\r\n", "Host: x\rY: z\r\n", 1),
            good.replacen("Host: x\r\n", "Host: x\r\r\n", 1),
            format!("\n{good}"),
            format!("\r{good}"),
            chunked("3\na=b\r\n0\r\n\r\n"),
            chunked("3;e\na=b\r\n0\r\n\r\n"),
            chunked("3\r\na=b\n0\r\n\r\n"),
            chunked("3\r\na=b0\r\n\r\n"),
            chunked("3\r\na=b\r\n0\n\r\n"),
            chunked("3\r\na=b\r\n0\r\n\n"),
            chunked("3\r\na=b\r\n0\r\nT: v\n\r\n"),
            chunked("3\r\na=b\r\n0\r\nT: v\nU: w\r\n\r\n"),
            chunked("3\r\na=b\r\n0\r\n T: v\r\n\r\n"),
            chunked("3\r\na=b\r\n0\r\nnothing\r\n\r\n"),
            chunked("\r\na=b\r\n0\r\n\r\n"),
            chunked("-3\r\na=b\r\n0\r\n\r\n"),
            chunked("0x3\r\na=b\r\n0\r\n\r\n"),
            chunked("3 3\r\na=b\r\n0\r\n\r\n"),
            chunked("10000000000000000\r\na=b\r\n0\r\n\r\n"),
            chunked(&format!("3;{}\r\na=b\r\n0\r\n\r\n", "x".repeat(2 * MAX_BUFFERED))),
        ];
        for fields in [
            "Content-Length: 3\r\nX: a\0b\r\n",
            "Content-Length: 3\r\n folded\r\n",
            "Content-Length: 3\r\n\tfolded: a\r\n",
            "Content-Length : 3\r\n",
            "Content-Length\t: 3\r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Content-Length: 3\r\ncontent-length: 4\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: -3\r\n",
            "Content-Length: 0x3\r\n",
            "Content-Length: 3 3\r\n",
            "Content-Length: \u{b2}\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999999\r\n",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
            "no colon\r\nContent-Length: 3\r\n",
            ": no name\r\nContent-Length: 3\r\n",
        ] {
            bad.push(post(fields, "a=b"));
        }
        let long = |name: &str| format!("{name}:{}3\r\n", " ".repeat(2 * MAX_BUFFERED));
        bad.extend(
            ["Content-Length", "transfer-encoding", "Connection", "Upgrade"].map(|name| post(&long(name), "a=b")),
        );
        for request in bad {
            let read = read(&passed(request.as_bytes()));
            assert!(read.is_error, "{}", request.escape_debug().collect::<String>());
            assert!(!read.requests.iter().any(|(path, _)| path == "/next"), "{request}");
        }
    }

    /// What follows it belongs to no request.
    #[test]
    fn nothing_after_a_connect_is_a_request() {
        let connect = format!("CONNECT a.example:443 HTTP/1.1\r\nHost: a\r\n\r\n{NEXT}");
        assert_eq!(read(&passed(connect.as_bytes())).complete, 0);
    }

    /// RFC 9112 §9.3, §9.6
    #[test]
    fn nothing_after_the_last_request_is_a_request() {
        let last = [
            post("Connection: close\r\nContent-Length: 3\r\n", "a=b"),
            post("Content-Length: 3\r\nconnection: x , CLOSE\r\n", "a=b"),
            post("Connection: close, keep-alive\r\nContent-Length: 3\r\n", "a=b"),
            post("Connection: keep-alive\r\nConnection: close\r\nContent-Length: 3\r\n", "a=b"),
            post("Connection: close\r\nTransfer-Encoding: chunked\r\n", "3\r\na=b\r\n0\r\n\r\n"),
            post("Content-Length: 3\r\n", "a=b").replacen("HTTP/1.1", "HTTP/1.0", 1),
        ];
        for request in last {
            let read = read(&passed(request.as_bytes()));
            assert_eq!((read.complete, read.is_error), (1, false), "{request}");
        }
        let kept = post("Connection: Keep-Alive\r\nContent-Length: 3\r\n", "a=b").replacen("HTTP/1.1", "HTTP/1.0", 1);
        assert_eq!(read(&passed(kept.as_bytes())).complete, 2);
    }

    /// A request and its framing.
    fn request() -> impl Strategy<Value = (String, (String, Vec<u8>))> {
        let offer = prop::sample::select(vec![
            "",
            "Upgrade: websocket\r\n",
            "uPGRADE: websocket\r\nConnection: x, Upgrade\r\n",
            "Connection: close\r\n",
            "X-Other: \u{e9}\r\n",
        ]);
        let body = "[a\r\n0: =]{0,40}";
        (0..1000_u32, offer, body, prop::collection::vec(1..9_usize, 0..6), any::<bool>()).prop_map(
            |(number, offer, body, sizes, chunked)| {
                let (path, mut rest) = (format!("/{number}"), body.as_str());
                let sent = if chunked {
                    let mut sent = String::new();
                    for size in sizes {
                        let (chunk, later) = rest.split_at(size.min(rest.len()));
                        if !chunk.is_empty() {
                            write!(sent, "{:X}\r\n{chunk}\r\n", chunk.len()).unwrap();
                        }
                        rest = later;
                    }
                    if !rest.is_empty() {
                        write!(sent, "{:04x};last\r\n{rest}\r\n", rest.len()).unwrap();
                    }
                    format!("Transfer-Encoding: Chunked\r\n\r\n{sent}0\r\n\r\n")
                } else {
                    format!("Content-Length: {}\r\n\r\n{body}", body.len())
                };
                (format!("POST {path} HTTP/1.1\r\nHost: x\r\n{offer}{sent}"), (path, body.into_bytes()))
            },
        )
    }

    proptest! {
        /// However they are cut, requests arrive as they were meant.
        #[test]
        fn requests_one_after_the_other_keep_their_bodies(
            sent in prop::collection::vec(request(), 0..6), size in 1..200_usize,
        ) {
            let (texts, mut meant): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
            let last = texts.iter().position(|text: &String| text.contains("Connection: close"));
            meant.truncate(last.map_or(meant.len(), |last| last + 1));
            let (through, _) = passed_in_parts(texts.concat().as_bytes(), size);
            prop_assert_eq!(read(&through), Read { complete: meant.len(), requests: meant, is_error: false });
        }

        /// Whatever is sent, the framework sees requests end where they were seen to end here.
        #[test]
        fn both_readers_agree_where_a_request_ends(
            sent in prop::collection::vec(request(), 1..4),
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8, any::<prop::sample::Index>()), 0..6),
        ) {
            let mut bytes: Vec<u8> = sent.into_iter().flat_map(|(text, _)| text.into_bytes()).collect();
            for (at, how, what) in edits {
                let at = at.index(bytes.len());
                let with = b"\r\n\0 \t:;,0a\x80"[what.index(11)];
                match how {
                    0 => bytes[at] = with,
                    1 => bytes.insert(at, with),
                    _ => drop(bytes.remove(at)),
                }
                if bytes.is_empty() { bytes.push(b'x') }
            }
            let (through, ended) = passed_in_parts(&bytes, 1);
            let read = read(&through);
            prop_assert!(read.complete <= ended, "{}", bytes.escape_ascii());
            prop_assert!(read.is_error || read.complete == ended, "{}", bytes.escape_ascii());
        }
    }
}
