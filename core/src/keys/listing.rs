//! Keys as listed, exported and imported: `keys list`, `keys export`, `keys import`.

use chrono::DateTime;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use writ_verifier::json::{self, JsonError, Limits};

use super::SigningAlgorithm;
use super::public::{Kid, PublicKey};
use super::ring::{KeyLife, KeyState, KeyTimes, Ring, Span};
use crate::lifetime::MAX_LIFETIME;
use writ_platform::clock::Timestamp;

/// One line of `keys list`. Times that are in the future or unknown are absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyLine {
    /// The key id.
    pub kid: Kid,
    /// The algorithm that it signs with.
    pub alg: Option<SigningAlgorithm>,
    /// The state in the life of the key.
    pub state: KeyState,
    /// When it was generated.
    #[serde(with = "rfc3339")]
    pub(crate) created_at: Option<Timestamp>,
    /// The first second in which it signed.
    #[serde(with = "rfc3339")]
    pub(crate) signs_from: Option<Timestamp>,
    /// The last second in which it signed.
    #[serde(with = "rfc3339")]
    pub(crate) signs_until: Option<Timestamp>,
    /// For a key that no longer signs: when it will leave the JWKS.
    #[serde(with = "rfc3339")]
    pub(crate) published_until: Option<Timestamp>,
    /// For a key that no longer signs: until when it validates tokens for redemption.
    #[serde(with = "rfc3339")]
    pub(crate) retained_until: Option<Timestamp>,
}

/// Public halves and lives of keys, in the form for transfer from one store to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Published keys first.
    pub keys: Vec<ExportedKey>,
}

/// A JWK with the known facts of its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct ExportedKey {
    /// The public key, as in the JWKS.
    #[serde(flatten)]
    pub public: PublicKey,
    /// The state of the key when it was exported.
    pub state: KeyState,
    /// The first second in which it signed.
    #[serde(with = "rfc3339")]
    pub(crate) signs_from: Option<Timestamp>,
    /// The last second in which it signed; `None` while it signs.
    #[serde(with = "rfc3339")]
    pub(crate) signs_until: Option<Timestamp>,
}

/// Why an export cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Not JSON, or not an object with public keys. Private members are refused too.
    #[error("this is not an export of public keys: {0}")]
    Form(#[from] JsonError),
    /// A key in a state after `next` has no signing times.
    #[error("the key {0} has no times at which it signed")]
    Times(Kid),
}

impl Export {
    pub(super) fn of(ring: &Ring) -> Self {
        let exported = |life: KeyLife| {
            Some(ExportedKey {
                public: life.public()?.clone(),
                state: life.state(),
                signs_from: life.signed().map(Span::from),
                signs_until: signed_until(&life),
            })
        };
        Self { keys: ring.lives().filter_map(exported).collect() }
    }

    /// Parses the output of `keys export`.
    pub fn parse(text: &[u8]) -> Result<Self, ImportError> {
        Ok(json::from_slice(text, Limits::DOCUMENT)?)
    }

    /// The lives of these keys as of `now`: keys that signed elsewhere until then no longer sign.
    pub(super) fn lives(self, now: Timestamp) -> Result<Vec<KeyLife>, ImportError> {
        self.keys.into_iter().filter(|key| key.state != KeyState::Next).map(|key| key.life(now)).collect()
    }
}

impl ExportedKey {
    fn life(self, now: Timestamp) -> Result<KeyLife, ImportError> {
        let until = self.signs_until.or((self.state == KeyState::Current).then_some(now));
        let signed = self.signs_from.zip(until).map(|(from, until)| Span::new(from, until));
        match (self.state, signed) {
            (KeyState::Revoked, signed) => Ok(KeyLife::revoked(self.public, signed, now)),
            (_, Some(signed)) => Ok(KeyLife::historical(self.public, signed, MAX_LIFETIME)),
            (_, None) => Err(ImportError::Times(self.public.kid().clone())),
        }
    }
}

impl TryFrom<Map<String, Value>> for ExportedKey {
    type Error = serde_json::Error;

    /// The remaining members must be exactly those of a public JWK.
    fn try_from(mut members: Map<String, Value>) -> Result<Self, serde_json::Error> {
        let mut take = |name| members.remove(name).unwrap_or_default();
        let (state, from, until) = (take("state"), take("signs_from"), take("signs_until"));
        Ok(Self {
            state: serde_json::from_value(state)?,
            signs_from: rfc3339::deserialize(from)?,
            signs_until: rfc3339::deserialize(until)?,
            public: serde_json::from_value(Value::Object(members))?,
        })
    }
}

/// The lines of `keys list`: every key of which more than the `kid` is known.
pub(super) fn list(ring: &Ring, times: KeyTimes) -> Vec<KeyLine> {
    let next_rotation = ring.promotion_due(times);
    let known = ring.lives().filter(|life| life.state() != KeyState::Forgotten);
    known.map(|life| line(&life, times, next_rotation)).collect()
}

fn line(life: &KeyLife, times: KeyTimes, next_rotation: Timestamp) -> KeyLine {
    let state = life.state();
    let signs_until = signed_until(life);
    let kept = matches!(state, KeyState::Previous | KeyState::Historical);
    KeyLine {
        kid: life.kid().clone(),
        alg: life.public().map(PublicKey::algorithm),
        state,
        created_at: life.created_at(),
        signs_from: life.signed().map(Span::from),
        signs_until,
        published_until: (state == KeyState::Previous).then_some(next_rotation),
        retained_until: signs_until.filter(|_| kept).map(|until| until + times.retention()),
    }
}

/// The actual end of the span, not the planned one.
fn signed_until(life: &KeyLife) -> Option<Timestamp> {
    life.signed().filter(|_| life.state() != KeyState::Current).map(Span::until)
}

/// Times in RFC 3339; `null` for `None`.
mod rfc3339 {
    use super::{DateTime, Serialize, Serializer, Timestamp};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(|time| time.to_string()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        let text: Option<String> = serde::Deserialize::deserialize(deserializer)?;
        let epoch = |text: String| {
            let time = DateTime::parse_from_rfc3339(&text).map_err(serde::de::Error::custom)?;
            u64::try_from(time.timestamp()).map_err(serde::de::Error::custom)
        };
        Ok(text.map(epoch).transpose()?.map(Timestamp::from_epoch))
    }
}
