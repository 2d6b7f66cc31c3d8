//! Why a client certificate is refused: a message for the log, and an alert for the client.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::x509::{X509Name, X509Version};

use writ_platform::clock::Timestamp;

/// The most characters of a certificate's text in a log line.
const TEXT_SHOWN: usize = 200;
/// The most alternative names in a log line.
const NAMES_SHOWN: usize = 8;

/// Why a chain is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::server) enum Refusal {
    #[error("the client presented no certificate")]
    NoCertificate,
    #[error("the client presented {count} certificates; at most {max} are read")]
    TooMany { count: usize, max: usize },
    #[error("the client's certificates have {size} bytes; at most {max} are read")]
    TooLarge { size: usize, max: usize },
    #[error("the client's certificates have {names} names and {constraints} name constraints: too many to compare")]
    TooManyNames { names: usize, constraints: usize },
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the presented certificates form too many possible chains")]
    TooComplex,
    #[error(
        "no CA in tls.client_ca has the name of the issuer, {issuer}, and the client presented no certificate of it"
    )]
    UnknownIssuer { issuer: String },
    #[error("no key of the issuer {issuer} made the signature: it is another CA of the same name")]
    BadSignature { issuer: String },
    #[error("{subject} expired at {at}")]
    Expired { subject: String, at: Timestamp },
    #[error("{subject} is not valid before {at}")]
    NotYetValid { subject: String, at: Timestamp },
    #[error("the CA {ca} ({}) is not valid now: it expired at {at} or is not valid yet", file.display())]
    CaNotLive { ca: String, file: PathBuf, at: Timestamp },
    #[error("{subject} is not for clients: its extended key usage lacks clientAuth")]
    Usage { subject: String },
    /// Refused by webpki.
    #[error("{message}")]
    Invalid { error: webpki::Error, message: String },
    #[error("{subject} (serial {serial}) is revoked by CRL {crl}")]
    Revoked { subject: String, serial: String, crl: String },
    #[error("there is no usable CRL of {issuer} in tls.client_crls for {subject}")]
    NoCrl { issuer: String, subject: String },
    #[error("CRL {crl} of {issuer}, the newest, expired at {at}; without a current one {subject} is refused")]
    CrlExpired { issuer: String, subject: String, crl: String, at: Timestamp },
    #[error(
        "the CA {ca} ({}) may only vouch for SPIFFE IDs of {domains} (trust_domains), and the certificate does not have \
         exactly one URI, of these", file.display()
    )]
    NotVouchedFor { ca: String, file: PathBuf, domains: String },
}

impl Refusal {
    /// The error from which rustls derives the alert.
    pub(in crate::server) fn to_rustls(&self) -> Error {
        use CertificateError as Cause;
        match self {
            Self::NoCertificate => Error::NoCertificatesPresented,
            Self::Unreadable => Cause::BadEncoding.into(),
            Self::UnknownIssuer { .. } => Cause::UnknownIssuer.into(),
            Self::BadSignature { .. } => Cause::BadSignature.into(),
            Self::Expired { .. } | Self::CaNotLive { .. } => Cause::Expired.into(),
            Self::NotYetValid { .. } => Cause::NotValidYet.into(),
            Self::Usage { .. } => Cause::InvalidPurpose.into(),
            Self::Revoked { .. } => Cause::Revoked.into(),
            Self::NoCrl { .. } => Cause::UnknownRevocationStatus.into(),
            Self::CrlExpired { .. } => Cause::ExpiredRevocationList.into(),
            Self::NotVouchedFor { .. } => Cause::ApplicationVerificationFailure.into(),
            Self::Invalid { error: webpki::Error::BadDer | webpki::Error::TrailingData(_), .. } => {
                Cause::BadEncoding.into()
            }
            Self::Invalid { .. }
            | Self::TooMany { .. }
            | Self::TooLarge { .. }
            | Self::TooManyNames { .. }
            | Self::TooComplex => Cause::Other(OtherError(Arc::new(self.clone()))).into(),
        }
    }

    /// The refusal for webpki's verdict on the path `chain`, leaf first; it names the certificate at fault.
    pub(super) fn of_webpki(error: webpki::Error, chain: &[&X509Certificate<'_>], now: Timestamp) -> Self {
        use webpki::Error as Cause;
        match &error {
            Cause::CertExpired { .. } => {
                let expired = chain.iter().find(|certificate| now > not_after(certificate)).unwrap_or(&chain[0]);
                Self::Expired { subject: subject(expired), at: not_after(expired) }
            }
            Cause::CertNotValidYet { .. } => {
                let early = chain.iter().find(|certificate| now < not_before(certificate)).unwrap_or(&chain[0]);
                Self::NotYetValid { subject: subject(early), at: not_before(early) }
            }
            Cause::InvalidSignatureForPublicKey => Self::BadSignature { issuer: shown(&chain[0].issuer().to_string()) },
            Cause::RequiredEkuNotFoundContext(_) | Cause::EmptyEkuExtension => {
                let without = |certificate: &X509Certificate<'_>| {
                    certificate.extended_key_usage().ok().flatten().is_some_and(|usage| !usage.value.client_auth)
                };
                Self::Usage { subject: first_that(chain, without) }
            }
            _ => Self::Invalid { message: describe(&error, chain), error },
        }
    }
}

/// Describes webpki's refusal, and names the certificate at fault.
fn describe(error: &webpki::Error, chain: &[&X509Certificate<'_>]) -> String {
    use webpki::Error as Cause;
    match error {
        Cause::UnsupportedCertVersion => {
            let old = chain.iter().find(|certificate| certificate.version() != X509Version::V3);
            let version = old.map_or(0, |certificate| certificate.version().0 + 1);
            let name = old.map_or_else(|| subject(chain[0]), |certificate| subject(certificate));
            format!(
                "{name} is an X.509 certificate of version {version}; issue it as version 3 (openssl x509 -req \
                 makes version 1 unless it is given an -extfile)"
            )
        }
        Cause::UnsupportedCriticalExtension => {
            let named =
                chain.iter().find_map(|certificate| Some((subject(certificate), unknown_critical(certificate)?)));
            let (name, extension) = named.unwrap_or_else(|| (subject(chain[0]), "an extension".to_owned()));
            format!("{name} has the critical extension {extension}, which Writ does not process")
        }
        Cause::NameConstraintViolation => violated_constraints(chain),
        Cause::PathLenConstraintViolated => {
            "the chain is longer than the path length constraint of one of its CAs allows".to_owned()
        }
        Cause::MaximumPathDepthExceeded => "the chain has more than 6 intermediate CAs".to_owned(),
        Cause::CaUsedAsEndEntity => format!("{} is the certificate of a CA, not of a client", subject(chain[0])),
        Cause::EndEntityUsedAsCa => {
            let issuer =
                |certificate: &X509Certificate<'_>| !std::ptr::eq(certificate, chain[0]) && !is_ca(certificate);
            format!(
                "{} is not the certificate of a CA (basicConstraints), but signed another",
                first_that(chain, issuer)
            )
        }
        Cause::UnsupportedSignatureAlgorithmContext(_) | Cause::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            "a certificate of the chain has a signature algorithm, key type or key size that is not supported"
                .to_owned()
        }
        Cause::SignatureAlgorithmMismatch => "a certificate names two different signature algorithms".to_owned(),
        Cause::InvalidCertValidity => "a certificate's notAfter is before its notBefore".to_owned(),
        Cause::InvalidSerialNumber => "a certificate has a serial number that is negative or too long".to_owned(),
        Cause::MaximumNameConstraintComparisonsExceeded => {
            "the names and name constraints are too many to compare".to_owned()
        }
        Cause::MalformedExtensions | Cause::ExtensionValueInvalid | Cause::MalformedNameConstraint => {
            "an extension of a certificate cannot be read".to_owned()
        }
        _ => "a certificate of the chain cannot be read or uses an unsupported feature".to_owned(),
    }
}

/// The subject of the first certificate of the chain that fits; of the leaf if none does.
fn first_that(chain: &[&X509Certificate<'_>], fits: impl Fn(&X509Certificate<'_>) -> bool) -> String {
    subject(chain.iter().find(|certificate| fits(certificate)).unwrap_or(&chain[0]))
}

/// A certificate as the log names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct Described {
    pub(in crate::server) subject: String,
    pub(in crate::server) issuer: String,
    pub(in crate::server) names: String,
    pub(in crate::server) serial: String,
}

impl Described {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        Self {
            subject: subject(certificate),
            issuer: shown(&certificate.issuer().to_string()),
            names: alternative_names(certificate),
            serial: serial(certificate),
        }
    }
}

/// The subject, for messages.
pub(super) fn subject(certificate: &X509Certificate<'_>) -> String {
    name(certificate.subject())
}

pub(super) fn name(name: &X509Name<'_>) -> String {
    let text = shown(&name.to_string());
    if text.is_empty() { "(a certificate without subject)".to_owned() } else { text }
}

/// The beginning of the text, with everything escaped that is not plain.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == TEXT_SHOWN {
            shown.push('…');
            break;
        }
        // Also characters that reorder or hide text on a terminal.
        let plain = character == ' ' || character.is_ascii_graphic() || character.is_alphanumeric();
        if plain { shown.push(character) } else { shown.extend(character.escape_default()) }
    }
    shown
}

pub(super) fn serial(certificate: &X509Certificate<'_>) -> String {
    hex(certificate.raw_serial())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(24).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn not_before(certificate: &X509Certificate<'_>) -> Timestamp {
    timestamp(certificate.validity().not_before.timestamp())
}

pub(super) fn not_after(certificate: &X509Certificate<'_>) -> Timestamp {
    timestamp(certificate.validity().not_after.timestamp())
}

/// A time before 1970 is 1970.
pub(super) fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(u64::try_from(seconds).unwrap_or(0))
}

pub(super) fn is_ca(certificate: &X509Certificate<'_>) -> bool {
    certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca)
}

fn alternative_names(certificate: &X509Certificate<'_>) -> String {
    let Ok(found) = certificate.subject_alternative_name() else { return "(cannot be read)".to_owned() };
    let names = found.map_or(&[][..], |extension| extension.value.general_names.as_slice());
    let mut text: Vec<_> = names.iter().take(NAMES_SHOWN).map(alternative_name).collect();
    if names.len() > NAMES_SHOWN {
        text.push(format!("and {} more", names.len() - NAMES_SHOWN));
    }
    text.join(", ")
}

fn alternative_name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => format!("DNS:{}", shown(name)),
        GeneralName::URI(uri) => format!("URI:{}", shown(uri)),
        GeneralName::RFC822Name(address) => format!("email:{}", shown(address)),
        GeneralName::IPAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
            let ip = v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from));
            ip.map_or_else(|_| "IP:(cannot be read)".to_owned(), |ip| format!("IP:{ip}"))
        }
        GeneralName::DirectoryName(name) => format!("dirName:{}", shown(&name.to_string())),
        _ => "another kind of name".to_owned(),
    }
}

/// The first critical extension that webpki does not process.
fn unknown_critical(certificate: &X509Certificate<'_>) -> Option<String> {
    // keyUsage, subjectAltName, basicConstraints, nameConstraints, cRLDistributionPoints, extKeyUsage
    const KNOWN: [&str; 6] = ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.31", "2.5.29.37"];
    const NAMED: [(&str, &str); 5] = [
        ("2.5.29.18", "issuerAltName"),
        ("2.5.29.32", "certificatePolicies"),
        ("2.5.29.33", "policyMappings"),
        ("2.5.29.36", "policyConstraints"),
        ("2.5.29.54", "inhibitAnyPolicy"),
    ];
    let critical = certificate.extensions().iter().filter(|extension| extension.critical);
    let oid = critical.map(|extension| extension.oid.to_id_string()).find(|oid| !KNOWN.contains(&oid.as_str()))?;
    let named = NAMED.iter().find(|(known, _)| *known == oid);
    Some(named.map_or_else(|| shown(&oid), |(_, name)| format!("{name} ({oid})")))
}

/// webpki evaluates constraints on DNS names and IP addresses; names of other kinds it refuses where they are constrained.
fn violated_constraints(chain: &[&X509Certificate<'_>]) -> String {
    let constraining = chain.iter().find_map(|certificate| {
        let constraints = certificate.name_constraints().ok().flatten()?;
        Some((subject(certificate), constraints.value))
    });
    let Some((ca, constraints)) = constraining else {
        return "a name violates the name constraints of the CA in tls.client_ca".to_owned();
    };
    let all = [&constraints.permitted_subtrees, &constraints.excluded_subtrees];
    let mut kinds = all.into_iter().flatten().flatten().filter_map(|subtree| match subtree.base {
        GeneralName::URI(_) => Some("URIs"),
        GeneralName::DirectoryName(_) => Some("directory names"),
        GeneralName::RFC822Name(_) => Some("e-mail addresses"),
        GeneralName::DNSName(_) | GeneralName::IPAddress(_) => None,
        _ => Some("another kind of name"),
    });
    match kinds.next_back() {
        Some(kind) => format!(
            "a name violates the name constraints of {ca}; those on {kind} are not evaluated, so that every such name \
             is refused (tls.client_ca with trust_domains limits SPIFFE IDs)"
        ),
        None => format!("a name violates the name constraints of {ca}"),
    }
}

/// Whether the key usage has this bit; true without a key usage.
pub(super) fn may(
    certificate: &X509Certificate<'_>,
    flag: impl Fn(&x509_parser::extensions::KeyUsage) -> bool,
) -> bool {
    match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| flag(usage.value)),
        Err(_) => false,
    }
}

/// The identifier of a certificate's own key.
pub(super) fn key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

/// The identifier of the key that signed a certificate, if it is stated.
pub(super) fn issuer_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    })
}
