//! What became of a statement that did not simply succeed: the one table from errors to what to do.
//!
//! An error is no proof that nothing was written. A commit that waits for a standby can be made visible by a cancellation,
//! by the end of its connection or by a restart, and only some SQLSTATEs are raised before a commit can begin.

use tokio_postgres::error::SqlState;

/// What became of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Not applied. The same server may take it a moment later.
    Busy,
    /// Not applied. This server does not take it; another may.
    Elsewhere,
    /// Not applied. No partition covers its time.
    NoPartition,
    /// Not applied. It fails until an operator changes something.
    Refused,
    /// Applied or not: only the same statement, repeated until it is answered, can tell.
    Unknown,
}

/// Reads an answer: the error's SQLSTATE, or `None` if there was no answer (the connection ended, the deadline passed)
/// or one that a warning preceded.
pub(super) fn classify(code: Option<&SqlState>) -> Outcome {
    match code.map(SqlState::code) {
        // serialization_failure, deadlock_detected, lock_not_available, query_canceled (before the commit began)
        Some("40001" | "40P01" | "55P03" | "57014") => Outcome::Busy,
        // read_only_sql_transaction, cannot_connect_now
        Some("25006" | "57P03") => Outcome::Elsewhere,
        // check_violation: no partition of the table accepts the row
        Some("23514") => Outcome::NoPartition,
        Some(code) => match code.get(..2) {
            // insufficient_resources
            Some("53") => Outcome::Busy,
            // data exceptions, integrity, authorization, database, schema, role, syntax and access rules
            Some("22" | "23" | "28" | "3D" | "3F" | "0P" | "42") => Outcome::Refused,
            // 57P01 admin_shutdown, 57P02 crash_shutdown, 40003 statement_completion_unknown, and all others
            _ => Outcome::Unknown,
        },
        None => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: &str) -> Outcome {
        classify(Some(&SqlState::from_code(code)))
    }

    #[test]
    fn only_what_is_raised_before_a_commit_counts_as_not_applied() {
        for code in ["40001", "40P01", "55P03", "57014", "53300", "53100"] {
            assert_eq!(of(code), Outcome::Busy, "{code}");
        }
        for code in ["25006", "57P03"] {
            assert_eq!(of(code), Outcome::Elsewhere, "{code}");
        }
        for code in ["28P01", "28000", "42P01", "42501", "3D000", "3F000", "22001"] {
            assert_eq!(of(code), Outcome::Refused, "{code}");
        }
        assert_eq!(of("23514"), Outcome::NoPartition);
        for code in ["57P01", "57P02", "57P05", "40003", "08006", "58030", "XX000", "P0001", "01000"] {
            assert_eq!(of(code), Outcome::Unknown, "{code}");
        }
        assert_eq!(classify(None), Outcome::Unknown);
    }
}
