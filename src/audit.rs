//! The events, one line each, written before what they tell of leaves.
