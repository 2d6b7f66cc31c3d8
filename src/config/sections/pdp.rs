//! `[pdp]`: an external decision point.

use std::time::Duration;

use writ_outbound::Identity;

use crate::config::address::https_url;
use crate::config::document::Section;

pub(crate) struct Pdp {
    /// Whether the section is present, even if its settings are wrong.
    pub(crate) is_written: bool,
    pub(crate) settings: Option<writ_outbound::Settings>,
}

const KEYS: [&str; 5] = ["endpoint", "timeout", "ca", "certificate", "private_key"];

/// Reads the section, which is present if the file has it (`has_section`) or a variable sets one of its keys.
/// `max_timeout` is the time limit of a whole request.
pub(crate) fn read(pdp: &mut Section<'_>, has_section: bool, max_timeout: Duration) -> Pdp {
    let is_written = has_section || KEYS.iter().any(|key| pdp.has(key));
    if is_written {
        pdp.require(&["endpoint"]);
    }
    let endpoint = pdp.parse("endpoint", https_url);
    let timeout = pdp.or_default("timeout", Section::duration);
    if timeout > max_timeout {
        pdp.error("timeout", "must not be longer than limits.request_timeout");
    }
    let (ca, identity) = (pdp.path("ca"), identity(pdp));
    let settings = endpoint.map(|endpoint| writ_outbound::Settings { endpoint, ca, identity, timeout });
    Pdp { is_written, settings }
}

/// A certificate and its key: both or neither.
fn identity(section: &mut Section<'_>) -> Option<Identity> {
    let has = [section.has("certificate"), section.has("private_key")];
    match has {
        [true, false] => section.gap("private_key", "is missing: it belongs to `certificate`"),
        [false, true] => section.gap("certificate", "is missing: it belongs to `private_key`"),
        _ => {}
    }
    let (certificate, private_key) = (section.path("certificate"), section.path("private_key"));
    Some(Identity { certificate: certificate?, private_key: private_key? })
}
