//! The events, one line each, written before what they tell of leaves.
//!
//! A line never holds a token, a key or a certificate's private part: where a token could be put by mistake, the type
//! is [`TokenDigest`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::blocks::Block;
use crate::keys::event::{KeyChange, KeyEvent};
use writ_platform::telemetry::{Format, Log, LogError};

/// SHA-256 of a compact token as sent, in base64url.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TokenDigest(String);

impl TokenDigest {
    /// The digest of `token`.
    pub fn of(token: &str) -> Self {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        Self(URL_SAFE_NO_PAD.encode(hash))
    }
}

/// What became of one `POST /token` or `POST /introspect`, as far as it came. What does not apply is absent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Decision {
    /// The request, also in its answer's `X-Request-Id`.
    pub request_id: String,
    /// The trace that it belongs to (`traceparent`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// `x5t#S256` of the certificate that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// The kind of proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
    /// The purposes asked for, or those of the token that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// `ignored`: the subject token names an actor, and the policy says that this does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actors: Option<&'static str>,
    /// Who issued the subject token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_issuer: Option<String>,
    /// The subject token, as sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_token_sha256: Option<TokenDigest>,
    /// The transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<String>,
    /// Whom it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The key that signed the new token, or the one that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// When that token expires, epoch seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// That token, as sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<TokenDigest>,
    /// Whether the token that was asked about is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Which use of the right to redeem.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub use_number: Option<u32>,
    /// Seconds since the presented token expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delayed_by: Option<u64>,
    /// The state of the key that signed the presented token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_state: Option<&'static str>,
    /// The last use was repeated: nothing was counted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retry: bool,
    /// What the external decision point said: `allowed`, `denied`, `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pdp: Option<&'static str>,
    /// The code of a refusal's kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The same as the client was told it (`error_description`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The digest of the policies it was decided by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies: Option<String>,
}

/// Everything that is recorded.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A token is about to leave.
    TokenIssued(Box<Decision>),
    /// None will.
    TokenRefused(Box<Decision>),
    /// A client asked about a token.
    TokenIntrospected(Box<Decision>),
    /// A key was made.
    KeyCreated {
        /// The key.
        kid: String,
    },
    /// `next` became `current`.
    KeyRotated {
        /// The key that signs from now on.
        kid: String,
        /// The key that has stopped.
        previous: String,
    },
    /// A key serves nothing any more.
    KeyRevoked {
        /// The key.
        kid: String,
    },
    /// Other policies are in force.
    PoliciesReloaded {
        /// Their digest.
        policies: String,
        /// How many clients they have.
        clients: usize,
    },
    /// Changed policies were refused; those before stay in force.
    PoliciesRejected {
        /// How many mistakes they have.
        problems: usize,
        /// The first of them.
        first: String,
    },
    /// Other certificates, trust or revocations are in force, on the listeners or for calls to others.
    CertificatesReloaded,
    /// An operator stopped something.
    BlockAdded {
        /// What: the selectors stand among the event's members.
        #[serde(flatten)]
        block: Block,
        /// Until when, epoch seconds; absent: for good.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<u64>,
    },
    /// An operator let it go on.
    BlockRemoved {
        /// What had been stopped.
        #[serde(flatten)]
        block: Block,
        /// Until when it would have been, epoch seconds; absent: for good.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<u64>,
    },
    /// An operator took the present time as right.
    ClockTrusted {
        /// It, epoch seconds.
        now: u64,
    },
    /// The store was made anew from the key files, or taken as it is.
    StoreRepaired {
        /// Whether the ledger was taken as it is: uses counted since are forgotten.
        trust_ledger: bool,
        /// Keys whose history was restored.
        keys: usize,
        /// Entries of the kill switch that could still be read and are in force.
        blocks: u64,
    },
}

impl Event {
    /// What nobody asked for and somebody must put right is no information among others.
    fn level(&self) -> &'static str {
        if matches!(self, Self::PoliciesRejected { .. }) { "ERROR" } else { "INFO" }
    }
}

impl From<KeyEvent> for Event {
    fn from(event: KeyEvent) -> Self {
        match event.change {
            KeyChange::Created { kid } => Self::KeyCreated { kid: kid.to_string() },
            KeyChange::Rotated { from, to } => Self::KeyRotated { kid: to.to_string(), previous: from.to_string() },
            KeyChange::Revoked { kid } => Self::KeyRevoked { kid: kid.to_string() },
        }
    }
}

/// Writes events to the log.
#[derive(Debug, Clone)]
pub struct Audit(Log);

impl Audit {
    /// Events go to `log`, among its other lines.
    pub fn new(log: Log) -> Self {
        Self(log)
    }

    /// Refuses if it is known that nothing can be recorded.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn check(&self) -> Result<(), LogError> {
        self.0.check()
    }

    /// Writes `event`; it has left the process when this returns.
    ///
    /// # Errors
    /// [`LogError`]: what the event tells of must not happen.
    pub async fn write(&self, event: &Event) -> Result<(), LogError> {
        let Ok(Value::Object(members)) = serde_json::to_value(event) else { return Err(LogError) };
        let line = match self.0.format() {
            Format::Json => json_line(event.level(), members),
            Format::Text => text_line(event.level(), &members),
        };
        self.0.write(line).await
    }
}

fn time() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn json_line(level: &str, event: Map<String, Value>) -> String {
    let mut line = Map::new();
    line.insert("timestamp".into(), time().into());
    line.insert("level".into(), level.into());
    line.insert("target".into(), "audit".into());
    line.extend(event);
    Value::Object(line).to_string()
}

fn text_line(level: &str, event: &Map<String, Value>) -> String {
    let members = event.iter().map(|(name, value)| format!(" {name}={value}"));
    format!("{} {level:>5} audit:{}", time(), members.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_apply_is_absent_and_members_stand_at_the_top() {
        let decision = Decision { request_id: "r".into(), reason: Some("scope_malformed"), ..Decision::default() };
        let line = serde_json::to_value(Event::TokenRefused(Box::new(decision))).unwrap();
        assert_eq!(line, serde_json::json!({"event":"token_refused","request_id":"r","reason":"scope_malformed"}));
    }

    #[test]
    fn a_block_is_told_by_its_selectors() {
        let line = |block, until| {
            let block = serde_json::from_value(block).unwrap();
            serde_json::to_value(Event::BlockAdded { block, until }).unwrap()
        };
        assert_eq!(
            line(serde_json::json!({"sub":"u-1","client":"job"}), Some(1_793_000_060)),
            serde_json::json!({"event":"block_added","sub":"u-1","client":"job","until":1_793_000_060})
        );
        assert_eq!(line(serde_json::json!({"all":true}), None), serde_json::json!({"event":"block_added","all":true}));
    }
}
