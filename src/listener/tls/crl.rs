//! Which of two CRLs is the newer, so that a genuine old one cannot bring a revoked certificate back.

use rustls::pki_types::CertificateRevocationListDer;
use x509_parser::oid_registry::{OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_ISSUER_DISTRIBUTION_POINT};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use crate::clock::Timestamp;

/// What orders the CRLs of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CrlMark {
    /// The issuer's name, DER.
    issuer: Vec<u8>,
    /// The issuer's key, as the list names it: a new CA of the same name counts anew.
    issuer_key: Option<Vec<u8>>,
    /// The issuing distribution point: an issuer may split what it revoked over several lists.
    part: Option<Vec<u8>>,
    /// The CRL number without leading zeros, big-endian (RFC 5280 §5.2.3: up to 20 octets).
    number: Option<Vec<u8>>,
    this_update: i64,
    /// From then on it says nothing any more.
    pub(super) next_update: Option<Timestamp>,
}

impl CrlMark {
    /// Reads the mark of a CRL; `None` if it cannot be read.
    pub(super) fn of(crl: &CertificateRevocationListDer<'_>) -> Option<Self> {
        let (rest, list) = CertificateRevocationList::from_der(crl).ok()?;
        let extension = |oid| {
            let found = list.extensions().iter().find(|extension| extension.oid == oid);
            found.map(|extension| extension.value.to_vec())
        };
        rest.is_empty().then(|| Self {
            issuer: list.issuer().as_raw().to_vec(),
            issuer_key: extension(OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER),
            part: extension(OID_X509_EXT_ISSUER_DISTRIBUTION_POINT),
            number: list.crl_number().map(x509_parser::num_bigint::BigUint::to_bytes_be),
            this_update: list.last_update().timestamp(),
            next_update: list.next_update().map(|at| timestamp(at.timestamp())),
        })
    }

    /// Whether this list was made by that issuer.
    pub(super) fn is_by(&self, issuer: &[u8]) -> bool {
        self.issuer == issuer
    }

    /// Whether `other`, which is in force, tells later news about the same certificates.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        if (&self.issuer, &self.issuer_key, &self.part) != (&other.issuer, &other.issuer_key, &other.part) {
            return false;
        }
        let numbered = match (&self.number, &other.number) {
            (Some(ours), Some(theirs)) => (ours.len(), ours) < (theirs.len(), theirs),
            // Whoever numbers their lists does not stop doing so.
            (None, Some(_)) => true,
            (_, None) => false,
        };
        numbered || self.this_update < other.this_update
    }
}

/// A time before 1970 is 1970.
pub(super) fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: Option<&[u8]>, this_update: i64) -> CrlMark {
        CrlMark {
            issuer: vec![1],
            issuer_key: None,
            part: None,
            number: number.map(<[u8]>::to_vec),
            this_update,
            next_update: None,
        }
    }

    #[test]
    fn a_lower_number_is_older_whatever_the_time_says() {
        assert!(mark(Some(&[9]), 200).is_older_than(&mark(Some(&[1, 0]), 100)));
        assert!(!mark(Some(&[1, 0]), 100).is_older_than(&mark(Some(&[9]), 100)));
        assert!(!mark(Some(&[9]), 100).is_older_than(&mark(Some(&[9]), 100)));
    }

    #[test]
    fn an_earlier_update_or_a_dropped_number_is_older() {
        assert!(mark(Some(&[9]), 99).is_older_than(&mark(Some(&[8]), 100)));
        assert!(mark(None, 99).is_older_than(&mark(None, 100)));
        assert!(mark(None, 200).is_older_than(&mark(Some(&[1]), 100)));
    }

    #[test]
    fn lists_of_two_issuers_keys_or_parts_do_not_compare() {
        let other_issuer = CrlMark { issuer: vec![2], ..mark(Some(&[9]), 200) };
        let other_key = CrlMark { issuer_key: Some(vec![4]), ..mark(Some(&[9]), 200) };
        let other_part = CrlMark { part: Some(vec![3]), ..mark(Some(&[9]), 200) };
        assert!(!mark(Some(&[1]), 1).is_older_than(&other_issuer));
        assert!(!mark(Some(&[1]), 1).is_older_than(&other_key));
        assert!(!mark(Some(&[1]), 1).is_older_than(&other_part));
    }
}
