//! The load generator: HTTP/1.1 framed by hand over mTLS connections, all driven by one thread.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// How long a server may take to answer anything before the measurement is abandoned.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A server, and who asks it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<ClientConfig>,
}

/// A request as it is sent, head and body.
#[derive(Clone)]
pub(crate) struct Request(Vec<u8>);

impl Request {
    /// `POST` of a form.
    pub(crate) fn post(path: &str, form: &str) -> Self {
        let text = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        Self(text.into_bytes())
    }
}

/// An answer as it was received.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// What a run has shown.
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    /// From the moment a request was sent, or was due, to its answer; in the order of the answers.
    pub(crate) latencies: Vec<Duration>,
    /// In the order of the answers.
    pub(crate) responses: Vec<Response>,
}

/// Open connections to one server, or to several.
pub(crate) struct Generator {
    poll: OwnedFd,
    connections: Vec<Connection>,
}

impl Generator {
    /// Opens `count` connections; their handshakes are complete when this returns.
    pub(crate) fn connect(endpoint: &Endpoint, count: usize) -> Self {
        Self::connect_to_all(std::slice::from_ref(endpoint), count)
    }

    /// The same with the connections divided among servers.
    pub(crate) fn connect_to_all(endpoints: &[Endpoint], count: usize) -> Self {
        let mut generator = Self::unconnected();
        for endpoint in endpoints.iter().cycle().take(count) {
            generator.open_connection(endpoint).complete_handshake();
        }
        generator
    }

    fn unconnected() -> Self {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
        Self { poll, connections: Vec::new() }
    }

    fn open_connection(&mut self, endpoint: &Endpoint) -> &mut Connection {
        self.connections.push(Connection::open(endpoint));
        self.watch(self.connections.len() - 1);
        self.connections.last_mut().expect("just pushed")
    }

    fn close(&mut self, index: usize) {
        epoll::delete(&self.poll, &self.connections[index].socket).expect("a watched socket");
        self.connections[index].close();
    }

    fn watch(&self, index: usize) {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.poll, &self.connections[index].socket, data, epoll::EventFlags::IN).expect("a new socket");
    }

    /// Sends each request as soon as a connection has its last answer.
    pub(crate) fn run_closed(&mut self, requests: &[Request]) -> Outcome {
        let mut run = Run::new(requests.len());
        let mut rest = requests.iter();
        for (connection, request) in self.connections.iter_mut().zip(&mut rest) {
            connection.send(request, Instant::now());
        }
        while !run.is_complete() {
            for index in self.wait(Some(&PATIENCE)) {
                let connection = &mut self.connections[index];
                let Some(response) = connection.receive() else { continue };
                run.note(connection.due, response);
                if let Some(request) = rest.next() {
                    connection.send(request, Instant::now());
                }
            }
        }
        run.end()
    }

    /// Sends `rate` requests a second at equal distances, whether or not the last ones have been answered. A request that
    /// finds no free connection waits, and its latency counts from when it was due.
    pub(crate) fn run_at_rate(&mut self, requests: &[Request], rate: f64) -> Outcome {
        let mut run = Run::new(requests.len());
        let mut idle: VecDeque<usize> = (0..self.connections.len()).collect();
        let (started, distance) = (Instant::now(), Duration::from_secs_f64(1.0 / rate));
        let mut schedule =
            requests.iter().zip(std::iter::successors(Some(started), |due| Some(*due + distance))).peekable();
        while !run.is_complete() {
            while let Some((_, due)) = schedule.peek()
                && *due <= Instant::now()
                && let Some(index) = idle.pop_front()
            {
                let (request, due) = schedule.next().expect("peeked");
                self.connections[index].send(request, due);
            }
            // It has a core of its own, and a timer would be late.
            for index in self.wait(Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                if let Some(response) = self.connections[index].receive() {
                    run.note(self.connections[index].due, response);
                    idle.push_back(index);
                }
            }
        }
        run.end()
    }

    /// Sends each request on a connection of its own, `concurrent` of them at a time; handshakes are part of the run.
    pub(crate) fn run_new_connections(endpoint: &Endpoint, requests: &[Request], concurrent: usize) -> Outcome {
        let mut generator = Self::unconnected();
        let mut run = Run::new(requests.len());
        let mut rest = requests.iter();
        for request in rest.by_ref().take(concurrent) {
            generator.open_connection(endpoint).send(request, Instant::now());
        }
        while !run.is_complete() {
            for index in generator.wait(Some(&PATIENCE)) {
                let Some(response) = generator.connections[index].receive() else { continue };
                run.note(generator.connections[index].due, response);
                generator.close(index);
                if let Some(request) = rest.next() {
                    generator.connections[index] = Connection::open(endpoint);
                    generator.watch(index);
                    generator.connections[index].send(request, Instant::now());
                }
            }
        }
        run.end()
    }

    /// The connections with something to read.
    fn wait(&self, timeout: Option<&Timespec>) -> Vec<usize> {
        let mut events = Vec::with_capacity(64);
        // While the server is busy, looks again and again instead of sleeping: waking a sleeping peer is work of the sender,
        // several microseconds on a virtual machine, which a busy network does not cause.
        let (began, is_busy) = (Instant::now(), timeout == Some(&PATIENCE));
        while is_busy && events.is_empty() && began.elapsed() < Duration::from_secs(30) {
            epoll::wait(&self.poll, spare_capacity(&mut events), Some(&NOW)).expect("epoll_wait");
        }
        if !is_busy {
            epoll::wait(&self.poll, spare_capacity(&mut events), timeout).expect("epoll_wait");
        }
        assert!(!events.is_empty() || timeout != Some(&PATIENCE), "the server does not answer");
        events.iter().map(|event| usize::try_from(event.data.u64()).expect("an index")).collect()
    }
}

/// The answers so far.
struct Run {
    started: Instant,
    expected: usize,
    outcome: Outcome,
}

impl Run {
    fn new(expected: usize) -> Self {
        let outcome = Outcome {
            elapsed: Duration::ZERO,
            latencies: Vec::with_capacity(expected),
            responses: Vec::with_capacity(expected),
        };
        Self { started: Instant::now(), expected, outcome }
    }

    fn note(&mut self, due: Instant, response: Response) {
        self.outcome.latencies.push(due.elapsed());
        self.outcome.responses.push(response);
    }

    fn is_complete(&self) -> bool {
        self.outcome.responses.len() == self.expected
    }

    fn end(mut self) -> Outcome {
        self.outcome.elapsed = self.started.elapsed();
        self.outcome
    }
}

struct Connection {
    socket: TcpStream,
    tls: ClientConnection,
    /// Decrypted, not yet part of an answer.
    received: Vec<u8>,
    /// When its last request was to be sent.
    due: Instant,
}

impl Connection {
    fn open(endpoint: &Endpoint) -> Self {
        let name = ServerName::try_from("localhost").expect("a DNS name");
        let tls = ClientConnection::new(Arc::clone(&endpoint.tls), name).expect("a TLS configuration");
        let socket = TcpStream::connect(endpoint.address).expect("the server accepts");
        socket.set_nodelay(true).expect("an open socket");
        socket.set_nonblocking(true).expect("an open socket");
        Self { socket, tls, received: Vec::with_capacity(8 * 1024), due: Instant::now() }
    }

    fn complete_handshake(&mut self) {
        self.socket.set_nonblocking(false).expect("an open socket");
        while self.tls.is_handshaking() || self.tls.wants_write() {
            self.tls.complete_io(&mut self.socket).expect("a handshake");
        }
        self.socket.set_nonblocking(true).expect("an open socket");
    }

    /// Before the end of the handshake, the request is sent with its last message.
    fn send(&mut self, request: &Request, due: Instant) {
        self.due = due;
        self.tls.writer().write_all(&request.0).expect("a request is buffered");
        self.flush();
    }

    fn flush(&mut self) {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                result => drop(result.expect("the server reads")),
            }
        }
    }

    /// Reads what has come; the answer once it is complete.
    fn receive(&mut self) -> Option<Response> {
        let end = match self.tls.read_tls(&mut self.socket) {
            Ok(length) => length == 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("the connection broke: {error}"),
        };
        self.tls.process_new_packets().expect("TLS");
        self.flush();
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.tls.reader().read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => self.received.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("the connection broke: {error}"),
            }
        }
        let response = self.take_response();
        assert!(!end || response.is_some(), "the server closed the connection");
        response
    }

    fn take_response(&mut self) -> Option<Response> {
        let head = self.received.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let text = std::str::from_utf8(&self.received[..head]).expect("an HTTP head");
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let length: usize = length.expect("a content length");
        let status = text[9..12].parse().expect("a status");
        if self.received.len() < head + length {
            return None;
        }
        let body = self.received[head..head + length].to_vec();
        self.received.drain(..head + length);
        Some(Response { status, body })
    }

    fn close(&mut self) {
        self.tls.send_close_notify();
        self.flush();
        self.socket.shutdown(std::net::Shutdown::Both).expect("an open socket");
    }
}
