//! The story in eight steps. Each step shows what it does and checks that its text is true.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};
use writ_verifier::{BuildError, TxnToken, Verifier, VerifyError};

use super::call::{self, Call, CallError, Issued, Outcome, Proof, TRUST_DOMAIN};
use super::folder::{ACCESS_TOKEN, Folder, FolderError, STORED_TOKEN, STORY_TOKEN};
use super::page::Page;
use writ_platform::clock::Timestamp;

pub(super) const ANN: &str = "ann@trust-domain.example";
/// The scopes of Ann's access token.
pub(super) const ANNS_SCOPE: &str = "orders.write account.cancel";

pub(super) const REFUND: Call =
    Call { client: "gateway", scope: "order.refund", proof: Proof::AccessToken(ACCESS_TOKEN) };
pub(super) const DELIVER: Call =
    Call { client: "mail-delivery-agent", scope: "mailbox.deliver", proof: Proof::Subject("bob@trust-domain.example") };
pub(super) const CANCEL: Call =
    Call { client: "account-service", scope: "account.purge", proof: Proof::AccessToken(ACCESS_TOKEN) };
pub(super) const PURGE: Call =
    Call { client: "purge-job", scope: "account.purge", proof: Proof::TxnToken(STORED_TOKEN) };
const STORY_PURGE: Call = Call { proof: Proof::TxnToken(STORY_TOKEN), ..PURGE };
const THEFT: Call = Call { client: "mail-delivery-agent", ..PURGE };

const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long the keys of stored tokens may stay published.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why the story ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoryError {
    #[error("this step had an unexpected outcome\n  expected: {expected}\n  actual:   {actual}")]
    Unexpected { expected: String, actual: String },
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the downstream service has no verifier: {0}")]
    Verifier(#[from] BuildError),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Runs the story against the service in `folder`, and prints it on `page`.
pub(super) async fn run(folder: &Folder, page: &mut Page) -> Result<(), StoryError> {
    let verifier = Verifier::builder(TRUST_DOMAIN)
        .jwks_url(format!("https://127.0.0.1:{}/.well-known/jwks.json", folder.ports.discovery))
        .root_certificate_pem(folder.pem("ca.pem")?)?
        .build()?;
    verifier.warm();
    let mut story = Story { folder, page, verifier };
    story.exchange().await?;
    story.deliver().await?;
    let stored = story.store().await?;
    story.outlive_the_key(&stored).await?;
    let redeemed = story.redeem(&stored[0]).await?;
    story.exhaust(&redeemed).await?;
    story.steal().await
}

struct Story<'a> {
    folder: &'a Folder,
    page: &'a mut Page,
    /// A downstream service, which knows only the URL of the published keys.
    verifier: Verifier,
}

impl Story<'_> {
    async fn exchange(&mut self) -> Result<(), StoryError> {
        self.page.chapter("An access token becomes a Txn-Token")?;
        self.page.text(
            "Ann asks the shop for a refund. Her access token reaches the gateway, and should go no further: it can do \
             much, and it is valid for an hour. For the calls behind it the gateway gets a Txn-Token, for this one \
             transaction and this one purpose. Its policy (policies/gateway.toml) says so: order.refund, granted by \
             the scope orders.write.",
        )?;
        let issued = self.expect_issued(REFUND).await?;
        let verified = self.verify(&issued).await?;
        self.show(&issued, REFUND)?;
        check_equal("sub", ANN, verified.subject())?;
        verified.require_scope(REFUND.scope).map_err(not_accepted)?;
        self.page.text(
            "The refund service, downstream, accepted this token: it has the published keys and need not call any service. \
             Of the access token it contains only Ann's name.",
        )?;
        Ok(())
    }

    async fn deliver(&mut self) -> Result<(), StoryError> {
        self.page.chapter("A job without any token")?;
        self.page.text(
            "Mail for Bob arrives at night, and Bob is asleep: he has no access token. The mail delivery agent \
             has its certificate, and a policy that lets it name subjects in *@trust-domain.example for \
             mailbox.deliver. That is enough, and nothing long-lived is stored anywhere.",
        )?;
        let issued = self.expect_issued(DELIVER).await?;
        let verified = self.verify(&issued).await?;
        self.show(&issued, DELIVER)?;
        check_equal("sub", "bob@trust-domain.example", verified.subject())?;
        verified.require_scope(DELIVER.scope).map_err(not_accepted)?;
        self.page.text("The mailbox service, downstream, accepted it.")?;
        Ok(())
    }

    async fn store(&mut self) -> Result<[Issued; 2], StoryError> {
        self.page.chapter("A token for work that comes weeks later")?;
        self.page.text(
            "Ann closes her account. It is deleted in 40 days, when she and her access token are long gone. The account \
             service gets a Txn-Token for account.purge now, and stores it with the cancellation. In a minute it has \
             expired, and then only the purge job can use it. A second cancellation is stored for you, for \
             after the story.",
        )?;
        let stored = [self.expect_issued(CANCEL).await?, self.expect_issued(CANCEL).await?];
        self.folder.store_token(STORY_TOKEN, &stored[0].token)?;
        // After the story the service uses the earlier store again, with the token stored then.
        if !self.folder.has_store {
            self.folder.store_token(STORED_TOKEN, &stored[1].token)?;
        }
        self.show(&stored[0], CANCEL)?;
        check_different("txn", &claim(&stored[0], "txn")?, &claim(&stored[1], "txn")?)?;
        let until = stored[0].redeemable_until.ok_or_else(|| missing("redeemable_until"))?;
        self.page.text(&format!(
            "The answer also contains redeemable_until: {until} ({}). The token is on record, and a policy allows its \
             redemption.",
            Timestamp::from_epoch(until),
        ))?;
        Ok(stored)
    }

    async fn outlive_the_key(&mut self, stored: &[Issued]) -> Result<(), StoryError> {
        self.page.chapter("The days go by")?;
        let last = stored.iter().map(Issued::exp).max().unwrap_or_default();
        wait_until_expired(last).await;
        self.expect_expired(&stored[0]).await?;
        self.page.text(
            "The tokens have expired, and downstream services no longer accept them. The keys rotate: next, current, \
             previous, and then out of the published set. The private half of the key that signed the stored tokens \
             was destroyed when it stopped signing.",
        )?;
        let gone: Vec<_> = stored.iter().map(Issued::kid).collect();
        self.watch_keys(&gone).await?;
        self.page.text("The key of the stored tokens is no longer published: no verifier could check them now.")?;
        self.page.command(&call::discovery(self.folder, "/.well-known/jwks.json"))?;
        Ok(())
    }

    /// Shows each change of the published keys until none of `expected_to_leave` is among them.
    async fn watch_keys(&self, expected_to_leave: &[String]) -> Result<(), StoryError> {
        let service = call::service(self.folder, PURGE.client)?;
        let (deadline, mut seen) = (Instant::now() + DEADLINE, Vec::new());
        loop {
            let kids = kids(&service.published_keys().await.map_err(CallError::from)?);
            if kids != seen {
                let marked =
                    kids.iter().map(|kid| short(kid, expected_to_leave.contains(kid))).collect::<Vec<_>>().join(", ");
                self.page.note(&format!("{} published: {marked}", Timestamp::now()))?;
            }
            if !kids.iter().any(|kid| expected_to_leave.contains(kid)) {
                return Ok(self.page.note("")?);
            }
            if Instant::now() > deadline {
                return Err(unexpected("keys without those of the stored tokens", kids.join(", ")));
            }
            seen = kids;
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn redeem(&mut self, stored: &Issued) -> Result<Issued, StoryError> {
        // Both requests are sent before the text is printed, since the new token is valid for seconds only.
        wait_for_next_second().await;
        let redeemed = self.expect_issued(STORY_PURGE).await?;
        let verified = self.verify(&redeemed).await?;
        let again = self.expect_issued(STORY_PURGE).await?;

        self.page.chapter("The stored token is redeemed")?;
        self.page.text(
            "The 40 days are over. The purge job presents the expired token with its own certificate. The service knows \
             the public key that signed it, finds the token on record, counts this use before it answers, and issues a \
             new token for the check_equal transaction, subject and purpose.",
        )?;
        self.show(&redeemed, STORY_PURGE)?;
        for name in ["txn", "sub", "aud", "scope"] {
            check_equal(name, &claim(stored, name)?, &claim(&redeemed, name)?)?;
        }
        check_equal("req_wl_chain", "account-service, purge-job", &verified.requesting_workloads().join(", "))?;
        let delayed = verified.require_delayed(Duration::ZERO).map_err(not_accepted)?;
        check_equal("rctx.delayed.exp", &stored.exp(), &delayed.exp)?;
        self.page.text(&format!(
            "The account store, downstream, accepted it, and knows that it is delayed work: rctx.delayed says that it \
             replaces a token that expired at {}, and req_wl_chain names both workloads.",
            Timestamp::from_epoch(delayed.exp),
        ))?;
        self.retry(&redeemed, &again)?;
        Ok(redeemed)
    }

    fn retry(&mut self, redeemed: &Issued, again: &Issued) -> Result<(), StoryError> {
        self.page.chapter("A lost answer costs nothing")?;
        self.page.text(
            "The policy of the purge job allows one use. But suppose the answer was lost on its way. While the new token \
             is alive, the check_equal call by the check_equal client returns the check_equal claims again, and does not count as a use.",
        )?;
        check_equal("the claims", &redeemed.claims_text(), &again.claims_text())?;
        for (answer, token) in [("first answer", redeemed), ("second answer", again)] {
            let number = token.use_number().ok_or_else(|| missing("rctx.delayed.use"))?;
            let (iat, exp) = (claim(token, "iat")?, token.exp());
            self.page.note(&format!("{answer:<13}  iat {iat}  exp {exp}  use {number}"))?;
        }
        self.page.note("")?;
        Ok(())
    }

    async fn exhaust(&mut self, redeemed: &Issued) -> Result<(), StoryError> {
        self.page.chapter("The only use is spent")?;
        self.page.text(
            "Once the new token has expired, the check_equal call would be a second use. The policy allows only one.",
        )?;
        wait_until_expired(redeemed.exp()).await;
        let answer = self.expect_refused(STORY_PURGE, "redemption_exhausted").await?;
        self.page.refusal(&answer)?;
        Ok(())
    }

    async fn steal(&mut self) -> Result<(), StoryError> {
        self.page.chapter("A thief has the stored token")?;
        self.page.text(
            "The second stored token was never redeemed. Suppose it leaks, from a backup for example, to the \
             mail delivery agent, which has a certificate of this trust domain. It cannot use the token: no policy lets \
             it redeem anything.",
        )?;
        let answer = self.expect_refused(THEFT, "purpose_not_allowed").await?;
        self.page.refusal(&answer)?;
        self.page.command(&THEFT.curl(self.folder))?;
        Ok(())
    }

    async fn expect_issued(&self, call: Call) -> Result<Issued, StoryError> {
        match call.send(self.folder).await? {
            Outcome::Issued(issued) => Ok(issued),
            Outcome::Refused(answer) => {
                Err(unexpected(format!("a Txn-Token for {}, scope {}", call.client, call.scope), answer))
            }
        }
    }

    async fn expect_refused(&self, call: Call, reason: &str) -> Result<Value, StoryError> {
        match call.send(self.folder).await? {
            Outcome::Refused(answer) if answer["reason"] == reason => Ok(answer),
            Outcome::Refused(answer) => Err(unexpected(reason, answer)),
            Outcome::Issued(_) => Err(unexpected(reason, "a Txn-Token")),
        }
    }

    async fn verify(&self, issued: &Issued) -> Result<TxnToken, StoryError> {
        self.verifier.verify(issued.token.as_str()).await.map_err(not_accepted)
    }

    async fn expect_expired(&self, issued: &Issued) -> Result<(), StoryError> {
        match self.verifier.verify(issued.token.as_str()).await {
            Err(VerifyError::Expired { .. }) => Ok(()),
            Err(error) => Err(unexpected("an expired token", error)),
            Ok(_) => Err(unexpected("an expired token", "one that is accepted downstream")),
        }
    }

    fn show(&mut self, issued: &Issued, call: Call) -> Result<(), StoryError> {
        self.page.token([("header", &issued.header), ("claims", &issued.claims)])?;
        self.page.text("The check_equal call by hand:")?;
        Ok(self.page.command(&call.curl(self.folder))?)
    }
}

/// The key ids of a JWK set.
fn kids(jwks: &Value) -> Vec<String> {
    let keys = jwks["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    keys.iter().filter_map(|key| key["kid"].as_str().map(str::to_owned)).collect()
}

/// The first characters of a key ID, in brackets if it is marked.
fn short(kid: &str, is_marked: bool) -> String {
    let prefix: String = kid.chars().take(8).collect();
    if is_marked { format!("[{prefix}]") } else { prefix }
}

/// Waits until a token with this `exp` has expired.
async fn wait_until_expired(exp: u64) {
    while Timestamp::now().epoch() < exp {
        sleep(POLL_INTERVAL / 4).await;
    }
}

/// Waits for the next full second: lifetimes are counted in whole seconds, and the next token gets its full one.
async fn wait_for_next_second() {
    wait_until_expired(Timestamp::now().epoch() + 1).await;
}

/// The raw text of a claim; of a string, its value.
fn claim(issued: &Issued, name: &str) -> Result<String, StoryError> {
    let raw = issued.claims.raw(name).ok_or_else(|| missing(name))?;
    Ok(serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned()))
}

fn check_equal<T: PartialEq + Display + ?Sized>(what: &str, expected: &T, actual: &T) -> Result<(), StoryError> {
    if expected == actual { Ok(()) } else { Err(unexpected(format!("{what} = {expected}"), actual)) }
}

fn check_different(what: &str, one: &str, other: &str) -> Result<(), StoryError> {
    if one == other { Err(unexpected(format!("two different {what}"), one)) } else { Ok(()) }
}

fn missing(what: &str) -> StoryError {
    unexpected(what, "nothing")
}

fn not_accepted(error: VerifyError) -> StoryError {
    unexpected("a token that is accepted downstream", error)
}

fn unexpected(expected: impl Into<String>, actual: impl Display) -> StoryError {
    StoryError::Unexpected { expected: expected.into(), actual: actual.to_string() }
}

impl From<FolderError> for StoryError {
    fn from(error: FolderError) -> Self {
        Self::Call(error.into())
    }
}
