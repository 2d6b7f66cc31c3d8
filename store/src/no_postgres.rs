//! A build without the PostgreSQL engine (without the feature `postgres`): its settings can be read, and nothing opens.
//!
//! The types of the engine have no values, so that no method of theirs is ever called.

use std::convert::Infallible;
use std::future::Ready;

use tokio::sync::watch;
use writ_platform::clock::Timestamp;

use crate::OpenError;
use crate::cluster::{Served, Versions};

#[allow(dead_code, reason = "its version and the length of a week are for the engine")]
#[path = "postgres/schema.rs"]
mod schema;
#[path = "postgres/settings.rs"]
mod settings;

pub use self::settings::{Address, Credentials, Replication, SchemaName, SettingError, Settings};

/// Whether this build has the engine.
pub const IS_BUILT: bool = false;

/// How the store would be opened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Instance,
    Command,
}

/// A type without values; its methods return a value, or a future of one.
macro_rules! absent {
    ($($name:ident { $($method:ident($($argument:ty),*) -> $answer:ty;)* })*) => {
        $(
            #[derive(Debug, Clone)]
            pub(crate) struct $name(Infallible);

            impl $name {
                $(
                    pub(crate) fn $method(&self, $(_: $argument),*) -> $answer {
                        match self.0 {}
                    }
                )*
            }
        )*
    };
}

absent! {
    Postgres {
        path() -> &std::path::Path;
        is_well() -> bool;
        is_whole() -> bool;
        versions() -> watch::Receiver<Versions>;
        serve(Served) -> ();
        join() -> Ready<Result<(), OpenError>>;
        moved() -> Ready<OpenError>;
        ring() -> ring::Ring;
        ledger() -> ledger::Ledger;
        blocks() -> blocks::Blocks;
        clock() -> clock::Clock;
        close() -> Ready<()>;
    }
}

pub(crate) mod ring {
    use super::{Infallible, Ready};
    use crate::StoreError;
    use crate::cluster::Peers;
    use crate::ring::{PastKeyDocument, RingRecords, StoredRing, Swapped};

    absent! {
        Ring {
            load() -> Ready<Result<Option<StoredRing>, StoreError>>;
            is_writable() -> bool;
            check_writable() -> Result<(), StoreError>;
            holds_lease() -> bool;
            peers() -> Peers;
            create(&RingRecords) -> Ready<Result<Swapped, StoreError>>;
            compare_and_swap(u64, &[u8], &[PastKeyDocument]) -> Ready<Result<Swapped, StoreError>>;
            overwrite(&RingRecords) -> Ready<Result<(), StoreError>>;
        }
    }
}

pub(crate) mod ledger {
    use super::{Infallible, Ready, Timestamp};
    use crate::StoreError;
    use crate::clock::EventOutcome;
    use crate::ledger::{Entry, LedgerCounts, RecordOutcome, Redemption, SpendOutcome};

    absent! {
        Ledger {
            record(Entry<'_>, Timestamp) -> Ready<Result<RecordOutcome, StoreError>>;
            spend(Redemption<'_>, Timestamp) -> Ready<Result<SpendOutcome, StoreError>>;
            expire(Timestamp, Timestamp) -> Ready<Result<EventOutcome, StoreError>>;
            is_whole() -> bool;
            counts() -> LedgerCounts;
        }
    }
}

pub(crate) mod blocks {
    use super::{Infallible, Ready};
    use crate::StoreError;
    use crate::blocks::StoredBlock;

    absent! {
        Blocks {
            list() -> Ready<Result<Vec<StoredBlock>, StoreError>>;
            add(&StoredBlock) -> Ready<Result<(), StoreError>>;
            remove(&str) -> Ready<Result<(), StoreError>>;
        }
    }
}

pub(crate) mod clock {
    use super::{Infallible, Ready, Timestamp};
    use crate::StoreError;
    use crate::clock::EventOutcome;

    absent! {
        Clock {
            last_event() -> Timestamp;
            trust(Timestamp) -> Ready<Result<(), StoreError>>;
            record(Timestamp) -> Ready<Result<EventOutcome, StoreError>>;
        }
    }
}

pub(crate) mod copy {
    use std::future::{Ready, ready};

    use super::{Infallible, Settings, absent};
    use crate::portable::{Basis, CopyError, Incoming, Kind, Outgoing, Page, Read, State};

    absent! {
        Source {
            outgoing() -> Option<&Outgoing>;
            basis() -> Ready<Result<Option<Basis>, CopyError>>;
            read(Kind, Option<&[u8]>) -> Ready<Result<Read, CopyError>>;
            move_away(&Outgoing) -> Ready<Result<(), CopyError>>;
        }
        Target {
            state() -> Ready<Result<State, CopyError>>;
            begin(&Incoming, &Basis) -> Ready<Result<(), CopyError>>;
            resume(&Incoming) -> ();
            put(&Page, &Incoming) -> Ready<Result<(), CopyError>>;
            freeze(&Incoming, &Basis) -> Ready<Result<(), CopyError>>;
            basis() -> Ready<Result<Option<Basis>, CopyError>>;
            read(Kind, Option<&[u8]>) -> Ready<Result<Read, CopyError>>;
            complete() -> Ready<Result<(), CopyError>>;
        }
    }

    impl Source {
        pub(crate) fn open(_: &Settings) -> Ready<Result<Self, CopyError>> {
            ready(Err(absent().into()))
        }
    }

    impl Target {
        pub(crate) fn open(_: &Settings) -> Ready<Result<Self, CopyError>> {
            ready(Err(absent().into()))
        }
    }
}

impl Postgres {
    pub(crate) fn open(_: &Settings, _: Role) -> Ready<Result<Self, OpenError>> {
        std::future::ready(Err(absent()))
    }
}

fn absent() -> OpenError {
    OpenError::Database("this build of Writ has no PostgreSQL engine (the feature `postgres`)".to_owned())
}

/// The SQL that an administrator and then the owner run.
pub fn schema_sql(settings: &Settings, owner: &str) -> (String, String) {
    schema::both(settings, owner)
}

/// # Errors
/// [`OpenError::Database`]: there is no engine.
pub fn migrate(_: &Settings, _: &str, _: &Credentials) -> Ready<Result<(), OpenError>> {
    std::future::ready(Err(absent()))
}

/// # Errors
/// [`OpenError::Database`]: there is no engine.
pub fn accept(_: &Settings, _: bool) -> Ready<Result<Timestamp, OpenError>> {
    std::future::ready(Err(absent()))
}
