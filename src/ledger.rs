//! What was counted and recorded: uses spent, tokens that may be redeemed.
