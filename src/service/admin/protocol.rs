//! The protocol of the admin socket: one line of JSON with a [`Command`], one line with its [`Reply`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

use writ_core::blocks::Block;
use writ_core::keys::listing::Export;
use writ_platform::clock::Timestamp;

/// An export of ten years of daily keys is far smaller.
pub(super) const MAX_LINE: u64 = 16 * 1024 * 1024;

/// A command of an operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Lists every key and its life.
    KeysList,
    /// Promotes `next` now, if it and `previous` have been published for long enough.
    KeysRotate,
    /// Ends all trust in a key.
    KeysRevoke {
        /// The key's `kid`.
        kid: String,
    },
    /// Returns the public halves of all keys and their lives.
    KeysExport,
    /// Adds exported public halves to the history.
    KeysImport {
        /// The output of `keys export`.
        export: Export,
    },
    /// Checks that records, files and private halves agree.
    KeysVerify,
    /// Stops what `block` names.
    BlockAdd {
        /// The target of the block.
        block: Block,
        /// When the block ends; `None`: never.
        until: Option<Timestamp>,
    },
    /// Ends a block.
    BlockRemove {
        /// The target, as it was added.
        block: Block,
    },
    /// Lists every block.
    BlockList,
    /// Accepts the current time as correct.
    TrustClock,
}

impl Command {
    /// Whether it changes nothing.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self, Self::KeysList | Self::KeysExport | Self::KeysVerify | Self::BlockList)
    }
}

/// The outcome of a [`Command`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The command was performed; its answer.
    Done(Value),
    /// The command was refused; why.
    #[serde(rename = "no")]
    Refused(String),
    /// The command could not be performed; why.
    Failed(String),
}
