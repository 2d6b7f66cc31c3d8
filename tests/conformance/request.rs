//! Area REQ: request parsing and parameters.
