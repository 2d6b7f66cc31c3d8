//! Two instances over a cluster, at one instant.

use std::time::Duration;

use writ_core::keys::ring::KeyTimes;
use writ_platform::clock::Timestamp;
use writ_store::cluster::Peers;
use writ_store::ledger::{SpendOutcome, Use, Uses};

use crate::cluster::Cluster;
use crate::ring::{Key, Ring};
use crate::statements;

/// The number of instances.
pub const INSTANCES: usize = 2;
/// The number of keys that a run can use up.
pub(crate) const KEYS: usize = 6;

/// The clients.
pub(crate) const CLIENTS: [&str; 2] = ["a", "b"];
/// The token that they redeem.
const PRESENTED: &[u8; 32] = &[1; 32];

/// How often each event may happen, and the settings of the service.
#[derive(Debug, Clone, Copy)]
pub struct System {
    /// `max_uses`.
    pub max_uses: u32,
    /// When keys change.
    pub times: KeyTimes,
    /// How long a heartbeat is good for.
    pub lease: Duration,
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
    /// An instance stops as it was asked to.
    pub leaves: u8,
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
    /// An instance that learns of a promotion late does not record until when it signed with the previous key.
    SpanNotProlonged,
    /// An instance that comes back has its lease again before it has followed the ring.
    LeaseBeforeFollowing,
    /// An instance that was started again knows nothing of what it did before.
    RestartForgets,
    /// An instance that stops as it was asked to is forgotten as soon as it has the ring on record.
    LeavingIsForgotten,
}

/// Everything at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub(crate) now: Timestamp,
    pub(crate) cluster: Cluster,
    pub(crate) instances: [Instance; INSTANCES],
    pub(crate) history: History,
    pub(crate) left: Bounds,
}

/// One instance of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Instance {
    /// The ring in force; `None` if it is not running.
    pub(crate) ring: Option<Ring>,
    /// Since when it publishes the next key.
    pub(crate) next_since: Timestamp,
    /// The first instant in which it does not hold its lease; `None` if it never had one, and so issues nothing yet.
    pub(crate) lease_until: Option<Timestamp>,
    /// What it knows of the other instance.
    pub(crate) peers: Peers,
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
    Redeem(Use<'static>),
    /// Replaces the ring; from `end` on, the current key signs for no later instant.
    Swap {
        ring: Ring,
        end: Timestamp,
    },
}

/// Where a statement waits for the quorum, and what its answer will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sent {
    pub(crate) node: usize,
    pub(crate) position: u8,
    /// `None` for a ring: it is replaced.
    pub(crate) outcome: Option<SpendOutcome>,
}

/// What the outside world has seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct History {
    /// The distinct sets of claims that were signed, in order.
    pub(crate) granted: Vec<Claims>,
    /// The greatest number of a use that was acknowledged to an instance.
    pub(crate) acknowledged_uses: u32,
    /// The greatest version of a ring that was acknowledged to an instance.
    pub(crate) acknowledged_ring: u64,
    /// The first instant in which no token of a key is alive.
    pub(crate) alive_until: [Timestamp; KEYS],
    /// JWKS in the caches of verifiers, by their next key, and the first instant in which they are not used.
    pub(crate) cached: Vec<(Key, Timestamp)>,
    /// An answer was repeated after a fail-over.
    pub(crate) repeated: bool,
}

/// The claims of a redeemed token that can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Claims {
    pub(crate) number: u32,
    pub(crate) client: &'static str,
    pub(crate) iat: Timestamp,
    pub(crate) exp: Timestamp,
}

impl System {
    pub(crate) fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// The use that a client asks for.
    pub(crate) fn next_use(&self, now: Timestamp) -> Use<'static> {
        Use { client: CLIENTS[0], presented: PRESENTED, iat: now, exp: now + self.times.max_lifetime() }
    }

    /// The decision of the ledger.
    pub(crate) fn redeem(
        &self,
        before: Option<Uses<'static>>,
        this: Use<'static>,
    ) -> (SpendOutcome, Option<Uses<'static>>) {
        let forget_client = |uses: Uses<'static>| Uses { last: Use { client: "", ..uses.last }, ..uses };
        let before = if self.has(Mistake::RetryCounts) { before.map(forget_client) } else { before };
        statements::redeem(before, this, self.max_uses)
    }

    /// The instant for which an instance signs; `None` if it does not.
    fn signs_at(&self, instance: &Instance, ring: &Ring, now: Timestamp) -> Option<Timestamp> {
        instance.lease_until?;
        let at = match instance.statement {
            Some(Statement { request: Request::Swap { end, .. }, .. }) => end,
            _ => now,
        };
        (at <= ring.schedule.overdue_after(self.times, instance.is_ready(now))).then_some(at)
    }

    /// Records what running instances can sign and serve at this instant.
    pub(crate) fn observe(&self, state: &mut State) {
        let now = state.now;
        state.history.cached.retain(|(_, until)| *until > now);
        for instance in &state.instances {
            let Some(ring) = instance.ring else { continue };
            if let Some(at) = self.signs_at(instance, &ring, now) {
                let alive_until = &mut state.history.alive_until[usize::from(ring.current())];
                *alive_until = (at + self.times.max_lifetime()).max(*alive_until);
            }
            if instance.is_ready(now) {
                let until = now + self.times.jwks_max_age();
                match state.history.cached.iter_mut().find(|(next, _)| *next == ring.next) {
                    Some((_, old)) => *old = until,
                    None => state.history.cached.push((ring.next, until)),
                }
            }
        }
        state.history.cached.sort_unstable();
    }
}

impl Bounds {
    /// The timeline of the fail-over that was just taken off these bounds.
    pub(crate) fn timeline(&self, all: Self) -> u8 {
        1 + all.fail_overs - self.fail_overs
    }
}

impl History {
    pub(crate) fn grant(&mut self, claims: Claims) {
        if !self.granted.contains(&claims) {
            self.granted.push(claims);
        }
    }
}

impl Claims {
    pub(crate) fn of(number: u32, Use { client, iat, exp, .. }: Use<'static>) -> Self {
        Self { number, client, iat, exp }
    }
}

impl Instance {
    /// The answer may be late: a heartbeat may have brought a newer ring.
    pub(crate) fn put_in_force(&mut self, ring: Ring, now: Timestamp) {
        if self.ring.is_some_and(|active| active.version >= ring.version) {
            return;
        }
        self.next_since = match self.ring {
            Some(active) if active.next == ring.next => self.next_since,
            Some(_) => now,
            None => ring.schedule.published_since(Some(self.peers), now),
        };
        self.ring = Some(ring);
    }

    /// It holds its lease.
    pub(crate) fn is_ready(&self, now: Timestamp) -> bool {
        self.ring.is_some() && self.lease_until.is_some_and(|until| now < until)
    }
}

impl State {
    /// The last time at which a token of a key is alive is still to come.
    pub(crate) fn is_alive(&self, key: Key) -> bool {
        self.now < self.history.alive_until[usize::from(key)]
    }
}

impl Statement {
    /// After its answer was lost. The outcome of a redemption is asked for again; that of a change of the ring is what the
    /// next heartbeat finds.
    pub(crate) fn unanswered(self) -> Option<Self> {
        match self.request {
            Request::Redeem(_) => Some(Self { sent: None, ..self }),
            Request::Swap { .. } => None,
        }
    }
}
