//! Named records that survive: compare-and-swap, durable before it is acknowledged.
