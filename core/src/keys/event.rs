//! Changes of keys, for the audit log.

use super::public::Kid;
use super::ring::{Found, PastKey, Ring};
use writ_platform::clock::Timestamp;

/// A change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEvent {
    /// The time of the change.
    pub at: Timestamp,
    /// The kind of change.
    pub change: KeyChange,
}

/// The kinds of change that are audited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChange {
    /// A new key is published.
    Created {
        /// The new key.
        kid: Kid,
    },
    /// The signing key was replaced.
    Rotated {
        /// The key that signed.
        from: Kid,
        /// The key that signs now.
        to: Kid,
    },
    /// A key no longer validates anything.
    Revoked {
        /// The revoked key.
        kid: Kid,
    },
}

impl KeyEvent {
    pub(super) fn created(kid: &Kid, at: Timestamp) -> Self {
        Self { at, change: KeyChange::Created { kid: kid.clone() } }
    }

    /// The changes from one ring to its successor.
    pub(super) fn between(old: &Ring, new: &Ring, at: Timestamp) -> Vec<Self> {
        let (from, to) = (old.current().public().kid(), new.current().public().kid());
        let rotated = (from != to).then(|| KeyChange::Rotated { from: from.clone(), to: to.clone() });
        let is_ours = |kid: &Kid| !matches!(old.find(kid.as_str()), Found::Unknown | Found::Revoked);
        let revoked = new.past().iter().filter(|(kid, key)| matches!(key, PastKey::Revoked(_)) && is_ours(kid));
        let created = [new.current(), new.next()].into_iter().map(|key| key.public().kid());
        let created = created.filter(|kid| old.find(kid.as_str()) == Found::Unknown);
        let changes = revoked.map(|(kid, _)| KeyChange::Revoked { kid: kid.clone() });
        let changes = changes.chain(rotated).chain(created.map(|kid| KeyChange::Created { kid: kid.clone() }));
        changes.map(|change| Self { at, change }).collect()
    }
}
