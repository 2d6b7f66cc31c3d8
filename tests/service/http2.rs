//! HTTP/2, where it is configured, spoken frame by frame so that a test can send what no library would (CONTRACT 2;
//!

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::Value;

use crate::reasons::{OVERLOADED, SHUTTING_DOWN};
use crate::scene::{GATEWAY, MAILER};
use crate::support::http::Connection;
use crate::support::issuer::Issuer;
use crate::support::workload::{FORM, Form};
use crate::support::writ::{Setup, Writ};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const ENHANCE_YOUR_CALM: u32 = 11;
/// `:status: 200` (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

fn setup() -> Setup {
    Setup::new().set("listen.http2", true).client("mailer", MAILER)
}

/// A connection after the preface, whose next stream is this.
struct Http2 {
    connection: Connection,
    stream: u32,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// What came on a stream.
#[derive(Default)]
struct Reply {
    /// The first octet of its head, which is that of its status.
    status: u8,
    body: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field without compression (RFC 7541 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        assert!(text.len() < 127, "one octet tells the length");
        [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

fn head(method: &str, path: &str) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    pseudo.iter().flat_map(|(name, value)| field(name, value)).collect()
}

impl Http2 {
    fn open(writ: &Writ, client: &str) -> Self {
        let workload = writ.workload(client).with_tls(|tls| tls.alpn_protocols = vec![b"h2".to_vec()]);
        let mut connection = workload.connect().connection;
        assert_eq!(connection.handshake.as_ref().unwrap().protocol.as_deref(), Some(b"h2".as_slice()));
        connection.send(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()).unwrap();
        Self { connection, stream: 1 }
    }

    /// The frames of a request for a token, on a stream of its own.
    fn asking(&mut self, form: &Form) -> Vec<u8> {
        let body = form.encode();
        let fields = [head("POST", "/token"), field("content-type", FORM)].concat();
        [frame(HEADERS, END_HEADERS, self.next(), &fields), frame(DATA, END_STREAM, self.stream, body.as_bytes())]
            .concat()
    }

    /// The number of the next stream.
    fn next(&mut self) -> u32 {
        self.stream += 2;
        self.stream
    }

    fn send(&mut self, bytes: &[u8]) {
        self.connection.send(bytes).expect("can be sent");
    }

    fn receive(&mut self) -> Option<Frame> {
        let head = self.connection.take(9).ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = self.connection.take(length).ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..].try_into().unwrap()),
            payload,
        })
    }

    /// What comes until these streams are at their end.
    fn replies(&mut self, count: usize) -> BTreeMap<u32, Reply> {
        let (mut replies, mut ended) = (BTreeMap::<u32, Reply>::new(), 0);
        while ended < count {
            let frame = self.receive().expect("the connection is open");
            match frame.kind {
                HEADERS => replies.entry(frame.stream).or_default().status = frame.payload[0],
                DATA => replies.entry(frame.stream).or_default().body.extend(frame.payload),
                GOAWAY if frame.payload[4..8] != [0; 4] => panic!("sent away: {:?}", frame.payload),
                _ => continue,
            }
            ended += usize::from(frame.flags & END_STREAM != 0);
        }
        replies
    }

    /// Sends these bytes, and reads until the other side says `GOAWAY` or closes: the code, if it says one.
    fn sent_away(mut self, flood: &[u8]) -> Option<u32> {
        // The other side may close before all is written.
        drop(self.connection.send(flood));
        while let Some(frame) = self.receive() {
            if frame.kind == GOAWAY {
                return Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        None
    }
}

/// Resident memory of the service, in KiB.
fn memory(writ: &Writ) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", writ.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn is_served(writ: &Writ) {
    writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued();
}

/// CONTRACT 2
#[test]
fn requests_are_answered_as_over_http_1() {
    let writ = setup().start();
    let mut http2 = Http2::open(&writ, "mailer");
    let asked: Vec<u8> = (0..20).flat_map(|_| http2.asking(&Form::client_credentials("mailbox.deliver"))).collect();
    http2.send(&asked);
    for reply in http2.replies(20).into_values() {
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((reply.status, answer["scope"].as_str()), (STATUS_200, Some("mailbox.deliver")));
    }
    let refused = http2.asking(&Form::client_credentials("mailbox.unheard"));
    http2.send(&refused);
    let reply = http2.replies(1).into_values().next().unwrap();
    let answer: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(answer["reason"], "purpose_not_allowed");
    let stream = http2.next();
    http2.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("HEAD", "/.well-known/jwks.json")));
    assert!(http2.replies(1)[&stream].body.is_empty());
    let stream = http2.next();
    http2.send(&frame(HEADERS, END_HEADERS, stream, &[head("POST", "/token"), field("content-type", FORM)].concat()));
    for _ in 0..5 {
        http2.send(&frame(DATA, 0, stream, &[b'a'; 14_000]));
    }
    let answer: Value = serde_json::from_slice(&http2.replies(1)[&stream].body).unwrap();
    assert_eq!(answer["reason"], "body_too_large");
}

/// floods end in `GOAWAY`, and other connections are served.
#[test]
fn floods_end_in_goaway() {
    let writ = setup().start();
    for (name, flood) in [
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS with values", frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("answers to PING", frame(PING, 1, 0, &[0; 8])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("unknown frames", frame(0xfa, 0, 0, &[0; 4])),
    ] {
        let code = Http2::open(&writ, "mailer").sent_away(&flood.repeat(1000));
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{name}");
        is_served(&writ);
    }
    let mut http2 = Http2::open(&writ, "mailer");
    let reset = |http2: &mut Http2| {
        let get = frame(HEADERS, END_HEADERS | END_STREAM, http2.next(), &head("GET", "/nothing"));
        [get, frame(RST_STREAM, 0, http2.stream, &8_u32.to_be_bytes())].concat()
    };
    let resets: Vec<u8> = (0..1000).flat_map(|_| reset(&mut http2)).collect();
    assert_eq!(http2.sent_away(&resets), Some(ENHANCE_YOUR_CALM), "RST_STREAM");
    let mut http2 = Http2::open(&writ, "mailer");
    let begin = frame(HEADERS, END_STREAM, http2.next(), &head("GET", "/nothing"));
    let more = frame(CONTINUATION, 0, http2.stream, &field("x", "y")).repeat(1000);
    assert_eq!(http2.sent_away(&[begin, more].concat()), Some(ENHANCE_YOUR_CALM), "CONTINUATION");
    for (name, size) in [("empty DATA", 0), ("crumbs of DATA", 1)] {
        let mut http2 = Http2::open(&writ, "mailer");
        let fields = [head("POST", "/token"), field("content-type", FORM)].concat();
        let begin = frame(HEADERS, END_HEADERS, http2.next(), &fields);
        let data = frame(DATA, 0, http2.stream, &vec![b'a'; size]).repeat(1000);
        assert_eq!(http2.sent_away(&[begin, data].concat()), Some(ENHANCE_YOUR_CALM), "{name}");
    }
    is_served(&writ);
}

/// what one connection makes the service keep is bounded, whatever a few octets stand for.
#[test]
fn a_connection_takes_little_memory() {
    const MIB: u64 = 1024;
    const CONNECTIONS: usize = 8;
    let writ = setup().start();
    is_served(&writ);
    // Requests whose bodies never come, so that whatever was read of them is kept.
    let asking = [head("POST", "/token"), field("content-type", FORM)].concat();
    // A field goes into the table of 4 KiB once; then an octet stands for it.
    let bomb = |size: usize, times: usize| {
        let value = "v".repeat(size);
        let name = [&[0x40, 1, b'x', 0x7f], &varint(size - 127)[..], value.as_bytes()].concat();
        [asking.clone(), name, vec![0xbe; times]].concat()
    };
    let begun = frame(HEADERS, END_HEADERS, 0, &asking);
    let before = memory(&writ);
    let mut held = Vec::new();
    for number in 0..CONNECTIONS {
        let mut http2 = Http2::open(&writ, "mailer");
        for _ in 0..100 {
            let stream = http2.next();
            let fields = match number % 4 {
                0 => bomb(4000, 10_000),
                1 => bomb(130, 12_000),
                2 => asking.iter().copied().chain((0..200).flat_map(|n| field(&format!("x{n}"), ""))).collect(),
                _ => {
                    let mut begin = begun.clone();
                    begin[5..9].copy_from_slice(&stream.to_be_bytes());
                    let body = frame(DATA, 0, stream, &[b'a'; 16_000]).repeat(4);
                    // Beyond its window no more can be sent.
                    if stream < 2 * 32 {
                        drop(http2.connection.send(&[begin, body].concat()));
                    }
                    continue;
                }
            };
            drop(http2.connection.send(&frame(HEADERS, END_HEADERS, stream, &fields)));
        }
        held.push(http2);
    }
    is_served(&writ);
    let taken = memory(&writ).saturating_sub(before);
    println!("{CONNECTIONS} connections took {taken} KiB");
    assert!(taken < CONNECTIONS as u64 * 4 * MIB, "{taken} KiB");
    drop(held);
    is_served(&writ);
}

/// An integer after a full prefix (RFC 7541 5.1).
fn varint(mut rest: usize) -> Vec<u8> {
    let mut octets = Vec::new();
    while rest >= 128 {
        octets.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    octets.push(u8::try_from(rest).unwrap());
    octets
}

/// clients with issuers that never answer, on more requests than there are places.
#[test]
pub(crate) fn a_client_whose_issuers_hang_does_not_use_up_the_capacity() {
    // It accepts connections and sends nothing.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let issuers = [(); 3].map(|()| Issuer::start());
    let mut setup = setup().client("gateway", GATEWAY);
    for (number, issuer) in issuers.iter().enumerate() {
        let uri = format!("https://{}/jwks-{number}", hole.local_addr().unwrap());
        setup = setup.issuer_with(issuer, |table| {
            table.insert("jwks_uri".into(), uri.into());
            table.insert("subject_prefix".into(), format!("{number}:").into());
        });
    }
    let writ = setup.start();
    let forms = issuers.each_ref().map(|issuer| Form::exchange(&issuer.access_token().mint(), "trade.execute"));
    let mut greedy: Vec<_> = (0..11).map(|_| Http2::open(&writ, "gateway")).collect();
    for http2 in &mut greedy {
        let asked: Vec<u8> = (0..100).flat_map(|number| http2.asking(&forms[number % forms.len()])).collect();
        http2.send(&asked);
    }
    for _ in 0..20 {
        is_served(&writ);
    }
    let mut reasons = BTreeMap::<String, usize>::new();
    for http2 in &mut greedy {
        for reply in http2.replies(100).into_values() {
            let answer: Value = serde_json::from_slice(&reply.body).unwrap();
            *reasons.entry(answer["reason"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    println!("while 20 of 20 requests of another client were served, 1100 of the greedy one got {reasons:?}");
    assert_eq!(reasons.keys().collect::<Vec<_>>(), ["issuer_unavailable", OVERLOADED]);
}

/// what is in flight is answered, and what begins later is refused.
#[test]
pub(crate) fn a_request_that_begins_during_the_shutdown_is_refused() {
    let mut writ = setup().start();
    let mut http2 = Http2::open(&writ, "mailer");
    let form = Form::client_credentials("mailbox.deliver");
    let fields = [head("POST", "/token"), field("content-type", FORM)].concat();
    let first = http2.next();
    http2.send(&frame(HEADERS, END_HEADERS, first, &fields));
    // The service has read it once it has answered a later one.
    is_served(&writ);
    writ.signal(Signal::TERM);
    writ.wait_for_log("the shutdown", |line| line["message"].as_str().is_some_and(|text| text.starts_with("draining")));
    let second = http2.asking(&form);
    http2.send(&second);
    let refused = http2.replies(1).into_values().next().unwrap();
    let answer: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!((&answer["error"], &answer["reason"]), (&"temporarily_unavailable".into(), &SHUTTING_DOWN.into()));
    http2.send(&frame(DATA, END_STREAM, first, form.encode().as_bytes()));
    assert_eq!(http2.replies(1)[&first].status, STATUS_200);
    assert_eq!(writ.wait_for_exit(), 0);
}
