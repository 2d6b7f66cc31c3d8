//! Addresses as operators write them.

use std::net::SocketAddr;

use url::Url;

pub(super) fn socket(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "must be an IP address and a port, such as \"127.0.0.1:8443\"")
}

/// `None` for "off".
pub(super) fn socket_or_off(text: &str) -> Result<Option<SocketAddr>, &'static str> {
    if text == "off" {
        return Ok(None);
    }
    let address =
        text.parse().map_err(|_| "must be \"off\", or an IP address and a port, such as \"127.0.0.1:9464\"")?;
    Ok(Some(address))
}

/// `https://host` or `https://host:port` and nothing after it: paths are appended to it, and it is compared as text.
pub(crate) fn origin(text: &str) -> Result<String, &'static str> {
    let authority = text.strip_prefix("https://").ok_or("must begin with https://")?;
    if authority.contains(['/', '?', '#', '\\']) {
        return Err("must end with the host or the port: no path, no final slash, no query, no fragment");
    }
    https_url(text).map(|_| text.to_owned())
}

/// An `https` address without user, query and fragment.
pub(super) fn https_url(text: &str) -> Result<Url, &'static str> {
    const FORM: &str = "must be an https:// address without user, query and fragment";
    // The parser ignores white space, but addresses are compared as text.
    let plain = text.starts_with("https://") && text.bytes().all(|b| b.is_ascii_graphic());
    let url = Url::parse(text).ok().filter(|_| plain && !text.contains(['@', '?', '#'])).ok_or(FORM)?;
    url.has_host().then_some(url).ok_or(FORM)
}

/// An `https` address without user and fragment; an address that Writ calls may have a query.
pub(super) fn endpoint(text: &str) -> Result<Url, &'static str> {
    https_url(text.split('?').next().unwrap_or_default())?;
    Url::parse(text).map_err(|_| "must be an https:// address")
}
