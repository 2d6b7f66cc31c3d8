//! The ring ↔ the stored documents: one for the keys in use, one for each key that is no longer published.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use writ_verifier::TrustDomain;

use super::public::Kid;
use super::ring::{PastKey, Ring};
use super::{ActiveRing, KeysError};
use writ_platform::clock::Timestamp;
use writ_store::RingStore;
use writ_store::ring::{self as stored, PastKeyDocument, RingRecords, StoredRing, Swapped};

/// The identity of a store. Sealed private halves open in no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installation {
    id: String,
    trust_domain: TrustDomain,
}

/// A ring as loaded from the store.
pub(super) struct Stored {
    pub(super) installation: Installation,
    pub(super) ring: Ring,
    pub(super) last_event: Timestamp,
}

impl Installation {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self { id: Uuid::new_v4().to_string(), trust_domain }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

/// Loads the ring; `None` if there never was one.
pub(super) async fn load(store: &RingStore) -> Result<Option<Stored>, KeysError> {
    store.load().await?.map(read).transpose()
}

/// The ring in the documents.
pub(super) fn read(stored: StoredRing) -> Result<Stored, KeysError> {
    let StoredRing { ring: RingRecords { installation, document, past }, last_event } = stored;
    let past = past.iter().map(past_key).collect::<Result<BTreeMap<_, _>, _>>()?;
    let ring: Ring = parse(&document, "the record of the keys in use cannot be read")?;
    let stored::Installation { id, trust_domain } = installation;
    let unreadable = |_| KeysError::Damaged("the record that names the store cannot be read");
    Ok(Stored {
        installation: Installation { id, trust_domain: trust_domain.parse().map_err(unreadable)? },
        ring: ring.with_past(past).ok_or(KeysError::Damaged("a key is in two places"))?,
        last_event,
    })
}

fn past_key(PastKeyDocument { kid, document }: &PastKeyDocument) -> Result<(Kid, PastKey), KeysError> {
    let damaged = KeysError::Damaged("a record of the history cannot be read");
    let key: PastKey = parse(document, "a record of the history cannot be read")?;
    let kid = Kid::try_from(kid.clone()).ok();
    kid.filter(|kid| key.is(kid)).map(|kid| (kid, key)).ok_or(damaged)
}

fn parse<T: DeserializeOwned>(record: &[u8], otherwise: &'static str) -> Result<T, KeysError> {
    serde_json::from_slice(record).map_err(|_| KeysError::Damaged(otherwise))
}

/// Stores the first ring. [`KeysError::Conflict`] if there is one.
pub(super) async fn create(
    store: &RingStore,
    installation: &Installation,
    first: &ActiveRing,
    now: Timestamp,
) -> Result<(), KeysError> {
    done(store.create(&all(installation, first)?, now).await?)
}

/// Replaces `active` by `successor` in the store. [`KeysError::Conflict`] if the stored ring is not `active`.
pub(super) async fn replace(
    store: &RingStore,
    active: &ActiveRing,
    successor: &ActiveRing,
    now: Timestamp,
) -> Result<(), KeysError> {
    let known = active.ring.past();
    let changed = successor.ring.past().iter().filter(|(kid, key)| known.get(*kid) != Some(*key));
    let changed = changed.map(past_document).collect::<Result<Vec<_>, _>>()?;
    let swapped = store.compare_and_swap(active.ring.version(), successor.document.clone(), &changed, now).await?;
    done(swapped)
}

fn done(swapped: Swapped) -> Result<(), KeysError> {
    match swapped {
        Swapped::Done => Ok(()),
        Swapped::Conflict => Err(KeysError::Conflict),
    }
}

/// All documents of a ring.
pub(super) fn all(installation: &Installation, active: &ActiveRing) -> Result<RingRecords, KeysError> {
    let Installation { id, trust_domain } = installation;
    Ok(RingRecords {
        installation: stored::Installation { id: id.clone(), trust_domain: trust_domain.to_string() },
        document: active.document.clone(),
        past: active.ring.past().iter().map(past_document).collect::<Result<_, _>>()?,
    })
}

fn past_document((kid, key): (&Kid, &PastKey)) -> Result<PastKeyDocument, KeysError> {
    Ok(PastKeyDocument { kid: kid.as_str().to_owned(), document: written(key)? })
}

fn written(record: &impl Serialize) -> Result<Vec<u8>, KeysError> {
    serde_json::to_vec(record).map_err(|_| KeysError::Damaged("a record cannot be written"))
}
