//! The records of a store in the form in which they move between engines, their tallies, and the marks that a move leaves
//! in both stores.
//!
//! A *tally* is the number of records of one kind and the sum of their hashes, whatever their order and engine.

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use writ_platform::clock::Timestamp;

use crate::blocks::StoredBlock;
use crate::ring::RingRecords;
use crate::{OpenError, StoreError};

/// The kinds of records of which there are too many for memory, in the order in which they are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Tokens,
    Uses,
    SingleUse,
}

/// A token on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) signed_part: [u8; 32],
    pub(crate) txn: String,
    /// `None`: the engine that it comes from does not record it.
    pub(crate) iat: Option<Timestamp>,
    pub(crate) keep_until: Timestamp,
}

/// The uses counted for one transaction and purpose, and the last of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uses {
    pub(crate) txn: String,
    pub(crate) purpose: String,
    pub(crate) count: u32,
    pub(crate) original_iat: Timestamp,
    pub(crate) client: String,
    pub(crate) presented: [u8; 32],
    pub(crate) iat: Timestamp,
    pub(crate) exp: Timestamp,
}

/// A single-use identifier that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsedId {
    pub(crate) id: Vec<u8>,
    pub(crate) keep_until: Timestamp,
}

/// Some records of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    Tokens(Vec<Token>),
    Uses(Vec<Uses>),
    SingleUse(Vec<UsedId>),
}

/// A page, and where the next one begins: a text for the engine that it comes from. At the end, the page is empty.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) page: Page,
    pub(crate) after: Vec<u8>,
}

/// All records besides those of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Basis {
    pub(crate) ring: RingRecords,
    pub(crate) blocks: Vec<StoredBlock>,
    pub(crate) last_event: Timestamp,
    pub(crate) swept: Timestamp,
    pub(crate) redemption_floor: Timestamp,
    pub(crate) single_use_floor: Timestamp,
}

/// The number of records of one kind, and the wrapping sum of their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub records: u64,
    sum: u128,
}

/// The tally of each kind of records in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// The keys in use, as one record, and each past key.
    pub keys: Tally,
    /// Entries of the kill switch.
    pub blocks: Tally,
    /// The last event, the last removal of records, and the floors.
    pub times: Tally,
    /// Tokens on record.
    pub tokens: Tally,
    /// Transactions and purposes for which uses were counted.
    pub uses: Tally,
    /// Single-use identifiers that were used.
    pub single_use: Tally,
}

/// The mark of a store that receives, or has received, a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Incoming {
    /// The identifier of the move.
    pub(crate) copy: String,
    /// The installation that is copied.
    pub(crate) installation: String,
    /// The source, for people.
    pub(crate) from: String,
    /// What the source contains.
    pub(crate) contents: Contents,
    /// The source's redemption floor.
    pub(crate) redemption_floor: Timestamp,
    /// What has been received.
    pub(crate) progress: Progress,
}

/// Up to where the records of the ledger have been received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    pub(crate) kind: Kind,
    /// Where the source continues; `None`: at the beginning.
    pub(crate) after: Option<Vec<u8>>,
    /// The number of records of all kinds so far.
    pub(crate) records: u64,
}

/// The mark of a store that was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outgoing {
    /// The identifier of the move.
    pub(crate) copy: String,
    /// The target, for people.
    pub(crate) to: String,
}

/// What a store is to a copy that would go there.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// There is nothing in it.
    Empty,
    /// A copy into it was interrupted.
    Receiving(Incoming),
    /// It has received a copy, and may have changed since.
    Complete(Incoming),
    /// It holds this.
    Occupied(String),
}

/// Why a store was not moved. The texts are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A record cannot be read, or the other engine does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Both configurations have the same folder.
    #[error("store.path is {path} in both configurations; each store needs a folder of its own")]
    SameFolder {
        /// The folder.
        path: String,
    },
    /// One store's folder contains that of the other.
    #[error(
        "store.path is {inner} in one configuration, which is in {outer}, that of the other; each store needs a folder of its own"
    )]
    NestedFolder {
        /// The folder inside.
        inner: String,
        /// The one around it.
        outer: String,
    },
    /// A service runs, or another copy.
    #[error("{store} is in use by {by}; stop it and run the command again")]
    InUse {
        /// The store.
        store: String,
        /// What uses it.
        by: String,
    },
    /// The source has no key ring.
    #[error("{store} holds no key ring, so there is nothing to copy")]
    Nothing {
        /// The source.
        store: String,
    },
    /// The target holds something else.
    #[error("{store} is not empty: it holds {what}; nothing was changed: name an empty store")]
    NotEmpty {
        /// The target.
        store: String,
        /// What is there.
        what: String,
    },
    /// The source was moved to another target before.
    #[error("{store} was moved to {to}; copy from there")]
    Moved {
        /// The source.
        store: String,
        /// Where it was moved to.
        to: String,
    },
    /// What was read back from the target is not what the source contains.
    #[error(
        "{store} does not contain the {kind} of the source, so that it is not used; was a service started on it? Name an empty store"
    )]
    Differs {
        /// The target.
        store: String,
        /// The kind of records.
        kind: &'static str,
    },
    /// The database failed on the way.
    #[error("the database: {0}; run the command again, it goes on from there")]
    Database(String),
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Tokens, Self::Uses, Self::SingleUse];

    /// The kind after this one.
    pub(crate) fn next(self) -> Option<Self> {
        let at = Self::ALL.iter().position(|kind| *kind == self)?;
        Self::ALL.get(at + 1).copied()
    }
}

impl Page {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.len(),
            Self::Uses(uses) => uses.len(),
            Self::SingleUse(ids) => ids.len(),
        }
    }
}

impl Progress {
    pub(crate) fn beginning() -> Self {
        Self { kind: Kind::Tokens, after: None, records: 0 }
    }
}

impl Contents {
    pub(crate) fn of(basis: &Basis) -> Self {
        let Basis { ring, blocks, last_event, swept, redemption_floor, single_use_floor } = basis;
        let mut contents = Self::default();
        let installation = &ring.installation;
        contents.keys.add(&[installation.id.as_bytes(), installation.trust_domain.as_bytes(), &ring.document]);
        for key in &ring.past {
            contents.keys.add(&[key.kid.as_bytes(), &key.document]);
        }
        for block in blocks {
            let until = block.until.map(bytes);
            let until = until.as_ref().map_or(&b"none"[..], |until| until);
            contents.blocks.add(&[block.selectors.as_bytes(), &bytes(block.added_at), until]);
        }
        let times = [*last_event, *swept, *redemption_floor, *single_use_floor].map(bytes);
        contents.times.add(&[&times[0], &times[1], &times[2], &times[3]]);
        contents
    }

    /// Adds records of the ledger.
    pub(crate) fn add(&mut self, page: &Page) {
        match page {
            Page::Tokens(tokens) => tokens.iter().for_each(|token| {
                let iat = token.iat.map(bytes);
                let iat = iat.as_ref().map_or(&b""[..], |iat| iat);
                self.tokens.add(&[&token.signed_part, token.txn.as_bytes(), iat, &bytes(token.keep_until)]);
            }),
            Page::Uses(several) => several.iter().for_each(|uses| {
                self.uses.add(&[
                    uses.txn.as_bytes(),
                    uses.purpose.as_bytes(),
                    &uses.count.to_be_bytes(),
                    &bytes(uses.original_iat),
                    uses.client.as_bytes(),
                    &uses.presented,
                    &bytes(uses.iat),
                    &bytes(uses.exp),
                ]);
            }),
            Page::SingleUse(ids) => ids.iter().for_each(|used| {
                self.single_use.add(&[&used.id, &bytes(used.keep_until)]);
            }),
        }
    }

    /// The number of records of the ledger.
    pub(crate) fn of_ledger(&self) -> u64 {
        self.tokens.records + self.uses.records + self.single_use.records
    }

    /// The first kind whose records differ.
    pub(crate) fn difference(&self, other: &Self) -> Option<&'static str> {
        let kinds = |contents: &Self| {
            [
                ("keys", contents.keys),
                ("blocks", contents.blocks),
                ("times", contents.times),
                ("tokens", contents.tokens),
                ("uses", contents.uses),
                ("single-use identifiers", contents.single_use),
            ]
        };
        let pairs = kinds(self).into_iter().zip(kinds(other));
        pairs.into_iter().find(|(one, other)| one != other).map(|((kind, _), _)| kind)
    }
}

fn bytes(time: Timestamp) -> [u8; 8] {
    time.epoch().to_be_bytes()
}

impl Tally {
    fn add(&mut self, parts: &[&[u8]]) {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut first = [0; 16];
        first.copy_from_slice(&context.finish().as_ref()[..16]);
        self.records += 1;
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Installation;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_epoch(seconds)
    }

    fn uses(txn: &str, purpose: &str) -> Uses {
        let (txn, purpose, client) = (txn.to_owned(), purpose.to_owned(), "job".to_owned());
        Uses { txn, purpose, count: 1, original_iat: at(5), client, presented: [7; 32], iat: at(10), exp: at(70) }
    }

    fn of(pages: &[Page]) -> Contents {
        let installation = Installation { id: "i".to_owned(), trust_domain: "d.example".to_owned() };
        let ring = RingRecords { installation, document: b"{}".to_vec(), past: Vec::new() };
        let [last_event, swept, redemption_floor, single_use_floor] = [at(1), at(2), at(3), at(4)];
        let basis = Basis { ring, blocks: Vec::new(), last_event, swept, redemption_floor, single_use_floor };
        let mut contents = Contents::of(&basis);
        for page in pages {
            contents.add(page);
        }
        contents
    }

    #[test]
    fn contents_know_every_value_and_not_the_order() {
        let pages = |first: Uses, second: Uses| [Page::Uses(vec![first]), Page::Uses(vec![second])];
        let both = of(&pages(uses("a", "p"), uses("b", "p")));
        assert_eq!(both, of(&pages(uses("b", "p"), uses("a", "p"))));
        let changes = [
            Uses { count: 2, ..uses("b", "p") },
            Uses { original_iat: at(6), ..uses("b", "p") },
            Uses { client: "jo".to_owned(), ..uses("b", "p") },
            Uses { presented: [8; 32], ..uses("b", "p") },
            Uses { iat: at(11), ..uses("b", "p") },
            Uses { exp: at(71), ..uses("b", "p") },
            uses("bp", ""),
        ];
        for changed in changes {
            assert_eq!(both.difference(&of(&pages(uses("a", "p"), changed.clone()))), Some("uses"), "{changed:?}");
        }
    }

    #[test]
    fn a_mark_reads_back_as_it_was_written() {
        let mark = Incoming {
            copy: "c".to_owned(),
            installation: "i".to_owned(),
            from: "data".to_owned(),
            contents: of(&[Page::Uses((0..9).map(|number| uses(&number.to_string(), "p")).collect())]),
            redemption_floor: at(3),
            progress: Progress { kind: Kind::Uses, after: Some(vec![0, 255]), records: 9 },
        };
        let text = serde_json::to_string(&mark).unwrap();
        assert_eq!(serde_json::from_str::<Incoming>(&text).unwrap(), mark);
    }
}
