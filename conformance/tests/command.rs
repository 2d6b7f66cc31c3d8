//! The command against a conforming service, and against services that have one fault each.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use self::support::exchange::{FORBIDDEN_PURPOSE, OTHER_PURPOSE, PURPOSE};
use self::support::fault::Fault;
use self::support::report::Report;
use self::support::tts::Tts;

/// A service that lives as long as this, and the credentials of its client in a folder.
struct Scene {
    tts: Tts,
    folder: TempDir,
}

impl Scene {
    fn new(fault: Fault, lifetime: u64) -> Self {
        let (tts, folder) = (Tts::start(fault, lifetime), TempDir::new().unwrap());
        let client = tts.credentials();
        for (file, text) in [
            ("ca.pem", tts.ca.pem()),
            ("c.pem", client.certificate_pem),
            ("c.key", client.key_pem),
            ("subject.jwt", tts.access_token()),
        ] {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        Self { tts, folder }
    }

    /// The command with these credentials and the subject token.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = conformance(self.folder.path());
        command.args(["--target", self.tts.url(), "--ca", "ca.pem", "--cert", "c.pem", "--key", "c.key"]);
        command.args(["--subject-token", "subject.jwt"]).args(arguments);
        command
    }

    fn report(&self, arguments: &[&str]) -> Report {
        let subject_token = std::fs::read_to_string(self.folder.path().join("subject.jwt")).unwrap();
        Report::of(self.command(arguments), &[&subject_token])
    }
}

fn conformance(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_writ-conformance"));
    command.current_dir(folder);
    command
}

/// Tests a service with this fault whose tokens live for `lifetime` seconds.
fn test(fault: Fault, lifetime: u64, more: &[&str]) -> Report {
    let scopes = ["--scope", PURPOSE, "--other-scope", FORBIDDEN_PURPOSE, "--replace-scope", OTHER_PURPOSE];
    Scene::new(fault, lifetime).report(&[&scopes[..], more].concat())
}

/// A service with this fault fails that check and no other.
#[track_caller]
fn fails(fault: Fault, check: &str) {
    test(fault, 60, &[]).fails(&[check]);
}

/// A service with this fault fails no check, and that one notes it.
#[track_caller]
fn is_noted(fault: Fault, check: &str) {
    let report = test(fault, 60, &[]);
    report.fails(&[]);
    assert!(report.names("noted").contains(&check), "{:#}", report.json);
}

#[test]
fn another_service_that_conforms_fails_nothing() {
    let report = test(Fault::None, 60, &[]);
    report.fails(&[]);
    assert_eq!(report.names("not_tried"), ["txn-token-expired"], "{:#}", report.json);
}

/// The text report: outcome, requirement, check, action, actual and expected result.
#[test]
fn people_read_a_line_for_each_check() {
    let scene = Scene::new(Fault::SaysBearer, 60);
    let checks = scene.report(&["--scope", PURPOSE]).json["checks"].as_array().unwrap().len();
    let output = scene.command(&["--scope", PURPOSE]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "FAILED              R-RESP-01    issue-token-type: checked token_type; actual: \"Bearer\"; expected: N_A",
        "could not be tried  R-SUBJ-23    txn-token-expired: ",
        "not applicable      R-POL-02     scope-other: ",
    ] {
        assert!(text.contains(line), "{line:?} is missing: {text}");
    }
    assert_eq!(text.lines().count(), checks + 1, "and a summary");
    assert!(!text.contains("eyJ"));
}

/// Refusals prove nothing if valid requests are refused too.
#[test]
fn a_client_that_gets_no_tokens_proves_nothing() {
    let report = Scene::new(Fault::None, 60).report(&["--scope", FORBIDDEN_PURPOSE]);
    report.fails(&["issue-status"]);
    for check in ["audience-unknown", "refusals-json", "client-nobody", "http-get", "txn-token-disguised"] {
        assert!(report.names("not_tried").contains(&check), "{check}");
    }
}

#[test]
fn a_target_that_is_not_there_is_told() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("ca.pem"), Tts::start(Fault::None, 60).ca.pem()).unwrap();
    let mut command = conformance(folder.path());
    // Nothing listens on port 1.
    command.args(["--target", "https://localhost:1", "--ca", "ca.pem", "--client-credentials", "--scope", "a"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.contains("no answer")), (Some(2), true), "{text}");
}

/// One test for each fault: the check that fails or notes it, and no other fails.
macro_rules! faults {
    ($($judge:ident $test:ident: $fault:ident, $check:literal;)*) => {
        $(#[test] fn $test() { $judge(Fault::$fault, $check); })*
    };
}

faults! {
    fails a_foreign_issuer: ForeignIssuer, "metadata-issuer";
    fails an_endpoint_without_tls: PlainEndpoint, "metadata-token-endpoint";
    fails keys_without_tls: PlainKeys, "metadata-jwks-uri";
    fails no_token_exchange: NoExchange, "metadata-grant-types";
    fails assertions_without_signature: UnsignedAssertions, "metadata-assertion-algorithms";
    fails a_text_as_response_types: TextAsResponseTypes, "metadata-response-types";
    fails a_list_as_aliases: ListAsAliases, "metadata-mtls-aliases";
    fails no_keys: NoKeys, "jwks-served";
    fails keys_that_nobody_can_use: UnusableKeys, "jwks-usable";
    fails a_published_secret: PublishesSecret, "jwks-public";
    fails one_name_for_two_keys: OneNameForTwoKeys, "jwks-kid";

    fails an_answer_that_is_text: AnswersText, "issue-media-type";
    fails an_answer_for_caches: CachedAnswers, "issue-no-store";
    fails another_issued_token_type: SaysJwt, "issue-issued-token-type";
    fails a_bearer_token: SaysBearer, "issue-token-type";
    fails a_refresh_token: AddsRefreshToken, "issue-no-refresh-token";
    is_noted a_refresh_token_that_is_null: NullAsRefreshToken, "issue-no-refresh-token";
    fails an_expires_in_beyond_the_token: LateExpiresIn, "issue-expires-in";
    fails an_answer_with_another_scope: SaysOtherScope, "issue-scope";

    fails another_typ: WrongTyp, "token-typ";
    fails a_symmetric_algorithm: Symmetric, "token-algorithm";
    is_noted no_kid: NoKid, "token-key";
    fails a_kid_that_is_not_published: UnknownKid, "token-key";
    fails a_signature_of_another_key: WrongSignature, "token-signature";
    fails times_in_milliseconds: Milliseconds, "token-times";
    fails a_token_for_hours: LivesForHours, "token-lifetime";
    fails an_audience_in_an_array: AudienceArray, "token-audience";
    fails another_iss: OtherIss, "token-issuer";
    fails a_txn_used_again: ReusesTxn, "token-txn-unique";
    fails an_empty_txn: EmptyTxn, "token-txn";
    fails an_empty_subject: EmptySubject, "token-subject";
    fails no_requester: NoRequester, "token-requester";
    fails more_than_was_asked_for: GrantsMore, "token-scope";
    fails a_context_that_is_no_object: TextAsContext, "token-contexts";
    fails a_copy_of_the_subject_token: CopiesSubjectToken, "token-no-credential";
    fails a_claim_twice: RepeatsClaim, "issue-jwt";
    fails a_token_for_later: NotBefore, "token-verifies";

    fails any_audience: IgnoresAudience, "audience-unknown";
    is_noted another_code_for_an_audience: OtherTargetCode, "audience-unknown";
    fails two_audiences: TakesTwoAudiences, "audience-several";
    fails any_requested_token_type: TakesUnknownRequestedType, "requested-type-unknown";
    is_noted an_access_token_for_who_asks: IssuesAccessTokens, "requested-type-other";
    fails any_grant: TakesUnknownGrant, "grant-unknown";
    fails a_wider_scope: TakesWiderScope, "scope-wider";
    fails an_unsigned_subject_token: TakesUnsigned, "subject-token-unsigned";
    fails a_subject_token_of_anyone: TakesBrokenSignatures, "subject-token-signature";
    fails the_code_invalid_grant: InvalidGrant, "subject-token-malformed";
    fails an_actor_type_alone: IgnoresActor, "actor-type-alone";
    fails a_refusal_for_an_unknown_parameter: RefusesUnknownParameters, "unknown-parameter";
    is_noted a_get: TakesGet, "http-get";
    fails a_json_body: TakesJson, "http-json";
    fails a_query_string: ReadsQuery, "http-query";
    fails any_caller: TakesAnyCaller, "client-nobody";

    fails a_refusal_that_is_text: TextAsRefusal, "refusals-json";
    fails a_refusal_with_another_status: ForbiddenAsRefusal, "refusals-status";
    fails a_refusal_for_caches: CachedRefusals, "refusals-no-store";
    fails a_description_with_quotes: QuotesInDescription, "refusals-description";
    fails an_echo_of_the_subject_token: EchoesSubjectToken, "refusals-keep-secrets";

    fails a_txn_token_as_access_token: TakesTxnTokenAsAccessToken, "txn-token-disguised";
    fails another_txn_on_replacement: NewTxnOnReplacement, "replacement-keeps";
    fails a_replacement_that_grows: GrowsOnReplacement, "replacement-scope";
    fails a_wider_replacement: WidensReplacement, "replacement-wider";
    fails a_forged_txn_token: TakesForgedTxnToken, "replacement-signature";
}

/// R-REQ-05 to R-REQ-09
#[test]
fn a_parameter_that_is_done_without() {
    for name in ["grant_type", "requested_token_type", "audience", "subject_token", "subject_token_type"] {
        fails(Fault::TakesWithout(name), &format!("missing-{name}"));
    }
    // The request with scope in the query string has none in the body.
    test(Fault::TakesWithout("scope"), 60, &[]).fails(&["missing-scope", "http-query"]);
}

/// R-REQ-03
#[test]
fn a_parameter_that_is_empty() {
    for name in ["grant_type", "requested_token_type", "audience", "scope", "subject_token", "subject_token_type"] {
        fails(Fault::TakesEmpty(name), &format!("empty-{name}"));
    }
}

/// R-REQ-03
#[test]
fn a_parameter_that_is_sent_twice() {
    for name in ["grant_type", "requested_token_type", "scope", "subject_token", "subject_token_type"] {
        fails(Fault::TakesRepeated(name), &format!("repeated-{name}"));
    }
}

/// R-REQ-08, R-POL-02
#[test]
fn a_purpose_that_is_not_the_clients() {
    for (end, check) in [("\"b", "scope-malformed"), ("no-such-purpose", "scope-unknown")] {
        fails(Fault::TakesPurpose(end), check);
    }
    test(Fault::TakesPurpose(FORBIDDEN_PURPOSE), 60, &[]).fails(&["scope-other", "scope-wider"]);
}

/// R-REQ-10, R-REQ-11, R-SUBJ-13
#[test]
fn a_type_of_subject_token_that_nobody_may_take() {
    for (name, check) in [
        ("refresh_token", "subject-type-refresh-token"),
        ("saml2", "subject-type-saml"),
        ("no-such-type", "subject-type-unknown"),
    ] {
        fails(Fault::TakesType(name), check);
    }
}

/// R-REQ-12
#[test]
fn details_that_are_no_object() {
    fails(Fault::TakesContext("request_details", "[1]"), "details-no-object");
    fails(Fault::TakesContext("request_details", "{\"writ\":"), "details-no-json");
    fails(Fault::TakesContext("request_context", "[1]"), "context-no-object");
    is_noted(Fault::TakesContext("request_details", "{\"a\":1,\"a\":2}"), "details-duplicates");
}

/// R-SUBJ-23
#[test]
fn an_expired_txn_token() {
    test(Fault::TakesExpired, 4, &["--wait", "--leeway", "0"]).fails(&["txn-token-expired"]);
}
