//! Area KEYS: signing keys, JWKS, rotation.
