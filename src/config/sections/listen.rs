//! `[listen]`: the addresses of the listeners.

use std::net::SocketAddr;

use url::Url;

use crate::config::address::{origin, socket, socket_or_off};
use crate::config::document::Section;

pub(crate) struct Listen {
    pub(crate) exchange: SocketAddr,
    pub(crate) discovery: Option<SocketAddr>,
    pub(crate) ops: Option<SocketAddr>,
    pub(crate) http2: bool,
    pub(crate) discovery_url: Option<String>,
}

pub(crate) fn read(listen: &mut Section<'_>) -> Listen {
    let read = Listen {
        exchange: listen.or_default("exchange", |listen, key| listen.parse(key, socket)),
        discovery: listen.or_default("discovery", |listen, key| listen.parse(key, socket_or_off)),
        ops: listen.or_default("ops", |listen, key| listen.parse(key, socket_or_off)),
        http2: listen.or_default("http2", Section::flag),
        discovery_url: listen.parse("discovery_url", origin),
    };
    check_conflicts(listen, &read);
    if read.ops.is_some_and(|ops| !ops.ip().is_loopback()) {
        listen
            .warning("ops", "is not a loopback address: metrics are readable, without TLS, by anyone who can reach it");
    }
    read
}

fn check_conflicts(listen: &Section<'_>, read: &Listen) {
    let mut used = vec![read.exchange];
    for (key, address) in [("discovery", read.discovery), ("ops", read.ops)] {
        // Port 0: the system chooses a free port.
        let Some(address) = address.filter(|address| address.port() != 0) else { continue };
        if used.contains(&address) {
            listen.error(key, "is also the address of another listener");
        } else if used.iter().any(|other| overlap(*other, address)) {
            listen.error(key, "has the port of another listener, and one of the two listens on every address");
        }
        used.push(address);
    }
}

/// Whether one of the two listens on every address, including that of the other. The IPv6 wildcard includes IPv4.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: SocketAddr, of: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || of.is_ipv4());
    one.port() == other.port() && (covers(one, other) || covers(other, one))
}

/// The default of `listen.discovery_url`: the issuer's host with the port of the discovery listener.
pub(crate) fn discovery_url(issuer: &str, discovery: Option<SocketAddr>) -> Option<String> {
    let Some(address) = discovery else { return Some(issuer.to_owned()) };
    let mut url = Url::parse(issuer).ok()?;
    url.set_port(Some(address.port())).ok()?;
    Some(url.as_str().trim_end_matches('/').to_owned())
}
