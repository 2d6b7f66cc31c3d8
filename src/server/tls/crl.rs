//! Certificate revocation lists: which are in force for a CA, and whether a certificate is revoked.
//!
//! In: the lists of `tls.client_crls`. Out: for each CA the newest, and the verdict on a certificate. A list belongs to the
//! CA whose key verifies its signature; the name is not enough, since a CA keeps its name when it gets a new key. Of the
//! lists of one key and one partition (RFC 5280 §5.2.5) the newest is in force, whichever file it is in, and once one has
//! been in force this process accepts no older one.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use webpki::OwnedCertRevocationList;
use x509_parser::asn1_rs::{Any, Class, FromDer as _, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_X509_EXT_CRL_DISTRIBUTION_POINTS, OID_X509_EXT_ISSUER_DISTRIBUTION_POINT};
use x509_parser::prelude::CertificateRevocationList;

use super::anchor::CaKey;
use super::refusal::{self, Refusal, hex, timestamp};
use super::signature::{Signed, encode};
use writ_platform::clock::Timestamp;
use writ_platform::digest::sha256;

/// How far the clock of a CA may be ahead of the local one.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(120);

/// CAs whose lists are looked up only once.
const MAX_KNOWN: usize = 1024;

/// Lists of one issuer and partition that are kept while the key of their CA is unknown.
const MAX_UNCLAIMED: usize = 8;

/// Issuers and partitions of which lists are kept while the keys of their CAs are unknown.
const MAX_UNCLAIMED_PARTS: usize = 1024;

/// The consequence once there were too many lists.
const IN_DOUBT: &str = "it is ignored: too many CRLs of CAs that no client presented were loaded to know whether it is the \
                        newest; restart Writ with only the newest CRLs";

/// Number and date. A list without a number is older than one with a number: a CA that numbers its lists does not stop.
type Age = (Option<(usize, Vec<u8>)>, Timestamp);

/// One list, as read.
pub(super) struct List {
    pub(super) file: PathBuf,
    /// DER.
    issuer: Vec<u8>,
    /// For messages.
    pub(super) issuer_name: String,
    /// The signed bytes, the algorithm and the signature.
    message: Vec<u8>,
    algorithm: Vec<u8>,
    signature: Vec<u8>,
    digest: [u8; 32],
    /// Big-endian without leading zeros (RFC 5280 §5.2.3: up to 20 octets).
    number: Option<Vec<u8>>,
    this_update: Timestamp,
    /// When it becomes stale.
    pub(super) next_update: Timestamp,
    /// The encoded issuing distribution point; `None`: the list covers every certificate of the CA.
    part: Option<Vec<u8>>,
    scope: Scope,
    /// Serial numbers without leading zeros.
    revoked: HashSet<Vec<u8>>,
}

/// The certificates that a list covers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scope {
    /// Of the issuing distribution point.
    uris: Vec<Vec<u8>>,
    clients_only: bool,
    cas_only: bool,
}

/// Why a list cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadCrl {
    #[error("cannot be read")]
    Unreadable,
    #[error("is a delta CRL; Writ needs complete CRLs")]
    Delta,
    #[error("is an indirect CRL, for certificates of several CAs; Writ needs one CRL for each CA")]
    Indirect,
    #[error("covers only some revocation reasons; Writ needs CRLs for all of them")]
    Reasons,
    #[error("has an issuing distribution point without a full name")]
    Point,
    #[error("is a CRL of version 1; issue it as version 2, with a CRL number (openssl: crl_extensions)")]
    Version1,
    #[error("has no nextUpdate, so that it would never expire")]
    Endless,
    #[error("has a critical extension that Writ does not process")]
    Critical,
}

impl List {
    pub(super) fn read(der: &[u8], file: &Path) -> Result<Self, BadCrl> {
        use webpki::Error;
        let (rest, list) = CertificateRevocationList::from_der(der).map_err(|_| BadCrl::Unreadable)?;
        if !rest.is_empty() {
            return Err(BadCrl::Unreadable);
        }
        let next_update = list.next_update().ok_or(BadCrl::Endless)?;
        OwnedCertRevocationList::from_der(der).map_err(|error| match error {
            Error::UnsupportedDeltaCrl => BadCrl::Delta,
            Error::UnsupportedIndirectCrl => BadCrl::Indirect,
            Error::UnsupportedRevocationReasonsPartitioning => BadCrl::Reasons,
            Error::UnsupportedCrlIssuingDistributionPoint => BadCrl::Point,
            Error::UnsupportedCrlVersion => BadCrl::Version1,
            Error::UnsupportedCriticalExtension => BadCrl::Critical,
            _ => BadCrl::Unreadable,
        })?;
        let point = list.extensions().iter().find(|extension| extension.oid == OID_X509_EXT_ISSUER_DISTRIBUTION_POINT);
        let part = point.map(|extension| extension.value.to_vec());
        let scope = part.as_deref().map_or(Some(Scope::default()), Scope::read).ok_or(BadCrl::Unreadable)?;
        Ok(Self {
            file: file.to_owned(),
            issuer: list.issuer().as_raw().to_vec(),
            issuer_name: refusal::name(list.issuer()),
            digest: sha256(der),
            number: list.crl_number().map(x509_parser::num_bigint::BigUint::to_bytes_be),
            this_update: timestamp(list.last_update().timestamp()),
            next_update: timestamp(next_update.timestamp()),
            part,
            scope,
            revoked: list.iter_revoked_certificates().map(|entry| significant(entry.raw_serial())).collect(),
            message: list.tbs_cert_list.as_ref().to_vec(),
            algorithm: encode(&list.signature_algorithm).ok_or(BadCrl::Unreadable)?,
            signature: list.signature_value.data.to_vec(),
        })
    }

    /// Before then it is dated in the future: the clock of its CA was wrong, or the service's is.
    pub(super) fn counts_from(&self) -> Timestamp {
        self.this_update - CLOCK_SKEW
    }

    pub(super) fn has_issuer(&self, name: &[u8]) -> bool {
        self.issuer == name
    }

    fn is_signed_by(&self, ca: &CaKey) -> bool {
        let signed = Signed { message: &self.message, algorithm: &self.algorithm, signature: &self.signature };
        self.has_issuer(&ca.name) && signed.is_by(&ca.key)
    }

    /// Whether `other`, of the same key and partition, is newer: neither its number nor its date is lower. Where the two
    /// disagree, neither list is older, and both are in force.
    fn is_older_than(&self, other: &Self) -> bool {
        let (own, others) = (self.age(), other.age());
        self.part == other.part && own != others && own.0 <= others.0 && own.1 <= others.1
    }

    fn age(&self) -> Age {
        (self.number.clone().map(|number| (number.len(), number)), self.this_update)
    }

    fn series(&self) -> Series {
        (self.issuer.clone(), self.part.clone())
    }

    /// Whether it covers this certificate of its CA (RFC 5280 §6.3.3 (b)).
    fn covers(&self, certificate: &X509Certificate<'_>, is_client: bool) -> bool {
        if self.part.is_none() {
            return true;
        }
        if (self.scope.clients_only && !is_client) || (self.scope.cas_only && is_client) {
            return false;
        }
        let points =
            certificate.extensions().iter().find(|extension| extension.oid == OID_X509_EXT_CRL_DISTRIBUTION_POINTS);
        match points.map(|extension| distribution_points(extension.value)) {
            None => true,
            Some(uris) => uris.unwrap_or_default().iter().any(|uri| self.scope.uris.contains(uri)),
        }
    }
}

/// For operators: file, number, times, and how many certificates it revokes.
impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.file.display())?;
        match &self.number {
            Some(number) => write!(f, "number {}", decimal(number))?,
            None => f.write_str("without number")?,
        }
        write!(f, ", thisUpdate {}, nextUpdate {}, ", self.this_update, self.next_update)?;
        write!(f, "{} revoked", self.revoked.len())?;
        let points: Vec<_> = self.scope.uris.iter().map(|uri| refusal::shown(&String::from_utf8_lossy(uri))).collect();
        if self.part.is_some() {
            write!(f, ", for {}", points.join(" "))?;
        }
        f.write_str(")")
    }
}

/// In decimal if it fits 128 bits, otherwise in hexadecimal.
fn decimal(number: &[u8]) -> String {
    let small = (number.len() <= 16).then(|| number.iter().fold(0_u128, |all, byte| all << 8 | u128::from(*byte)));
    small.map_or_else(|| format!("0x{}", hex(number)), |number| number.to_string())
}

fn significant(serial: &[u8]) -> Vec<u8> {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial[zeros..].to_vec()
}

impl Scope {
    /// `IssuingDistributionPoint`, as far as webpki has not refused it.
    fn read(der: &[u8]) -> Option<Self> {
        let mut scope = Self::default();
        for field in sequence(der)? {
            match field.tag() {
                Tag(0) => scope.uris = full_name_uris(field.data)?,
                Tag(1) => scope.clients_only = field.data != [0],
                Tag(2) => scope.cas_only = field.data != [0],
                _ => {}
            }
        }
        Some(scope)
    }
}

/// The URIs of a `CRLDistributionPoints`, without points for some reasons or of another issuer.
fn distribution_points(der: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut uris = Vec::new();
    for point in sequence(der)? {
        let fields = values(point.data)?;
        if fields.iter().all(|field| field.tag() == Tag(0)) {
            for field in fields {
                uris.extend(full_name_uris(field.data).unwrap_or_default());
            }
        }
    }
    Some(uris)
}

/// The URIs of a `DistributionPointName`, the content of its tag.
fn full_name_uris(der: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (_, name) = Any::from_der(der).ok()?;
    if (name.class(), name.tag()) != (Class::ContextSpecific, Tag(0)) {
        return None;
    }
    let names = values(name.data)?;
    Some(names.iter().filter(|name| name.tag() == Tag(6)).map(|name| name.data.to_vec()).collect())
}

fn sequence(der: &[u8]) -> Option<Vec<Any<'_>>> {
    let (rest, all) = Any::from_der(der).ok()?;
    if all.tag() == Tag::Sequence && rest.is_empty() { values(all.data) } else { None }
}

fn values(mut der: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut values = Vec::new();
    while !der.is_empty() {
        let (rest, value) = Any::from_der(der).ok()?;
        values.push(value);
        der = rest;
    }
    Some(values)
}

/// The lists that are in force for one CA.
pub(super) type InForce = Arc<[Arc<List>]>;

/// The newest of these, without duplicates.
fn newest(lists: &[Arc<List>]) -> InForce {
    let mut digests = HashSet::new();
    let is_newest = |list: &&Arc<List>| !lists.iter().any(|other| list.is_older_than(other));
    lists.iter().filter(is_newest).filter(|list| digests.insert(list.digest)).cloned().collect()
}

/// The lists loaded since the process started: no older one is ever accepted.
#[derive(Default)]
pub(super) struct CrlMemory(Mutex<Memory>);

/// Issuer, as a list names it, and partition.
type Series = (Vec<u8>, Option<Vec<u8>>);

#[derive(Default)]
struct Memory {
    /// The lists in force for each CA that was presented and has one. Every later list of such a CA is added here.
    of_cas: HashMap<CaKey, InForce>,
    /// The lists of other CAs, usually of intermediates: until a client presents such a CA, its key is unknown and no
    /// signature can be verified.
    unclaimed: HashMap<Series, Unclaimed>,
}

/// Lists of a series that no known key has signed.
#[derive(Default)]
struct Unclaimed {
    lists: Vec<Arc<List>>,
    /// The highest number and the latest date of the discarded lists.
    forgotten: Option<Age>,
}

impl Unclaimed {
    fn add(&mut self, list: &Arc<List>) {
        if self.lists.iter().any(|other| other.digest == list.digest) {
            return;
        }
        self.lists.push(Arc::clone(list));
        if self.lists.len() > MAX_UNCLAIMED {
            self.lists.sort_by_key(|list| (list.this_update, list.age().0));
            let (number, date) = self.lists.remove(0).age();
            let (last_number, last_date) = self.forgotten.take().unwrap_or((None, date));
            self.forgotten = Some((number.max(last_number), date.max(last_date)));
        }
    }

    /// Whether no discarded list can be newer.
    fn outdates_forgotten(&self, list: &List) -> bool {
        let age = list.age();
        self.forgotten.as_ref().is_none_or(|last| age != *last && age.0 >= last.0 && age.1 >= last.1)
    }
}

impl Memory {
    fn remember(&mut self, list: &Arc<List>) {
        if let Some((_, lists)) = self.of_cas.iter_mut().find(|(ca, _)| list.is_signed_by(ca)) {
            *lists = newest(&[std::slice::from_ref(list), lists].concat());
            return;
        }
        let series = list.series();
        if self.unclaimed.len() < MAX_UNCLAIMED_PARTS || self.unclaimed.contains_key(&series) {
            self.unclaimed.entry(series).or_default().add(list);
        }
    }

    /// The lists of a CA that is presented for the first time. `None`: some were discarded, and one of those may have been newer.
    fn claim(&mut self, ca: &CaKey, files: &[Arc<List>]) -> Option<InForce> {
        let is_kept = |list: &Arc<List>| self.unclaimed.contains_key(&list.series());
        if files.iter().any(|list| !is_kept(list) && list.is_signed_by(ca)) {
            return None;
        }
        let mut claimed = Vec::new();
        for unclaimed in self.unclaimed.iter().filter(|((issuer, _), _)| *issuer == ca.name).map(|(_, lists)| lists) {
            let signed: Vec<_> = unclaimed.lists.iter().filter(|list| list.is_signed_by(ca)).cloned().collect();
            if unclaimed.forgotten.is_some() && !signed.iter().any(|list| unclaimed.outdates_forgotten(list)) {
                return None;
            }
            claimed.extend(signed);
        }
        let in_force = newest(&claimed);
        if !in_force.is_empty() {
            self.unclaimed.retain(|_, unclaimed| {
                unclaimed.lists.retain(|list| claimed.iter().all(|other| other.digest != list.digest));
                !unclaimed.lists.is_empty() || unclaimed.forgotten.is_some()
            });
            self.of_cas.insert(ca.clone(), Arc::clone(&in_force));
        }
        Some(in_force)
    }

    /// The warning about a list of a CA that is not in `tls.client_ca`.
    fn warning_on(&self, list: &List) -> Option<String> {
        let of_ca = self.of_cas.iter().find(|(ca, _)| list.is_signed_by(ca)).map(|(_, lists)| &**lists);
        let series = self.unclaimed.get(&list.series());
        let issuer = &list.issuer_name;
        if of_ca.is_none() && series.is_none_or(|series| !series.outdates_forgotten(list)) {
            return Some(format!("CRL {list} is from {issuer}, which is not in tls.client_ca; {IN_DOUBT}"));
        }
        let known = of_ca.or_else(|| series.map(|series| series.lists.as_slice()))?;
        let newer = known.iter().find(|other| list.is_older_than(other))?;
        Some(format!("CRL {list} is from {issuer} and older than {newer}; it is ignored if one CA signed both"))
    }
}

/// The lists of the files as they were read.
pub(super) struct Revocations {
    /// Whether revocation is checked at all.
    enabled: bool,
    lists: Vec<Arc<List>>,
    /// The lists in force for each CA that was presented.
    in_force: Mutex<HashMap<CaKey, InForce>>,
    memory: Arc<CrlMemory>,
}

impl Revocations {
    /// `lists` of files, without those dated in the future. Those of `cas`, whose keys are known, are never unclaimed.
    pub(super) fn new(enabled: bool, lists: Vec<Arc<List>>, cas: &[&CaKey], memory: Arc<CrlMemory>) -> Self {
        let mut known = memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of_cas, others): (Vec<_>, Vec<_>) =
            lists.iter().cloned().partition(|list| cas.iter().any(|ca| list.is_signed_by(ca)));
        for list in &of_cas {
            known.remember(list);
        }
        for ca in cas {
            if !known.of_cas.contains_key(*ca) {
                known.claim(ca, &of_cas);
            }
        }
        for list in &others {
            known.remember(list);
        }
        drop(known);
        Self { enabled, lists, in_force: Mutex::default(), memory }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The newest lists of this CA, usually one for each partition. A CA that may not sign lists has none.
    pub(super) fn in_force(&self, ca: &CaKey, signs_crls: bool) -> InForce {
        if !signs_crls {
            return Arc::from([]);
        }
        let mut known = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lists) = known.get(ca) {
            return Arc::clone(lists);
        }
        let mut memory = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lists = match memory.of_cas.get(ca) {
            Some(lists) => Arc::clone(lists),
            None => memory.claim(ca, &self.lists).unwrap_or_else(|| Arc::from([])),
        };
        drop(memory);
        // Intermediate CAs come from clients.
        if known.len() < MAX_KNOWN {
            known.insert(ca.clone(), Arc::clone(&lists));
        }
        lists
    }

    /// The certificate is not revoked by its issuer; returns until when that is known.
    pub(super) fn check(
        &self,
        certificate: &X509Certificate<'_>,
        is_client: bool,
        (ca, signs_crls): (&CaKey, bool),
        now: Timestamp,
    ) -> Result<Timestamp, Refusal> {
        let in_force = self.in_force(ca, signs_crls);
        let covering: Vec<_> = in_force.iter().filter(|list| list.covers(certificate, is_client)).collect();
        let subject = || refusal::subject(certificate);
        let serial = significant(certificate.raw_serial());
        if let Some(list) = covering.iter().find(|list| list.revoked.contains(&serial)) {
            return Err(Refusal::Revoked {
                subject: subject(),
                serial: refusal::serial(certificate),
                crl: list.to_string(),
            });
        }
        let issuer = refusal::name(certificate.issuer());
        match first_to_expire(&covering) {
            None => Err(Refusal::NoCrl { issuer, subject: subject() }),
            Some(list) if list.next_update <= now => {
                Err(Refusal::CrlExpired { issuer, subject: subject(), crl: list.to_string(), at: list.next_update })
            }
            Some(list) => Ok(list.next_update),
        }
    }
}

/// The list whose expiry ends the revocation check: of each partition the last one counts, and a list for all certificates
/// stands in for all partitions.
pub(super) fn first_to_expire<'a>(lists: &[&'a Arc<List>]) -> Option<&'a Arc<List>> {
    let last = |part: &Option<Vec<u8>>| {
        lists.iter().copied().filter(|list| list.part == *part).max_by_key(|list| list.next_update)
    };
    let whole = last(&None);
    let parts = lists.iter().filter(|list| list.part.is_some()).filter_map(|list| last(&list.part));
    let first_part = parts.min_by_key(|list| list.next_update);
    [whole, first_part].into_iter().flatten().max_by_key(|list| list.next_update)
}

/// A message to the operator about the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) is_warning: bool,
    pub(super) text: String,
}

impl Notice {
    pub(super) fn warning(text: String) -> Self {
        Self { is_warning: true, text }
    }

    pub(super) fn note(text: String) -> Self {
        Self { is_warning: false, text }
    }
}

impl Revocations {
    /// Which lists are in force for this CA, and why others are not.
    pub(super) fn notices_on(&self, ca: &CaKey, name: &str, signs_crls: bool, now: Timestamp) -> Vec<Notice> {
        let mut notices = Vec::new();
        if !signs_crls {
            notices.push(Notice::warning(format!(
                "the CA {name} may not sign CRLs (keyUsage lacks cRLSign); all of its certificates are refused"
            )));
            return notices;
        }
        let in_force = self.in_force(ca, true);
        let is_in_force = |list: &List| in_force.iter().any(|other| other.digest == list.digest);
        for list in &*in_force {
            let on_disk = self.lists.iter().any(|other| other.digest == list.digest);
            if on_disk {
                notices.push(Notice::note(format!("in force for the CA {name}: CRL {list}")));
            } else {
                notices.push(Notice::warning(format!(
                    "CRL {list} of the CA {name} was in force and was removed from the files; it stays in force"
                )));
            }
            let twin = in_force.iter().any(|other| other.digest != list.digest && other.part == list.part);
            if twin && on_disk {
                notices.push(Notice::warning(format!(
                    "CRL {list} of the CA {name} and another one disagree about which is newer, or have the same number \
                     and date but not the same content; certificates that either one revokes are refused"
                )));
            }
        }
        for list in self.lists.iter().filter(|list| list.is_signed_by(ca) && !is_in_force(list)) {
            if in_force.is_empty() {
                notices.push(Notice::warning(format!("CRL {list} is from {name}; {IN_DOUBT}")));
                continue;
            }
            let newer = in_force.iter().find(|other| list.is_older_than(other));
            let newer = newer.map_or_else(String::new, ToString::to_string);
            let rolled_back = !self.lists.iter().any(|other| list.is_older_than(other) && other.is_signed_by(ca));
            let text = format!("CRL {list} of the CA {name} is older than the one in force, {newer}, and ignored");
            notices.push(if rolled_back { Notice::warning(text) } else { Notice::note(text) });
        }
        let all: Vec<_> = in_force.iter().collect();
        match first_to_expire(&all) {
            None => notices.push(Notice::warning(format!(
                "the CA {name} has no CRL that can be used; all of its certificates are refused"
            ))),
            Some(list) if list.next_update <= now => notices.push(Notice::warning(format!(
                "CRL {list} of the CA {name} expired at {}; certificates of this CA are refused",
                list.next_update
            ))),
            Some(_) => {}
        }
        notices
    }

    /// Messages about the lists that none of `cas` has signed.
    pub(super) fn notices_on_other_issuers(&self, cas: &[&CaKey]) -> Vec<(&List, Notice)> {
        let others = self.lists.iter().filter(|list| !cas.iter().any(|ca| list.is_signed_by(ca)));
        let memory = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        others
            .map(|list| {
                let issuer = &list.issuer_name;
                let notice = if cas.iter().any(|ca| list.has_issuer(&ca.name)) {
                    Notice::warning(format!(
                        "CRL {list} is not signed by the key of any CA {issuer} in tls.client_ca (a bad signature, or \
                         another CA of that name), and ignored for them"
                    ))
                } else if let Some(text) = memory.warning_on(list) {
                    Notice::warning(text)
                } else {
                    Notice::note(format!(
                        "CRL {list} is from {issuer}, which is not in tls.client_ca; it is used only if this is an \
                         intermediate CA whose certificate clients present"
                    ))
                };
                (&**list, notice)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(number: Option<&[u8]>, this_update: u64) -> List {
        List {
            file: "a.crl".into(),
            issuer: vec![1],
            issuer_name: "CN=a".to_owned(),
            message: Vec::new(),
            algorithm: Vec::new(),
            signature: Vec::new(),
            digest: [0; 32],
            number: number.map(<[u8]>::to_vec),
            this_update: Timestamp::from_epoch(this_update),
            next_update: Timestamp::from_epoch(1000),
            part: None,
            scope: Scope::default(),
            revoked: HashSet::new(),
        }
    }

    #[test]
    fn a_list_is_older_if_neither_number_nor_date_is_higher() {
        for (old, new, is_older) in [
            (list(Some(&[9]), 100), list(Some(&[1, 0]), 100), true),
            (list(Some(&[9]), 100), list(Some(&[9]), 200), true),
            (list(Some(&[9]), 100), list(Some(&[9]), 100), false),
            (list(Some(&[9]), 200), list(Some(&[1, 0]), 100), false),
            (list(Some(&[1, 0]), 100), list(Some(&[9]), 200), false),
            (list(None, 99), list(None, 100), true),
            (list(None, 99), list(Some(&[1]), 100), true),
            (list(None, 200), list(Some(&[1]), 100), false),
        ] {
            assert_eq!(old.is_older_than(&new), is_older, "{old} and {new}");
            assert!(!new.is_older_than(&old), "{new} and {old}");
        }
        let part = |bytes: &[u8]| List { part: Some(bytes.to_vec()), ..list(Some(&[1]), 100) };
        assert!(!part(&[1]).is_older_than(&list(Some(&[2]), 100)));
        assert!(!part(&[1]).is_older_than(&List { number: Some(vec![2]), ..part(&[2]) }));
    }

    #[test]
    fn the_scope_of_a_partition_is_read() {
        // fullName with one URI, onlyContainsUserCerts
        let point = [0x30, 0x0e, 0xa0, 0x09, 0xa0, 0x07, 0x86, 0x05, b'h', b't', b't', b'p', b':', 0x81, 0x01, 0xff];
        let scope = Scope::read(&point).unwrap();
        assert_eq!(scope, Scope { uris: vec![b"http:".to_vec()], clients_only: true, cas_only: false });
        let points = [&[0x30, 0x0d, 0x30, 0x0b][..], &point[2..13]].concat();
        assert_eq!(distribution_points(&points), Some(vec![b"http:".to_vec()]));
        assert_eq!(Scope::read(&[0x30, 0x02, 0xa0]), None);
    }

    #[test]
    fn numbers_are_shown_as_people_write_them() {
        assert_eq!(decimal(&[1, 0]), "256");
        assert_eq!(decimal(&[1; 20]), format!("0x{}", "01".repeat(20)));
    }
}
