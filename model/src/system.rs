//! Two instances over a cluster, at one instant.

use crate::cluster::Cluster;
use crate::restated::{Key, KeyTimes, Others, Outcome, Ring, Time, Use, Uses, spend};

/// The number of instances.
pub const INSTANCES: usize = 2;
/// The number of keys that a run can use up.
pub(crate) const KEYS: usize = 6;

/// How often each event may happen, and the settings of the service.
#[derive(Debug, Clone, Copy)]
pub struct System {
    /// `max_uses`.
    pub max_uses: u8,
    /// When keys change.
    pub times: KeyTimes,
    /// How long a heartbeat is good for.
    pub lease: Time,
    /// How often each event may happen.
    pub bounds: Bounds,
    /// A mistake of the design, to be found.
    pub mistake: Option<Mistake>,
}

/// How often each event may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Bounds {
    /// The clock moves on.
    pub ticks: u8,
    /// A client asks for a redemption.
    pub redemptions: u8,
    /// An instance is promoted to sign with its next key.
    pub promotions: u8,
    /// An instance dies.
    pub crashes: u8,
    /// An answer of the database does not arrive.
    pub losses: u8,
    /// A node dies.
    pub node_deaths: u8,
    /// A primary is restarted without a fail-over.
    pub restarts: u8,
    /// A standby is promoted, whether or not the primary is dead.
    pub fail_overs: u8,
    /// Whether instances report to the database, at any time; if not, the leases of the start hold for ever.
    pub heartbeats: bool,
}

/// What can be got wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The token is signed and sent, then its use is counted.
    CountAfterSigning,
    /// A retry counts another use.
    RetryCounts,
    /// A standby is promoted while the other one still follows the old primary.
    PromotionWithoutFencing,
    /// A cancelled commit, which is on the primary alone, is taken for a commit.
    CancelledCommitCounts,
    /// A repeat reads and does not wait for the quorum.
    RepeatOnlyReads,
    /// A key is promoted although an instance has not announced that it serves it.
    PromotionWithoutAnnouncement,
    /// An instance whose lease has ended is forgotten at once.
    EndedLeaseIsForgotten,
}

/// Everything at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub(crate) now: Time,
    pub(crate) cluster: Cluster,
    pub(crate) instances: [Instance; INSTANCES],
    pub(crate) history: History,
    pub(crate) left: Bounds,
}

/// One instance of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    /// The ring in force; `None` if it is not running.
    pub(crate) ring: Option<Ring>,
    /// The first instant in which it is not ready unless it has reported again.
    pub(crate) lease_until: Time,
    /// What it knows of the other instance.
    pub(crate) others: Option<Others>,
    /// The highest timeline that it has seen.
    pub(crate) timeline: u8,
    pub(crate) statement: Option<Statement>,
}

/// A statement that has no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Statement {
    pub(crate) request: Request,
    pub(crate) sent: Option<Sent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    Redeem(Use),
    Promote(Ring),
}

/// Where a statement waits for the quorum, and what its answer will be. `None` in its place: the outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sent {
    pub(crate) node: usize,
    pub(crate) position: u8,
    pub(crate) outcome: Option<Outcome>,
}

/// What the outside world has seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct History {
    /// The distinct sets of claims that were signed, in order.
    pub(crate) granted: Vec<Claims>,
    /// The greatest number of a use that was acknowledged to an instance.
    pub(crate) acknowledged_uses: u8,
    /// The greatest version of a ring that was acknowledged to an instance.
    pub(crate) acknowledged_ring: u8,
    /// The first instant in which no token of a key is alive.
    pub(crate) alive_until: [Time; KEYS],
    /// JWKS in the caches of verifiers, and the first instant in which they are not used.
    pub(crate) cached: Vec<(Ring, Time)>,
    /// An answer was repeated after a fail-over.
    pub(crate) repeated: bool,
}

/// The claims of a redeemed token that can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Claims {
    pub(crate) number: u8,
    pub(crate) client: u8,
    pub(crate) iat: Time,
    pub(crate) exp: Time,
}

impl System {
    /// Whether an instance may sign: its lease holds, or its current key is not long past its time.
    fn may_sign(&self, instance: &Instance, ring: &Ring, now: Time) -> bool {
        now < instance.lease_until || now < ring.planned_until + self.times.jwks_max_age
    }

    pub(crate) fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// The decision of the ledger.
    pub(crate) fn spend(&self, before: Option<Uses>, this: Use, now: Time) -> (Outcome, Option<Uses>) {
        let forget_client = |uses: Uses| Uses { last: Use { client: u8::MAX, ..uses.last }, ..uses };
        let before = if self.has(Mistake::RetryCounts) { before.map(forget_client) } else { before };
        spend(before, this, self.max_uses, now)
    }

    /// Records what running instances can sign and serve at this instant.
    pub(crate) fn observe(&self, state: &mut State) {
        let now = state.now;
        state.history.cached.retain(|(_, until)| *until > now);
        for instance in &state.instances {
            let Some(ring) = instance.ring else { continue };
            if self.may_sign(instance, &ring, now) {
                state.history.alive_until[usize::from(ring.current)] = now + self.times.max_lifetime;
            }
            if instance.is_ready(now) {
                let until = now + self.times.jwks_max_age;
                match state.history.cached.iter_mut().find(|(cached, _)| *cached == ring) {
                    Some((_, old)) => *old = until,
                    None => state.history.cached.push((ring, until)),
                }
            }
        }
        state.history.cached.sort_by_key(|(ring, _)| ring.version);
    }
}

impl Bounds {
    /// The timeline of the fail-over that was just taken off these bounds.
    pub(crate) fn timeline(&self, all: Self) -> u8 {
        1 + all.fail_overs - self.fail_overs
    }
}

impl History {
    pub(crate) fn grant(&mut self, number: u8, Use { client, iat, exp, .. }: Use) {
        let claims = Claims { number, client, iat, exp };
        if !self.granted.contains(&claims) {
            self.granted.push(claims);
        }
    }
}

impl Instance {
    pub(crate) fn is_ready(&self, now: Time) -> bool {
        self.ring.is_some() && now < self.lease_until
    }
}

impl State {
    /// The last time at which a token of a key is alive is still to come.
    pub(crate) fn is_alive(&self, key: Key) -> bool {
        self.now < self.history.alive_until[usize::from(key)]
    }
}

impl Statement {
    /// After its answer was lost. The outcome of a redemption is asked for again; that of a promotion is what the next
    /// heartbeat finds.
    pub(crate) fn unanswered(self) -> Option<Self> {
        match self.request {
            Request::Redeem(_) => Some(Self { sent: None, ..self }),
            Request::Promote(_) => None,
        }
    }
}
