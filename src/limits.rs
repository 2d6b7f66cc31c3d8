//! How many requests a client may make.
