//! The certificates that a client presents → the few paths that are worth a verification.
//!
//! The time to try every order of certificates with one name grows with the factorial of their count, and the client
//! chooses the certificates. So their count and size are limited. Where names and key identifiers leave one way only, that
//! is the path. Where they leave several, the search goes down from the trusted CAs and accepts as an issuer only what has
//! a verified signature itself. An unknown client then costs a limited number of signature checks, with keys that the
//! operator chose.

use std::collections::VecDeque;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::anchor::Anchor;
use super::refusal::{self, Refusal, is_ca, issuer_key_id, key_id};
use super::signature::{Signed, encode};

/// A path has at most six intermediates; the rest is for cross-signed ones and a root that is sent along.
pub(super) const MAX_CERTIFICATES: usize = 10;
/// All certificates together, in bytes.
pub(super) const MAX_SIZE: usize = 32 * 1024;
/// Each name is compared with each name constraint.
const MAX_COMPARISONS: usize = 50_000;
/// Signatures that the search may verify. Usually it needs none.
pub(super) const MAX_SIGNATURES: usize = 16;
/// Paths that are verified.
const MAX_PATHS: usize = 8;

/// A certificate of the chain.
pub(super) struct Link<'a> {
    pub(super) der: &'a CertificateDer<'a>,
    pub(super) parsed: X509Certificate<'a>,
    issuer_key_id: Option<Vec<u8>>,
    key_id: Option<Vec<u8>>,
}

/// A path from the client up to a CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    /// Indexes of links, the client first.
    pub(super) links: Vec<usize>,
    /// Index of the anchor.
    pub(super) anchor: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Issuer {
    Anchor(usize),
    Link(usize),
}

/// The certificates that were presented, and the CAs that they may lead to.
pub(super) struct Search<'a> {
    /// The client first.
    pub(super) links: Vec<Link<'a>>,
    anchors: &'a [Anchor],
    /// How many signatures were verified.
    pub(super) signatures: usize,
}

impl<'a> Search<'a> {
    /// Begins with a chain, the client's own certificate first, if it is within the limits.
    pub(super) fn new(chain: &'a [CertificateDer<'a>], anchors: &'a [Anchor]) -> Result<Self, Refusal> {
        let [client, others @ ..] = chain else { return Err(Refusal::NoCertificate) };
        if chain.len() > MAX_CERTIFICATES {
            return Err(Refusal::TooMany { count: chain.len(), max: MAX_CERTIFICATES });
        }
        let size = chain.iter().map(|certificate| certificate.len()).sum();
        if size > MAX_SIZE {
            return Err(Refusal::TooLarge { size, max: MAX_SIZE });
        }
        let mut links = vec![Link::read(client).ok_or(Refusal::Unreadable)?];
        for other in others.iter().filter_map(Link::read) {
            let again = links.iter().any(|link| link.der == other.der);
            if !again && !other.repeats_one_of(anchors) {
                links.push(other);
            }
        }
        let names: usize = links.iter().map(Link::names).sum();
        let constraints: usize = links.iter().map(Link::constraints).sum();
        if names * constraints > MAX_COMPARISONS {
            return Err(Refusal::TooManyNames { names, constraints });
        }
        Ok(Self { links, anchors, signatures: 0 })
    }

    /// The paths to try, at least one. Their signatures are still to be verified.
    pub(super) fn paths(&mut self) -> Result<Vec<Path>, Refusal> {
        let mut links = vec![0];
        loop {
            let last = links[links.len() - 1];
            let issuers = self.issuers(last);
            match issuers.as_slice() {
                [Issuer::Anchor(anchor)] => return Ok(vec![Path { links, anchor: *anchor }]),
                [Issuer::Link(link)] if !links.contains(link) => links.push(*link),
                [] | [Issuer::Link(_)] => {
                    return Err(Refusal::UnknownIssuer { issuer: refusal::name(self.links[last].parsed.issuer()) });
                }
                _ => return self.verified_paths(),
            }
        }
    }

    /// The possible issuers of a certificate, by name and, where present, by key identifier.
    fn issuers(&self, of: usize) -> Vec<Issuer> {
        let child = &self.links[of];
        let name = child.parsed.issuer().as_raw();
        let anchors = self.anchors.iter().enumerate().filter(|(_, anchor)| anchor.ca.name == name);
        let anchors = anchors.map(|(index, anchor)| (Issuer::Anchor(index), true, anchor.key_id.as_ref()));
        let links = self.links.iter().enumerate().skip(1);
        let links = links.filter(|(index, link)| *index != of && link.parsed.subject().as_raw() == name);
        let links = links.map(|(index, link)| (Issuer::Link(index), is_ca(&link.parsed), link.key_id.as_ref()));
        let mut found: Vec<_> = anchors.chain(links).collect();
        if found.iter().any(|(_, is_ca, _)| *is_ca) {
            found.retain(|(_, is_ca, _)| *is_ca);
        }
        if child.issuer_key_id.is_some() && found.iter().any(|(_, _, id)| *id == child.issuer_key_id.as_ref()) {
            found.retain(|(_, _, id)| *id == child.issuer_key_id.as_ref());
        }
        found.into_iter().map(|(issuer, _, _)| issuer).collect()
    }

    /// The search down from the trusted CAs.
    fn verified_paths(&mut self) -> Result<Vec<Path>, Refusal> {
        let possible: Vec<Vec<Issuer>> = (0..self.links.len()).map(|link| self.issuers(link)).collect();
        let mut issued_by: Vec<Vec<Issuer>> = vec![Vec::new(); self.links.len()];
        let mut known: Vec<(Vec<u8>, usize, bool)> = Vec::new();
        let mut queue: VecDeque<Issuer> = (0..self.anchors.len()).map(Issuer::Anchor).collect();
        let mut queued = vec![false; self.links.len()];
        while let Some(issuer) = queue.pop_front() {
            let key = match issuer {
                Issuer::Anchor(index) => self.anchors[index].ca.key.clone(),
                Issuer::Link(index) => self.links[index].parsed.public_key().raw.to_vec(),
            };
            for (child, _) in possible.iter().enumerate().filter(|(_, issuers)| issuers.contains(&issuer)) {
                let before = known.iter().find(|(other, link, _)| *other == key && *link == child);
                let is_signed = if let Some((_, _, is_signed)) = before {
                    *is_signed
                } else {
                    if self.signatures == MAX_SIGNATURES {
                        return Err(Refusal::TooComplex);
                    }
                    self.signatures += 1;
                    let is_signed = self.links[child].is_signed_by(&key);
                    known.push((key.clone(), child, is_signed));
                    is_signed
                };
                if is_signed {
                    issued_by[child].push(issuer);
                    if child != 0 && !queued[child] && is_ca(&self.links[child].parsed) {
                        queued[child] = true;
                        queue.push_back(Issuer::Link(child));
                    }
                }
            }
        }
        let mut paths = Vec::new();
        let mut steps = MAX_CERTIFICATES * MAX_CERTIFICATES;
        collect_paths(&issued_by, &mut vec![0], &mut paths, &mut steps);
        if !paths.is_empty() {
            return Ok(paths);
        }
        let is_anchor = |issuer: &Issuer| matches!(issuer, Issuer::Anchor(_));
        let below_anchor = possible.iter().position(|issuers| issuers.iter().any(is_anchor));
        let issuer = refusal::name(self.links[below_anchor.unwrap_or(0)].parsed.issuer());
        Err(if below_anchor.is_some() { Refusal::BadSignature { issuer } } else { Refusal::UnknownIssuer { issuer } })
    }
}

/// Collects every way up, the shortest of each certificate first.
fn collect_paths(issued_by: &[Vec<Issuer>], links: &mut Vec<usize>, paths: &mut Vec<Path>, steps: &mut usize) {
    let last = links[links.len() - 1];
    for issuer in &issued_by[last] {
        if paths.len() == MAX_PATHS || *steps == 0 {
            return;
        }
        *steps -= 1;
        match issuer {
            Issuer::Anchor(anchor) => paths.push(Path { links: links.clone(), anchor: *anchor }),
            Issuer::Link(link) if !links.contains(link) => {
                links.push(*link);
                collect_paths(issued_by, links, paths, steps);
                links.pop();
            }
            Issuer::Link(_) => {}
        }
    }
}

impl<'a> Link<'a> {
    /// `None` if it cannot be read: the other certificates of a client are only hints.
    fn read(der: &'a CertificateDer<'a>) -> Option<Self> {
        let (rest, parsed) = X509Certificate::from_der(der).ok()?;
        rest.is_empty().then(|| Self { der, issuer_key_id: issuer_key_id(&parsed), key_id: key_id(&parsed), parsed })
    }

    /// Whether it is one of the trusted CAs, with which chains often end.
    fn repeats_one_of(&self, anchors: &[Anchor]) -> bool {
        let (name, key) = (self.parsed.subject().as_raw(), self.parsed.public_key().raw);
        self.parsed.issuer().as_raw() == name
            && anchors.iter().any(|anchor| anchor.ca.name == name && anchor.ca.key == key)
    }

    /// The subject and the alternative names.
    fn names(&self) -> usize {
        let names = self.parsed.subject_alternative_name().ok().flatten();
        1 + names.map_or(0, |names| names.value.general_names.len())
    }

    fn constraints(&self) -> usize {
        let constraints = self.parsed.name_constraints().ok().flatten().map(|constraints| constraints.value);
        let count = |subtrees: &Option<Vec<_>>| subtrees.as_ref().map_or(0, Vec::len);
        constraints.map_or(0, |all| count(&all.permitted_subtrees) + count(&all.excluded_subtrees))
    }

    fn is_signed_by(&self, key: &[u8]) -> bool {
        encode(&self.parsed.signature_algorithm).is_some_and(|algorithm| {
            let (message, signature) =
                (self.parsed.tbs_certificate.as_ref(), self.parsed.signature_value.data.as_ref());
            Signed { message, algorithm: &algorithm, signature }.is_by(key)
        })
    }
}
