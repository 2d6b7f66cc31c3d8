//! A client certificate, parsed once for each connection.

use std::net::IpAddr;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::identity::{Identity, IdentityKind, Registered, Thumbprint, is_plain_ascii, is_spiffe};
use super::name::{DistinguishedName, to_rfc4514};
use writ_platform::clock::Timestamp;

/// The certificate that a TLS handshake has proven and accepted. No address in it is ever fetched.
#[derive(Debug, Clone)]
pub struct PeerCertificate {
    /// Every identity that a policy could know it by, if the rules of [`Self::matches`] let it count.
    names: Vec<Identity>,
    self_issued: bool,
    /// Whether only its SPIFFE ID counts.
    spiffe_only: bool,
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
        Self::of(&certificate, der)
    }

    /// As [`Self::parse`], of a certificate that was parsed from `der`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn of(certificate: &X509Certificate<'_>, der: &[u8]) -> Result<Self, CertificateError> {
        let name = |name| DistinguishedName::from_certificate(name).ok_or(CertificateError);
        let subject = name(certificate.subject())?;
        let names = certificate.subject_alternative_name().map_err(|_| CertificateError)?;
        let names = names.map_or(&[][..], |extension| extension.value.general_names.as_slice());
        let thumbprint = Thumbprint::of(der);
        Ok(Self {
            self_issued: name(certificate.issuer())? == subject,
            names: identities(subject, names, thumbprint),
            spiffe_only: false,
            offered: offered(certificate, names),
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
            Registered::SanUri(uri) if is_spiffe(uri) => self.names.contains(identity),
            _ => !self.spiffe_only && self.names.contains(identity),
        }
    }

    /// Where to look for it in an index of identities. Not each of them has to count: [`Self::matches`] decides.
    pub(super) fn names(&self) -> &[Identity] {
        &self.names
    }

    /// Sets whether its CA certifies only its SPIFFE ID and no other name in it.
    #[must_use]
    pub fn held_to_spiffe(self, spiffe_only: bool) -> Self {
        Self { spiffe_only, ..self }
    }

    /// Whether only its SPIFFE ID counts.
    pub fn is_held_to_spiffe(&self) -> bool {
        self.spiffe_only
    }

    /// The trust domain of its SPIFFE ID, if that is its only URI.
    pub fn spiffe_trust_domain(&self) -> Option<&str> {
        self.names.iter().find_map(Identity::spiffe_trust_domain)
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

/// The names, normalised as policies register them; those that are not plain ASCII are left out.
fn identities(subject: DistinguishedName, names: &[GeneralName<'_>], thumbprint: Thumbprint) -> Vec<Identity> {
    let of_san = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) if is_plain_ascii(text) => Some(Registered::SanDns(text.to_ascii_lowercase())),
        GeneralName::RFC822Name(text) if is_plain_ascii(text) => Some(Registered::SanEmail((*text).to_owned())),
        other => ip(other).map(Registered::SanIp),
    };
    let itself = [Registered::Thumbprints(vec![thumbprint]), Registered::SubjectDn(subject)];
    let uris = uris(names).into_iter().map(|uri| Registered::SanUri(uri.to_owned()));
    itself.into_iter().chain(uris).chain(names.iter().filter_map(of_san)).map(Identity).collect()
}

fn ip(name: &GeneralName<'_>) -> Option<IpAddr> {
    let GeneralName::IPAddress(octets) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from)).ok()
}

/// The URIs that count. An X.509-SVID has exactly one URI: a SPIFFE ID beside another URI does not count, and if there are
/// several SPIFFE IDs, none of the URIs does.
fn uris<'a>(names: &[GeneralName<'a>]) -> Vec<&'a str> {
    let all: Vec<_> = names.iter().filter_map(uri).collect();
    if all.iter().filter(|uri| is_spiffe(uri)).count() > 1 {
        return Vec::new();
    }
    let counts = |uri: &&str| is_plain_ascii(uri) && (all.len() == 1 || !is_spiffe(uri));
    all.iter().copied().filter(counts).collect()
}

/// The tag of a URI among the alternative names.
const URI_TAG: u32 = 6;

/// A URI that cannot be decoded counts as one with an empty text.
fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => Some(""),
        _ => None,
    }
}
