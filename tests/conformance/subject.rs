//! Area SUBJ: subject token types, replacement included.
