//! The audit log: one line an event, written before the outcome that it reports leaves the service.
//!
//! In: an [`Event`]. Out: a line in the log. It never contains a token, a key or the private part of a certificate: where a
//! token could be put by mistake, the type is [`TokenDigest`].

mod decision;

use base64::display::Base64Display;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{SecondsFormat, Utc};
use serde::{Serialize, Serializer};

pub use self::decision::{AuditContext, Decision, Endpoint};
use crate::blocks::Block;
use crate::keys::event::{KeyChange, KeyEvent};
use writ_platform::telemetry::{Format, Line, Log, LogError};

/// SHA-256 of a compact token as sent, written in base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Of this SHA-256.
    pub fn new(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }
}

impl Serialize for TokenDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &URL_SAFE_NO_PAD))
    }
}

/// An event of the audit log.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A token is about to be sent to its client.
    TokenIssued(Box<Decision<'a>>),
    /// `POST /token` was refused.
    TokenRefused(Box<Decision<'a>>),
    /// `POST /introspect` was answered or refused.
    TokenIntrospected(Box<Decision<'a>>),
    /// A key was created in the state `next`.
    KeyCreated {
        /// Its key id.
        kid: String,
    },
    /// `next` became `current`.
    KeyRotated {
        /// The key that signs from now on.
        kid: String,
        /// The key that no longer signs.
        previous: String,
    },
    /// A key was revoked: nothing that it signed is accepted.
    KeyRevoked {
        /// Its key id.
        kid: String,
    },
    /// Changed policies took effect.
    PoliciesReloaded {
        /// Their digest.
        policies: String,
        /// The number of clients in them.
        clients: usize,
    },
    /// Changed policies were refused; the previous ones stay in effect.
    PoliciesRejected {
        /// The number of problems in them.
        problems: usize,
        /// The first problem.
        first: String,
    },
    /// Changed certificates, trust anchors or revocation lists took effect, on the listeners or for outbound calls.
    CertificatesReloaded,
    /// An operator added a block.
    BlockAdded {
        /// Its selectors, written as members of the event.
        #[serde(flatten)]
        block: Block,
        /// When it ends, epoch seconds; absent: never.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<u64>,
    },
    /// An operator removed a block.
    BlockRemoved {
        /// Its selectors, written as members of the event.
        #[serde(flatten)]
        block: Block,
        /// When it would have ended, epoch seconds; absent: never.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<u64>,
    },
    /// An operator confirmed the system's clock.
    ClockTrusted {
        /// The time confirmed, epoch seconds.
        now: u64,
    },
    /// The store was rebuilt from the key files, or accepted as it is.
    StoreRepaired {
        /// Whether the ledger was accepted as it is: uses counted since then are lost.
        trust_ledger: bool,
        /// The number of keys restored.
        keys: usize,
        /// The number of kill-switch entries that could be read and are in force.
        blocks: u64,
    },
    /// All records were moved to another store.
    StoreMoved {
        /// The store that is no longer served.
        from: String,
        /// The one that has the records.
        to: String,
        /// How many tokens on record.
        tokens: u64,
        /// How many counts of uses.
        uses: u64,
        /// How many used single-use identifiers.
        single_use: u64,
    },
}

impl Event<'_> {
    /// Rejected policies need an operator, so they stand out.
    fn level(&self) -> &'static str {
        if matches!(self, Self::PoliciesRejected { .. }) { "ERROR" } else { "INFO" }
    }
}

impl From<KeyEvent> for Event<'_> {
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
    /// Events are written to `log`, among its other lines.
    pub fn new(log: Log) -> Self {
        Self(log)
    }

    /// Fails if the log is known to be unavailable, so that no use is counted that could not be recorded.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn check(&self) -> Result<(), LogError> {
        self.0.check()
    }

    /// Writes `event`; the line has left the process when this returns.
    ///
    /// # Errors
    /// [`LogError`]: what the event reports must not take effect.
    pub async fn write(&self, event: &Event<'_>) -> Result<(), LogError> {
        let line = match self.0.format() {
            Format::Json => Line::json(&Head::of(event), event),
            Format::Text => text_line(event),
        };
        self.0.write(line.map_err(|_| LogError)?).await
    }
}

/// The members of a JSON line before those of the event.
#[derive(Serialize)]
struct Head {
    timestamp: String,
    level: &'static str,
    target: &'static str,
}

impl Head {
    fn of(event: &Event<'_>) -> Self {
        Self { timestamp: time(), level: event.level(), target: "audit" }
    }
}

fn time() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// For people, who read few lines: its cost does not matter.
fn text_line(event: &Event<'_>) -> Result<Line, serde_json::Error> {
    let members = serde_json::to_value(event)?;
    let members = members.as_object().into_iter().flatten().map(|(name, value)| format!(" {name}={value}"));
    let (time, level) = (time(), event.level());
    Ok(Line::escaped(&format!("{time} {level:>5} audit:{}", members.collect::<String>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_logged_by_its_selectors() {
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
