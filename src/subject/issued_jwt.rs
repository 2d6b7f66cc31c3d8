//! A JWT of a subject issuer → whom it is about and what it covers.
