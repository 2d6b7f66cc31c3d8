//! Area INTRO: introspection, as client and as server.
