//! A downstream service: it verifies the value of a `Txn-Token` header, and needs only the URL of the published keys.
//!
//! ```text
//! writ quickstart                                                                  # in one shell
//! cargo run --example batch_job -- quickstart |
//!     cargo run --example downstream_service -- quickstart mailbox.deliver         # in another
//! ```
//!
//! Reads one token per line, and exits with 1 if it refused one of them. With `--delayed` it accepts only redeemed
//! tokens, as a service that deletes accounts should.

use std::error::Error;
use std::io::BufRead as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, io};

use writ_verifier::{TxnToken, Verifier, VerifyError};

/// The tokens that this service accepts.
struct Gate {
    verifier: Verifier,
    purpose: String,
    only_delayed: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, purpose, options @ ..] = arguments.as_slice() else {
        return Err("usage: downstream_service FOLDER PURPOSE [--delayed] < TOKENS".into());
    };
    let gate = Gate {
        verifier: build_verifier(Path::new(folder))?,
        purpose: purpose.clone(),
        only_delayed: options.iter().any(|option| option == "--delayed"),
    };
    let mut code = ExitCode::SUCCESS;
    for line in io::stdin().lock().lines() {
        match gate.admit(&line?).await {
            Ok(txn) => println!("accepted: {}", describe(&txn)),
            // The reason code is for the log; the caller receives only the status, 401 or 403.
            Err(error) => {
                println!("refused: {}", error.reason());
                code = ExitCode::from(1);
            }
        }
    }
    Ok(code)
}

impl Gate {
    /// Verifies the token before its purpose, and its purpose before any other claim.
    async fn admit(&self, header_value: &str) -> Result<TxnToken, VerifyError> {
        let txn = self.verifier.verify(header_value).await?;
        txn.require_scope(&self.purpose)?;
        if self.only_delayed {
            txn.require_delayed(Duration::ZERO)?;
        }
        Ok(txn)
    }
}

/// One verifier for the whole service: it caches the keys and follows key rotations.
fn build_verifier(folder: &Path) -> Result<Verifier, Box<dyn Error>> {
    let text = fs::read_to_string(folder.join("writ.toml"))?;
    let discovery = text.lines().find_map(|line| line.strip_prefix("discovery = ")).ok_or("no discovery listener")?;
    let address = discovery.trim().trim_matches('"');
    Ok(Verifier::builder("trust-domain.example")
        .jwks_url(format!("https://{address}/.well-known/jwks.json"))
        .root_certificate_pem(fs::read(folder.join("certs").join("ca.pem"))?)?
        .build()?)
}

/// The claims that the service would use. It would send the token itself (`txn.encoded()`) to the next service, and never
/// log it.
fn describe(txn: &TxnToken) -> String {
    let chain = match txn.requesting_workloads() {
        [] => txn.requesting_workload().to_owned(),
        chain => chain.join(" > "),
    };
    let delayed = txn.delayed().map(|delayed| format!(", delayed since {}, use {}", delayed.exp, delayed.use_number));
    format!(
        "{} for {} in transaction {}, requested by {chain}{}",
        txn.scope(),
        txn.subject(),
        txn.transaction(),
        delayed.unwrap_or_default(),
    )
}
