//! The identity by which a policy recognises its client's certificate.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::name::{DistinguishedName, NameError};
use writ_platform::digest::sha256;

/// The SHA-256 of a certificate's DER: `x5t#S256`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// The thumbprint of a certificate, DER.
    pub fn of(certificate: &[u8]) -> Self {
        Self(sha256(certificate))
    }
}

/// Base64url without padding, 43 characters.
impl FromStr for Thumbprint {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| IdentityError::Thumbprint)?;
        bytes.try_into().map(Self).map_err(|_| IdentityError::Thumbprint)
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The kinds of identity, by their keys in a policy file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// The whole subject, in the form of RFC 4514.
    SubjectDn,
    /// A DNS name among the subject alternative names.
    SanDns,
    /// A URI among them; a SPIFFE ID for instance.
    SanUri,
    /// An IP address among them.
    SanIp,
    /// An e-mail address among them.
    SanEmail,
    /// The certificate itself, which no CA need have signed.
    Thumbprints,
}

impl IdentityKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::SubjectDn, Self::SanDns, Self::SanUri, Self::SanIp, Self::SanEmail, Self::Thumbprints];

    /// The key in a policy file: the client metadata of RFC 8705 §2.1.2, and `thumbprints`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SubjectDn => "tls_client_auth_subject_dn",
            Self::SanDns => "tls_client_auth_san_dns",
            Self::SanUri => "tls_client_auth_san_uri",
            Self::SanIp => "tls_client_auth_san_ip",
            Self::SanEmail => "tls_client_auth_san_email",
            Self::Thumbprints => "self_signed_tls_client_auth_x5t_s256",
        }
    }
}

/// What must match in a client's certificate: one of the names of RFC 8705 §2.1.2, or its thumbprint (§2.2).
///
/// Two are equal if they match the same certificates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity(pub(super) Registered);

/// Normalised, so that it can be compared byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Registered {
    SubjectDn(DistinguishedName),
    /// In lower case.
    SanDns(String),
    SanUri(String),
    SanIp(IpAddr),
    SanEmail(String),
    /// One or two, sorted.
    Thumbprints(Vec<Thumbprint>),
}

/// The text is not an identity of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a name in the form of RFC 4514.
    #[error("not a subject in the form of RFC 4514 (CN=…,O=…): {0}")]
    SubjectDn(NameError),
    /// Not one host name.
    #[error("not a DNS name in ASCII, without wildcard and final dot")]
    SanDns,
    /// Not a URI.
    #[error("not a URI in ASCII with a scheme")]
    SanUri,
    /// A SPIFFE ID that no certificate may hold.
    #[error(
        "not a SPIFFE ID in the form used in certificates: spiffe://trust-domain/path, lower-case trust domain, plain path"
    )]
    Spiffe,
    /// Not an IP address.
    #[error("not an IP address")]
    SanIp,
    /// Not an e-mail address.
    #[error("not an e-mail address in ASCII")]
    SanEmail,
    /// Not a SHA-256 thumbprint.
    #[error("not a SHA-256 thumbprint: 43 characters of base64url")]
    Thumbprint,
    /// No thumbprint, too many, or the same one twice.
    #[error("one or two different thumbprints are needed")]
    ThumbprintCount,
}

impl Identity {
    /// Reads the identity of this kind.
    pub fn parse(kind: IdentityKind, text: &str) -> Result<Self, IdentityError> {
        let registered = match kind {
            IdentityKind::SubjectDn => Registered::SubjectDn(DistinguishedName::parse(text)?),
            IdentityKind::SanDns => Registered::SanDns(dns(text)?),
            IdentityKind::SanUri => Registered::SanUri(uri(text)?),
            IdentityKind::SanIp => Registered::SanIp(text.parse().map_err(|_| IdentityError::SanIp)?),
            IdentityKind::SanEmail => Registered::SanEmail(email(text)?),
            IdentityKind::Thumbprints => Registered::Thumbprints(vec![text.parse()?]),
        };
        Ok(Self(registered))
    }

    /// Reads one thumbprint, or two, so that a certificate can be renewed without a gap.
    pub fn thumbprints(texts: &[String]) -> Result<Self, IdentityError> {
        let mut thumbprints = texts.iter().map(|text| text.parse()).collect::<Result<Vec<Thumbprint>, _>>()?;
        thumbprints.sort_unstable();
        thumbprints.dedup();
        let count = (1..=2).contains(&texts.len()) && thumbprints.len() == texts.len();
        count.then_some(Self(Registered::Thumbprints(thumbprints))).ok_or(IdentityError::ThumbprintCount)
    }

    /// The part of a certificate that must match.
    pub const fn kind(&self) -> IdentityKind {
        match &self.0 {
            Registered::SubjectDn(_) => IdentityKind::SubjectDn,
            Registered::SanDns(_) => IdentityKind::SanDns,
            Registered::SanUri(_) => IdentityKind::SanUri,
            Registered::SanIp(_) => IdentityKind::SanIp,
            Registered::SanEmail(_) => IdentityKind::SanEmail,
            Registered::Thumbprints(_) => IdentityKind::Thumbprints,
        }
    }

    /// The trust domain, if it is a SPIFFE ID.
    pub fn spiffe_trust_domain(&self) -> Option<&str> {
        match &self.0 {
            Registered::SanUri(uri) => spiffe_trust_domain(uri),
            _ => None,
        }
    }

    /// Two identities share a certificate if they share one of these: itself, or each of two thumbprints alone.
    pub fn keys(&self) -> Vec<Self> {
        match &self.0 {
            Registered::Thumbprints(all) => all.iter().map(|one| Self(Registered::Thumbprints(vec![*one]))).collect(),
            _ => vec![self.clone()],
        }
    }

    /// The certificates that need no CA, because this identity names them by thumbprint; empty for the other kinds.
    pub fn registered_thumbprints(&self) -> &[Thumbprint] {
        match &self.0 {
            Registered::Thumbprints(thumbprints) => thumbprints,
            _ => &[],
        }
    }
}

/// Normalised.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Registered::SubjectDn(name) => name.fmt(f),
            Registered::SanDns(text) | Registered::SanUri(text) | Registered::SanEmail(text) => f.write_str(text),
            Registered::SanIp(ip) => ip.fmt(f),
            Registered::Thumbprints(all) => {
                f.write_str(&all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))
            }
        }
    }
}

impl From<NameError> for IdentityError {
    fn from(error: NameError) -> Self {
        Self::SubjectDn(error)
    }
}

fn dns(text: &str) -> Result<String, IdentityError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    let fits = text.len() <= 253 && text.split('.').all(label);
    fits.then(|| text.to_ascii_lowercase()).ok_or(IdentityError::SanDns)
}

fn uri(text: &str) -> Result<String, IdentityError> {
    let (scheme, rest) = text.split_once(':').ok_or(IdentityError::SanUri)?;
    let plain_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'.' | b'-'));
    if !plain_scheme || rest.is_empty() || !is_plain_ascii(text) {
        return Err(IdentityError::SanUri);
    }
    if is_spiffe(text) && spiffe_trust_domain(text).is_none() {
        return Err(IdentityError::Spiffe);
    }
    Ok(text.to_owned())
}

fn email(text: &str) -> Result<String, IdentityError> {
    let (local, domain) = text.rsplit_once('@').ok_or(IdentityError::SanEmail)?;
    let fits = is_plain_ascii(text) && !local.is_empty() && !domain.is_empty();
    fits.then(|| text.to_owned()).ok_or(IdentityError::SanEmail)
}

/// Whether `text` is printable ASCII without spaces.
pub(super) fn is_plain_ascii(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// Whether `uri` claims to be a SPIFFE ID, well formed or not.
pub(super) fn is_spiffe(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("spiffe"))
}

/// The trust domain of a SPIFFE ID in the one form that the standard has for the ID of a workload: no query, port,
/// escape, dot segment, or empty one.
pub(super) fn spiffe_trust_domain(uri: &str) -> Option<&str> {
    let (domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(plain);
    let fits = uri.len() <= 2048 && is_spiffe_trust_domain(domain) && path.split('/').all(segment);
    fits.then_some(domain)
}

/// Whether `text` is the name of a SPIFFE trust domain.
pub fn is_spiffe_trust_domain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    (1..=255).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: IdentityKind, text: &str) -> Result<Identity, IdentityError> {
        Identity::parse(kind, text)
    }

    #[test]
    fn identities_that_match_the_same_certificates_are_equal() {
        let equal = |kind, a, b| assert_eq!(parse(kind, a).unwrap(), parse(kind, b).unwrap());
        equal(IdentityKind::SanDns, "Mail.Example", "mail.example");
        equal(IdentityKind::SanIp, "2001:db8::1", "2001:0DB8:0::1");
        equal(IdentityKind::SubjectDn, "CN=Mail,O=x", "cn=mail, o=X");
        let (one, two) = (Thumbprint::of(b"1").to_string(), Thumbprint::of(b"2").to_string());
        assert_eq!(
            Identity::thumbprints(&[one.clone(), two.clone()]).unwrap(),
            Identity::thumbprints(&[two, one]).unwrap()
        );
        assert_ne!(
            parse(IdentityKind::SanUri, "https://a/b").unwrap(),
            parse(IdentityKind::SanUri, "https://a/B").unwrap()
        );
        assert_ne!(
            parse(IdentityKind::SanEmail, "A@mail.example").unwrap(),
            parse(IdentityKind::SanEmail, "a@mail.example").unwrap()
        );
    }

    ///
    #[test]
    fn a_dns_name_is_one_plain_name() {
        for text in ["", "*.mail.example", "mail.example.", ".mail.example", "a..b", "mäil.example", "a b", "a\0b"] {
            assert_eq!(parse(IdentityKind::SanDns, text), Err(IdentityError::SanDns), "{text}");
        }
    }

    ///
    #[test]
    fn a_spiffe_id_is_canonical() {
        assert!(parse(IdentityKind::SanUri, "spiffe://trust-domain.example/mail/delivery").is_ok());
        for text in [
            "spiffe://trust-domain.example",
            "spiffe://trust-domain.example/",
            "spiffe://trust-domain.example/mail/",
            "spiffe://trust-domain.example//mail",
            "spiffe://trust-domain.example/mail/../other",
            "spiffe://trust-domain.example/./mail",
            "spiffe://trust-domain.example/mail/%73end",
            "spiffe://trust-domain.example/mail?x=1",
            "spiffe://trust-domain.example/mail#x",
            "spiffe://trust-domain.example:8443/mail",
            "spiffe://user@trust-domain.example/mail",
            "spiffe://Trust-Domain.example/mail",
            "SPIFFE://trust-domain.example/mail",
            "spiffe:/trust-domain.example/mail",
            "spiffe:///mail",
        ] {
            assert_eq!(parse(IdentityKind::SanUri, text), Err(IdentityError::Spiffe), "{text}");
        }
    }

    #[test]
    fn text_that_is_not_an_identity_of_its_kind_is_refused() {
        for text in ["", "mail", "://x", "1a:b", "https:", "https://a b", "https://ä"] {
            assert_eq!(parse(IdentityKind::SanUri, text), Err(IdentityError::SanUri), "{text}");
        }
        for text in ["", "mail", "@mail.example", "a@", "a b@mail.example"] {
            assert_eq!(parse(IdentityKind::SanEmail, text), Err(IdentityError::SanEmail), "{text}");
        }
        assert_eq!(parse(IdentityKind::SanIp, "10.0.0.0/8"), Err(IdentityError::SanIp));
        assert!(
            parse(IdentityKind::SubjectDn, "").is_err(),
            "a name without attributes would match every nameless certificate"
        );
    }

    #[test]
    fn there_are_one_or_two_different_thumbprints() {
        let [one, two, three] = ["1", "2", "3"].map(|text| Thumbprint::of(text.as_bytes()).to_string());
        for bad in [vec![], vec![one.clone(), one.clone()], vec![one.clone(), two, three]] {
            assert_eq!(Identity::thumbprints(&bad), Err(IdentityError::ThumbprintCount), "{bad:?}");
        }
        for bad in ["", &one[1..], &format!("{one}="), &one.replace(|c: char| c.is_alphabetic(), "+")] {
            assert_eq!(Identity::thumbprints(&[bad.to_owned()]), Err(IdentityError::Thumbprint), "{bad}");
        }
    }

    #[test]
    fn every_kind_is_known_by_its_key() {
        for (kind, text) in IdentityKind::ALL.into_iter().zip([
            "CN=a",
            "a.example",
            "https://a.example/",
            "::1",
            "a@a.example",
            "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU",
        ]) {
            assert_eq!(parse(kind, text).unwrap().kind(), kind, "{}", kind.name());
        }
    }
}
