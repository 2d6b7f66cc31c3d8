//! The clients that most tests have: who they are and what they may get.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::support::answer::Issued;
use crate::support::issuer::Issuer;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};

/// Gets tokens in one call, for itself and for mailboxes.
pub(crate) const MAILER: &str = r#"
[[purpose]]
scope = "mailbox.deliver"
accept = ["client_credentials"]
subjects = ["*@trust-domain.example"]

[[purpose]]
scope = "mailbox.report"
accept = ["client_credentials"]
"#;

/// Exchanges access tokens of users.
pub(crate) const GATEWAY: &str = r#"
[[purpose]]
scope = "trade.execute"
accept = ["access_token"]
granted_by = ["trade.stocks"]
"#;

/// Issues tokens for a later job; they live for a second.
pub(crate) const ACCOUNTS: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["client_credentials"]
subjects = ["*"]
lifetime = "1s"

[[purpose]]
scope = "account.rename"
accept = ["client_credentials"]
lifetime = "1s"
"#;

/// May introspect tokens, and gets none.
pub(crate) const READER: &str = "introspect = true\n";

/// The purpose that every redemption here is for.
pub(crate) const PURGE: &str = "account.purge";

/// What tests share while they overlap, if none of them changes it: it starts with the first and ends with the last.
pub(crate) struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    pub(crate) fn get(&self, start: impl FnOnce() -> T) -> Arc<T> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.upgrade().unwrap_or_else(|| {
            let started = Arc::new(start());
            *running = Arc::downgrade(&started);
            started
        })
    }
}

/// The same as [`mailer`], for tests that do not change it and count nothing.
pub(crate) fn shared_mailer() -> Arc<Writ> {
    static MAILER: Shared<Writ> = Shared::new();
    MAILER.get(mailer)
}

/// A running service with `mailer`.
pub(crate) fn mailer() -> Writ {
    Setup::new().client("mailer", MAILER).start()
}

/// A running service with `gateway` and a subject issuer.
pub(crate) fn gateway(issuer: &Issuer) -> Writ {
    Setup::new().issuer(issuer).client("gateway", GATEWAY).start()
}

/// The policy of a job that may redeem, with these settings of `[purpose.redemption]`.
pub(crate) fn batch(redemption: &str) -> String {
    batch_living("60s", redemption)
}

/// The same, where redeemed tokens live for `lifetime`.
pub(crate) fn batch_living(lifetime: &str, redemption: &str) -> String {
    format!(
        r#"
[[purpose]]
scope = "{PURGE}"
accept = ["expired_txn_token"]
lifetime = "{lifetime}"
[purpose.redemption]
issued_to = ["accounts"]
max_age = "90d"
{redemption}
"#
    )
}

/// `accounts`, which starts, and `batch`, which may redeem with these settings.
pub(crate) fn delayed(redemption: &str) -> Setup {
    Setup::new().client("accounts", ACCOUNTS).client("batch", &batch(redemption))
}

/// The same, where redeemed tokens live for a second.
pub(crate) fn delayed_briefly(redemption: &str) -> Setup {
    Setup::new().client("accounts", ACCOUNTS).client("batch", &batch_living("1s", redemption))
}

/// A token of `accounts` that can be redeemed, expired by the time this returns.
#[track_caller]
pub(crate) fn expired(writ: &Writ) -> Issued {
    let issued = fresh(writ);
    issued.wait_until_expired();
    issued
}

/// The same while it lives, which is not for long.
#[track_caller]
pub(crate) fn fresh(writ: &Writ) -> Issued {
    writ.workload("accounts").token(&Form::client_credentials(PURGE)).issued()
}

/// The request of the job for that token.
pub(crate) fn redeem(original: &Issued) -> Form {
    Form::redeem(&original.token, PURGE)
}
