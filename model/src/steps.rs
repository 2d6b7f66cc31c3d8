//! What can happen next, and what follows from it.

use std::time::Duration;

use stateright::{Model, Property};
use writ_platform::clock::Timestamp;
use writ_store::ledger::{SpendOutcome, Use};

use crate::cluster::{Cluster, NODES, Role, Rows, Write};
use crate::properties;
use crate::ring::Ring;
use crate::statements::{self, Lease};
use crate::system::{CLIENTS, Claims, History, INSTANCES, Instance, Mistake, Request, Sent, State, Statement, System};

/// The time between two instants.
const INSTANT: Duration = Duration::from_secs(1);
/// A lease that outlasts every run.
const FOR_EVER: Duration = Duration::from_secs(1_000);

/// An event. Instances and nodes are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The clock moves on.
    Tick,
    /// A client asks an instance for a redemption; a node executes the statement.
    Redeem {
        /// The instance.
        instance: usize,
        /// The client.
        client: &'static str,
        /// The node.
        node: usize,
    },
    /// An instance repeats a statement whose outcome it does not know.
    Repeat {
        /// The instance.
        instance: usize,
        /// The node.
        node: usize,
    },
    /// An instance promotes the next key; a node executes the statement.
    Promote {
        /// The instance.
        instance: usize,
        /// The node.
        node: usize,
    },
    /// A statement is durable, and its answer arrives.
    Answer {
        /// The instance.
        instance: usize,
    },
    /// The connection is lost before the answer arrives.
    Lose {
        /// The instance.
        instance: usize,
    },
    /// An instance reports to a node, which commits with a follower.
    Heartbeat {
        /// The instance.
        instance: usize,
        /// The node.
        node: usize,
        /// The follower.
        follower: usize,
        /// What becomes of its answer.
        answer: Answer,
    },
    /// An instance stops, and drops its row at a node, which commits with a follower.
    Leave {
        /// The instance.
        instance: usize,
        /// The node.
        node: usize,
        /// The follower.
        follower: usize,
    },
    /// An instance dies.
    Crash {
        /// The instance.
        instance: usize,
    },
    /// A standby takes over one more write.
    Replicate {
        /// The standby.
        follower: usize,
    },
    /// A node dies.
    KillNode {
        /// The node.
        node: usize,
    },
    /// A primary is restarted and keeps what it has.
    RestartPrimary {
        /// The node.
        node: usize,
    },
    /// Both standbys are cut from the primary, and the one with more becomes primary.
    FailOver {
        /// The new primary.
        node: usize,
    },
    /// A dead or replaced node comes back as a copy of the primary.
    Rejoin {
        /// The node.
        node: usize,
    },
}

/// What becomes of the answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It does not arrive.
    Lost,
    /// It arrives; a later ring that it tells of is not put in force yet.
    Noted,
    /// It arrives, and the ring on record is put in force.
    Followed,
}

impl System {
    fn ask(&self, state: &mut State, instance: usize, client: &'static str, node: usize) -> Option<()> {
        take(&mut state.left.redemptions)?;
        let now = state.now;
        let this = Use { client, ..self.next_use(now) };
        let request = Request::Redeem(this);
        if self.has(Mistake::CountAfterSigning)
            && let SpendOutcome::Spent { use_number } = self.redeem(state.cluster.rows(node).uses, this).0
        {
            state.history.grant(Claims::of(use_number, this));
            state.instances[instance].statement = Some(Statement { request, sent: None });
            return Some(());
        }
        state.instances[instance].statement = Some(Statement { request, sent: None });
        self.send(state, instance, node)
    }

    /// A node executes the statement of an instance.
    fn send(&self, state: &mut State, instance: usize, node: usize) -> Option<()> {
        let timeline = state.cluster.timeline(node)?;
        let this = &mut state.instances[instance];
        if timeline < this.timeline {
            return None;
        }
        this.timeline = timeline;
        let statement = this.statement.as_mut()?;
        let Request::Redeem(redemption) = statement.request else { return None };
        if state.cluster.is_locked(node, |write| matches!(write, Write::Uses(_) | Write::UsesLock)) {
            return None;
        }
        let before = state.cluster.rows(node).uses;
        let (outcome, after) = self.redeem(before, redemption);
        let write = match outcome {
            SpendOutcome::Repeated { .. } if self.has(Mistake::RepeatOnlyReads) => None,
            SpendOutcome::Repeated { .. } => Some(Write::UsesLock),
            SpendOutcome::Spent { .. } => after.map(Write::Uses),
            // Nothing is granted, so nothing has to be durable.
            SpendOutcome::Exhausted | SpendOutcome::NotOnRecord | SpendOutcome::ClockBehind => {
                this.statement = None;
                return Some(());
            }
        };
        let position = write.map_or(0, |write| state.cluster.append(node, write));
        statement.sent = Some(Sent { node, position, outcome: Some(outcome) });
        Some(())
    }

    fn promote(&self, state: &mut State, instance: usize, node: usize) -> Option<()> {
        take(&mut state.left.promotions)?;
        let now = state.now;
        let this = &state.instances[instance];
        let active = this.ring?;
        // All clocks agree here.
        let (peers, apart) = (Some(this.peers), Duration::ZERO);
        let checked = active.schedule.check_instances(active.version, this.next_since, peers, self.times, apart, now);
        if checked.is_err() && !self.has(Mistake::PromotionWithoutAnnouncement) {
            return None;
        }
        let ring = active.promote(self.times, now)?;
        Self::swap(state, instance, node, (active.version, ring))
    }

    /// A node replaces the ring of this version; until that is answered, the current key of the instance signs for no later
    /// instant.
    fn swap(state: &mut State, instance: usize, node: usize, (version, ring): (u64, Ring)) -> Option<()> {
        let timeline = state.cluster.timeline(node)?;
        if state.cluster.rows(node).ring.version != version
            || state.cluster.is_locked(node, |write| matches!(write, Write::Ring(_)))
        {
            return None;
        }
        let sent = Some(Sent { node, position: state.cluster.append(node, Write::Ring(ring)), outcome: None });
        let this = &mut state.instances[instance];
        this.timeline = timeline;
        this.statement = Some(Statement { request: Request::Swap { ring, end: state.now }, sent });
        Some(())
    }

    fn answer(&self, state: &mut State, instance: usize) -> Option<()> {
        let this = &mut state.instances[instance];
        let Statement { request, sent: Some(Sent { node, position, outcome }) } = this.statement? else { return None };
        let timeline = state.cluster.timeline(node)?;
        let is_durable = position <= state.cluster.durable(node) || self.has(Mistake::CancelledCommitCounts);
        if !is_durable {
            return None;
        }
        this.statement = None;
        match (request, outcome) {
            (Request::Swap { ring, .. }, _) => {
                this.put_in_force(ring, state.now);
                state.history.acknowledged_ring = state.history.acknowledged_ring.max(ring.version);
            }
            (Request::Redeem(this), Some(SpendOutcome::Spent { use_number })) => {
                if !self.has(Mistake::CountAfterSigning) {
                    state.history.grant(Claims::of(use_number, this));
                }
                state.history.acknowledged_uses = state.history.acknowledged_uses.max(use_number);
            }
            (Request::Redeem(this), Some(SpendOutcome::Repeated { use_number, iat, exp })) => {
                state.history.grant(Claims::of(use_number, Use { iat, exp, ..this }));
                state.history.acknowledged_uses = state.history.acknowledged_uses.max(use_number);
                state.history.repeated |= timeline > 1;
            }
            (Request::Redeem(_), _) => {}
        }
        Some(())
    }

    fn lose(state: &mut State, instance: usize) -> Option<()> {
        take(&mut state.left.losses)?;
        let this = &mut state.instances[instance];
        let statement = this.statement.filter(|statement| statement.sent.is_some())?;
        this.statement = statement.unanswered();
        Some(())
    }

    /// All connections to a node are lost.
    fn disconnect(state: &mut State, node: usize) {
        for instance in &mut state.instances {
            let Some(statement) = instance.statement else { continue };
            if statement.sent.is_some_and(|sent| sent.node == node) {
                instance.statement = statement.unanswered();
            }
        }
    }

    fn heartbeat(
        &self,
        state: &mut State,
        instance: usize,
        (node, follower): (usize, usize),
        answer: Answer,
    ) -> Option<()> {
        if answer == Answer::Lost {
            take(&mut state.left.losses)?;
        }
        let timeline = state.cluster.timeline(node)?;
        let this = &mut state.instances[instance];
        if timeline < this.timeline || (this.ring.is_none() && answer != Answer::Followed) {
            return None;
        }
        let (now, rows, was) = (state.now, state.cluster.rows(node), *this);
        this.timeline = timeline;
        // An instance that serves nothing yet has no lease.
        let lease = this.ring.map(|ring| {
            let until = now + self.lease;
            let lease = Lease { until, serves: ring.version, next_since: this.next_since };
            statements::renewed(rows.leases[instance], lease)
        });
        if answer != Answer::Lost {
            // Once it has ended, others may have gone on without this instance: first it follows them.
            let is_continued = was.is_ready(now) || lease.is_some_and(|lease| lease.serves == rows.ring.version);
            if is_continued || self.has(Mistake::LeaseBeforeFollowing) {
                this.lease_until = lease.map(|lease| lease.until);
            }
            let others = (0..INSTANCES).filter(|other| *other != instance).filter_map(|other| rows.leases[other]);
            let others = others.filter(|lease| !self.has(Mistake::EndedLeaseIsForgotten) || now < lease.until);
            let remembers = lease.is_none() && !self.has(Mistake::RestartForgets);
            let before = rows.leases[instance].filter(|_| remembers);
            this.peers = statements::peers(&others, (before, lease), rows.ring.version, now, self.times.lead());
        }
        if answer == Answer::Followed {
            let found = rows.ring;
            if this.ring.is_some_and(|ring| ring.version >= found.version) || this.statement.is_some() {
                return None;
            }
            let prolonged = match this.ring {
                _ if self.has(Mistake::SpanNotProlonged) => None,
                Some(ring) => found.prolong(ring.current(), now),
                None if this.peers.was_behind => found.prolong(found.next.saturating_sub(2), now),
                None => None,
            };
            match prolonged {
                Some(prolonged) => Self::swap(state, instance, node, (found.version, prolonged))?,
                None => this.put_in_force(found, now),
            }
        }
        let is_renewed = lease.is_some_and(|lease| rows.leases[instance] != Some(lease));
        if !is_renewed && state.instances[instance] == was {
            return None; // nothing new
        }
        // Without a lease it waits for the quorum all the same.
        state.cluster.append(node, lease.map_or(Write::UsesLock, |lease| Write::Lease(instance, Some(lease))));
        self.replicate(state, follower, Cluster::replicate_all)
    }

    /// A standby takes over what it lacks. Where no standby is ever promoted, it does not matter that one lags behind.
    fn replicate(
        &self,
        state: &mut State,
        follower: usize,
        take_over: impl Fn(&mut Cluster, usize) -> bool,
    ) -> Option<()> {
        if self.bounds.fail_overs > 0 {
            return take_over(&mut state.cluster, follower).then_some(());
        }
        let Role::Follows(source) = state.cluster.nodes[follower].role else { return None };
        let followers: Vec<usize> = state.cluster.followers(source).collect();
        if followers[0] != follower {
            return None;
        }
        let moved = followers.into_iter().filter(|follower| take_over(&mut state.cluster, *follower)).count();
        (moved > 0).then_some(())
    }

    fn crash(state: &mut State, instance: usize) -> Option<()> {
        take(&mut state.left.crashes)?;
        let this = &mut state.instances[instance];
        this.ring?;
        // The highest timeline is in a file of the instance.
        *this = Instance { timeline: this.timeline, ..Instance::default() };
        Some(())
    }

    fn leave(&self, state: &mut State, instance: usize, (node, follower): (usize, usize)) -> Option<()> {
        take(&mut state.left.leaves)?;
        let timeline = state.cluster.timeline(node)?;
        let this = &mut state.instances[instance];
        this.ring?;
        if timeline < this.timeline {
            return None;
        }
        *this = Instance { timeline, ..Instance::default() };
        let rows = state.cluster.rows(node);
        // All of its JWKS that lack the next key have left the caches; the mistake is not to wait for that.
        let lead = if self.has(Mistake::LeavingIsForgotten) { Duration::ZERO } else { self.times.lead() };
        let may_leave = |lease| statements::may_leave(lease, rows.ring.version, state.now, lead);
        if !rows.leases[instance].is_some_and(may_leave) {
            return Some(());
        }
        state.cluster.append(node, Write::Lease(instance, None));
        self.replicate(state, follower, Cluster::replicate_all)
    }

    fn fail_over(&self, state: &mut State, node: usize) -> Option<()> {
        take(&mut state.left.fail_overs)?;
        let Role::Follows(old) = state.cluster.nodes[node].role else { return None };
        let other = state.cluster.followers(old).find(|other| *other != node)?;
        let timeline = state.left.timeline(self.bounds);
        if self.has(Mistake::PromotionWithoutFencing) {
            state.cluster.promote(node, timeline);
            return Some(());
        }
        if state.cluster.end(node) < state.cluster.end(other) {
            return None;
        }
        state.cluster.promote(node, timeline);
        state.cluster.nodes[other].role = Role::Follows(node);
        Some(())
    }

    fn rejoin(state: &mut State, node: usize) -> Option<()> {
        let primary = state.cluster.newest().filter(|primary| *primary != node)?;
        let is_away = match state.cluster.nodes[node].role {
            Role::Dead | Role::Primary { .. } => true,
            Role::Follows(source) => source != primary && state.cluster.timeline(source).is_some(),
        };
        is_away.then(|| {
            Self::disconnect(state, node);
            state.cluster.clone_from_primary(node, primary);
        })
    }
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let start = Timestamp::default();
        let first = Ring::first(self.times, start);
        // The first instant in which the next key may sign.
        let now = first.schedule.rotatable_from(self.times);
        let until = now + if self.bounds.heartbeats { self.lease } else { FOR_EVER };
        let lease = Lease { until, serves: first.version, next_since: start };
        let peers = statements::peers(&[lease].into_iter(), (None, Some(lease)), first.version, now, self.times.lead());
        let (ring, lease_until) = (Some(first), Some(until));
        let instance = Instance { ring, next_since: start, lease_until, peers, timeline: 1, statement: None };
        let rows = Rows { uses: None, ring: first, leases: [Some(lease); INSTANCES] };
        let mut state = State {
            now,
            cluster: Cluster::new(rows),
            instances: [instance; INSTANCES],
            history: History::default(),
            left: self.bounds,
        };
        self.observe(&mut state);
        vec![state]
    }

    /// Where two instances, clients or standbys are alike, what would happen to the second has happened to the first in
    /// another run.
    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        let instances = if are_alike(state) { 1 } else { INSTANCES };
        for instance in 0..instances {
            self.actions_of(state, instance, actions);
        }
        for node in 0..NODES - usize::from(state.cluster.last_are_alike()) {
            match state.cluster.nodes[node].role {
                Role::Primary { .. } => {
                    actions.extend([
                        Action::KillNode { node },
                        Action::RestartPrimary { node },
                        Action::Rejoin { node },
                    ]);
                }
                Role::Follows(_) => actions.extend([
                    Action::KillNode { node },
                    Action::Replicate { follower: node },
                    Action::FailOver { node },
                    Action::Rejoin { node },
                ]),
                Role::Dead => actions.push(Action::Rejoin { node }),
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut next = before.clone();
        let state = &mut next;
        match action {
            Action::Tick => take(&mut state.left.ticks).map(|()| state.now = state.now + INSTANT),
            Action::Redeem { instance, client, node } => self.ask(state, instance, client, node),
            Action::Repeat { instance, node } => self.send(state, instance, node),
            Action::Promote { instance, node } => self.promote(state, instance, node),
            Action::Answer { instance } => self.answer(state, instance),
            Action::Lose { instance } => Self::lose(state, instance),
            Action::Heartbeat { instance, node, follower, answer } => {
                self.heartbeat(state, instance, (node, follower), answer)
            }
            Action::Leave { instance, node, follower } => self.leave(state, instance, (node, follower)),
            Action::Crash { instance } => Self::crash(state, instance),
            Action::Replicate { follower } => self.replicate(state, follower, Cluster::replicate),
            Action::KillNode { node } => take(&mut state.left.node_deaths).map(|()| {
                Self::disconnect(state, node);
                state.cluster.kill(node);
            }),
            Action::RestartPrimary { node } => take(&mut state.left.restarts).map(|()| {
                Self::disconnect(state, node);
                state.cluster.restart(node);
            }),
            Action::FailOver { node } => self.fail_over(state, node),
            Action::Rejoin { node } => Self::rejoin(state, node),
        }?;
        let moved = state.cluster.fold();
        for instance in &mut state.instances {
            if let Some(Statement { sent: Some(sent), .. }) = &mut instance.statement {
                sent.position = sent.position.saturating_sub(moved);
            }
        }
        self.observe(state);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(properties::MAX_USES, properties::grants_at_most_max_uses),
            Property::always(properties::REPEATABLE, properties::is_repeatable),
            Property::always(properties::PUBLISHED, properties::is_published),
            Property::always(properties::CACHED, properties::is_cached),
            Property::always(properties::NOTHING_LOST, properties::loses_nothing),
        ];
        if self.bounds.fail_overs > 0 && self.bounds.redemptions > 0 {
            all.push(Property::sometimes(properties::REPEATED, properties::has_repeated));
        }
        if self.bounds.promotions > 0 {
            all.push(Property::sometimes(properties::ROTATED, properties::has_rotated));
        }
        all
    }
}

impl System {
    fn actions_of(&self, state: &State, instance: usize, actions: &mut Vec<Action>) {
        let this = &state.instances[instance];
        let primaries: Vec<usize> = (0..NODES).filter(|node| state.cluster.timeline(*node).is_some()).collect();
        for &node in primaries.iter().filter(|_| self.bounds.heartbeats) {
            let alike = usize::from(state.cluster.last_are_alike());
            for follower in state.cluster.followers(node).filter(|follower| *follower < NODES - alike) {
                let answers = [Answer::Lost, Answer::Noted, Answer::Followed];
                actions.extend(answers.map(|answer| Action::Heartbeat { instance, node, follower, answer }));
                actions.push(Action::Leave { instance, node, follower });
            }
        }
        if this.ring.is_none() {
            return;
        }
        actions.push(Action::Crash { instance });
        match this.statement {
            Some(Statement { sent: Some(_), .. }) => {
                actions.extend([Action::Answer { instance }, Action::Lose { instance }]);
            }
            Some(Statement { sent: None, .. }) => {
                actions.extend(primaries.iter().map(|&node| Action::Repeat { instance, node }));
            }
            None => {
                let clients = if state.left.redemptions == self.bounds.redemptions { 1 } else { CLIENTS.len() };
                for &node in &primaries {
                    actions.extend(CLIENTS[..clients].iter().map(|&client| Action::Redeem { instance, client, node }));
                    actions.push(Action::Promote { instance, node });
                }
            }
        }
    }
}

/// Whether the state would be the same with the instances exchanged.
fn are_alike(state: &State) -> bool {
    let [first, second] = &state.instances;
    first == second && state.cluster.holds_instances_alike()
}

/// Takes one off what is left; `None` if nothing is left.
fn take(left: &mut u8) -> Option<()> {
    *left = left.checked_sub(1)?;
    Some(())
}
