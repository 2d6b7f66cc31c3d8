//! The names in development certificates, which policies can register.

use super::CertsError;
use super::authority::San;
use writ_core::client::{ClientId, Identity, IdentityKind};

/// The SPIFFE ID in a development certificate of `client`.
pub(in crate::cli) fn spiffe_id(trust_domain: &str, client: &ClientId) -> San {
    San::Uri(format!("spiffe://{trust_domain}/{client}"))
}

/// Refuses a name that a policy cannot register.
pub(super) fn check_name(name: &San) -> Result<(), CertsError> {
    let (kind, text) = identity(name);
    let refused = |source| CertsError::Name { name: text.clone(), source };
    Identity::parse(kind, &text).map(drop).map_err(refused)
}

/// The name as a policy registers it.
fn identity(name: &San) -> (IdentityKind, String) {
    match name {
        San::Dns(text) => (IdentityKind::SanDns, text.clone()),
        San::Uri(text) => (IdentityKind::SanUri, text.clone()),
        San::Email(text) => (IdentityKind::SanEmail, text.clone()),
        San::Ip(ip) => (IdentityKind::SanIp, ip.to_string()),
    }
}

/// The line of a policy that registers this name.
pub(super) fn policy_line(name: &San) -> String {
    let (kind, text) = identity(name);
    format!("{} = \"{text}\"", kind.name())
}

/// The default names of the server and `more`, without duplicates.
pub(super) fn server_names(more: &[String]) -> Result<Vec<San>, CertsError> {
    let name = |text: &str| text.parse().map_or_else(|_| San::Dns(text.to_owned()), San::Ip);
    let mut names: Vec<_> = ["localhost", "127.0.0.1", "::1", "tts.trust-domain.example"].map(name).into();
    for more in more.iter().map(|text| name(text)) {
        check_name(&more)?;
        if !names.contains(&more) {
            names.push(more);
        }
    }
    Ok(names)
}
