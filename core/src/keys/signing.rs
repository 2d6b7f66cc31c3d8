//! Key pairs: generates, parses and signs with them (RFC 7515, RFC 7518 §3, RFC 8037).

use std::fmt;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::SigningAlgorithm;
use super::public::{Material, PublicKey};

/// A key that can sign. `Debug` does not show the private half.
pub struct KeyPair {
    public: PublicKey,
    private: Private,
}

enum Private {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// Why a key could not be generated, parsed or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// The cryptography library failed to generate a key.
    #[error("no key could be generated")]
    Generation,
    /// The bytes are not a PKCS#8 key of this algorithm.
    #[error("the private key cannot be read")]
    Rejected,
    /// Signing failed.
    #[error("signing failed")]
    Signature,
    /// The public half does not verify the private half's signature (R-KEYS-12).
    #[error("the key failed its self-test")]
    SelfTest,
}

impl KeyPair {
    /// Generates and tests a key. RSA keys can take seconds: call it where blocking is allowed, in advance.
    pub fn generate(algorithm: SigningAlgorithm) -> Result<Self, SigningError> {
        let private = match algorithm {
            SigningAlgorithm::ES256 | SigningAlgorithm::ES384 => {
                EcdsaKeyPair::generate(ecdsa(algorithm)).map(Private::Ecdsa)
            }
            SigningAlgorithm::EdDSA => Ed25519KeyPair::generate().map(Private::Ed25519),
            SigningAlgorithm::RS256 | SigningAlgorithm::PS256 => {
                RsaKeyPair::generate(KeySize::Rsa2048).map(Private::Rsa)
            }
        };
        Self::tested(algorithm, private.map_err(|_| SigningError::Generation)?)
    }

    /// Parses and tests a key.
    pub fn from_pkcs8(algorithm: SigningAlgorithm, pkcs8: &[u8]) -> Result<Self, SigningError> {
        let private = match algorithm {
            SigningAlgorithm::ES256 | SigningAlgorithm::ES384 => {
                EcdsaKeyPair::from_pkcs8(ecdsa(algorithm), pkcs8).map(Private::Ecdsa)
            }
            SigningAlgorithm::EdDSA => Ed25519KeyPair::from_pkcs8(pkcs8).map(Private::Ed25519),
            SigningAlgorithm::RS256 | SigningAlgorithm::PS256 => RsaKeyPair::from_pkcs8(pkcs8).map(Private::Rsa),
        };
        Self::tested(algorithm, private.map_err(|_| SigningError::Rejected)?)
    }

    fn tested(algorithm: SigningAlgorithm, private: Private) -> Result<Self, SigningError> {
        let public = PublicKey::new(algorithm, private.material()).map_err(|_| SigningError::Rejected)?;
        let pair = Self { public, private };
        pair.self_test()?;
        Ok(pair)
    }

    fn self_test(&self) -> Result<(), SigningError> {
        let message = b"self-test";
        if self.public.verifies(message, &self.sign(message)?) { Ok(()) } else { Err(SigningError::SelfTest) }
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The PKCS#8 form of the private half, to be sealed.
    pub(super) fn pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, SigningError> {
        let copied = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        match &self.private {
            Private::Ecdsa(pair) => pair.to_pkcs8v1().map(|document| copied(document.as_ref())),
            Private::Ed25519(pair) => pair.to_pkcs8v1().map(|document| copied(document.as_ref())),
            Private::Rsa(pair) => pair.as_der().map(|der: Pkcs8V1Der<'_>| copied(der.as_ref())),
        }
        .map_err(|_| SigningError::Generation)
    }

    /// Signs `message`, in the form of JWS: for ECDSA both numbers at full length, not DER.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningError> {
        let random = SystemRandom::new();
        match &self.private {
            Private::Ecdsa(pair) => pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()),
            Private::Ed25519(pair) => pair.try_sign(message).map(|signature| signature.as_ref().to_vec()),
            Private::Rsa(pair) => {
                let padding = if self.public.algorithm() == SigningAlgorithm::PS256 {
                    &RSA_PSS_SHA256
                } else {
                    &RSA_PKCS1_SHA256
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).map(|()| signature)
            }
        }
        .map_err(|_| SigningError::Signature)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyPair").field(&self.public).finish()
    }
}

impl Private {
    fn material(&self) -> Material {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ecdsa(pair) => {
                // An uncompressed point: 4, x, y.
                let point = pair.public_key().as_ref().get(1..).unwrap_or_default();
                let (x, y) = point.split_at(point.len() / 2);
                Material::Ec { x: text(x), y: text(y) }
            }
            Self::Ed25519(pair) => Material::Okp { x: text(pair.public_key().as_ref()) },
            Self::Rsa(pair) => Material::Rsa {
                n: text(pair.public_key().modulus().big_endian_without_leading_zero()),
                e: text(pair.public_key().exponent().big_endian_without_leading_zero()),
            },
        }
    }
}

fn ecdsa(algorithm: SigningAlgorithm) -> &'static EcdsaSigningAlgorithm {
    if algorithm == SigningAlgorithm::ES384 {
        &ECDSA_P384_SHA384_FIXED_SIGNING
    } else {
        &ECDSA_P256_SHA256_FIXED_SIGNING
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SigningAlgorithm::{ES256, ES384, EdDSA, PS256, RS256};

    #[test]
    fn every_algorithm_signs_what_jsonwebtoken_verifies() {
        for algorithm in [ES256, ES384, EdDSA, RS256, PS256] {
            let pair = KeyPair::generate(algorithm).unwrap();
            let signature = pair.sign(b"message").unwrap();
            assert!(pair.public().verifies(b"message", &signature), "{algorithm}");
            assert!(!pair.public().verifies(b"massage", &signature), "{algorithm}");
        }
    }

    #[test]
    fn a_key_reads_back_from_pkcs8_as_the_same_key() {
        for algorithm in [ES256, ES384, EdDSA, RS256, PS256] {
            let pair = KeyPair::generate(algorithm).unwrap();
            let read = KeyPair::from_pkcs8(algorithm, &pair.pkcs8().unwrap()).unwrap();
            assert_eq!(read.public(), pair.public());
        }
    }

    #[test]
    fn a_key_of_another_algorithm_is_rejected() {
        let pkcs8 = KeyPair::generate(ES256).unwrap().pkcs8().unwrap();
        for algorithm in [ES384, EdDSA, RS256, PS256] {
            assert_eq!(KeyPair::from_pkcs8(algorithm, &pkcs8).err(), Some(SigningError::Rejected), "{algorithm}");
        }
    }

    /// R-KEYS-12
    #[test]
    fn halves_that_do_not_fit_are_found_before_they_sign() {
        for algorithm in [ES256, ES384, EdDSA, RS256, PS256] {
            let pair = || KeyPair::generate(algorithm).unwrap();
            assert_eq!(pair().self_test(), Ok(()));
            let mixed = KeyPair { public: pair().public, private: pair().private };
            assert_eq!(mixed.self_test(), Err(SigningError::SelfTest), "{algorithm}");
        }
    }

    /// R-KEYS-12
    #[test]
    fn debug_shows_the_public_half_only() {
        let pair = KeyPair::generate(EdDSA).unwrap();
        assert_eq!(format!("{pair:?}"), format!("KeyPair(EdDSA {})", pair.public().kid()));
    }
}
