//! Accept, drain, stop.
