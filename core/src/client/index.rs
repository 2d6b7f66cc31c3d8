//! Finds registered clients by the names in a certificate, without looking at each client.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{Identity, PeerCertificate};

/// Positions in a list of clients, by the identities that they registered. The operator chooses these, so the hash need
/// not resist someone who chooses colliding ones.
#[derive(Debug, Default)]
pub(crate) struct Index(HashMap<Identity, Vec<usize>, RandomState>);

impl Index {
    /// Of the identities in this order. One of two thumbprints is found by each of them.
    pub(crate) fn new<'a>(identities: impl Iterator<Item = &'a Identity>) -> Self {
        let mut index: HashMap<Identity, Vec<usize>, RandomState> = HashMap::default();
        for (position, identity) in identities.enumerate() {
            for key in identity.keys() {
                index.entry(key).or_default().push(position);
            }
        }
        Self(index)
    }

    /// The positions of all identities that `certificate` can match, ascending. Whether it does match them is still to be
    /// decided.
    pub(crate) fn positions(&self, certificate: &PeerCertificate) -> Vec<usize> {
        let mut found: Vec<usize> =
            certificate.names().iter().filter_map(|name| self.0.get(name)).flatten().copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::LazyLock;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, SanType};

    use super::*;
    use crate::client::{ClientId, IdentityKind, Thumbprint, candidates};

    static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());

    /// A certificate with a few of the names that are registered.
    #[derive(Debug, Clone)]
    struct Leaf {
        common_name: &'static str,
        organization: Option<&'static str>,
        names: Vec<(u8, &'static str)>,
        is_self_signed: bool,
        is_held_to_spiffe: bool,
    }

    impl Leaf {
        fn certificate(&self) -> PeerCertificate {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            if let Some(organization) = self.organization {
                params.distinguished_name.push(DnType::OrganizationName, organization);
            }
            params.distinguished_name.push(DnType::CommonName, self.common_name);
            params.serial_number = Some(1_u64.into());
            params.subject_alt_names = self.names.iter().map(|(kind, name)| san(*kind, name)).collect();
            let der = if self.is_self_signed {
                params.self_signed(&*KEY)
            } else {
                let mut ca = CertificateParams::default();
                ca.distinguished_name.push(DnType::CommonName, "Example CA");
                params.signed_by(&*KEY, &Issuer::new(ca, &*KEY))
            };
            PeerCertificate::parse(der.unwrap().der()).unwrap().held_to_spiffe(self.is_held_to_spiffe)
        }
    }

    fn san(kind: u8, name: &str) -> SanType {
        match kind {
            0 => SanType::DnsName(name.try_into().unwrap()),
            1 => SanType::URI(format!("spiffe://d.example/{name}").try_into().unwrap()),
            2 => SanType::URI(format!("https://d.example/{name}").try_into().unwrap()),
            3 => SanType::Rfc822Name(format!("{name}@d.example").try_into().unwrap()),
            _ => SanType::IpAddress(Ipv4Addr::new(10, 0, 0, name.as_bytes()[0]).into()),
        }
    }

    fn identity(kind: u8, name: &str, pinned: &[Thumbprint]) -> Identity {
        let parse = |kind, text: &str| Identity::parse(kind, text).unwrap();
        match kind {
            0 => parse(IdentityKind::SanDns, name),
            1 => parse(IdentityKind::SanUri, &format!("spiffe://d.example/{name}")),
            2 => parse(IdentityKind::SanUri, &format!("https://d.example/{name}")),
            3 => parse(IdentityKind::SanEmail, &format!("{name}@d.example")),
            4 => parse(IdentityKind::SanIp, &format!("10.0.0.{}", name.as_bytes()[0])),
            5 => parse(IdentityKind::SubjectDn, &format!("CN={name}")),
            6 => parse(IdentityKind::SubjectDn, &format!("CN={name},O={name}")),
            _ => Identity::thumbprints(&pinned.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap(),
        }
    }

    fn name() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "A", "b", "a.b"])
    }

    fn leaf() -> impl Strategy<Value = Leaf> {
        let subject = (name(), prop::option::of(name()));
        (subject, vec((0..5_u8, name()), 0..5), prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
            |((common_name, organization), names, is_self_signed, is_held_to_spiffe)| Leaf {
                common_name,
                organization,
                names,
                is_self_signed,
                is_held_to_spiffe,
            },
        )
    }

    proptest! {
        /// the same clients in the same order.
        #[test]
        fn the_index_finds_what_a_scan_finds(
            leaf in leaf(),
            registered in vec((0..7_u8, name()), 0..12),
            pins in vec((0..12_usize, any::<bool>()), 0..2),
        ) {
            let certificate = leaf.certificate();
            let mut identities: Vec<_> = registered.iter().map(|(kind, name)| identity(*kind, name, &[])).collect();
            for (at, is_own) in pins {
                let own = if is_own { certificate.thumbprint() } else { Thumbprint::of(b"own") };
                identities.insert(at.min(identities.len()), identity(7, "", &[own, Thumbprint::of(b"other")]));
            }
            let ids: Vec<ClientId> = (0..identities.len()).map(|at| format!("c{at}").parse().unwrap()).collect();
            let positions = Index::new(identities.iter()).positions(&certificate);
            let found = candidates(&certificate, positions.iter().map(|at| (&ids[*at], &identities[*at])));
            prop_assert_eq!(found, candidates(&certificate, ids.iter().zip(&identities)));
        }
    }
}
