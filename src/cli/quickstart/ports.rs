//! The four ports of a quickstart folder: the default ones, or others if those are in use.

use std::net::{SocketAddr, TcpListener};

use url::Url;

use crate::config;

/// A port for each listener of the service, and one for the toy issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) exchange: u16,
    pub(super) discovery: u16,
    pub(super) ops: u16,
    pub(super) issuer: u16,
}

/// The distance between the ports that are tried instead of one in use: the last digit stays.
const STEP: u16 = 10;
const TRIES: usize = 100;

impl Ports {
    /// The ports in `writ.toml`; `None` if it does not have the form that quickstart wrote.
    pub(super) fn read(text: &str) -> Option<Self> {
        let listener = |key| Some(config::text_at(text, &["listen", key])?.parse::<SocketAddr>().ok()?.port());
        let ports = Self {
            exchange: listener("exchange")?,
            discovery: listener("discovery")?,
            ops: listener("ops")?,
            issuer: Url::parse(&config::text_at(text, &["subject_issuer", "jwks_uri"])?).ok()?.port()?,
        };
        ports.differ().then_some(ports)
    }

    /// Replaces each port in use by a free one; `None` if there is none near it.
    pub(super) fn free(self, is_free: impl Fn(u16) -> bool) -> Option<Self> {
        let mut chosen = Vec::new();
        for wanted in self.list() {
            let mut near = (0..).map_while(|step| wanted.checked_add(step * STEP)).take(TRIES);
            chosen.push(near.find(|port| is_free(*port) && !chosen.contains(port))?);
        }
        let [exchange, discovery, ops, issuer] = chosen[..] else { return None };
        Some(Self { exchange, discovery, ops, issuer })
    }

    /// Replaces each of these ports in `text` by its counterpart in `new`, wherever it follows a colon.
    pub(super) fn replace(self, text: &str, new: Self) -> String {
        let mut pieces = text.split(':');
        let mut replaced = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = piece.split_at(digits);
            let place = self.list().iter().position(|port| number.parse() == Ok(*port));
            let number = place.map_or_else(|| number.to_owned(), |at| new.list()[at].to_string());
            replaced.push(':');
            replaced.push_str(&number);
            replaced.push_str(rest);
        }
        replaced
    }

    fn list(self) -> [u16; 4] {
        [self.exchange, self.discovery, self.ops, self.issuer]
    }

    fn differ(self) -> bool {
        let list = self.list();
        list.iter().enumerate().all(|(at, port)| *port != 0 && !list[..at].contains(port))
    }
}

/// Whether a listener on loopback could bind the port now.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = include_str!("writ.toml");
    const DEFAULT: Ports = Ports { exchange: 8443, discovery: 8444, ops: 9464, issuer: 8445 };

    #[test]
    fn the_template_has_the_default_ports() {
        assert_eq!(Ports::read(TEMPLATE), Some(DEFAULT));
    }

    #[test]
    fn ports_are_read_from_any_spelling_of_the_same_values() {
        let quoted = TEMPLATE.replace("ops = \"127.0.0.1:9464\"", "\"ops\" = '127.0.0.1:9464'");
        let spelled = quoted.replace("[listen]", "[ listen ]");
        assert!(spelled != TEMPLATE && spelled.contains("'127.0.0.1:9464'"), "{spelled}");
        assert_eq!(Ports::read(&spelled), Some(DEFAULT));
    }

    #[test]
    fn free_ports_are_kept() {
        assert_eq!(DEFAULT.free(|_| true), Some(DEFAULT));
    }

    #[test]
    fn a_port_in_use_is_replaced_by_one_near_it() {
        let chosen = DEFAULT.free(|port| ![8443, 8453, 9464].contains(&port)).unwrap();
        assert_eq!(chosen, Ports { exchange: 8463, ops: 9474, ..DEFAULT });
    }

    #[test]
    fn no_port_is_chosen_twice() {
        let close = Ports { exchange: 8443, discovery: 8453, ops: 8463, issuer: 8473 };
        let chosen = close.free(|port| port != 8443).unwrap();
        assert_eq!(chosen, Ports { exchange: 8453, discovery: 8463, ops: 8473, issuer: 8483 });
    }

    #[test]
    fn a_host_without_a_free_port_has_none() {
        assert_eq!(DEFAULT.free(|_| false), None);
        let last = Ports { exchange: 65_535, ..DEFAULT };
        assert_eq!(last.free(|port| port != 65_535), None);
    }

    #[test]
    fn new_ports_reach_every_address_and_nothing_else_changes() {
        let new = Ports { exchange: 8444, discovery: 8443, ops: 19_464, issuer: 18_445 };
        let text = DEFAULT.replace(TEMPLATE, new);
        assert_eq!(Ports::read(&text), Some(new));
        assert!(text.contains("issuer = \"https://tts.trust-domain.example:8444\""), "{text}");
        assert_eq!(new.replace(&text, DEFAULT), TEMPLATE);
        assert_eq!(DEFAULT.replace("8443 :84430 :8443", new), "8443 :84430 :8444");
    }

    #[test]
    fn a_file_of_another_form_has_no_ports() {
        for text in [
            "",
            "[listen",
            "listen = 1",
            &TEMPLATE.replace("127.0.0.1:8444", "off"),
            &TEMPLATE.replace("127.0.0.1:8444", "127.0.0.1:8443"),
            &TEMPLATE.replace("127.0.0.1:8445/jwks", "login.example/jwks"),
        ] {
            assert_eq!(Ports::read(text), None, "{text}");
        }
    }

    #[test]
    fn a_port_with_a_listener_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        drop(listener);
        assert!(is_free(port));
    }
}
