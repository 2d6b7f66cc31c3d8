//! The `writ` executable: arguments → command → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    writ::cli::main()
}
