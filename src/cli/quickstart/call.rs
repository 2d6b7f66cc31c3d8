//! A request to the token endpoint: sent by quickstart, and shown as the equivalent `curl` command.

use serde_json::Value;
use writ_verifier::json::{Limits, Members};
use writ_verifier::jws::Jws;
use zeroize::Zeroizing;

use super::folder::{Folder, FolderError};
use super::ports::Ports;
use crate::cli::token::{Answer, Service, ServiceError, SubjectToken, TokenRequest};

/// The trust domain of every quickstart.
pub(super) const TRUST_DOMAIN: &str = "trust-domain.example";
/// The service's host in `iss` and in its certificate.
const HOST: &str = "tts.trust-domain.example";
const URN: &str = "urn:ietf:params:oauth:";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const TXN_TOKEN: &str = "urn:ietf:params:oauth:token-type:txn_token";
/// The longest line of a command.
const WIDTH: usize = 94;

#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) client: &'static str,
    pub(super) scope: &'static str,
    pub(super) proof: Proof,
}

/// The credential besides the client's certificate.
#[derive(Debug, Clone, Copy)]
pub(super) enum Proof {
    /// An access token in this file of the folder.
    AccessToken(&'static str),
    /// A Txn-Token in this file of the folder.
    TxnToken(&'static str),
    /// No token: the client names the subject.
    Subject(&'static str),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("the answer of the service is not a token")]
    Token,
}

pub(super) enum Outcome {
    Issued(Issued),
    Refused(Value),
}

/// A token as the client receives it.
pub(super) struct Issued {
    pub(super) token: Zeroizing<String>,
    pub(super) header: Members,
    pub(super) claims: Members,
    /// The `redeemable_until` of the response.
    pub(super) redeemable_until: Option<u64>,
}

impl Call {
    /// Sends the request with the client's certificate.
    pub(super) async fn send(&self, folder: &Folder) -> Result<Outcome, CallError> {
        let service = service(folder, self.client)?;
        let (kept, token_type) = match self.proof {
            Proof::AccessToken(file) => (Some(folder.token(file)?), ACCESS_TOKEN),
            Proof::TxnToken(file) => (Some(folder.token(file)?), TXN_TOKEN),
            Proof::Subject(_) => (None, ""),
        };
        let subject = if let Proof::Subject(subject) = self.proof { Some(subject) } else { None };
        let request = TokenRequest {
            audience: TRUST_DOMAIN,
            scope: self.scope,
            subject_token: kept.as_ref().map(|token| SubjectToken { token_type, token }),
            requested_subject: subject,
            ..TokenRequest::default()
        };
        Ok(match service.token(&request).await? {
            Answer::Issued(answer) => Outcome::Issued(Issued::read(&answer).ok_or(CallError::Token)?),
            Answer::Refused(answer) => Outcome::Refused(answer),
        })
    }

    /// The equivalent command.
    pub(super) fn curl(&self, folder: &Folder) -> String {
        let path = |name: String| folder.path(&name).display().to_string();
        let mut options = vec![
            ("--cacert", path("certs/ca.pem".to_owned())),
            ("--cert", path(format!("certs/{}.pem", self.client))),
            ("--key", path(format!("certs/{}.key", self.client))),
            ("--resolve", resolve(folder.ports.exchange)),
        ];
        options.extend(self.form(|name| path(name.to_owned())));
        curl(&options, &format!("https://{HOST}:{}/token", folder.ports.exchange))
    }

    fn form(&self, path: impl Fn(&str) -> String) -> Vec<(&'static str, String)> {
        let grant = match self.proof {
            Proof::Subject(_) => "client_credentials".to_owned(),
            Proof::AccessToken(_) | Proof::TxnToken(_) => format!("{URN}grant-type:token-exchange"),
        };
        let mut form = vec![
            ("-d", format!("grant_type={grant}")),
            ("-d", format!("requested_token_type={TXN_TOKEN}")),
            ("-d", format!("audience={TRUST_DOMAIN}")),
            ("-d", format!("scope={}", self.scope)),
        ];
        match self.proof {
            Proof::Subject(subject) => form.push(("--data-urlencode", format!("requested_subject={subject}"))),
            Proof::AccessToken(file) => form.extend(subject_token(ACCESS_TOKEN, &path(file))),
            Proof::TxnToken(file) => form.extend(subject_token(TXN_TOKEN, &path(file))),
        }
        form
    }
}

fn subject_token(token_type: &str, path: &str) -> [(&'static str, String); 2] {
    [("-d", format!("subject_token_type={token_type}")), ("--data-urlencode", format!("subject_token@{path}"))]
}

/// A connection to the service as `client`.
pub(super) fn service(folder: &Folder, client: &str) -> Result<Service, CallError> {
    let (ca, certificate) = (folder.pem("ca.pem")?, folder.pem(&format!("{client}.pem"))?);
    let key = folder.pem(&format!("{client}.key"))?;
    Ok(Service::new(&format!("https://127.0.0.1:{}", folder.ports.exchange), &ca, &certificate, &key, &[])?)
}

impl Issued {
    fn read(answer: &Value) -> Option<Self> {
        let token = answer["access_token"].as_str()?;
        Jws::parse(token, usize::MAX).ok()?;
        let mut parts = token.split('.').map(part);
        Some(Self {
            token: Zeroizing::new(token.to_owned()),
            header: parts.next()??,
            claims: parts.next()??,
            redeemable_until: answer["redeemable_until"].as_u64(),
        })
    }

    /// The ID of the key that signed it.
    pub(super) fn kid(&self) -> String {
        self.header.get("kid").unwrap_or_default()
    }

    /// All claims in their original order.
    pub(super) fn claims_text(&self) -> String {
        serde_json::to_string(&self.claims).unwrap_or_default()
    }

    /// The number of this use, if the token was redeemed.
    pub(super) fn use_number(&self) -> Option<u64> {
        self.claims.get::<Value>("rctx")?["delayed"]["use"].as_u64()
    }

    pub(super) fn exp(&self) -> u64 {
        self.claims.get("exp").unwrap_or_default()
    }
}

fn part(part: &str) -> Option<Members> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).ok()?;
    Members::parse(std::str::from_utf8(&bytes).ok()?, Limits::DEFAULT).ok()
}

/// The command that fetches a discovery document.
pub(super) fn discovery(folder: &Folder, path: &str) -> String {
    let Ports { discovery, .. } = folder.ports;
    let options = [("--cacert", folder.path("certs/ca.pem").display().to_string()), ("--resolve", resolve(discovery))];
    curl(&options, &format!("https://{HOST}:{discovery}{path}"))
}

/// The value of curl's `--resolve` that maps the host to loopback.
fn resolve(port: u16) -> String {
    format!("{HOST}:{port}:127.0.0.1")
}

/// A command on several lines, each as long as [`WIDTH`] allows.
fn curl(options: &[(&str, String)], url: &str) -> String {
    let mut lines = vec!["curl -sS".to_owned()];
    let options = options.iter().map(|(option, value)| format!("{option} {}", quoted(value)));
    for piece in options.chain([quoted(url)]) {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + piece.len() <= WIDTH - " \\".len() => {
                line.push(' ');
                line.push_str(&piece);
            }
            _ => lines.push(format!("  {piece}")),
        }
    }
    lines.join(" \\\n")
}

/// Quoted for a shell.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._/:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_broken_into_lines() {
        let options: Vec<_> = (0..12).map(|n| ("-d", format!("parameter{n}=value"))).collect();
        let command = curl(&options, "https://tts.example/token");
        let lines: Vec<_> = command.lines().collect();
        assert!(lines.len() > 3 && lines.iter().all(|line| line.len() <= WIDTH), "{command}");
        let (last, others) = lines.split_last().unwrap();
        assert!(others.iter().all(|line| line.ends_with(" \\")) && !last.ends_with('\\'), "{command}");
        assert!(last.ends_with("https://tts.example/token"), "{command}");
    }

    #[test]
    fn a_long_value_has_its_own_line() {
        let path = format!("/{}", "x".repeat(120));
        let command = curl(&[("--cacert", path.clone()), ("-d", "a=b".to_owned())], "https://t");
        assert_eq!(command, format!("curl -sS \\\n  --cacert {path} \\\n  -d a=b https://t"));
    }

    #[test]
    fn values_are_quoted_for_the_shell() {
        assert_eq!(quoted("subject_token@/home/a/t.jwt"), "subject_token@/home/a/t.jwt");
        assert_eq!(quoted("/home/a b/it's"), r"'/home/a b/it'\''s'");
        assert_eq!(quoted("$HOME"), "'$HOME'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn tokens_are_read_from_files_and_subjects_are_encoded() {
        let path = |name: &str| format!("/q/{name}");
        let call = Call { client: "gateway", scope: "order.refund", proof: Proof::AccessToken("access-token.jwt") };
        let form = call.form(path);
        assert!(form.contains(&("--data-urlencode", "subject_token@/q/access-token.jwt".to_owned())), "{form:?}");
        assert!(form.contains(&("-d", format!("subject_token_type={ACCESS_TOKEN}"))), "{form:?}");
        let call = Call { proof: Proof::Subject("bob+x@d.example"), ..call };
        let form = call.form(path);
        assert!(form.contains(&("--data-urlencode", "requested_subject=bob+x@d.example".to_owned())), "{form:?}");
        assert!(form.contains(&("-d", "grant_type=client_credentials".to_owned())), "{form:?}");
    }
}
