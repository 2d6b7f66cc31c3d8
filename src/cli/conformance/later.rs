//! A Txn-Token as subject token: as something else, replaced by another, and after its expiry.

use std::time::Duration;

use super::issue::{Issued, is_within};
use super::refusals::{Refusal, Refused, try_one, with_broken_signature};
use super::report::{Report, Rule, Verdict};
use super::{Ask, Proof, Scene, TOKEN_TYPE, TXN_TOKEN};
use writ_platform::clock::Timestamp;

/// The longest life that is waited for.
const PATIENCE: Duration = Duration::from_secs(65);

/// Tries what may be done with a Txn-Token. `leeway` is how long past its expiry to wait, if at all.
pub(super) async fn examine(
    scene: &Scene,
    replace_scope: Option<&str>,
    leeway: Option<Duration>,
    hindrance: Option<&Verdict>,
    report: &mut Report,
) {
    let fresh = match hindrance {
        Some(hindrance) => Err(hindrance.clone()),
        None => ask_again(scene).await,
    };
    let again = Rule::new(
        "issue-again",
        "R-RESP-01",
        "asked for a Txn-Token once more, after all refusals",
        "a token, as before",
    );
    report.add(again, fresh.as_ref().map_or_else(Verdict::clone, |_| Verdict::passed("a token")));
    let hindrance = fresh.as_ref().err();
    let mut refused = Refused::default();
    let token = fresh.as_ref().map(|issued| issued.token.as_str()).unwrap_or_default();

    try_one(scene, disguised(&scene.ask, token), hindrance, &mut refused, report).await;
    let replaced = replace(scene, fresh.as_ref(), report).await;
    let cannot = replaced.as_ref().err();
    try_one(scene, tampered(&scene.ask, token), cannot, &mut refused, report).await;
    try_one(scene, wider(&scene.ask, token, replace_scope), cannot, &mut refused, report).await;

    let verdict = match (&fresh, leeway) {
        (Err(hindrance), _) => hindrance.clone(),
        (Ok(_), None) => Verdict::not_tried("needs --wait"),
        (Ok(issued), Some(leeway)) => expired(scene, issued, leeway).await,
    };
    let did = "sent a Txn-Token that has expired as subject token";
    report.add(Rule::new("txn-token-expired", "R-SUBJ-23", did, "a refusal with invalid_request"), verdict);
}

async fn ask_again(scene: &Scene) -> Result<Issued, Verdict> {
    let reply = scene.ask(&scene.ask.form()).await.map_err(|error| Verdict::not_tried(error.to_string()))?;
    let why = || format!("{}: refusals may have had another reason than the one that was tried", reply.summary());
    if !reply.is_issued() {
        return Err(Verdict::not_tried(why()));
    }
    Issued::of(&reply).ok_or_else(|| Verdict::not_tried("the token cannot be decoded"))
}

/// A Txn-Token that is said to be of the type that the client usually presents.
fn disguised(ask: &Ask, token: &str) -> Refusal {
    let usual = match &ask.proof {
        Proof::Subject { token_type, .. } if token_type != TXN_TOKEN => token_type.clone(),
        _ => format!("{TOKEN_TYPE}access_token"),
    };
    let did = "presented a Txn-Token as a subject token of another type";
    Refusal::new(
        "txn-token-disguised",
        "R-SUBJ-05",
        did,
        &["invalid_request", "unauthorized_client"],
        ask.exchange(token, &usual),
    )
}

fn tampered(ask: &Ask, token: &str) -> Refusal {
    let broken = with_broken_signature(token);
    let form = ask.exchange(broken.as_deref().unwrap_or_default(), TXN_TOKEN);
    let did = "presented a Txn-Token with another signature for replacement";
    Refusal::new("replacement-signature", "R-SUBJ-19", did, &["invalid_request"], form)
}

fn wider(ask: &Ask, token: &str, scope: Option<&str>) -> Refusal {
    let form = ask.exchange(token, TXN_TOKEN).set("scope", scope.unwrap_or_default());
    let did = "asked to replace a Txn-Token by one for the purpose of --replace-scope, which it does not have";
    Refusal::new("replacement-wider", "R-SUBJ-21", did, &["invalid_scope"], form)
        .advised()
        .unless(scope.is_none().then_some("needs --replace-scope"))
}

/// Replaces the token by one like it; a verdict if that is not offered.
async fn replace(scene: &Scene, fresh: Result<&Issued, &Verdict>, report: &mut Report) -> Result<(), Verdict> {
    let keeps =
        Rule::new("replacement-keeps", "R-SUBJ-20", "replaced a Txn-Token", "a token with the same txn, sub and aud");
    let within = Rule::new(
        "replacement-scope",
        "R-SUBJ-21",
        "compared the purposes of the two",
        "none that the first does not have",
    );
    let replaced = match fresh {
        Err(hindrance) => Err(hindrance.clone()),
        Ok(original) => try_replacement(scene, original).await.map(|replaced| (original, replaced)),
    };
    match replaced {
        Err(verdict) => {
            report.add(keeps, verdict.clone());
            report.add(within, verdict.clone());
            Err(verdict)
        }
        Ok((original, replaced)) => {
            let changed = ["txn", "sub", "aud"].into_iter().find(|name| original.claim(name) != replaced.claim(name));
            let came = changed.map_or_else(|| "the same".to_owned(), |name| format!("another {name}"));
            report.add(keeps, Verdict::of(changed.is_none(), came));
            let fits = replaced.scope().zip(original.scope()).is_some_and(|(after, before)| is_within(&after, &before));
            report.add(within, Verdict::of(fits, replaced.claim("scope").to_string()));
            Ok(())
        }
    }
}

async fn try_replacement(scene: &Scene, original: &Issued) -> Result<Issued, Verdict> {
    let scope = original.scope().unwrap_or_else(|| scene.ask.scope.clone());
    let form = scene.ask.exchange(&original.token, TXN_TOKEN).set("scope", &scope.to_string());
    let reply = scene.ask(&form).await.map_err(|error| Verdict::not_tried(error.to_string()))?;
    if !reply.is_issued() {
        return Err(Verdict::not_applicable(format!(
            "replacement is not offered to this client ({})",
            reply.summary()
        )));
    }
    Issued::of(&reply).ok_or_else(|| Verdict::not_tried("the token cannot be decoded"))
}

async fn expired(scene: &Scene, issued: &Issued, leeway: Duration) -> Verdict {
    let Some(expiry) = issued.expiry() else { return Verdict::not_tried("no exp that can be read") };
    if expiry.since(Timestamp::now()) > PATIENCE {
        return Verdict::not_tried("it lives for more than 65 s");
    }
    // Whole seconds are rounded down: one more, so that it is past for certain.
    tokio::time::sleep((expiry + leeway).since(Timestamp::now()) + Duration::from_secs(1)).await;
    let form = scene.ask.exchange(&issued.token, TXN_TOKEN);
    match scene.ask(&form).await {
        Err(error) => Verdict::not_tried(error.to_string()),
        Ok(reply) if reply.is_issued() => Verdict::failed(reply.summary()),
        Ok(reply) if matches!(reply.status, 429 | 500..) => Verdict::not_tried(reply.summary()),
        Ok(reply) => {
            let is_usual = matches!(reply.error().as_deref(), Some("invalid_request" | "unauthorized_client"));
            Verdict::advice(is_usual, reply.summary())
        }
    }
}
