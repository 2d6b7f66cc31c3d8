//! Certificates, trust and revocation of the listeners, reloaded when their files change.
//!
//! In: the files of `[tls]`. Out: a [`Trust`], an immutable pair of TLS configurations whose certificate and verifier are
//! replaced beneath them. Requests on open connections are checked against the same [`Trust`] again, since it may have
//! changed after the handshake.

mod anchor;
pub(crate) mod certificate_check;
mod crl;
mod files;
mod path;
mod refusal;
mod signature;
mod verifier;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use self::crl::CrlMemory;
pub(crate) use self::files::TlsError;
use self::files::{ClientTrust, ServerPair};
pub(in crate::server) use self::refusal::Refusal;
use self::verifier::CurrentVerifier;
pub(in crate::server) use self::verifier::{VERDICT, Verdict};
use writ_core::client::{PeerCertificate, Thumbprint};
use writ_platform::clock::Timestamp;

/// `[tls]`.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The server's chain, PEM.
    pub(crate) certificate: PathBuf,
    /// Its private key, PEM.
    pub(crate) private_key: PathBuf,
    /// The CAs of client certificates.
    pub(crate) client_ca: Vec<ClientCa>,
    /// Their CRLs, PEM or DER; if empty, revocation is not checked.
    pub(crate) client_crls: Vec<PathBuf>,
    /// The oldest version spoken.
    pub(crate) min_version: MinVersion,
}

/// A file with CAs of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientCa {
    pub(crate) file: PathBuf,
    /// The trust domains to whose SPIFFE IDs these CAs are limited; `None`: any name.
    pub(crate) trust_domains: Option<Vec<String>>,
}

/// The oldest version of TLS that is accepted (`tls.min_version`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MinVersion {
    /// TLS 1.2, with forward secrecy and AEAD only.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls12 => TLS13_AND_TLS12,
            Self::Tls13 => ONLY_TLS13,
        }
    }
}

static TLS13_AND_TLS12: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
static ONLY_TLS13: &[&SupportedProtocolVersion] = &[&TLS13];

/// The server's certificate, and the client certificates that the exchange listener accepts.
pub(crate) struct Trust {
    settings: Settings,
    pair: ArcSwap<ServerPair>,
    clients: ArcSwap<ClientTrust>,
    /// The self-signed certificates that the policies in force register.
    registered: ArcSwap<HashSet<Thumbprint>>,
    /// Incremented by every change, so that open connections know when to verify again.
    generation: AtomicU64,
    /// The newest CRLs so far: an older one is never accepted.
    crl_memory: Arc<CrlMemory>,
    /// The faults logged last, so that one fault is one line in the log.
    logged: Mutex<LoggedFaults>,
}

#[derive(Default)]
struct LoggedFaults {
    certificate: Option<Fault>,
    clients: Option<Fault>,
}

/// A chain that would pass a handshake.
#[derive(Debug, Clone)]
pub(in crate::server) struct Accepted {
    /// [`Trust::generation`] at the verification.
    generation: u64,
    /// When it must be verified again, since a certificate or a CRL has expired.
    until: Timestamp,
    /// The client's own certificate, with the names that its CA may vouch for.
    pub(in crate::server) certificate: Arc<PeerCertificate>,
}

/// A finding about the files of client CAs and CRLs, with the key that names the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The service cannot start.
    Error(&'static str, String),
    /// The service can start, at a risk.
    Warning(&'static str, String),
    Note(&'static str, String),
}

/// Checks the files of client CAs and CRLs as a startup would.
pub(crate) fn examine_clients(settings: &Settings, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut check = |key, outcome: Result<(), TlsError>| {
        findings.extend(outcome.err().map(|error| Finding::Error(key, error.to_string())));
    };
    for ca in &settings.client_ca {
        check("tls.client_ca", files::read(&ca.file).and_then(|content| files::anchors_in(&content, ca).map(drop)));
    }
    for file in &settings.client_crls {
        check("tls.client_crls", files::read(file).and_then(|content| files::lists_in(&content, file).map(drop)));
    }
    if !findings.is_empty() {
        return findings;
    }
    let crl_memory = Arc::default();
    match files::read_clients(settings, now).and_then(|files| ClientTrust::parse(settings, &files, &crl_memory)) {
        Ok(clients) => {
            for (file, notice) in clients.notices {
                let is_crl = settings.client_crls.contains(&file);
                let key = if is_crl || !settings.client_crls.is_empty() { "tls.client_crls" } else { "tls.client_ca" };
                let text = format!("{}: {}", file.display(), notice.text);
                findings.push(if notice.is_warning { Finding::Warning(key, text) } else { Finding::Note(key, text) });
            }
        }
        Err(error) => findings.push(Finding::Error("tls.client_ca", error.to_string())),
    }
    findings
}

/// A fault, and the digest of the files that have it.
#[derive(PartialEq, Eq)]
struct Fault {
    text: String,
    digest: Option<[u8; 32]>,
}

impl Fault {
    fn new(error: &TlsError, digest: Option<[u8; 32]>) -> Self {
        Self { text: error.to_string(), digest }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reloaded {
    /// The server's certificate or key has changed.
    pub(crate) certificate: bool,
    /// The client CAs or their CRLs have changed.
    pub(crate) clients: bool,
    /// When the server's certificate expires.
    pub(crate) certificate_expires_at: Timestamp,
    /// When the first CRL expires; `None` without CRLs.
    pub(crate) crl_expires_at: Option<Timestamp>,
}

impl Trust {
    /// Reads every file once.
    ///
    /// # Errors
    /// [`TlsError`] names the file that is missing, not PEM, expired, or does not fit the others.
    pub(crate) fn load(settings: Settings) -> Result<Arc<Self>, TlsError> {
        let now = Timestamp::now();
        let pair = ServerPair::parse(&settings, &files::read_pair(&settings)?, now)?;
        let crl_memory = Arc::default();
        let clients = ClientTrust::parse(&settings, &files::read_clients(&settings, now)?, &crl_memory)?;
        let trust = Self {
            settings,
            pair: ArcSwap::from_pointee(pair),
            clients: ArcSwap::from_pointee(clients),
            registered: ArcSwap::default(),
            generation: AtomicU64::new(0),
            crl_memory,
            logged: Mutex::default(),
        };
        trust.report(now);
        Ok(Arc::new(trust))
    }

    /// Reads the files again. The server's pair and the client trust are each replaced if they are complete and valid, and
    /// stay in force otherwise.
    ///
    /// A fault is logged once for each state of the files. `None`: nothing changed.
    pub(crate) fn reload(&self) -> Option<Reloaded> {
        let now = Timestamp::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let certificate = log_once(self.reload_pair(now), &mut logged.certificate);
        let clients = log_once(self.reload_clients(now), &mut logged.clients);
        drop(logged);
        if certificate || clients {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        self.report(now);
        (certificate || clients).then(|| Reloaded {
            certificate,
            clients,
            certificate_expires_at: self.pair.load().expires_at,
            crl_expires_at: self.clients.load().crl_expires_at,
        })
    }

    /// Reports when the certificate and the CRLs expire. Whether the files have another meaning by now, so that they must be
    /// read again although they are the same.
    pub(crate) fn keep_time(&self) -> bool {
        let now = Timestamp::now();
        self.report(now);
        self.clients.load().is_due(now)
    }

    /// Sets the thumbprints (`x5t#S256`) of the self-signed certificates that the policies in force register.
    pub(crate) fn register(&self, thumbprints: HashSet<Thumbprint>) {
        if **self.registered.load() != thumbprints {
            self.registered.store(Arc::new(thumbprints));
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether this chain, leaf first, would pass a handshake at `now`.
    pub(in crate::server) fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Accepted, Refusal> {
        // Read first: a change after this must not count as verified.
        let generation = self.generation.load(Ordering::Acquire);
        let accepted = self.clients.load().verifier.verify(chain, &self.registered.load(), now)?;
        Ok(Accepted { generation, until: accepted.until, certificate: Arc::new(accepted.certificate) })
    }

    /// Whether `accepted` still holds, so that the chain need not be verified again.
    pub(in crate::server) fn still_holds(&self, accepted: &Accepted, now: Timestamp) -> bool {
        accepted.generation == self.generation.load(Ordering::Acquire) && now < accepted.until
    }

    /// The configuration of the exchange listener: a client certificate is required.
    pub(in crate::server) fn exchange_config(
        self: &Arc<Self>,
        http2: bool,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let verifier = Arc::new(CurrentVerifier(Arc::clone(self)));
        let builder = self.builder()?.with_client_cert_verifier(verifier);
        Ok(Arc::new(without_resumption(builder.with_cert_resolver(self.resolver()), http2)))
    }

    /// The configuration of the discovery listener: no client certificate is requested.
    pub(in crate::server) fn discovery_config(
        self: &Arc<Self>,
        http2: bool,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = self.builder()?.with_no_client_auth();
        Ok(Arc::new(without_resumption(builder.with_cert_resolver(self.resolver()), http2)))
    }

    fn builder(&self) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, rustls::Error> {
        ServerConfig::builder_with_provider(files::provider())
            .with_protocol_versions(self.settings.min_version.versions())
    }

    fn resolver(self: &Arc<Self>) -> Arc<CurrentCertificate> {
        Arc::new(CurrentCertificate(Arc::clone(self)))
    }

    fn reload_pair(&self, now: Timestamp) -> Result<bool, Fault> {
        let read = files::read_pair(&self.settings).map_err(|error| Fault::new(&error, None))?;
        let digest = read.digest();
        if digest == self.pair.load().digest {
            return Ok(false);
        }
        let pair = ServerPair::parse(&self.settings, &read, now);
        self.pair.store(Arc::new(pair.map_err(|error| Fault::new(&error, Some(digest)))?));
        Ok(true)
    }

    fn reload_clients(&self, now: Timestamp) -> Result<bool, Fault> {
        let read = files::read_clients(&self.settings, now).map_err(|error| Fault::new(&error, None))?;
        let (digest, current) = (read.digest(), self.clients.load());
        if digest == current.digest && !current.is_due(now) {
            return Ok(false);
        }
        let clients = ClientTrust::parse(&self.settings, &read, &self.crl_memory);
        let clients = clients.map_err(|error| Fault::new(&error, Some(digest)))?;
        for (file, notice) in &clients.notices {
            let (file, text) = (file.display(), &notice.text);
            if notice.is_warning { tracing::warn!("{file}: {text}") } else { tracing::info!("{file}: {text}") }
        }
        self.clients.store(Arc::new(clients));
        Ok(true)
    }

    /// Reports the seconds until certificate and CRLs expire, negative after that.
    #[expect(clippy::cast_precision_loss, reason = "seconds until an expiry are far below 2^52")]
    fn report(&self, now: Timestamp) {
        let left = |at: Timestamp| at.epoch() as f64 - now.epoch() as f64;
        metrics::gauge!("writ_tls_certificate_expiry_seconds").set(left(self.pair.load().expires_at));
        if let Some(at) = self.clients.load().crl_expires_at {
            metrics::gauge!("writ_crl_expiry_seconds").set(left(at));
        }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Whether something new is in force; a fault is logged unless it is the one logged last.
fn log_once(outcome: Result<bool, Fault>, last: &mut Option<Fault>) -> bool {
    match outcome {
        Ok(changed) => {
            let was_refused = last.take().is_some();
            if was_refused && !changed {
                tracing::info!("the refused TLS files were corrected: they are again the files in force");
            }
            if changed {
                metrics::counter!("writ_tls_reload_total", "outcome" => "ok").increment(1);
            }
            changed
        }
        Err(fault) => {
            if last.as_ref() != Some(&fault) {
                tracing::error!(
                    error = fault.text,
                    "the changed TLS files are refused; the previous ones stay in force"
                );
                metrics::counter!("writ_tls_reload_total", "outcome" => "rejected").increment(1);
                *last = Some(fault);
            }
            false
        }
    }
}

/// A resumed session would skip the CRL check, so sessions are never resumed.
fn without_resumption(mut config: ServerConfig, http2: bool) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.max_early_data_size = 0;
    if http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    config
}

/// Presents the certificate that is in force when the handshake begins.
#[derive(Debug)]
struct CurrentCertificate(Arc<Trust>);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.pair.load().key))
    }
}

#[cfg(test)]
mod tests;
