//! A client certificate, parsed once for each connection.

use std::net::IpAddr;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::identity::{Identity, IdentityKind, Registered, Thumbprint, is_plain_ascii, is_spiffe, spiffe_trust_domain};
use super::name::{DistinguishedName, to_rfc4514};
use writ_platform::clock::Timestamp;

/// The certificate that a TLS handshake has proven and accepted. No address in it is ever fetched.
#[derive(Debug, Clone)]
pub struct PeerCertificate {
    subject: DistinguishedName,
    self_issued: bool,
    /// Whether only its SPIFFE ID counts.
    spiffe_only: bool,
    /// In lower case.
    dns: Vec<String>,
    uris: Uris,
    ips: Vec<IpAddr>,
    emails: Vec<String>,
    offered: Vec<(IdentityKind, String)>,
    thumbprint: Thumbprint,
    thumbprint_text: String,
    not_after: Timestamp,
    public_key: Vec<u8>,
}

/// The bytes are not one certificate, or its names cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate cannot be read")]
pub struct CertificateError;

impl PeerCertificate {
    /// Parses the certificate of the peer itself (not its chain), DER. Names that are not plain ASCII are left out: they
    /// match no identity.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError)?;
        if !rest.is_empty() {
            return Err(CertificateError);
        }
        let name = |name| DistinguishedName::from_certificate(name).ok_or(CertificateError);
        let subject = name(certificate.subject())?;
        let names = certificate.subject_alternative_name().map_err(|_| CertificateError)?;
        let names = names.map_or(&[][..], |extension| extension.value.general_names.as_slice());
        let thumbprint = Thumbprint::of(der);
        Ok(Self {
            self_issued: name(certificate.issuer())? == subject,
            subject,
            spiffe_only: false,
            dns: plain(names, |n| if let GeneralName::DNSName(text) = n { Some(text) } else { None })
                .map(str::to_ascii_lowercase)
                .collect(),
            uris: Uris::new(names),
            ips: names.iter().filter_map(ip).collect(),
            emails: plain(names, |n| if let GeneralName::RFC822Name(text) = n { Some(text) } else { None })
                .map(str::to_owned)
                .collect(),
            offered: offered(&certificate, names),
            thumbprint,
            thumbprint_text: thumbprint.to_string(),
            not_after: Timestamp::from_epoch(u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0)),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// Whether this is a certificate of the client that registered `identity`.
    ///
    /// A self-issued one matches by its thumbprint alone: no CA certifies the names in it.
    pub fn matches(&self, identity: &Identity) -> bool {
        match &identity.0 {
            Registered::Thumbprints(registered) => registered.contains(&self.thumbprint),
            _ if self.self_issued => false,
            Registered::SanUri(uri) => self.uris.contain(uri) && (!self.spiffe_only || is_spiffe(uri)),
            _ if self.spiffe_only => false,
            Registered::SubjectDn(name) => self.subject == *name,
            Registered::SanDns(name) => self.dns.contains(name),
            Registered::SanIp(ip) => self.ips.contains(ip),
            Registered::SanEmail(address) => self.emails.contains(address),
        }
    }

    /// Sets whether its CA certifies only its SPIFFE ID and no other name in it.
    #[must_use]
    pub fn held_to_spiffe(self, spiffe_only: bool) -> Self {
        Self { spiffe_only, ..self }
    }

    /// The trust domain of its SPIFFE ID, if that is its only URI.
    pub fn spiffe_trust_domain(&self) -> Option<&str> {
        self.uris.0.iter().find_map(|uri| spiffe_trust_domain(uri))
    }

    /// Whether it names itself as its issuer. Only such a certificate may be accepted for its thumbprint without a CA.
    pub fn is_self_issued(&self) -> bool {
        self.self_issued
    }

    /// All names in it, for logs: at most 16, each cut to 256 characters.
    pub(crate) fn offered(&self) -> &[(IdentityKind, String)] {
        &self.offered
    }

    /// SHA-256 of its DER.
    pub fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    /// `x5t#S256` (RFC 8705 §3.1): the thumbprint in base64url.
    pub fn x5t_s256(&self) -> &str {
        &self.thumbprint_text
    }

    /// The last second in which it is valid.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Its public key: a `SubjectPublicKeyInfo`, DER.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

const OFFERED_MAX: usize = 16;
const OFFERED_LEN: usize = 256;

fn offered(certificate: &X509Certificate<'_>, names: &[GeneralName<'_>]) -> Vec<(IdentityKind, String)> {
    let of_san = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) => Some((IdentityKind::SanDns, (*text).to_owned())),
        GeneralName::URI(text) => Some((IdentityKind::SanUri, (*text).to_owned())),
        GeneralName::RFC822Name(text) => Some((IdentityKind::SanEmail, (*text).to_owned())),
        other => ip(other).map(|ip| (IdentityKind::SanIp, ip.to_string())),
    };
    let subject = (IdentityKind::SubjectDn, to_rfc4514(certificate.subject()).unwrap_or_default());
    let all = names.iter().filter_map(of_san).chain([subject]).filter(|(_, text)| !text.is_empty());
    all.take(OFFERED_MAX).map(|(kind, text)| (kind, text.chars().take(OFFERED_LEN).collect())).collect()
}

fn plain<'a>(
    names: &'a [GeneralName<'a>],
    of_kind: impl Fn(&'a GeneralName<'a>) -> Option<&'a str>,
) -> impl Iterator<Item = &'a str> {
    names.iter().filter_map(of_kind).filter(|text| is_plain_ascii(text))
}

fn ip(name: &GeneralName<'_>) -> Option<IpAddr> {
    let GeneralName::IPAddress(octets) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from)).ok()
}

/// The URIs that count. An X.509-SVID has exactly one URI: a SPIFFE ID beside another URI does not count, and if there are
/// several SPIFFE IDs, none of the URIs does.
#[derive(Debug, Clone)]
struct Uris(Vec<String>);

impl Uris {
    const TAG: u32 = 6;

    fn new(names: &[GeneralName<'_>]) -> Self {
        let all: Vec<_> = names.iter().filter_map(Self::text).collect();
        let spiffe = all.iter().filter(|uri| is_spiffe(uri)).count();
        if spiffe > 1 {
            return Self(Vec::new());
        }
        let counts = |uri: &&str| is_plain_ascii(uri) && (all.len() == 1 || !is_spiffe(uri));
        Self(all.iter().copied().filter(counts).map(str::to_owned).collect())
    }

    /// A URI that cannot be decoded counts as one with an empty text.
    fn text<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
        match name {
            GeneralName::URI(uri) => Some(uri),
            GeneralName::Invalid(tag, _) if tag.0 == Self::TAG => Some(""),
            _ => None,
        }
    }

    fn contain(&self, uri: &str) -> bool {
        self.0.iter().any(|held| held == uri)
    }
}
