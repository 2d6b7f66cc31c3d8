//! The flow of one exchange, top to bottom.
