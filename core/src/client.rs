//! Client authentication by certificate (RFC 8705).
//!
//! In: the client certificate of a connection and the registered identities. Out: the [`ClientId`] that it belongs to.

mod certificate;
mod identity;
mod index;
mod name;
mod near;

pub use certificate::{CertificateError, PeerCertificate};
pub use identity::{Identity, IdentityError, IdentityKind, Thumbprint, is_spiffe_trust_domain};
pub(crate) use index::Index;
pub use name::{NameError, to_rfc4514};
pub(crate) use near::{find_near_match, offered};

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// The name of a client: `client_id`, `req_wl`, and the name of its policy file.
///
/// 1 to 128 of `[A-Za-z0-9._-]`, not starting with a dot. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct ClientId(Arc<str>);

/// The text is not a [`ClientId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client_id is 1 to 128 of A-Z a-z 0-9 . _ - and does not start with a dot")]
pub struct ClientIdError;

impl ClientId {
    /// The value of `client_id` and `req_wl`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientId {
    type Err = ClientIdError;

    fn from_str(text: &str) -> Result<Self, ClientIdError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('.');
        fits.then(|| Self(text.into())).ok_or(ClientIdError)
    }
}

impl TryFrom<String> for ClientId {
    type Error = ClientIdError;

    fn try_from(text: String) -> Result<Self, ClientIdError> {
        text.parse()
    }
}

impl Serialize for ClientId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Equal, hashed and ordered as its text.
impl Borrow<str> for ClientId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a certificate does not identify a client. An unknown certificate gets the first error, regardless of `client_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No policy names this certificate.
    #[error("no client is registered with this certificate")]
    Unknown,
    /// Several policies name the certificate, and the request has no `client_id`.
    #[error("the certificate belongs to several clients; client_id must name one")]
    Ambiguous,
    /// It does not belong to the client that `client_id` names.
    #[error("the certificate does not belong to the client that client_id names")]
    IdMismatch,
}

/// The clients that a certificate belongs to; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates<'a>(Vec<&'a ClientId>);

/// Finds the clients that `certificate` belongs to among all that are registered.
///
/// If its thumbprint is registered, only that counts: the names in such a certificate may not be certified by any CA.
pub(crate) fn candidates<'a>(
    certificate: &PeerCertificate,
    registered: impl IntoIterator<Item = (&'a ClientId, &'a Identity)>,
) -> Result<Candidates<'a>, ClientError> {
    let mut matching: Vec<_> = registered.into_iter().filter(|(_, identity)| certificate.matches(identity)).collect();
    let by_thumbprint = |identity: &Identity| identity.kind() == IdentityKind::Thumbprints;
    if matching.iter().any(|(_, identity)| by_thumbprint(identity)) {
        matching.retain(|(_, identity)| by_thumbprint(identity));
    }
    let found: Vec<_> = matching.into_iter().map(|(client, _)| client).collect();
    if found.is_empty() { Err(ClientError::Unknown) } else { Ok(Candidates(found)) }
}

/// For the log.
impl fmt::Display for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(|client| client.as_str()).collect::<Vec<_>>().join(", "))
    }
}

impl<'a> Candidates<'a> {
    /// The first of them: all requests with one certificate share the limits of one client.
    pub fn first(&self) -> Option<&'a ClientId> {
        self.0.first().copied()
    }

    /// In the order of registration; never empty.
    pub fn iter(&self) -> impl Iterator<Item = &'a ClientId> + '_ {
        self.0.iter().copied()
    }

    /// The one that `client_id` names, or the only one.
    pub(crate) fn choose(&self, client_id: Option<&str>) -> Result<&'a ClientId, ClientError> {
        match (client_id, self.0.as_slice()) {
            (Some(id), all) => all.iter().find(|client| client.as_str() == id).copied().ok_or(ClientError::IdMismatch),
            (None, [only]) => Ok(only),
            (None, _) => Err(ClientError::Ambiguous),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, Issuer, KeyPair, SanType};

    /// A certificate as the CA of the trust domain signs it.
    fn issued(dn: &[(DnType, &str)], sans: Vec<SanType>) -> PeerCertificate {
        signed_by("Example CA", &params(dn, sans))
    }

    fn params(dn: &[(DnType, &str)], sans: Vec<SanType>) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in dn {
            params.distinguished_name.push(kind.clone(), DnValue::from(*value));
        }
        params.subject_alt_names = sans;
        params
    }

    fn signed_by(ca: &str, leaf: &CertificateParams) -> PeerCertificate {
        let issuer = Issuer::new(params(&[(DnType::CommonName, ca)], vec![]), KeyPair::generate().unwrap());
        let certificate = leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        PeerCertificate::parse(certificate.der()).unwrap()
    }

    fn with_sans(sans: Vec<SanType>) -> PeerCertificate {
        issued(&[(DnType::CommonName, "someone")], sans)
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    fn uri(uri: &str) -> SanType {
        SanType::URI(uri.try_into().unwrap())
    }

    fn email(address: &str) -> SanType {
        SanType::Rfc822Name(address.try_into().unwrap())
    }

    fn id(text: &str) -> ClientId {
        text.parse().unwrap()
    }

    fn identity(kind: IdentityKind, text: &str) -> Identity {
        Identity::parse(kind, text).unwrap()
    }

    fn san_dns(text: &str) -> Identity {
        identity(IdentityKind::SanDns, text)
    }

    fn san_uri(text: &str) -> Identity {
        identity(IdentityKind::SanUri, text)
    }

    fn subject(text: &str) -> Identity {
        identity(IdentityKind::SubjectDn, text)
    }

    const VICTIM: &str = "spiffe://trust-domain.example/victim";

    #[test]
    fn each_kind_of_name_is_found_in_its_place() {
        let certificate = issued(
            &[(DnType::OrganizationName, "Example"), (DnType::CommonName, "mail")],
            vec![
                dns("Mail.Example"),
                uri(VICTIM),
                email("Mail@mail.example"),
                SanType::IpAddress("10.0.0.1".parse().unwrap()),
                SanType::IpAddress("2001:db8::1".parse().unwrap()),
            ],
        );
        assert!(certificate.matches(&san_dns("mail.EXAMPLE")));
        assert!(certificate.matches(&san_uri(VICTIM)));
        assert!(certificate.matches(&identity(IdentityKind::SanEmail, "Mail@mail.example")));
        assert!(certificate.matches(&identity(IdentityKind::SanIp, "10.0.0.1")));
        assert!(certificate.matches(&identity(IdentityKind::SanIp, "2001:db8:0::1")));
        assert!(certificate.matches(&subject("cn=Mail, o=example")));
        assert!(certificate.matches(&Identity::thumbprints(&[certificate.x5t_s256().to_owned()]).unwrap()));
    }

    /// A-016
    #[test]
    fn a_name_in_the_wrong_place_matches_nothing() {
        let common_name = |name| issued(&[(DnType::CommonName, name)], vec![dns("other.example")]);
        assert!(!common_name("victim.example").matches(&san_dns("victim.example")));
        assert!(!common_name(VICTIM).matches(&san_uri(VICTIM)));
        assert!(!issued(&[(DnType::CommonName, "victim.example")], vec![]).matches(&san_dns("victim.example")));
        let upn = SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], "victim@victim.example".into()));
        for san in [uri("https://victim.example"), email("x@victim.example"), upn] {
            let certificate = with_sans(vec![san]);
            assert!(!certificate.matches(&san_dns("victim.example")));
            assert!(!certificate.matches(&identity(IdentityKind::SanEmail, "victim@victim.example")));
        }
        let certificate = with_sans(vec![dns(VICTIM), uri("ip:10.0.0.1"), dns("10.0.0.1")]);
        assert!(!certificate.matches(&san_uri(VICTIM)));
        assert!(!certificate.matches(&identity(IdentityKind::SanIp, "10.0.0.1")));
    }

    /// A-016: a directory name among the alternative names is not the subject.
    #[test]
    fn a_directory_name_is_not_a_subject() {
        let cn = [&[0x31, 0x0f, 0x30, 0x0d, 0x06, 3, 0x55, 4, 3, 0x0c, 6][..], b"victim"].concat();
        let name = [&[0xa4, 19, 0x30, 17][..], &cn].concat();
        let certificate = with_raw_san(&name);
        assert!(!certificate.matches(&subject("CN=victim")));
        assert!(certificate.matches(&subject("CN=someone")));
    }

    /// One with this as the only alternative name, DER.
    fn with_raw_san(name: &[u8]) -> PeerCertificate {
        let length = u8::try_from(name.len()).unwrap();
        let mut params = params(&[(DnType::CommonName, "someone")], vec![]);
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], [&[0x30, length], name].concat());
        params.custom_extensions.push(extension);
        signed_by("Example CA", &params)
    }

    fn raw(tag: u8, text: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(text.len()).unwrap()], text].concat()
    }

    /// A-017
    #[test]
    fn dns_names_match_whole_and_without_wildcards() {
        for name in
            ["*.mail.example", "a.mail.example.", "b.a.mail.example", "a.mail.example.evil", "xn--a-0ga.mail.example"]
        {
            assert!(!with_sans(vec![dns(name)]).matches(&san_dns("a.mail.example")), "{name}");
        }
        assert!(with_sans(vec![dns("A.MAIL.example")]).matches(&san_dns("a.mail.example")));
    }

    /// A-017
    #[test]
    fn e_mail_addresses_match_byte_for_byte() {
        let certificate = with_sans(vec![email("victim@mail.example")]);
        assert!(certificate.matches(&identity(IdentityKind::SanEmail, "victim@mail.example")));
        assert!(!certificate.matches(&identity(IdentityKind::SanEmail, "Victim@mail.example")));
    }

    /// A-017
    #[test]
    fn names_with_nul_or_beyond_ascii_match_nothing() {
        for name in [
            &b"mail.example\0.evil"[..],
            b"mail.example\0",
            "mail.exämple".as_bytes(),
            b"mail.ex\xffmple",
            b"mail .example",
        ] {
            let certificate = with_raw_san(&raw(0x82, name));
            assert!(!certificate.matches(&san_dns("mail.example")), "{name:?}");
        }
        assert!(with_raw_san(&raw(0x82, b"mail.example")).matches(&san_dns("mail.example")));
    }

    /// A-018
    #[test]
    fn a_spiffe_id_in_any_other_form_matches_nothing() {
        for other in [
            "spiffe://other.example/victim",
            "spiffe://trust-domain.example/x/../victim",
            "spiffe://trust-domain.example/%76ictim",
            "spiffe://trust-domain.example/victim?x=1",
            "spiffe://trust-domain.example:443/victim",
            "spiffe://trust-domain.example/victim/",
            "spiffe://trust-domain.example/Victim",
            "SPIFFE://trust-domain.example/victim",
        ] {
            assert!(!with_sans(vec![uri(other)]).matches(&san_uri(VICTIM)), "{other}");
        }
    }

    /// A-018, A-019
    #[test]
    fn several_spiffe_ids_match_none_by_uri() {
        let web = uri("https://mail.example/");
        let second = uri("Spiffe://trust-domain.example/other");
        let several = with_sans(vec![uri(VICTIM), second, web.clone(), dns("mail.example")]);
        assert!(!several.matches(&san_uri(VICTIM)));
        assert!(!several.matches(&san_uri("https://mail.example/")));
        assert!(several.matches(&san_dns("mail.example")));

        let beside_another = with_sans(vec![uri(VICTIM), web]);
        assert!(!beside_another.matches(&san_uri(VICTIM)), "an X.509-SVID has one URI");
        assert!(beside_another.matches(&san_uri("https://mail.example/")));
    }

    /// A-021
    #[test]
    fn a_subject_matches_rdn_by_rdn() {
        use DnType::{CommonName, OrganizationName, OrganizationalUnitName};
        let victim = subject("CN=victim,O=Example");
        let matches = |dn: &[(DnType, &str)]| issued(dn, vec![]).matches(&victim);
        assert!(matches(&[(OrganizationName, "EXAMPLE"), (CommonName, " victim ")]));
        assert!(!matches(&[(CommonName, "victim"), (OrganizationName, "Example")]), "reordered");
        let unit = (OrganizationalUnitName, "x");
        assert!(!matches(&[(OrganizationName, "Example"), unit, (CommonName, "victim")]), "one more");
        assert!(!matches(&[(CommonName, "victim")]), "one less");
        assert!(!matches(&[(CommonName, "victim,O=Example")]));
        assert!(!matches(&[(CommonName, "victim+O=Example")]));
        assert!(!matches(&[(OrganizationName, "Example"), (CommonName, "victim\0")]));
        assert!(!issued(&[], vec![]).matches(&victim));
        assert!(issued(&[(CommonName, "victim,O=Example")], vec![]).matches(&subject(r"CN=victim\,O=Example")));
    }

    /// A-025: a self-signed certificate can contain any name.
    #[test]
    fn a_self_issued_certificate_is_known_by_its_thumbprint_alone() {
        let params = params(&[(DnType::CommonName, "someone")], vec![dns("mail.example")]);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let certificate = PeerCertificate::parse(der.der()).unwrap();
        assert!(!certificate.matches(&san_dns("mail.example")));
        assert!(!certificate.matches(&subject("CN=someone")));
        assert!(certificate.matches(&Identity::thumbprints(&[certificate.x5t_s256().to_owned()]).unwrap()));
    }

    #[test]
    fn a_registered_thumbprint_rules_out_every_name() {
        let certificate = with_sans(vec![dns("victim.example")]);
        let own = Identity::thumbprints(&[certificate.x5t_s256().to_owned()]).unwrap();
        let (victim, pinned) = (id("victim"), id("pinned"));
        let registered = [(&victim, &san_dns("victim.example")), (&pinned, &own)];
        let found = candidates(&certificate, registered).unwrap();
        assert_eq!(found.choose(None), Ok(&pinned));
        assert_eq!(found.choose(Some("victim")), Err(ClientError::IdMismatch));
    }

    /// A-015, A-019, A-022
    #[test]
    fn a_client_is_chosen_among_those_of_the_certificate() {
        let (one, two, three) = (id("one"), id("two"), id("three"));
        let identities = [san_uri(VICTIM), san_dns("two.example"), san_dns("three.example")];
        let registered = || [&one, &two, &three].into_iter().zip(&identities);

        let stranger = with_sans(vec![dns("four.example")]);
        assert_eq!(candidates(&stranger, registered()), Err(ClientError::Unknown));

        let single = with_sans(vec![dns("two.example")]);
        let single = candidates(&single, registered()).unwrap();
        assert_eq!(single.choose(None), Ok(&two));
        assert_eq!(single.choose(Some("two")), Ok(&two));
        assert_eq!(single.choose(Some("one")), Err(ClientError::IdMismatch));
        assert_eq!(single.choose(Some("nobody")), Err(ClientError::IdMismatch));

        let both = with_sans(vec![uri(VICTIM), dns("two.example")]);
        let both = candidates(&both, registered()).unwrap();
        assert_eq!(both.choose(None), Err(ClientError::Ambiguous));
        assert_eq!(both.choose(Some("two")), Ok(&two));
        assert_eq!(both.choose(Some("three")), Err(ClientError::IdMismatch));
    }

    #[test]
    fn bytes_that_are_not_a_certificate_are_refused() {
        let der = params(&[], vec![]).self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert!(PeerCertificate::parse(der.der()).is_ok());
        assert!(PeerCertificate::parse(&[der.der(), &[0][..]].concat()).is_err());
        assert!(PeerCertificate::parse(&der.der()[1..]).is_err());
        assert!(PeerCertificate::parse(&[]).is_err());
    }

    #[test]
    fn the_end_of_validity_and_the_key_are_read() {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&[(DnType::CommonName, "someone")], vec![]);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let certificate = PeerCertificate::parse(params.self_signed(&key).unwrap().der()).unwrap();
        assert_eq!(certificate.not_after().to_string(), "2030-01-01T00:00:00Z");
        assert_eq!(certificate.public_key(), rcgen::PublicKeyData::subject_public_key_info(&key));
    }
}
