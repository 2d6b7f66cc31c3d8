//! Grant and instant → the claims of a Txn-Token.
