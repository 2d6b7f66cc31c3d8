//! Area CLAIM: header and claims of the issued token.
