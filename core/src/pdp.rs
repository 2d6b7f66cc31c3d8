//! The external policy decision point (PDP): a service of the operator that may refuse what local policy granted.
//!
//! In: a question about a grant. Out: nothing, if every purpose is allowed, else a [`PdpError`]. It is called with the
//! access evaluation request of the `AuthZEN` Authorization API 1.0, once for each granted purpose whose rule has
//! `pdp = true`. A token is issued only if the answer is `{"decision": true}` with status 200.

use std::time::Instant;

use serde::Serialize;
use writ_verifier::TrustDomain;
use writ_verifier::json::{Limits, Members};

use crate::client::ClientId;
use crate::decision::{Grant, GrantKind};
use crate::request::TokenRequest;
use writ_outbound::{Answer, Outbound, Request, Settings, SetupError, Status, Unreachable};
use writ_platform::deadline::before;

/// Why no token is issued for a granted purpose.
#[derive(Debug, thiserror::Error)]
pub enum PdpError {
    /// The decision is `false`.
    #[error("the external decision point does not allow this")]
    Denied,
    /// No decision was received.
    #[error("the external decision point is not available just now; try again")]
    Unavailable(#[source] Fault),
}

/// Why no decision was received; for the log.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No answer.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The deadline of the request passed.
    #[error("the deadline of the request has passed")]
    Late,
    /// Not 200.
    #[error("the answer was {0}")]
    Status(Status),
    /// The answer is not a JSON object with one boolean `decision`.
    #[error("the answer has no decision")]
    NoDecision,
    /// A rule has `pdp = true`, but `[pdp]` is missing. Such policies are refused when they are loaded.
    #[error("none is configured")]
    NotConfigured,
}

/// The facts about the subject token that the PDP receives.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    /// The kind of proof, as policies name it.
    pub source: Option<&'a str>,
    /// `iss`, if it is a token of a subject issuer.
    pub issuer: Option<&'a str>,
}

/// The question to the PDP about a grant.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    grant: &'a Grant,
    proof: Proof<'a>,
    details: Option<&'a Members>,
    context: Option<&'a Members>,
    request_id: &'a str,
}

impl<'a> Question<'a> {
    /// The question about `grant`; `None` unless the rule of one of its purposes has `pdp = true`.
    ///
    /// Details and context are those of the request; for a redemption, which has none, those of the transaction.
    pub(crate) fn about(
        grant: &'a Grant,
        request: &'a TokenRequest,
        proof: Proof<'a>,
        request_id: &'a str,
    ) -> Option<Self> {
        if grant.asks_pdp().is_empty() {
            return None;
        }
        let (details, context) = match grant.kind() {
            GrantKind::Redeem { original, .. } => (Some(&original.claims().tctx), Some(&original.claims().rctx)),
            GrantKind::Issue { .. } | GrantKind::Replace { .. } => (request.details.as_ref(), request.context.as_ref()),
        };
        Some(Self { grant, proof, details, context, request_id })
    }
}

/// Access Evaluation Request (`AuthZEN` 1.0).
#[derive(Serialize)]
struct Evaluation<'a> {
    subject: Subject<'a>,
    action: Action<'a>,
    resource: Resource<'a>,
    context: EvaluationContext<'a>,
}

#[derive(Serialize)]
struct Subject<'a> {
    r#type: &'static str,
    id: &'a str,
    properties: Properties<'a>,
}

#[derive(Serialize)]
struct Properties<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
}

#[derive(Serialize)]
struct Action<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Resource<'a> {
    r#type: &'static str,
    id: &'a str,
}

#[derive(Serialize)]
struct EvaluationContext<'a> {
    client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    details: &'a Members,
    context: &'a Members,
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<&'a str>,
}

/// The external decision point (`[pdp]`).
#[derive(Debug)]
pub struct Pdp {
    outbound: Outbound,
    trust_domain: TrustDomain,
}

impl Pdp {
    /// Reads the files that `settings` name; calls will run on the current runtime.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(settings: Settings, trust_domain: TrustDomain) -> Result<Self, SetupError> {
        let outbound = Outbound::new(settings)?;
        for outcome in ["allowed", "denied", "unavailable"] {
            metrics::counter!("writ_pdp_requests_total", "outcome" => outcome).absolute(0);
        }
        Ok(Self { outbound, trust_domain })
    }

    /// Asks about each purpose in turn, until `deadline`; fails at the first that is not allowed.
    ///
    /// # Errors
    /// [`PdpError`].
    pub(crate) async fn ask(&self, question: &Question<'_>, deadline: Instant) -> Result<(), PdpError> {
        for purpose in question.grant.asks_pdp() {
            let body = request_body(question, self.trust_domain.as_str(), purpose.as_str());
            let call = self.outbound.post(question.grant.client().as_str(), to_request(question.request_id, body));
            let answer = before(deadline, call).await;
            let decision = answer.ok_or(Fault::Late).and_then(|answer| decision(&answer?));
            let outcome = match decision {
                Ok(true) => Ok(()),
                Ok(false) => Err(PdpError::Denied),
                Err(fault) => Err(PdpError::Unavailable(fault)),
            };
            metrics::counter!("writ_pdp_requests_total", "outcome" => outcome.as_ref().map_or_else(PdpError::outcome, |()| "allowed"))
                .increment(1);
            outcome?;
        }
        Ok(())
    }

    /// Asks about a client that does not exist, to check that the PDP answers with a decision. Not counted in metrics.
    ///
    /// # Errors
    /// The [`Fault`] if no decision was received.
    pub async fn try_out(&self, client: &ClientId) -> Result<bool, Fault> {
        let nothing = Members::default();
        let evaluation = Evaluation {
            subject: Subject { r#type: "subject", id: client.as_str(), properties: Properties { issuer: None } },
            action: Action { name: client.as_str() },
            resource: Resource { r#type: "trust_domain", id: self.trust_domain.as_str() },
            context: EvaluationContext {
                client: client.as_str(),
                source: None,
                details: &nothing,
                context: &nothing,
                txn: None,
            },
        };
        let body = serde_json::to_vec(&evaluation).unwrap_or_default();
        decision(&self.outbound.post(client.as_str(), to_request(client.as_str(), body)).await?)
    }

    /// Reads certificates and key again; `None` if their files are unchanged.
    pub fn reload(&self) -> Option<Result<(), SetupError>> {
        self.outbound.reload()
    }
}

fn request_body(question: &Question<'_>, trust_domain: &str, purpose: &str) -> Vec<u8> {
    let (grant, empty) = (question.grant, Members::default());
    let evaluation = Evaluation {
        subject: Subject {
            r#type: "subject",
            id: grant.sub(),
            properties: Properties { issuer: question.proof.issuer },
        },
        action: Action { name: purpose },
        resource: Resource { r#type: "trust_domain", id: trust_domain },
        context: EvaluationContext {
            client: grant.client().as_str(),
            source: question.proof.source,
            details: question.details.unwrap_or(&empty),
            context: question.context.unwrap_or(&empty),
            txn: grant.original().map(|original| original.claims().txn.as_str()),
        },
    };
    serde_json::to_vec(&evaluation).expect("strings and JSON texts can be written")
}

impl PdpError {
    /// The outcome in metrics and the audit log; without an error it is `allowed`.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Adds the request id, which is always a valid header value.
fn to_request(request_id: &str, body: Vec<u8>) -> Request {
    let request = Request::json(body);
    request.clone().identify(request_id).unwrap_or(request)
}

/// The one boolean of the answer; its other members (`context`) are for people.
fn decision(answer: &Answer) -> Result<bool, Fault> {
    if answer.status != Status::OK {
        return Err(Fault::Status(answer.status));
    }
    let text = std::str::from_utf8(&answer.body).map_err(|_| Fault::NoDecision)?;
    let members = Members::parse(text, Limits::DEFAULT).map_err(|_| Fault::NoDecision)?;
    members.get("decision").ok_or(Fault::NoDecision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Presented;
    use crate::subject::OwnToken;

    fn answered(status: u16, body: &str) -> Result<bool, Fault> {
        decision(&Answer { status: Status::try_from(status).unwrap(), body: body.as_bytes().to_vec() })
    }

    #[test]
    fn only_a_boolean_of_a_200_is_a_decision() {
        assert!(answered(200, r#"{"decision":true}"#).unwrap());
        assert!(answered(200, " {\"context\":{\"reason\":\"odd\"},\"decision\" : true}\n").unwrap());
        assert!(!answered(200, r#"{"decision":false}"#).unwrap());
        for status in [201, 204, 206, 302, 304, 400, 401, 403, 404, 429] {
            assert!(matches!(answered(status, r#"{"decision":true}"#), Err(Fault::Status(_))), "{status}");
        }
        for body in [
            "",
            "true",
            "[true]",
            "{}",
            r#"{"decision":"true"}"#,
            r#"{"decision":1}"#,
            r#"{"decision":null}"#,
            r#"{"decision":[true]}"#,
            r#"{"Decision":true}"#,
            r#"{"decision":true,"decision":true}"#,
            r#"{"decision":false,"d\u0065cision":true}"#,
            r#"{"decision":true} {"decision":false}"#,
            r#"{"decision":true"#,
            r#"{"decision":{"$serde_json::private::RawValue":"true"}}"#,
            r#"{"$serde_json::private::RawValue":"{\"decision\":true}"}"#,
            "<html>",
            "\u{feff}{\"decision\":true}",
        ] {
            assert!(matches!(answered(200, body), Err(Fault::NoDecision)), "{body}");
        }
        let no_text = Answer { status: Status::OK, body: b"{\"decision\":true,\"x\":\"\xff\"}".to_vec() };
        assert!(matches!(decision(&no_text), Err(Fault::NoDecision)));
    }

    fn members(text: &str) -> Members {
        Members::parse(text, Limits::DEFAULT).unwrap()
    }

    fn asked(grant: &Grant, request: &TokenRequest, proof: Proof<'_>) -> Option<String> {
        let question = Question::about(grant, request, proof, "r")?;
        let body = request_body(&question, "d.example", "a");
        Some(String::from_utf8(body).unwrap())
    }

    fn request() -> TokenRequest {
        TokenRequest {
            scope: "a b".parse().unwrap(),
            presented: Presented::Client,
            details: Some(members(r#"{"quantity": 100000000000000000001,"price":0.10}"#)),
            context: Some(members(r#"{"ip":"::1"}"#)),
        }
    }

    #[test]
    fn the_question_contains_client_purpose_and_subject_with_exact_numbers() {
        let grant = Grant::issuing("gateway", "alice", "a b", None).asking_pdp(&["a"]);
        let proof = Proof { source: Some("access_token"), issuer: Some("https://login.example") };
        assert_eq!(
            asked(&grant, &request(), proof).unwrap(),
            r#"{"subject":{"type":"subject","id":"alice","properties":{"issuer":"https://login.example"}},"action":{"name":"a"},"resource":{"type":"trust_domain","id":"d.example"},"context":{"client":"gateway","source":"access_token","details":{"quantity":100000000000000000001,"price":0.10},"context":{"ip":"::1"}}}"#
        );
    }

    #[test]
    fn the_question_about_a_redemption_contains_the_transactions_context() {
        let claims = serde_json::from_str(
            r#"{"iat":1,"exp":2,"aud":"d.example","txn":"t-1","sub":"u-1","scope":"a","req_wl":"x",
                "tctx":{"amount":1.50},"rctx":{"ip":"::2"}}"#,
        );
        let original = OwnToken::unverified(claims.unwrap(), false);
        let grant = Grant::redeeming("job", original, 1, true).asking_pdp(&["a"]);
        let request = TokenRequest { details: None, context: None, ..request() };
        let proof = Proof { source: Some("expired_txn_token"), issuer: None };
        assert_eq!(
            asked(&grant, &request, proof).unwrap(),
            r#"{"subject":{"type":"subject","id":"u-1","properties":{}},"action":{"name":"a"},"resource":{"type":"trust_domain","id":"d.example"},"context":{"client":"job","source":"expired_txn_token","details":{"amount":1.50},"context":{"ip":"::2"},"txn":"t-1"}}"#
        );
    }

    #[test]
    fn no_question_is_asked_unless_a_purpose_requires_it() {
        let grant = Grant::issuing("gateway", "alice", "a b", None);
        assert_eq!(asked(&grant, &request(), Proof { source: None, issuer: None }), None);
    }
}
