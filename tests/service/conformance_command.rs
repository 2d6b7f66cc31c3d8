//! `writ conformance` on this service, on another one, and on one that is wrong in one respect (CONTRACT 8).

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::scene::GATEWAY;
use crate::support::cli::{self, Output};
use crate::support::issuer::Issuer;
use crate::support::pki::Credentials;
use crate::support::tts::{FORBIDDEN_PURPOSE, Fault, OTHER_PURPOSE, PURPOSE, Tts};
use crate::support::writ::{Setup, Writ};

/// Everything in a report.
struct Report {
    output: Output,
    json: Value,
}

impl Report {
    fn new(output: Output, secrets: &[&str]) -> Self {
        let json = output.json();
        let shown = format!("{}{}", output.stdout, output.stderr);
        for secret in secrets {
            assert!(!shown.contains(secret), "a token is shown");
        }
        assert!(!shown.contains("eyJ"), "a token is shown: {shown}");
        Self { output, json }
    }

    /// The names of the checks with that outcome.
    fn names(&self, outcome: &str) -> Vec<&str> {
        let checks = self.json["checks"].as_array().expect("checks");
        let with = checks.iter().filter(|check| check["outcome"] == outcome);
        with.map(|check| check["name"].as_str().expect("a name")).collect()
    }

    /// Fails the test unless nothing failed, and these could not be tried.
    #[track_caller]
    fn fails_nothing(self, not_tried: &[&str]) -> Self {
        assert_eq!(self.names("failed"), [""; 0], "{:#}", self.json);
        assert_eq!(self.names("not_tried"), not_tried, "{:#}", self.json);
        self.exits(0)
    }

    #[track_caller]
    fn exits(self, code: i32) -> Self {
        Self { output: self.output.exits(code), json: self.json }
    }
}

fn write_files(folder: &Path, ca: &str, client: &Credentials, subject_token: &str) {
    let files = [
        ("ca.pem", ca),
        ("c.pem", &client.certificate_pem),
        ("c.key", &client.key_pem),
        ("subject.jwt", subject_token),
    ];
    for (file, text) in files {
        std::fs::write(folder.join(file), text).unwrap();
    }
}

/// The command with the credentials in that folder.
fn command(folder: &Path, target: &str) -> Command {
    let mut command = cli::command(folder);
    command.args(["conformance", "--target", target, "--ca", "ca.pem", "--cert", "c.pem", "--key", "c.key"]);
    command
}

/// Runs the command in a folder with these credentials and this subject token.
fn run(folder: &Path, target: &str, ca: &str, client: &Credentials, subject_token: &str, more: &[&str]) -> Report {
    write_files(folder, ca, client, subject_token);
    let mut command = command(folder, target);
    command.args(["--json", "--subject-token", "subject.jwt"]).args(more);
    Report::new(cli::run(command), &[subject_token])
}

/// Tries a service that is wrong in this.
fn examine(fault: Fault, lifetime: u64, more: &[&str]) -> Report {
    let (tts, folder) = (Tts::start(fault, lifetime), TempDir::new().unwrap());
    let purposes = ["--scope", PURPOSE, "--other-scope", FORBIDDEN_PURPOSE, "--replace-scope", OTHER_PURPOSE];
    let more = [&purposes[..], more].concat();
    run(folder.path(), tts.url(), &tts.ca.pem(), &tts.credentials(), &tts.access_token(), &more)
}

/// A service that is wrong in `fault` fails that check and no other.
#[track_caller]
fn fails(fault: Fault, check: &str) {
    let report = examine(fault, 60, &[]);
    assert_eq!(report.names("failed"), [check], "{:#}", report.json);
    report.exits(1);
}

/// A service that differs in this has a note there, and fails nothing.
#[track_caller]
fn is_noted(fault: Fault, check: &str) {
    let report = examine(fault, 60, &[]);
    assert_eq!(report.names("failed"), [""; 0], "{:#}", report.json);
    assert!(report.names("noted").contains(&check), "{:#}", report.json);
    report.exits(0);
}

/// Two ports that nobody listens on, below those that the system gives away, so that nobody comes by them.
fn free_ports() -> [u16; 2] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    [(); 2].map(|()| {
        loop {
            let step = std::process::id().wrapping_mul(8).wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst));
            let port = 20_000 + u16::try_from(step % 10_000).expect("below 10000");
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                break port;
            }
        }
    })
}

/// A service of this project that is where its metadata say, with a purpose for each way in.
fn this_service(issuer: &Issuer) -> (Writ, String) {
    const MORE: &str = r#"
[[purpose]]
scope = "trade.report"
accept = ["access_token", "txn_token"]
granted_by = ["trade.stocks"]

[[purpose]]
scope = "trade.sweep"
accept = ["client_credentials"]
"#;
    let policy = GATEWAY.replace("\"access_token\"", "\"access_token\", \"txn_token\"") + MORE;
    let [exchange, discovery] = free_ports();
    let url = format!("https://localhost:{exchange}");
    let writ = Setup::new()
        .issuer(issuer)
        .client("gateway", &policy)
        .set("issuer", url.as_str())
        .set("listen.exchange", format!("127.0.0.1:{exchange}"))
        .set("listen.discovery", format!("127.0.0.1:{discovery}"))
        .set("listen.discovery_url", format!("https://localhost:{discovery}"))
        .set("tokens.lifetime", "5s")
        .start();
    (writ, url)
}

/// Nothing fails, nothing is noted and nothing is left out: replacement included; redemption is off, as the draft has it.
#[test]
fn this_service_conforms() {
    let issuer = Issuer::start();
    let (writ, url) = this_service(&issuer);
    let (folder, token) = (TempDir::new().unwrap(), issuer.access_token().mint());
    let more = ["--scope", "trade.execute", "--other-scope", "account.purge", "--replace-scope", "trade.report"];
    let more = [&more[..], &["--wait", "--leeway", "0"]].concat();
    let report = run(folder.path(), &url, &writ.site().ca, &writ.setup.credentials("gateway"), &token, &more);
    let report = report.fails_nothing(&[]);
    assert_eq!(report.names("noted"), [""; 0], "{:#}", report.json);
}

/// R-REQ-18: the grant that Writ offers beyond the draft.
#[test]
fn this_service_conforms_without_a_subject_token() {
    let issuer = Issuer::start();
    let (writ, url) = this_service(&issuer);
    let folder = TempDir::new().unwrap();
    write_files(folder.path(), &writ.site().ca, &writ.setup.credentials("gateway"), "");
    let mut command = command(folder.path(), &url);
    command.args(["--json", "--client-credentials", "--scope", "trade.sweep", "--other-scope", "account.purge"]);
    let report = Report::new(cli::run(command), &[]).fails_nothing(&["txn-token-expired"]);
    assert_eq!(report.names("noted"), [""; 0], "{:#}", report.json);
}

#[test]
fn another_service_that_conforms_fails_nothing() {
    examine(Fault::None, 60, &[]).fails_nothing(&["txn-token-expired"]);
}

/// The lines for people: the same outcome, the number of the requirement, what was done, what came, what was expected.
#[test]
fn people_read_a_line_for_each_check() {
    let (tts, folder) = (Tts::start(Fault::SaysBearer, 60), TempDir::new().unwrap());
    let client = tts.credentials();
    let json = run(folder.path(), tts.url(), &tts.ca.pem(), &client, &tts.access_token(), &["--scope", PURPOSE]);
    let mut command = command(folder.path(), tts.url());
    command.args(["--subject-token", "subject.jwt", "--scope", PURPOSE]);
    let output = cli::run(command).exits(1).says(
        "FAILED            R-RESP-01   issue-token-type: looked at token_type; came: \"Bearer\"; expected: N_A\n",
    );
    assert_eq!(output.stdout.lines().count(), json.json["checks"].as_array().unwrap().len() + 1);
    assert!(!output.stdout.contains("eyJ"));
}

/// Nothing that is refused proves anything where good requests are refused too.
#[test]
fn a_client_that_gets_no_tokens_proves_nothing() {
    let (tts, folder) = (Tts::start(Fault::None, 60), TempDir::new().unwrap());
    let scope = ["--scope", FORBIDDEN_PURPOSE];
    let report = run(folder.path(), tts.url(), &tts.ca.pem(), &tts.credentials(), &tts.access_token(), &scope);
    assert_eq!(report.names("failed"), ["issue-status"]);
    for check in ["audience-unknown", "refusals-json", "client-nobody", "http-get", "txn-token-disguised"] {
        assert!(report.names("not_tried").contains(&check), "{check}");
    }
    report.exits(1);
}

#[test]
fn a_target_that_is_not_there_is_told() {
    let [port, _] = free_ports();
    let (tts, folder) = (Tts::start(Fault::None, 60), TempDir::new().unwrap());
    std::fs::write(folder.path().join("ca.pem"), tts.ca.pem()).unwrap();
    let target = format!("https://localhost:{port}");
    let mut command = cli::command(folder.path());
    command.args(["conformance", "--target", &target, "--ca", "ca.pem", "--client-credentials", "--scope", "a"]);
    cli::run(command).exits(2).says("no answer");
}

/// One test for each way of being wrong: the check that fails, and no other.
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
    let report = examine(Fault::TakesWithout("scope"), 60, &[]);
    assert_eq!(report.names("failed"), ["missing-scope", "http-query"], "it is in the query string and nowhere else");
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
    let report = examine(Fault::TakesPurpose(FORBIDDEN_PURPOSE), 60, &[]);
    assert_eq!(report.names("failed"), ["scope-other", "scope-wider"], "alone and with another");
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
    let report = examine(Fault::TakesExpired, 4, &["--wait", "--leeway", "0"]);
    assert_eq!(report.names("failed"), ["txn-token-expired"], "{:#}", report.json);
    report.exits(1);
}
