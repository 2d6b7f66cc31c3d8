//! Diagnostics for a certificate that no policy names: its names, and the identity that it nearly matches. They are for the
//! log alone: an unknown client learns nothing about registered ones.

use super::identity::is_spiffe;
use super::{ClientId, Identity, IdentityKind, PeerCertificate};

/// The names in a certificate in one line, escaped: `san_uri spiffe://…; subject_dn CN=…`.
pub(crate) fn offered(certificate: &PeerCertificate) -> String {
    let short = |kind: IdentityKind| kind.name().trim_start_matches("tls_client_auth_");
    let names = certificate.offered().iter();
    names.map(|(kind, text)| format!("{} {}", short(*kind), text.escape_debug())).collect::<Vec<_>>().join("; ")
}

/// The client whose identity a certificate nearly has, and how it differs. Linear in the number of clients.
pub(crate) fn find_near_match<'a>(
    certificate: &PeerCertificate,
    registered: impl IntoIterator<Item = (&'a ClientId, &'a Identity)>,
) -> Option<String> {
    let mut nearest: Option<(Difference, &ClientId, &Identity)> = None;
    for (client, identity) in registered {
        let wanted = identity.to_string();
        let differences = certificate.offered().iter();
        let difference = differences.filter_map(|(kind, text)| difference(*kind, text, identity.kind(), &wanted)).min();
        if let Some(difference) = difference
            && nearest.as_ref().is_none_or(|(best, ..)| difference < *best)
        {
            nearest = Some((difference, client, identity));
        }
    }
    nearest.map(|(difference, client, identity)| {
        format!(
            "{client} has {} = {}: {}",
            identity.kind().name(),
            identity.to_string().escape_debug(),
            difference.text()
        )
    })
}

/// How two names differ, the most helpful difference first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    None,
    Case,
    Kind,
    TrustDomain,
    Spelling,
}

impl Difference {
    const fn text(self) -> &'static str {
        match self {
            Self::None => {
                "that name is in the certificate, but does not count: beside other URIs a SPIFFE ID is none, and a CA may \
                 be held to other names"
            }
            Self::Case => "the certificate has it in a different case",
            Self::Kind => "the certificate has it as another kind of name",
            Self::TrustDomain => "the certificate has its path in another trust domain",
            Self::Spelling => "the certificate has a name that differs in at most two characters",
        }
    }
}

fn difference(kind: IdentityKind, offered: &str, wanted_kind: IdentityKind, wanted: &str) -> Option<Difference> {
    let same = offered.eq_ignore_ascii_case(wanted);
    let inside = || kind == IdentityKind::SubjectDn && value_of(offered, wanted);
    if kind != wanted_kind {
        return (same || inside()).then_some(Difference::Kind);
    }
    if same {
        // Subjects are compared case-insensitively anyway.
        let exact = offered == wanted || kind == IdentityKind::SubjectDn || kind == IdentityKind::SanDns;
        return Some(if exact { Difference::None } else { Difference::Case });
    }
    if let (Some(one), Some(other)) = (spiffe_path(offered), spiffe_path(wanted))
        && one == other
    {
        return Some(Difference::TrustDomain);
    }
    differ_little(&offered.to_ascii_lowercase(), &wanted.to_ascii_lowercase()).then_some(Difference::Spelling)
}

/// Whether an attribute of the subject has this value.
fn value_of(subject: &str, wanted: &str) -> bool {
    subject
        .split([',', '+'])
        .any(|part| part.split_once('=').is_some_and(|(_, value)| value.eq_ignore_ascii_case(wanted)))
}

fn spiffe_path(uri: &str) -> Option<&str> {
    if is_spiffe(uri) { uri.split_once("://")?.1.split_once('/').map(|(_, path)| path) } else { None }
}

/// Whether the names without their common beginning and end have two characters at most each.
fn differ_little(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let start = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (one, other) = (&one[start..], &other[start..]);
    let end = one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
    start + end > 2 && one.len() - end <= 2 && other.len() - end <= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const URI: IdentityKind = IdentityKind::SanUri;
    const DNS: IdentityKind = IdentityKind::SanDns;
    const DN: IdentityKind = IdentityKind::SubjectDn;

    #[test]
    fn the_nearest_name_is_logged_with_its_difference() {
        for (kind, offered, wanted_kind, wanted, expected) in [
            (URI, "spiffe://d.example/Gw", URI, "spiffe://d.example/gw", Some(Difference::Case)),
            (URI, "spiffe://d.example/gw", URI, "spiffe://d.example/gw", Some(Difference::None)),
            (URI, "spiffe://e.example/a/gw", URI, "spiffe://d.example/a/gw", Some(Difference::TrustDomain)),
            (URI, "spiffe://d.example/gw/", URI, "spiffe://d.example/gw", Some(Difference::Spelling)),
            (URI, "spiffe://d.example/gaetway", URI, "spiffe://d.example/gateway", Some(Difference::Spelling)),
            (URI, "spiffe://d.example/gatewy", URI, "spiffe://d.example/gateway", Some(Difference::Spelling)),
            (DNS, "gw.d.example", URI, "gw.d.example", Some(Difference::Kind)),
            (DN, "CN=gw.d.example,O=Org", DNS, "gw.d.example", Some(Difference::Kind)),
            (DN, "CN=gw,O=Org", DN, "cn=gw,o=org", Some(Difference::None)),
            (DN, "CN=gw,O=Orga", DN, "cn=gw,o=org", Some(Difference::Spelling)),
            (URI, "spiffe://d.example/orders", URI, "spiffe://d.example/gateway", None),
            (DNS, "a", DNS, "b", None),
            (DN, "CN=other", DNS, "gw.d.example", None),
        ] {
            assert_eq!(difference(kind, offered, wanted_kind, wanted), expected, "{offered} for {wanted}");
        }
    }
}
