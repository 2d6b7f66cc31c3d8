//! Token or refusal → HTTP.
