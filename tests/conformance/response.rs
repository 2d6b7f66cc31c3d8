//! Area RESP: responses, errors, headers.
