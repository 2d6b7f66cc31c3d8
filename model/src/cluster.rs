//! Three PostgreSQL nodes with quorum commit, as logs of writes.
//!
//! A node executes a statement by adding its writes to its log at once. The statement is answered when another node has
//! them; until then its rows are locked. What all nodes have is folded into a common beginning, to keep states small.

use writ_store::ledger::Uses;

use crate::ring::Ring;
use crate::statements::Lease;

/// The number of nodes.
pub const NODES: usize = 3;

/// What a statement writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Write {
    /// The row of the uses of the transaction and purpose.
    Uses(Uses<'static>),
    /// Nothing, but the row of the uses was locked: this is in the log too, so that the statement waits for the quorum.
    UsesLock,
    /// The ring.
    Ring(Ring),
    /// The row of an instance, or none any more.
    Lease(usize, Option<Lease>),
}

/// The rows of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rows {
    /// The uses of the transaction and purpose.
    pub uses: Option<Uses<'static>>,
    /// The ring.
    pub ring: Ring,
    /// The instances.
    pub leases: [Option<Lease>; 2],
}

impl Rows {
    fn with(mut self, write: &Write) -> Self {
        match *write {
            Write::Uses(uses) => self.uses = Some(uses),
            Write::UsesLock => {}
            Write::Ring(ring) => self.ring = ring,
            Write::Lease(instance, lease) => self.leases[instance] = lease,
        }
        self
    }
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It executes statements.
    Primary {
        /// Increases with each promotion.
        timeline: u8,
        /// Writes up to this position are visible whether or not another node has them, because they were in the log
        /// when the node became primary or was restarted.
        visible: u8,
    },
    /// It takes over the log of a node.
    Follows(usize),
    /// It has lost power.
    Dead,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// What it is.
    pub role: Role,
    /// The writes after the common beginning.
    log: Vec<Write>,
}

/// All nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// The nodes.
    pub nodes: [Node; NODES],
    /// The node that was promoted last.
    promoted: usize,
    /// The rows at the end of the common beginning. Positions count from there.
    beginning: Rows,
}

impl Cluster {
    /// Node 0 is the primary; the others follow.
    pub fn new(beginning: Rows) -> Self {
        let node = |role| Node { role, log: Vec::new() };
        let primary = Role::Primary { timeline: 1, visible: 0 };
        let nodes = [node(primary), node(Role::Follows(0)), node(Role::Follows(0))];
        Self { nodes, promoted: 0, beginning }
    }

    /// The timeline of a node that executes statements.
    pub fn timeline(&self, node: usize) -> Option<u8> {
        match self.nodes[node].role {
            Role::Primary { timeline, .. } => Some(timeline),
            Role::Follows(_) | Role::Dead => None,
        }
    }

    /// The node that was promoted last, if it lives.
    pub fn newest(&self) -> Option<usize> {
        self.timeline(self.promoted).map(|_| self.promoted)
    }

    /// The nodes that follow another.
    pub fn followers(&self, of: usize) -> impl Iterator<Item = usize> {
        (0..NODES).filter(move |node| self.nodes[*node].role == Role::Follows(of))
    }

    /// The position of a node in its log.
    pub fn end(&self, node: usize) -> u8 {
        len(&self.nodes[node].log)
    }

    /// Adds a write to the log of a primary; the position that another node must reach before it is acknowledged.
    pub fn append(&mut self, node: usize, write: Write) -> u8 {
        self.nodes[node].log.push(write);
        self.end(node)
    }

    /// Up to where some other node has the log of a node.
    pub fn durable(&self, node: usize) -> u8 {
        let log = &self.nodes[node].log;
        let shared = |other: &Node| log.iter().zip(&other.log).take_while(|(a, b)| a == b).count();
        let others = (0..NODES).filter(|other| *other != node);
        let most = others.map(|other| shared(&self.nodes[other])).max().unwrap_or(0);
        u8::try_from(most).unwrap_or(u8::MAX)
    }

    /// Up to where a new statement sees the log of a primary.
    fn visible(&self, node: usize) -> u8 {
        match self.nodes[node].role {
            Role::Primary { visible, .. } => visible.max(self.durable(node)),
            Role::Follows(_) | Role::Dead => 0,
        }
    }

    /// The rows that a new statement sees on a primary.
    pub fn rows(&self, node: usize) -> Rows {
        let visible = usize::from(self.visible(node));
        self.nodes[node].log[..visible].iter().fold(self.beginning, Rows::with)
    }

    /// The rows on a primary, with those that are not yet acknowledged.
    pub fn all_rows(&self, node: usize) -> Rows {
        self.nodes[node].log.iter().fold(self.beginning, Rows::with)
    }

    /// Whether a write that no other node has keeps a row of a primary locked.
    pub fn is_locked(&self, node: usize, row: impl Fn(&Write) -> bool) -> bool {
        let visible = usize::from(self.visible(node));
        self.nodes[node].log[visible..].iter().any(row)
    }

    /// Whether the rows of the instances are the same on all nodes.
    pub fn holds_instances_alike(&self) -> bool {
        let [first, second] = self.beginning.leases;
        let mut writes = self.nodes.iter().flat_map(|node| &node.log);
        first == second && !writes.any(|write| matches!(write, Write::Lease(..)))
    }

    /// Whether the last two nodes are the same, as followers of the first.
    pub fn last_are_alike(&self) -> bool {
        let [_, second, third] = &self.nodes;
        second == third && second.role == Role::Follows(0)
    }

    /// A follower takes over one more write; `false` if it has all.
    pub fn replicate(&mut self, follower: usize) -> bool {
        let Role::Follows(source) = self.nodes[follower].role else { return false };
        // What a dead node did not send is lost.
        if self.timeline(source).is_none() {
            return false;
        }
        let held = self.nodes[follower].log.len();
        let Some(write) = self.nodes[source].log.get(held).copied() else { return false };
        self.nodes[follower].log.push(write);
        true
    }

    /// A follower takes over all that its source has; `false` if it has all.
    pub fn replicate_all(&mut self, follower: usize) -> bool {
        let moved = self.replicate(follower);
        while self.replicate(follower) {}
        moved
    }

    /// A node loses power.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].role = Role::Dead;
    }

    /// A primary is restarted without a fail-over: statements that were waiting for another node are visible afterwards.
    pub fn restart(&mut self, node: usize) {
        let end = self.end(node);
        if let Role::Primary { visible, .. } = &mut self.nodes[node].role {
            *visible = end;
        }
    }

    /// Promotes a follower.
    pub fn promote(&mut self, node: usize, timeline: u8) {
        self.nodes[node].role = Role::Primary { timeline, visible: self.end(node) };
        self.promoted = node;
    }

    /// A node becomes a copy of a primary and follows it.
    pub fn clone_from_primary(&mut self, node: usize, primary: usize) {
        self.nodes[node] = Node { role: Role::Follows(primary), log: self.nodes[primary].log.clone() };
    }

    /// Moves what all nodes share into the common beginning; by how much all positions are less then.
    pub fn fold(&mut self) -> u8 {
        let [first, second, third] = &self.nodes;
        let is_shared = |(a, (b, c)): &(&Write, (&Write, &Write))| a == b && b == c;
        let shared = first.log.iter().zip(second.log.iter().zip(&third.log)).take_while(is_shared).count();
        self.beginning = first.log[..shared].iter().fold(self.beginning, Rows::with);
        let moved = u8::try_from(shared).unwrap_or(u8::MAX);
        for node in &mut self.nodes {
            node.log.drain(..shared);
            if let Role::Primary { visible, .. } = &mut node.role {
                *visible = visible.saturating_sub(moved);
            }
        }
        moved
    }
}

fn len(log: &[Write]) -> u8 {
    u8::try_from(log.len()).unwrap_or(u8::MAX)
}
