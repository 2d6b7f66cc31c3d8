//! What was presented → whom the transaction is for.
