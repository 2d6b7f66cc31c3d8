//! Tokens in one call, for the client itself or for whom it names (CONTRACT 3.1, 7; R-REQ-18,
//! R-REQ-19).

use serde_json::json;

use crate::scene::{self, MAILER};
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};

const DELIVER: &str = "mailbox.deliver";

fn for_subject(subject: &str) -> Form {
    Form::client_credentials(DELIVER).set("requested_subject", subject)
}

fn ask(writ: &Writ, form: &Form) -> crate::support::answer::Answer {
    writ.workload("mailer").token(form)
}

/// R-REQ-18, R-POL-08
#[test]
fn a_client_gets_a_token_for_itself() {
    let writ = scene::shared_mailer();
    let issued = ask(&writ, &Form::client_credentials(DELIVER)).issued();
    assert_eq!(
        issued.claims,
        json!({
            "iss": crate::support::ISSUER, "iat": issued.iat(), "exp": issued.iat() + 60, "aud": "trust-domain.example",
            "txn": issued.txn(), "sub": "mailer", "scope": DELIVER, "req_wl": "mailer",
        })
    );
}

#[test]
fn a_policy_may_name_the_clients_own_subject() {
    let writ = Setup::new().client("mailer", &format!("subject = \"svc:mail\"\n{MAILER}")).start();
    let issued = ask(&writ, &Form::client_credentials(DELIVER)).issued();
    assert_eq!((&issued.claims["sub"], &issued.claims["req_wl"]), (&json!("svc:mail"), &json!("mailer")));
}

/// CONTRACT 7: the client's own subject needs no pattern.
#[test]
fn a_client_may_name_its_own_subject() {
    let writ = scene::shared_mailer();
    let form = Form::client_credentials("mailbox.report").set("requested_subject", "mailer");
    assert_eq!(ask(&writ, &form).issued().claims["sub"], "mailer");
}

/// R-REQ-18, R-REQ-19
#[test]
fn a_client_may_name_a_subject_that_its_policy_allows() {
    let writ = scene::shared_mailer();
    assert_eq!(
        ask(&writ, &for_subject("alice@trust-domain.example")).issued().claims["sub"],
        "alice@trust-domain.example"
    );
}

/// R-REQ-19, R-POL-05: outside the patterns, or where the purpose has none; one answer for all of them.
#[test]
fn a_subject_outside_the_patterns_is_refused() {
    let writ = scene::shared_mailer();
    let own = Form::client_credentials("mailbox.report").set("requested_subject", "alice@trust-domain.example");
    let mut answers = vec![ask(&writ, &own).unauthorized_client("subject_not_allowed").answer];
    for subject in [
        "x",
        "alice",
        "alice@trust-domain.example.evil",
        "alice@Trust-Domain.example",
        "@trust-domain.example",
        "alice@trust-domain.example ",
        "alice@trust-domain\u{2024}example",
    ] {
        answers.push(ask(&writ, &for_subject(subject)).unauthorized_client("subject_not_allowed").answer);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

/// each purpose must allow the subject.
#[test]
fn a_subject_must_be_allowed_by_every_purpose() {
    let writ = scene::shared_mailer();
    let form =
        Form::client_credentials("mailbox.deliver mailbox.report").set("requested_subject", "a@trust-domain.example");
    ask(&writ, &form).unauthorized_client("subject_not_allowed");
}

/// R-POL-08
#[test]
fn a_purpose_has_a_lifetime_of_its_own() {
    let policy = "[[purpose]]\nscope = \"a\"\naccept = [\"client_credentials\"]\nlifetime = \"7s\"\n\
                  [[purpose]]\nscope = \"b\"\naccept = [\"client_credentials\"]\n";
    let writ = Setup::new().client("mailer", policy).set("tokens.lifetime", "33s").start();
    let lifetime = |scope: &str| {
        let issued = ask(&writ, &Form::client_credentials(scope)).issued();
        issued.exp() - issued.iat()
    };
    assert_eq!((lifetime("a"), lifetime("b")), (7, 33));
    assert_eq!(lifetime("b a"), 7, "the shortest counts");
}

/// CONTRACT 3.5: `redeemable_until` is present only where a policy allows redemption.
#[test]
fn a_token_that_no_client_can_redeem_has_no_redeemable_until() {
    let writ = scene::shared_mailer();
    assert_eq!(ask(&writ, &Form::client_credentials(DELIVER)).issued().answer.get("redeemable_until"), None);
}

/// CONTRACT 7: several tables for one scope, no source in two of them.
#[test]
fn a_scope_may_have_a_table_for_each_source() {
    let policy = "[[purpose]]\nscope = \"a\"\naccept = [\"client_credentials\"]\nlifetime = \"7s\"\n\
                  [[purpose]]\nscope = \"a\"\naccept = [\"access_token\"]\ngranted_by = [\"x\"]\nlifetime = \"9s\"\n";
    let writ = Setup::new().client("mailer", policy).start();
    let issued = ask(&writ, &Form::client_credentials("a")).issued();
    assert_eq!(issued.exp() - issued.iat(), 7);
}
