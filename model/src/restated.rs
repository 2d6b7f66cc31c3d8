//! The decisions of the service as pure functions, restated: in the service they are inside `writ_store::ledger`, the SQL of
//! the PostgreSQL store and `writ_core::keys::ring`, together with records and key material that a model has no use for.
//!
//! `tests/restated.rs` compares [`spend`] with the ledger itself.

/// An instant, or a number of instants. Nothing happens between two of them that the model could tell apart.
pub type Time = u8;

/// A key of the ring, by number.
pub type Key = u8;

/// The uses counted for the transaction and purpose, and the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uses {
    /// How many.
    pub count: u8,
    /// The last one.
    pub last: Use,
}

/// A use, as counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Use {
    /// Who redeems.
    pub client: u8,
    /// The presented token.
    pub presented: u8,
    /// `iat` of the new token.
    pub iat: Time,
    /// `exp` of the new token.
    pub exp: Time,
}

/// The outcome of a redemption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A use was counted, with this number.
    Spent(u8),
    /// The last use is repeated.
    Repeated(u8, Use),
    /// All uses are spent.
    Exhausted,
}

/// Spends a use at `now` or repeats the last one: the outcome, and the uses to record if they change.
///
/// `writ_store::ledger::decide_spend` without records of tokens and without the check of the clock.
pub fn spend(before: Option<Uses>, this: Use, max_uses: u8, now: Time) -> (Outcome, Option<Uses>) {
    if let Some(uses) = before.filter(|uses| is_repeated_by(uses.last, this, now)) {
        return (Outcome::Repeated(uses.count, uses.last), None);
    }
    let count = before.map_or(0, |uses| uses.count);
    if count >= max_uses {
        return (Outcome::Exhausted, None);
    }
    (Outcome::Spent(count + 1), Some(Uses { count: count + 1, last: this }))
}

/// The same client presents the same token, and the token issued for this use has not expired.
fn is_repeated_by(last: Use, this: Use, now: Time) -> bool {
    last.client == this.client && last.presented == this.presented && now < last.exp
}

/// When keys change.
#[derive(Debug, Clone, Copy)]
pub struct KeyTimes {
    /// How long a key signs.
    pub rotation_period: Time,
    /// How long verifiers may cache a JWKS.
    pub jwks_max_age: Time,
    /// The lifetime of tokens.
    pub max_lifetime: Time,
}

impl KeyTimes {
    /// Until verifiers have no older JWKS in their caches and what was signed by an older ring has expired.
    fn settling(self) -> Time {
        self.jwks_max_age.max(self.max_lifetime)
    }
}

/// The ring as far as it decides what is signed and published: `writ_core::keys::ring::Ring`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ring {
    /// Increases by one with each transition.
    pub version: u8,
    /// Published, so that verifiers hold it before it signs.
    pub next: Key,
    /// Since when `next` is certainly published by the instance that made it.
    pub published_from: Time,
    /// The only key that signs.
    pub current: Key,
    /// Its first instant.
    pub signs_from: Time,
    /// Its planned end.
    pub planned_until: Time,
    /// Still published, because its tokens may be alive.
    pub previous: Option<Previous>,
}

/// A key that signs no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Previous {
    /// The key.
    pub key: Key,
    /// The last instant in which it signed.
    pub signed_until: Time,
    /// The planned end of its span.
    pub planned_until: Time,
}

impl Ring {
    /// The ring of a first start.
    pub fn first(times: KeyTimes) -> Self {
        let planned_until = times.rotation_period;
        Self { version: 1, next: 1, published_from: 0, current: 0, signs_from: 0, planned_until, previous: None }
    }

    /// The keys in the JWKS.
    pub fn publishes(&self, key: Key) -> bool {
        key == self.next || key == self.current || self.previous.is_some_and(|previous| previous.key == key)
    }

    /// The time from which `next` may sign and `previous` need no longer be published.
    pub fn rotatable_from(&self, times: KeyTimes) -> Time {
        let led = self.published_from + times.jwks_max_age + 1;
        let trailed = self.previous.map(|key| key.signed_until + times.max_lifetime + times.jwks_max_age);
        trailed.map_or(led, |trailed| trailed.max(led))
    }

    /// `next` signs from `now`, `current` becomes `previous`, and a fresh key is introduced.
    pub fn promote(&self, times: KeyTimes, now: Time) -> Option<Self> {
        if now < self.rotatable_from(times) {
            return None;
        }
        let previous = Previous { key: self.current, signed_until: now, planned_until: self.planned_until };
        Some(Self {
            version: self.version + 1,
            next: self.next + 1,
            published_from: now,
            current: self.next,
            signs_from: now,
            planned_until: now + times.rotation_period,
            previous: Some(previous),
        })
    }
}

/// What an instance has announced of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The first instant in which it no longer holds.
    pub until: Time,
    /// The version of the ring that it serves; 0 before it serves one.
    pub serves: u8,
}

/// What an instance knows of the others by its last heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Others {
    /// The ring that this instance served then.
    pub version: u8,
    /// Since when all others that live certainly serve it too.
    pub since: Time,
    /// Whether one whose lease has ended may sign with the keys of an older ring.
    pub may_sign_with_older: bool,
}

impl Others {
    /// What follows from the leases of the other instances at a heartbeat; `None` if one that lives serves an older ring.
    pub fn at_heartbeat(
        before: Option<Self>,
        leases: impl Iterator<Item = Lease> + Clone,
        version: u8,
        now: Time,
    ) -> Option<Self> {
        if leases.clone().filter(|lease| now < lease.until).any(|lease| lease.serves < version) {
            return None;
        }
        let may_sign_with_older = leases.into_iter().any(|lease| lease.serves < version);
        // One that is back has only now stopped to sign with the older keys.
        let is_same = |before: &Self| before.version == version && before.may_sign_with_older == may_sign_with_older;
        let since = before.filter(is_same).map_or(now, |before| before.since);
        Some(Self { version, since, may_sign_with_older })
    }

    /// Whether `ring` may be promoted as far as the other instances are concerned.
    ///
    /// A promotion takes the previous key from the JWKS. An instance that is cut off from the database may still sign with
    /// it, for as long as a ring in memory is used.
    pub fn admit_promotion(self, ring: &Ring, times: KeyTimes, now: Time) -> bool {
        let stops = |previous: Previous| previous.planned_until + times.jwks_max_age + times.max_lifetime;
        self.version == ring.version
            && self.since + times.settling() <= now
            && (!self.may_sign_with_older || ring.previous.is_none_or(|previous| stops(previous) <= now))
    }
}
