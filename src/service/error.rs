//! Why a service cannot start, or a command cannot open its store.

use std::io;
use std::path::PathBuf;

use crate::config::Problem;
use crate::server::ListenError;
use crate::server::tls::TlsError;
use writ_core::blocks::BlocksError;
use writ_core::keys::mirror::MirrorError;
use writ_core::keys::seal::SealError;
use writ_core::keys::{self, KeysError};
use writ_core::ledger::LedgerError;
use writ_core::subject::issuers::IssuersError;
use writ_outbound::SetupError;
use writ_platform::secret_file::SecretFileError;
use writ_platform::telemetry::LogError;
use writ_store::OpenError;
use writ_store::copy::CopyError;

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// All problems of the policy files.
    #[error("the policies cannot be used")]
    Policies(Vec<Problem>),
    /// The file of a sealing key cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The file does not contain a valid sealing key, or not the one that the store was sealed with.
    #[error("{path}: {source}")]
    SealingKey { path: String, source: SealError },
    /// Commands do not create a store.
    #[error("no store exists in {}; `writ serve` creates it", .0.display())]
    NoStore(PathBuf),
    /// The key files belong to another service. The store is unchanged.
    #[error("{} belongs to another trust domain", .0.display())]
    ForeignFile(PathBuf),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store cannot be moved.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The key ring cannot be opened.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The kill switch cannot be read: blocks might not be enforced.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// A subject issuer cannot be used.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    /// The policy decision point cannot be called with these settings.
    #[error("[pdp]: {0}")]
    Pdp(SetupError),
    /// Certificates, trust anchors or revocation lists cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A listener cannot bind its address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The admin socket cannot be created.
    #[error("admin.sock: {0}")]
    Admin(io::Error),
    /// The audit log cannot be written.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl StartError {
    /// Of opening the key ring with these settings: a wrong sealing key is named by its file.
    pub(crate) fn of_keys(settings: &keys::Settings, error: KeysError) -> Self {
        match error {
            KeysError::Seal(source @ SealError::Closed) => {
                Self::SealingKey { path: settings.sealing_key.display().to_string(), source }
            }
            other => other.into(),
        }
    }

    /// Whether `writ store repair` can help.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Store(OpenError::Damaged { .. } | OpenError::WentBack(_))
                | Self::Keys(KeysError::Damaged(_) | KeysError::Mirror(MirrorError::Ahead(_)))
                | Self::Ledger(LedgerError::Unreadable)
                | Self::Blocks(BlocksError::Unreadable)
        )
    }
}
