//! The form of `POST /token` → a request that cannot be wrong.
