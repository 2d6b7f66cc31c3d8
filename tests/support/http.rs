//! HTTP/1.1 as a client writes it, so that a test can send what no library would.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, StreamOwned};
use serde_json::Value;

use super::DEADLINE;

trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

/// An open connection.
pub(crate) struct Connection {
    stream: Box<dyn ReadWrite>,
    /// Read from the stream, not yet part of an answer.
    buffer: Vec<u8>,
    /// What TLS agreed on; nothing on plain TCP.
    pub(crate) handshake: Option<Handshake>,
}

/// What a finished handshake agreed on.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(crate) version: ProtocolVersion,
    pub(crate) is_resumed: bool,
    /// What ALPN chose.
    pub(crate) protocol: Option<Vec<u8>>,
    /// The server's certificate.
    pub(crate) certificate: CertificateDer<'static>,
}

/// An answer as received.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    /// Plain TCP.
    pub(crate) fn plain(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { stream: Box::new(tcp(address)?), buffer: Vec::new(), handshake: None })
    }

    /// TLS, handshake included. In TLS 1.3 a refusal of the client's certificate shows at the first read only.
    pub(crate) fn tls(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a DNS name");
        let mut session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut socket = tcp(address)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        let handshake = Some(Handshake {
            version: session.protocol_version().expect("a finished handshake"),
            is_resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            protocol: session.alpn_protocol().map(<[u8]>::to_vec),
            certificate: session.peer_certificates().expect("the server has a certificate")[0].clone().into_owned(),
        });
        Ok(Self { stream: Box::new(StreamOwned::new(session, socket)), buffer: Vec::new(), handshake })
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next answer to a request that is not `HEAD`.
    pub(crate) fn receive(&mut self) -> io::Result<Response> {
        self.receive_for("GET")
    }

    /// The next answer to a request with `method`.
    pub(crate) fn receive_for(&mut self, method: &str) -> io::Result<Response> {
        let head = self.head()?;
        let (status, headers) = parse_head(&head)?;
        let mut response = Response { status, headers, body: Vec::new() };
        if method != "HEAD" && status != 304 && status != 204 {
            response.body = self.body(&response)?;
        }
        Ok(response)
    }

    /// Whether the other side has ended the connection: true as soon as it does, an error if it sends more first.
    pub(crate) fn is_ended(&mut self) -> bool {
        self.buffer.is_empty() && self.more().is_err()
    }

    fn head(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).map_err(io::Error::other);
            }
            self.more()?;
        }
    }

    fn body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        if response.header("transfer-encoding").is_some() {
            return self.chunks();
        }
        match response.header("content-length").map(str::parse) {
            Some(Ok(length)) => self.take(length),
            Some(Err(_)) => Err(io::Error::other("content-length is no number")),
            None => {
                while self.more().is_ok() {}
                Ok(std::mem::take(&mut self.buffer))
            }
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            body.extend(self.take(length)?);
            self.line()?;
            if length == 0 {
                return Ok(body);
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return String::from_utf8(line).map_err(io::Error::other);
            }
            self.more()?;
        }
    }

    /// The next bytes, as they are.
    pub(crate) fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buffer.extend_from_slice(&chunk[..read]);
                Ok(())
            }
        }
    }
}

impl Response {
    /// The first header of that name (in lower case).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, DEADLINE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    Ok(socket)
}

fn parse_head(head: &str) -> io::Result<(u16, Vec<(String, String)>)> {
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    status.map(|status| (status, headers)).ok_or_else(|| io::Error::other("no status line"))
}
