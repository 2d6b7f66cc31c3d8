//! One JWK as published: its members, and the checks that apply to every key type.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::value::RawValue;

use crate::json::Members;

/// Why a key of a set is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Not one unambiguous JSON object: another value, a repeated member name, or a structure beyond
    /// [`Limits::DEFAULT`](crate::json::Limits::DEFAULT).
    #[error("it is not a JSON object in which each member name occurs once")]
    Form,
    /// A member that the key type requires is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A member has the wrong JSON type.
    #[error("{0} must be {1}")]
    Type(&'static str, &'static str),
    /// A number or coordinate is not canonical base64url (RFC 7518 §2).
    #[error("{0} is not base64url without padding (RFC 7518 section 2)")]
    Base64(&'static str),
    /// The key contains a secret: `kty` is `oct`, or a private member is present. A published secret is compromised.
    #[error("it is not public: it has {0}")]
    Secret(&'static str),
    /// The `kty`, `crv` or `alg` is not supported, or they do not match.
    #[error("{0}")]
    Unsupported(&'static str),
    /// `use` is neither `sig` nor `jwt-svid`, or `key_ops` does not include `verify` (RFC 7517 §4.2, §4.3).
    #[error("it is not for signatures: {0}")]
    Purpose(&'static str),
    /// `use` is `x509-svid`: the key verifies certificates. SPIFFE bundles publish such keys beside those for JWTs, so
    /// [`KeySet::left_out`](super::KeySet::left_out) does not mention them.
    #[error("its use is x509-svid: it is for certificates, not for tokens")]
    Certificates,
    /// A coordinate does not have the length of its curve (RFC 7518 §6.2.1.2, RFC 8037 §2).
    #[error("{member} has {octets} octets, not {expected}: a coordinate has its full length, leading zeros included")]
    Coordinate {
        /// `x` or `y`.
        member: &'static str,
        /// The actual length.
        octets: usize,
        /// The required length.
        expected: usize,
    },
    /// A point that is not on the curve, or an RSA modulus or exponent that is not acceptable.
    #[error("{0}")]
    Unsound(&'static str),
    /// [`SHARED_KID_MAX`](super::SHARED_KID_MAX) earlier keys of the same type have the same `kid`.
    #[error("four earlier keys of the same type have the same kid")]
    Crowded,
    /// The key comes after the first [`KEYS_MAX`](super::KEYS_MAX) keys of the set.
    #[error("only the first 1000 keys of a set are read")]
    TooMany,
}

/// Typed access to the members of one JWK.
pub(super) struct Jwk<'a>(pub(super) &'a Members);

impl Jwk<'_> {
    pub(super) fn text(&self, name: &'static str) -> Result<Option<String>, JwkError> {
        match self.member(name) {
            None => Ok(None),
            Some(_) => self.0.get(name).map(Some).ok_or(JwkError::Type(name, "a string")),
        }
    }

    /// The member as written. `null` counts as absent, because some publishers write it for members that do not apply.
    fn member(&self, name: &str) -> Option<&str> {
        self.0.raw(name).filter(|raw| *raw != "null")
    }

    pub(super) fn required(&self, name: &'static str) -> Result<String, JwkError> {
        self.text(name)?.ok_or(JwkError::Missing(name))
    }

    fn bytes(&self, name: &'static str) -> Result<Vec<u8>, JwkError> {
        URL_SAFE_NO_PAD.decode(self.required(name)?).map_err(|_| JwkError::Base64(name))
    }

    /// A coordinate of exactly `expected` octets: leading zeros are included (RFC 7518 §6.2.1.2).
    pub(super) fn coordinate(&self, member: &'static str, expected: usize) -> Result<Vec<u8>, JwkError> {
        let bytes = self.bytes(member)?;
        let octets = bytes.len();
        if octets == expected { Ok(bytes) } else { Err(JwkError::Coordinate { member, octets, expected }) }
    }

    /// A big-endian integer without the leading zeros that some libraries add (RFC 7518 §6.3.1.1).
    pub(super) fn integer(&self, name: &'static str) -> Result<Vec<u8>, JwkError> {
        let bytes = self.bytes(name)?;
        Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
    }

    /// Refuses symmetric keys and private members, even if such a member is `null`.
    pub(super) fn require_public(&self) -> Result<(), JwkError> {
        const SECRET: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
        if self.text("kty")?.as_deref() == Some("oct") {
            return Err(JwkError::Secret("kty oct"));
        }
        SECRET.into_iter().find(|name| self.0.raw(name).is_some()).map_or(Ok(()), |name| Err(JwkError::Secret(name)))
    }

    /// Checks `use` and `key_ops`. In SPIFFE bundles, `use` is `jwt-svid` or `x509-svid`.
    pub(super) fn require_signature_use(&self) -> Result<(), JwkError> {
        match self.text("use")?.as_deref() {
            None | Some("sig" | "jwt-svid") => {}
            Some("x509-svid") => return Err(JwkError::Certificates),
            Some("enc") => return Err(JwkError::Purpose("its use is enc")),
            Some(_) => return Err(JwkError::Purpose("its use is neither sig nor jwt-svid")),
        }
        if self.member("key_ops").is_none() {
            return Ok(());
        }
        let operations: Vec<&RawValue> =
            self.0.get("key_ops").ok_or(JwkError::Type("key_ops", "an array of strings"))?;
        let is_verify = |operation: &&RawValue| {
            serde_json::from_str(operation.get()).is_ok_and(|operation: String| operation == "verify")
        };
        let verifies = operations.iter().any(is_verify);
        if verifies { Ok(()) } else { Err(JwkError::Purpose("its key_ops do not include verify")) }
    }
}
