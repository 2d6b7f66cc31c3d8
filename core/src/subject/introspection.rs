//! Token introspection at an authorization server (RFC 7662).
//!
//! In: the text of an access token. Out: the members of a reply with `active: true`. Nothing is cached: a revoked
//! token must not remain usable.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::form_urlencoded;
use writ_verifier::Members;
use zeroize::Zeroizing;

use super::members::members;
use super::settings::IntrospectionSettings;
use super::{SubjectError, SubjectFault};
use crate::client::ClientId;
use writ_outbound::{Answer, Outbound, Request, Status, Unreachable};
use writ_platform::secret_file::{self, SecretFileError};

/// The time limit, including a second attempt (R-INTRO-01).
const TIMEOUT: Duration = Duration::from_secs(2);

/// A token that no server issues.
const NO_TOKEN: &str = "writ-check-asks-whether-you-answer";

/// Why an authorization server can never be called with these settings.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file with the client secret cannot be read, or others can read it too.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file does not contain a client secret.
    #[error("{}: does not contain a client secret: one line of text", .0.display())]
    Secret(PathBuf),
    /// The HTTPS client cannot be built.
    #[error(transparent)]
    Outbound(#[from] writ_outbound::SetupError),
}

/// The client secret in a file, without a trailing newline.
pub fn parse_secret(content: &[u8]) -> Option<Zeroizing<String>> {
    let text = std::str::from_utf8(content).ok()?;
    let secret = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    let usable = !secret.is_empty() && !secret.chars().any(char::is_control);
    usable.then(|| Zeroizing::new(secret.to_owned()))
}

/// One authorization server that can introspect tokens.
pub(super) struct Introspector {
    settings: IntrospectionSettings,
    /// `iss`, for metrics and logs.
    issuer: String,
    outbound: Outbound,
    /// The value of `Authorization`.
    credentials: ArcSwap<Zeroizing<String>>,
    /// The last reload failed, and this was logged.
    broken: AtomicBool,
}

impl Introspector {
    /// Reads the secret and the `ca`; calls will run on the current runtime.
    pub(super) fn new(issuer: &str, settings: &IntrospectionSettings, ca: Option<PathBuf>) -> Result<Self, SetupError> {
        let credentials = ArcSwap::from_pointee(credentials(settings)?);
        let endpoint = settings.endpoint.clone();
        let outbound = Outbound::new(writ_outbound::Settings { endpoint, ca, identity: None, timeout: TIMEOUT })?;
        let (issuer, settings) = (issuer.to_owned(), settings.clone());
        for outcome in ["active", "inactive", "unreadable", "error", "not_asked"] {
            metrics::counter!("writ_introspection_total", "issuer" => issuer.clone(), "outcome" => outcome).absolute(0);
        }
        Ok(Self { settings, issuer, outbound, credentials, broken: AtomicBool::new(false) })
    }

    /// Asks about a token that no server issued, to check that the server answers and accepts Writ's credentials.
    ///
    /// # Errors
    /// A text with the reason.
    pub(super) async fn try_out(&self, client: &ClientId) -> Result<(), String> {
        let request = self.request(NO_TOKEN).map_err(|error| error.to_string())?;
        let answer = self.outbound.post(client.as_str(), request).await;
        match read_reply(answer) {
            Err(NotActive::Inactive) => Ok(()),
            Ok(_) => Err("it reports a token as active that was never issued".to_owned()),
            Err(why) => Err(why.to_string()),
        }
    }

    /// Whether JWTs are introspected too.
    pub(super) fn is_always_asked(&self) -> bool {
        self.settings.always
    }

    /// The members of the server's reply about `token`, which `client` presents, if it is active.
    ///
    /// # Errors
    /// [`SubjectFault::Inactive`] if it is not, or if the reply is malformed; [`SubjectFault::IssuerUnavailable`] if
    /// there is no reply, in which case the token may be valid.
    pub(super) async fn introspect(&self, client: &ClientId, token: &str) -> Result<Members, SubjectError> {
        let answer = self.outbound.post(client.as_str(), self.request(token)?).await;
        let outcome = read_reply(answer);
        metrics::counter!("writ_introspection_total",
            "issuer" => self.issuer.clone(), "outcome" => label(&outcome))
        .increment(1);
        outcome.map_err(|why| {
            if let NotActive::Failed(_) | NotActive::Unreadable = why {
                tracing::warn!(issuer = self.issuer, error = %why, "introspection failed");
            }
            match why {
                NotActive::Inactive => SubjectFault::Inactive.into(),
                NotActive::Unreadable => {
                    SubjectFault::Inactive.because("its reply is not a JSON object without repeated members")
                }
                NotActive::Failed(_) | NotActive::NotAsked(_) => SubjectFault::IssuerUnavailable.into(),
            }
        })
    }

    /// Reads the files again. If one cannot be used, its last valid content stays in use, and this is logged once.
    pub(super) fn reload_files(&self) -> bool {
        let read = credentials(&self.settings);
        let are_usable = read.is_ok();
        let was_broken = self.broken.swap(!are_usable, Ordering::Relaxed);
        match read {
            Ok(credentials) if credentials == **self.credentials.load() => {}
            Ok(credentials) => self.credentials.store(Arc::new(credentials)),
            Err(_) if was_broken => {}
            Err(error) => self.log_failure(&error),
        }
        if let Some(Err(error)) = self.outbound.reload() {
            self.log_failure(&error);
            return false;
        }
        are_usable
    }

    fn log_failure(&self, error: &dyn std::error::Error) {
        let issuer = &self.issuer;
        tracing::error!(issuer, %error, "the files for introspection were not reloaded; the last valid ones stay in use");
    }

    /// RFC 7662 §2.1
    fn request(&self, token: &str) -> Result<Request, SubjectError> {
        // Base64 is always a valid header value.
        let request = Request::form(form(token).into_bytes()).authorize(&self.credentials.load());
        request.map_err(|_| SubjectFault::IssuerUnavailable.into())
    }
}

/// Without the secret.
impl fmt::Debug for Introspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Introspector").field(&self.outbound).finish()
    }
}

fn form(token: &str) -> String {
    form_urlencoded::Serializer::new(String::new())
        .append_pair("token", token)
        .append_pair("token_type_hint", "access_token")
        .finish()
}

/// HTTP Basic with both halves form-encoded first (RFC 6749 §2.3.1).
fn credentials(settings: &IntrospectionSettings) -> Result<Zeroizing<String>, SetupError> {
    let path = &settings.client_secret_file;
    let secret = parse_secret(&secret_file::read(path)?).ok_or_else(|| SetupError::Secret(path.clone()))?;
    let encoded = |text: &str| Zeroizing::new(form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>());
    let pair = Zeroizing::new(format!("{}:{}", *encoded(&settings.client_id), *encoded(&secret)));
    let pair = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    Ok(Zeroizing::new(format!("Basic {}", *pair)))
}

/// Why a token is not known to be active. Texts are for the log, and contain nothing of the reply.
#[derive(Debug, thiserror::Error)]
enum NotActive {
    #[error("the token is not active")]
    Inactive,
    /// The reply may come from a proxy, so it proves nothing about the server.
    #[error("the reply is not a JSON object without repeated members")]
    Unreadable,
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    NotAsked(Unreachable),
}

/// Accepts only a reply with status 200 and `active: true` (RFC 7662 §2.2, §2.3).
fn read_reply(answer: Result<Answer, Unreachable>) -> Result<Members, NotActive> {
    let answer = answer.map_err(|error| match error {
        Unreachable::Resting | Unreachable::Busy => NotActive::NotAsked(error),
        other => NotActive::Failed(other.to_string()),
    })?;
    if answer.status != Status::OK {
        return Err(NotActive::Failed(format!("the answer was {}", answer.status)));
    }
    let reply = members(&answer.body).map_err(|_| NotActive::Unreadable)?;
    if reply.raw("active") == Some("true") { Ok(reply) } else { Err(NotActive::Inactive) }
}

fn label(outcome: &Result<Members, NotActive>) -> &'static str {
    match outcome {
        Ok(_) => "active",
        Err(NotActive::Inactive) => "inactive",
        Err(NotActive::Unreadable) => "unreadable",
        Err(NotActive::Failed(_)) => "error",
        Err(NotActive::NotAsked(_)) => "not_asked",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// The outcome of an answer with this status and body.
    fn outcome_of(status: u16, body: &[u8]) -> Result<Members, NotActive> {
        read_reply(Ok(Answer { status: Status::try_from(status).unwrap(), body: body.to_vec() }))
    }

    /// A-077, R-INTRO-02
    #[test]
    fn only_true_is_true() {
        assert!(outcome_of(200, br#"{"active":true}"#).is_ok());
        assert!(outcome_of(200, b" { \"sub\" : \"a\" , \"active\" : true }\r\n").is_ok());
        for reply in [
            "{}",
            r#"{"active":false}"#,
            r#"{"active":"true"}"#,
            r#"{"active":1}"#,
            r#"{"active":null}"#,
            r#"{"active":[true]}"#,
            r#"{"active":{"active":true}}"#,
            r#"{"Active":true}"#,
        ] {
            assert!(matches!(outcome_of(200, reply.as_bytes()), Err(NotActive::Inactive)), "{reply}");
        }
    }

    /// R-INTRO-02, A-053
    #[test]
    fn a_reply_with_two_meanings_or_none_is_unreadable() {
        for reply in [
            "",
            "true",
            "[]",
            "null",
            "<html></html>",
            r#"{"active":true"#,
            r#"{"active":true} {}"#,
            r#"{"active":false,"active":true}"#,
            r#"{"active":true,"sub":"a","\u0073ub":"b"}"#,
            r#"{"active":true,"x":{"y":1,"y":2}}"#,
            "\u{feff}{\"active\":true}",
        ] {
            assert!(matches!(outcome_of(200, reply.as_bytes()), Err(NotActive::Unreadable)), "{reply}");
        }
        assert!(matches!(outcome_of(200, b"{\"active\":true,\"sub\":\"\xff\"}"), Err(NotActive::Unreadable)));
    }

    /// A-078, R-INTRO-02: a response that is not a reply proves nothing about the token, whatever it contains.
    #[test]
    fn a_failed_call_is_not_an_inactive_token() {
        for status in [201, 204, 302, 307, 400, 401, 403, 404, 429] {
            assert!(matches!(outcome_of(status, br#"{"active":true}"#), Err(NotActive::Failed(_))), "{status}");
            assert!(matches!(outcome_of(status, br#"{"active":false}"#), Err(NotActive::Failed(_))), "{status}");
        }
        for error in [Unreachable::Timeout, Unreachable::TooLong, Unreachable::Broken("reset".to_owned())] {
            assert!(matches!(read_reply(Err(error)), Err(NotActive::Failed(_))));
        }
        for error in [Unreachable::Resting, Unreachable::Busy] {
            assert!(matches!(read_reply(Err(error)), Err(NotActive::NotAsked(_))));
        }
    }

    #[test]
    fn a_secret_is_one_line_of_text() {
        for content in ["s e+cr:et%", "s e+cr:et%\n", "s e+cr:et%\r\n"] {
            assert_eq!(parse_secret(content.as_bytes()).unwrap().as_str(), "s e+cr:et%");
        }
        assert_eq!(parse_secret("é ".as_bytes()).unwrap().as_str(), "é ");
        for content in ["", "\n", "\r\n", "a\nb", "a\n\n", "a\tb", "a\0", "\u{7f}"] {
            assert!(parse_secret(content.as_bytes()).is_none(), "{content:?}");
        }
        assert!(parse_secret(b"\xff").is_none());
    }

    /// A folder with a secret, and settings that name it.
    fn settings() -> (tempfile::TempDir, IntrospectionSettings) {
        let folder = tempfile::tempdir().unwrap();
        let client_secret_file = folder.path().join("login.secret");
        write(&client_secret_file, "p@ss wörd:1\n", 0o600);
        let endpoint = "https://login.example/introspect".parse().unwrap();
        (
            folder,
            IntrospectionSettings { endpoint, client_id: "writ:1 é".to_owned(), client_secret_file, always: false },
        )
    }

    fn write(path: &std::path::Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// RFC 6749 §2.3.1 and appendix B: a colon in the id does not move the border, and no character is lost.
    #[test]
    fn id_and_secret_are_form_encoded_before_they_are_joined() {
        let (_folder, settings) = settings();
        let credentials = credentials(&settings).unwrap();
        let pair = STANDARD.decode(credentials.strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(String::from_utf8(pair).unwrap(), "writ%3A1+%C3%A9:p%40ss+w%C3%B6rd%3A1");
    }

    #[test]
    fn a_token_is_sent_as_it_is() {
        assert_eq!(form("a+b/c=~._-"), "token=a%2Bb%2Fc%3D%7E._-&token_type_hint=access_token");
    }

    /// A-137
    #[tokio::test]
    async fn a_secret_that_cannot_be_used_stops_the_start_and_later_changes_nothing() {
        let (folder, settings) = settings();
        let ca = folder.path().join("ca.pem");
        fs::write(&ca, rcgen::generate_simple_self_signed(["login.example".to_owned()]).unwrap().cert.pem()).unwrap();
        let set_up = || Introspector::new("https://login.example", &settings, Some(ca.clone()));
        let introspector = set_up().unwrap();
        let first = introspector.credentials.load_full();

        let path = &settings.client_secret_file;
        for (text, mode) in [("changed", 0o644), ("", 0o600), ("a\nb", 0o600)] {
            write(path, text, mode);
            let error = set_up().err().unwrap().to_string();
            assert!(error.contains("login.secret") && !error.contains("changed"), "{error}");
            introspector.reload_files();
            assert_eq!(**introspector.credentials.load(), *first);
        }
        fs::remove_file(path).unwrap();
        introspector.reload_files();
        assert_eq!(**introspector.credentials.load(), *first);

        write(path, "changed", 0o600);
        introspector.reload_files();
        assert_ne!(**introspector.credentials.load(), *first);
        let shown = format!("{introspector:?}");
        assert!(shown.contains("login.example") && !shown.contains("changed") && !shown.contains("Basic"), "{shown}");
    }

    #[test]
    fn outcomes_are_distinct() {
        let outcomes = [
            outcome_of(200, br#"{"active":true}"#),
            outcome_of(200, br#"{"active":false}"#),
            outcome_of(200, b""),
            outcome_of(401, b""),
            read_reply(Err(Unreachable::Resting)),
        ];
        let labels = outcomes.each_ref().map(label);
        assert_eq!(labels, ["active", "inactive", "unreadable", "error", "not_asked"]);
    }
}
