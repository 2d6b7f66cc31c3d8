//! Every room's no → `error` and `reason`.
