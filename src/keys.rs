//! The key ring: signs claims, and knows which retired key may have signed a token.
