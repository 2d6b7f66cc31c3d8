//! Log format and metrics.
