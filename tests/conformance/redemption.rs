//! Area DELAY: redeeming an expired Txn-Token for a delayed job.
