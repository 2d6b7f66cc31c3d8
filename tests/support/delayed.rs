//! A job that is finished later, in seconds: `accounts` starts it with a token that lives for one, `batch` redeems it.

use crate::support::answer::Answer;
use crate::support::writ::Setup;

/// The purpose of the job.
pub(crate) const PURGE: &str = "account.purge";

const ACCOUNTS: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["client_credentials"]
lifetime = "1s"
"#;

/// Both clients; redeemed tokens live for `lifetime`, and a token can be redeemed `max_uses` times within `max_age`.
pub(crate) fn setup(lifetime: &str, max_age: &str, max_uses: u32) -> Setup {
    let batch = format!(
        r#"
[[purpose]]
scope = "{PURGE}"
accept = ["expired_txn_token"]
lifetime = "{lifetime}"
[purpose.redemption]
issued_to = ["accounts"]
max_age = "{max_age}"
max_uses = {max_uses}
"#
    );
    Setup::new().client("accounts", ACCOUNTS).client("batch", &batch)
}

/// The token of an answer, taken as it came; `None` if it was refused. Unlike `Answer::issued` it verifies nothing: the
/// service may be dead by now.
pub(crate) fn token_of(answer: &Answer) -> Option<String> {
    (answer.status() == 200).then(|| answer.response.json()["access_token"].as_str().unwrap().to_owned())
}
