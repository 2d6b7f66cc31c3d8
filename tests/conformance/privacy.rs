//! Area PRIV: logging and privacy.
