//! Signatures of certificates and CRLs, verified by the algorithms of the TLS provider.

use std::sync::LazyLock;

use rustls::crypto::WebPkiSupportedAlgorithms;
use x509_parser::asn1_rs::{FromDer as _, ToDer as _};
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

pub(super) static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms);

/// A signature and the bytes that it covers.
pub(super) struct Signed<'a> {
    pub(super) message: &'a [u8],
    /// As [`encode`] writes it.
    pub(super) algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl Signed<'_> {
    /// Whether it verifies with this key, a `SubjectPublicKeyInfo` in DER.
    pub(super) fn is_by(&self, key: &[u8]) -> bool {
        let Ok((_, key)) = SubjectPublicKeyInfo::from_der(key) else { return false };
        let Some(key_algorithm) = encode(&key.algorithm) else { return false };
        let mut fitting = ALGORITHMS.all.iter().filter(|known| {
            known.signature_alg_id().as_ref() == self.algorithm && known.public_key_alg_id().as_ref() == key_algorithm
        });
        let key = key.subject_public_key.data.as_ref();
        fitting.any(|known| known.verify_signature(key, self.message, self.signature).is_ok())
    }
}

/// The content of the `AlgorithmIdentifier`, as webpki names algorithms.
pub(super) fn encode(algorithm: &AlgorithmIdentifier<'_>) -> Option<Vec<u8>> {
    let mut content = algorithm.algorithm.to_der_vec().ok()?;
    if let Some(parameters) = &algorithm.parameters {
        content.extend(parameters.to_der_vec().ok()?);
    }
    Some(content)
}
