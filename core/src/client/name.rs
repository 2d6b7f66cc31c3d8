//! Distinguished names, compared as sequences of attributes and never as text.
//!
//! The rule is `distinguishedNameMatch` (RFC 4517 §4.2.15): the same number of RDNs in the same order, each a set of
//! the same attributes. Values of the attributes below match without regard to case and to insignificant spaces
//! (`caseIgnoreMatch`); of any other attribute the encoding must be the same. Stricter than RFC 4518: no character is
//! dropped, and composed and decomposed forms differ, so that nothing invisible can make two names equal.

use std::fmt::{self, Write as _};

use x509_parser::asn1_rs::{Any, Class, FromDer, Tag, ToDer};
use x509_parser::x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name};

/// Attributes whose values are strings that match case-insensitively, by the short names of RFC 4514 §3, RFC 4519 and
/// OpenSSL, which most people copy names from. Of two rows for one attribute the first is printed.
const TEXT_ATTRIBUTES: [(&str, &str); 49] = [
    ("CN", "2.5.4.3"),
    ("commonName", "2.5.4.3"),
    ("SN", "2.5.4.4"),
    ("surname", "2.5.4.4"),
    ("serialNumber", "2.5.4.5"),
    ("C", "2.5.4.6"),
    ("countryName", "2.5.4.6"),
    ("L", "2.5.4.7"),
    ("localityName", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("S", "2.5.4.8"),
    ("stateOrProvinceName", "2.5.4.8"),
    ("STREET", "2.5.4.9"),
    ("streetAddress", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("organizationName", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("organizationalUnitName", "2.5.4.11"),
    ("title", "2.5.4.12"),
    ("description", "2.5.4.13"),
    ("businessCategory", "2.5.4.15"),
    ("postalCode", "2.5.4.17"),
    ("postOfficeBox", "2.5.4.18"),
    ("physicalDeliveryOfficeName", "2.5.4.19"),
    ("telephoneNumber", "2.5.4.20"),
    ("name", "2.5.4.41"),
    ("GN", "2.5.4.42"),
    ("G", "2.5.4.42"),
    ("givenName", "2.5.4.42"),
    ("initials", "2.5.4.43"),
    ("generationQualifier", "2.5.4.44"),
    ("dnQualifier", "2.5.4.46"),
    ("houseIdentifier", "2.5.4.51"),
    ("pseudonym", "2.5.4.65"),
    ("organizationIdentifier", "2.5.4.97"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("userId", "0.9.2342.19200300.100.1.1"),
    ("mail", "0.9.2342.19200300.100.1.3"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("domainComponent", "0.9.2342.19200300.100.1.25"),
    ("emailAddress", "1.2.840.113549.1.9.1"),
    ("E", "1.2.840.113549.1.9.1"),
    ("unstructuredName", "1.2.840.113549.1.9.2"),
    ("unstructuredAddress", "1.2.840.113549.1.9.8"),
    ("jurisdictionL", "1.3.6.1.4.1.311.60.2.1.1"),
    ("jurisdictionST", "1.3.6.1.4.1.311.60.2.1.2"),
    ("jurisdictionC", "1.3.6.1.4.1.311.60.2.1.3"),
    ("OGRN", "1.2.643.100.1"),
    ("INN", "1.2.643.3.131.1.1"),
];

/// The prefix that `openssl x509 -subject` prints before the name.
const OPENSSL_PREFIX: &str = "subject=";

/// A subject: RDNs in the order of the certificate, the attributes of each sorted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DistinguishedName(Vec<Vec<Attribute>>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Attribute {
    oid: String,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value {
    /// Folded: values that match are equal.
    Text(String),
    /// The whole encoding.
    Der(Vec<u8>),
}

/// The text is not a distinguished name, or no certificate can match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a list of `TYPE=value`.
    #[error("an attribute is not written TYPE=value; print the name with `openssl x509 -subject -nameopt RFC2253`")]
    Form,
    /// An attribute type whose values cannot be compared as text.
    #[error("an attribute type is unknown; write its OID and the value as # and the hexadecimal DER")]
    Type,
    /// A value that is empty or badly escaped.
    #[error("a value is empty, holds a control character, or an unescaped one of \" + , ; < > \\")]
    Value,
}

impl DistinguishedName {
    /// Parses the form of RFC 4514, last RDN first, as `openssl x509 -subject -nameopt RFC2253` prints it. Spaces after a
    /// comma or plus are not significant.
    pub(super) fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.strip_prefix(OPENSSL_PREFIX).unwrap_or(text);
        let rdn = |part: &str| sorted(split(part, b'+').into_iter().map(Attribute::parse));
        // RFC 4514 §2.1: the text begins with the last RDN.
        split(text, b',').into_iter().rev().map(rdn).collect::<Result<_, _>>().map(Self)
    }

    /// The name of a certificate; `None` if it cannot be encoded again.
    pub(super) fn from_certificate(name: &X509Name<'_>) -> Option<Self> {
        let attribute = |a: &AttributeTypeAndValue<'_>| Attribute::new(a.attr_type().to_id_string(), a.attr_value());
        let rdns = name.iter_rdn().map(|rdn| sorted(rdn.iter().map(|a| attribute(a).ok_or(()))));
        rdns.collect::<Result<_, _>>().ok().map(Self)
    }
}

/// The name in the form that policies accept; `None` if it cannot be encoded again.
pub fn to_rfc4514(name: &X509Name<'_>) -> Option<String> {
    let rdns: Vec<_> = name.iter_rdn().collect();
    let attributes = |rdn: &&RelativeDistinguishedName<'_>| {
        Some(rdn.iter().map(write_attribute).collect::<Option<Vec<_>>>()?.join("+"))
    };
    Some(rdns.iter().rev().map(attributes).collect::<Option<Vec<_>>>()?.join(","))
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let oid = attribute.attr_type().to_id_string();
    let short = TEXT_ATTRIBUTES.iter().find(|(_, known)| *known == oid);
    let text = directory_string(attribute.attr_value()).filter(|text| !fold(text).is_empty());
    if let (Some((short, _)), Some(text)) = (short, text.filter(|text| !text.chars().any(char::is_control))) {
        return Some(format!("{short}={}", escape(&text)));
    }
    let der = attribute.attr_value().to_der_vec().ok()?;
    let mut text = format!("{oid}=#");
    for byte in der {
        let _ = write!(text, "{byte:02X}");
    }
    Some(text)
}

/// RFC 4514 §2.4
fn escape(value: &str) -> String {
    let last = value.chars().count() - 1;
    let mut text = String::with_capacity(value.len());
    for (at, c) in value.chars().enumerate() {
        let special = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\');
        if special || (at == 0 && matches!(c, '#' | ' ')) || (at == last && c == ' ') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// The attributes in the form in which they are compared, last RDN first.
impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attribute = |Attribute { oid, value }: &Attribute| {
            let short = TEXT_ATTRIBUTES.iter().find(|(_, known)| known == oid).map_or(oid.as_str(), |(name, _)| name);
            match value {
                Value::Text(text) => format!("{short}={text}"),
                Value::Der(_) => format!("{short}=#…"),
            }
        };
        let rdn = |rdn: &Vec<Attribute>| rdn.iter().map(attribute).collect::<Vec<_>>().join("+");
        f.write_str(&self.0.iter().rev().map(rdn).collect::<Vec<_>>().join(","))
    }
}

fn sorted<E>(attributes: impl Iterator<Item = Result<Attribute, E>>) -> Result<Vec<Attribute>, E> {
    let mut rdn = attributes.collect::<Result<Vec<_>, _>>()?;
    rdn.sort();
    Ok(rdn)
}

impl Attribute {
    fn new(oid: String, value: &Any<'_>) -> Option<Self> {
        let text = is_text(&oid).then(|| directory_string(value)).flatten();
        let value = match text {
            Some(text) => Value::Text(fold(&text)),
            None => Value::Der(value.to_der_vec().ok()?),
        };
        Some(Self { oid, value })
    }

    fn parse(text: &str) -> Result<Self, NameError> {
        let (name, value) = text.split_once('=').ok_or(NameError::Form)?;
        let oid = oid(name.trim_start_matches(' '))?;
        let value = value.trim_start_matches(' ');
        if let Some(hex) = value.strip_prefix('#') {
            let der = unhex(hex).ok_or(NameError::Value)?;
            let (rest, value) = Any::from_der(&der).map_err(|_| NameError::Value)?;
            return rest.is_empty().then(|| Self::new(oid, &value)).flatten().ok_or(NameError::Value);
        }
        if !is_text(&oid) {
            return Err(NameError::Type);
        }
        let value = unescape(value)?;
        let folded = fold(&value);
        let plain = !folded.is_empty() && !value.chars().any(char::is_control);
        plain.then_some(Self { oid, value: Value::Text(folded) }).ok_or(NameError::Value)
    }
}

/// The parts of `text` between separators that are not escaped by a backslash.
fn split(text: &str, separator: u8) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        if byte == separator && !escaped {
            pieces.push(&text[start..at]);
            start = at + 1;
        }
        escaped = byte == b'\\' && !escaped;
    }
    pieces.push(&text[start..]);
    pieces
}

fn oid(name: &str) -> Result<String, NameError> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')) {
        return Err(NameError::Form);
    }
    if let Some((_, oid)) = TEXT_ATTRIBUTES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return Ok((*oid).to_owned());
    }
    let number = |arc: &str| arc.bytes().all(|b| b.is_ascii_digit()) && (arc == "0" || !arc.starts_with('0'));
    let dotted = name.contains('.') && name.split('.').all(|arc| !arc.is_empty() && number(arc));
    dotted.then(|| name.to_owned()).ok_or(NameError::Type)
}

fn is_text(oid: &str) -> bool {
    TEXT_ATTRIBUTES.iter().any(|(_, known)| *known == oid)
}

/// RFC 4514 §2.4: a backslash before a special character, or before two hexadecimal digits of UTF-8.
fn unescape(value: &str) -> Result<String, NameError> {
    let mut bytes = value.bytes();
    let mut plain = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => plain.push(unescape_one(&mut bytes)?),
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | 0 => return Err(NameError::Value),
            _ => plain.push(byte),
        }
    }
    String::from_utf8(plain).map_err(|_| NameError::Value)
}

fn unescape_one(bytes: &mut std::str::Bytes<'_>) -> Result<u8, NameError> {
    let first = bytes.next().ok_or(NameError::Value)?;
    if b" \"#+,;<=>\\".contains(&first) {
        return Ok(first);
    }
    let second = bytes.next().ok_or(NameError::Value)?;
    hex_pair(first, second).ok_or(NameError::Value)
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| hex_pair(*high, *low)).collect::<Option<Vec<_>>>()?;
    rest.is_empty().then_some(bytes)
}

/// What `caseIgnoreMatch` compares: lower case, one space between words, none at the ends.
fn fold(text: &str) -> String {
    let spaced = text.split_whitespace().collect::<Vec<_>>().join(" ");
    spaced.chars().flat_map(char::to_lowercase).collect()
}

/// The characters of a string type with a well-defined alphabet; T.61 has none.
fn directory_string(value: &Any<'_>) -> Option<String> {
    if value.class() != Class::Universal {
        return None;
    }
    match value.tag() {
        Tag::Utf8String => String::from_utf8(value.data.to_vec()).ok(),
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            value.data.is_ascii().then(|| String::from_utf8_lossy(value.data).into_owned())
        }
        Tag::BmpString => utf16(value.data),
        _ => None,
    }
}

fn utf16(data: &[u8]) -> Option<String> {
    let (units, rest) = data.as_chunks::<2>();
    let text = char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit))).collect::<Result<_, _>>();
    rest.is_empty().then_some(text.ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use x509_parser::asn1_rs::Oid;

    use super::*;

    fn name(text: &str) -> DistinguishedName {
        DistinguishedName::parse(text).unwrap()
    }

    #[test]
    fn case_and_insignificant_spaces_do_not_count() {
        assert_eq!(name("CN=Mail  Delivery,O=Example"), name("cn=mail delivery, o= EXAMPLE "));
        assert_eq!(name("CN=a+OU=b,O=c"), name("OU=b+CN=a,O=c"));
        assert_eq!(name("2.5.4.3=a"), name("CN=A"));
        assert_eq!(name("CN=#0c0141"), name("CN=a"), "the hexadecimal form of a directory string is text all the same");
    }

    /// A-021
    #[test]
    fn structure_counts() {
        assert_ne!(name("CN=a,O=b"), name("O=b,CN=a"));
        assert_ne!(name("CN=a,O=b"), name("CN=a+O=b"));
        assert_ne!(name("CN=a,O=b"), name("CN=a,OU=c,O=b"));
        assert_ne!(name("CN=a,O=b"), name(r"CN=a\,O=b"));
        assert_ne!(name("CN=a+O=b"), name(r"CN=a\+O=b"));
        assert_ne!(name("CN=a"), name("CN=a+CN=a"));
        assert_ne!(name("CN=a"), name("O=a"));
        assert_ne!(name("1.2.3=#0c0141"), name("1.2.3=#0c0161"), "of an unknown attribute the encoding counts");
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(name(r"CN=\23\2c \\\ "), name(r"CN=\#\, \\"));
        assert_eq!(name(r"CN=Lu\C4\8Di\C4\87"), name("CN=Lučić"));
    }

    #[test]
    fn text_that_is_not_a_name_is_refused() {
        for text in [
            "",
            "CN",
            "CN=",
            "CN= ",
            "=a",
            "CN=a,",
            "CN=a,,O=b",
            "CN=a+",
            ",CN=a",
            "CN = a",
            "CN=\"a\"",
            "CN=a;O=b",
            "CN=a\\",
            "CN=\\zz",
            "CN=\\00",
            "CN=a\u{7}",
            "CN=\\ff",
            "CN=#",
            "CN=#0c",
            "CN=#0c014100",
            "CN=#0c014",
            "nick=a",
            "1.2.3=a",
            "1..2=#0500",
            "1.02=#0500",
            "subject=",
            "issuer=CN=a",
        ] {
            assert!(DistinguishedName::parse(text).is_err(), "{text}");
        }
    }

    /// The output of the command that error messages recommend: short names, dotted OIDs with DER, escapes.
    #[test]
    fn a_name_is_read_as_openssl_prints_it() {
        let banking = "CN=job,serialNumber=123,businessCategory=Private Organization,jurisdictionC=BR,\
            organizationIdentifier=OFBBR-1,O=Org,C=BR";
        let dotted = "CN=job,2.5.4.5=#1303313233,2.5.4.15=#0C1450726976617465204F7267616E697A6174696F6E,\
            1.3.6.1.4.1.311.60.2.1.3=#13024252,2.5.4.97=#0C074F464242522D31,O=Org,C=BR";
        assert_eq!(name(banking), name(dotted));
        assert_eq!(name(banking), name(&format!("subject={banking}")));
        let mail = name("emailAddress=a@example.com,CN=mail,O=Org");
        for text in
            ["E=a@example.com,CN=mail,O=Org", "1.2.840.113549.1.9.1=#160D61406578616D706C652E636F6D,CN=mail,O=Org"]
        {
            assert_eq!(mail, name(text), "{text}");
        }
        assert_eq!(name(r#"CN=a\"b\;c\<d\>\C3\A9"#), name("CN=#0C0A6122623B633C643EC3A9"));
        assert_eq!(name("INN=12,OGRN=34,street=a,name=b,mail=c"), name("inn=12,ogrn=34,STREET=A,NAME=B,MAIL=C"));
    }

    /// A-021: as certificates encode it, in one set or in two.
    #[test]
    fn the_sets_of_a_certificate_are_kept_apart() {
        let a = [0x30, 0x08, 0x06, 3, 0x55, 4, 3, 0x0c, 1, b'a'];
        let b = [0x30, 0x08, 0x06, 3, 0x55, 4, 10, 0x13, 1, b'B'];
        let set = |content: &[u8]| [&[0x31, u8::try_from(content.len()).unwrap()], content].concat();
        let certificate = |sets: &[u8]| {
            let der = [&[0x30, u8::try_from(sets.len()).unwrap()], sets].concat();
            DistinguishedName::from_certificate(&X509Name::from_der(&der).unwrap().1).unwrap()
        };
        let together = certificate(&set(&[a, b].concat()));
        assert_eq!(together, name("O=b+CN=A"));
        assert_ne!(together, name("CN=a,O=b"));
        let apart = certificate(&[set(&b), set(&a)].concat());
        assert_eq!(apart, name("CN=a,O=b"));
        assert_ne!(apart, name("CN=a+O=b"));
    }

    proptest! {
        /// The printed name of any certificate is parsed as the same name.
        #[test]
        fn a_printed_name_is_read_as_the_same(
            attributes in vec((0..TEXT_ATTRIBUTES.len() + 1, any::<bool>(), "[ -~éß,+\\\\\"#;<>\u{7}]{0,12}"), 1..6)
        ) {
            let text_tag = |plain: bool| if plain { 0x0c } else { 0x04 };
            let sets: Vec<u8> = attributes.iter().flat_map(|(at, plain, value)| {
                let dotted = TEXT_ATTRIBUTES.get(*at).map_or("1.2.3.4", |(_, oid)| oid);
                let oid = Oid::from_str(dotted).unwrap().to_der_vec().unwrap();
                let attribute = tlv(0x30, &[oid, tlv(text_tag(*plain), value.as_bytes())].concat());
                tlv(0x31, &attribute)
            }).collect();
            let der = tlv(0x30, &sets);
            let parsed = X509Name::from_der(&der).unwrap().1;
            let printed = to_rfc4514(&parsed).unwrap();
            prop_assert_eq!(DistinguishedName::parse(&printed).ok(), DistinguishedName::from_certificate(&parsed), "{}", printed);
        }
    }

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        let length = if length < 0x80 { vec![length] } else { vec![0x81, length] };
        [&[tag], length.as_slice(), content].concat()
    }
}
