//! The rooms put together: what `writ serve` runs.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::{Admin, Socket};
use crate::config::policy::folder::{self, Checked, Watch};
use crate::config::{Config, Problem};
use crate::server::metadata;
use crate::server::response::HttpRefusal;
use crate::server::tls::{TlsError, Trust};
use crate::server::{Addresses, ListenError, Listeners, Rooms, Running, UnheardRequest};
use writ_core::audit::{Audit, Decision, Event};
use writ_core::blocks::{Blocks, BlocksError};
use writ_core::client::IdentityKind;
use writ_core::endpoint::{self, Endpoint};
use writ_core::exchange::Exchange;
use writ_core::introspect::Introspection;
use writ_core::keys::mirror::MirrorError;
use writ_core::keys::seal::{self, SealError, SealingKeys};
use writ_core::keys::{self, KeyRing, KeysError};
use writ_core::ledger::{Ledger, LedgerError};
use writ_core::limits::Limits;
use writ_core::pdp::Pdp;
use writ_core::policy::{Policies, PolicySet};
use writ_core::subject::issuers::{Issuers, IssuersError};
use writ_outbound::SetupError;
use writ_platform::clock::{Clock, HumanDuration, Timestamp};
use writ_platform::process;
use writ_platform::secret_file::{self, SecretFileError};
use writ_platform::telemetry::{Log, LogError, Metrics};
use writ_store::{OpenError, Store};

/// How often files are looked at.
const WATCH: Duration = Duration::from_secs(1);

/// How often ledger and kill switch are rid of what can decide nothing any more.
const SWEEP: Duration = Duration::from_secs(60 * 60);

/// How often what histograms have gathered is summed up.
const SUM_UP: Duration = Duration::from_secs(5);

/// How long work that no client waits for any more may take at the end.
const FINISH: Duration = Duration::from_secs(1);

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Policies are wrong; every problem.
    #[error("the policies cannot be used")]
    Policies(Vec<Problem>),
    /// A sealing key cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// A sealing key is none.
    #[error("{path}: {source}")]
    SealingKey {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: SealError,
    },
    /// There is none, and only a service makes one.
    #[error("there is no store in {}; `writ serve` makes it", .0.display())]
    NoStore(PathBuf),
    /// The key files are somebody else's. Nothing was changed.
    #[error("{} belongs to another trust domain", .0.display())]
    ForeignFile(PathBuf),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The key ring is not there.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The kill switch cannot be read: what was stopped might go on.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// A subject issuer cannot be used.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    /// The external decision point cannot be asked.
    #[error("[pdp]: {0}")]
    Pdp(SetupError),
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address cannot be taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The socket for commands cannot be made.
    #[error("admin.sock: {0}")]
    Admin(io::Error),
    /// Nothing can be recorded.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Store, keys, ledger and blocks: what commands need, with and without a service.
pub struct Core {
    /// The records.
    pub store: Store,
    /// The key ring.
    pub keys: Arc<KeyRing>,
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// The kill switch.
    pub blocks: Arc<Blocks>,
}

impl StartError {
    /// Whether it is what `writ store repair` is for.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Store(OpenError::Damaged { .. })
                | Self::Keys(KeysError::Damaged(_) | KeysError::Mirror(MirrorError::Ahead(_)))
                | Self::Ledger(LedgerError::Unreadable)
                | Self::Blocks(BlocksError::Unreadable)
        )
    }
}

impl Core {
    /// Opens the store and what is kept in it; what that did to the keys is recorded in `audit`.
    ///
    /// # Errors
    /// [`StartError`]; where the sealing key is wrong or the store is somebody else's, nothing in it has changed.
    pub async fn open(config: &Config, audit: &Audit) -> Result<Self, StartError> {
        let sealing = sealing_keys(&config.keys)?;
        let store = Store::open(&config.store).await?;
        let (settings, now) = (&config.keys, Timestamp::now());
        let opening = KeyRing::open(store.clone(), settings, sealing, &config.trust_domain, now);
        let (keys, events) = or_close(&store, opening).await.map_err(|error| unopened(settings, error))?;
        for event in events {
            audit.write(&event.into()).await?;
        }
        let core = Self::complete(store, keys).await?;
        or_close(&core.store, core.store.keep()).await?;
        Ok(core)
    }

    /// Opens a store that is there already.
    ///
    /// # Errors
    /// [`StartError`]; [`StartError::NoStore`] where one would have to be made.
    pub async fn open_existing(config: &Config, audit: &Audit) -> Result<Self, StartError> {
        expect_store(config)?;
        Self::open(config, audit).await
    }

    /// Opens a store that is there already, to look at it: of its keys nothing is changed.
    ///
    /// # Errors
    /// As [`Core::open_existing`].
    pub async fn look(config: &Config) -> Result<Self, StartError> {
        expect_store(config)?;
        let sealing = sealing_keys(&config.keys)?;
        let store = Store::open(&config.store).await?;
        let looking = KeyRing::look(store.clone(), &config.keys, sealing, &config.trust_domain);
        let keys = or_close(&store, looking).await.map_err(|error| unopened(&config.keys, error))?;
        Self::complete(store, keys).await
    }

    /// What operators ask for, done with these rooms; what it changes is recorded in `audit`.
    pub fn admin(&self, audit: Audit) -> Admin {
        Admin::new(Arc::clone(&self.keys), Arc::clone(&self.ledger), Arc::clone(&self.blocks), audit)
    }

    async fn complete(store: Store, keys: KeyRing) -> Result<Self, StartError> {
        let ledger = or_close(&store, Ledger::open(store.clone())).await?;
        let blocks = or_close(&store, Blocks::open(store.clone())).await?;
        Ok(Self { store, keys: Arc::new(keys), ledger: Arc::new(ledger), blocks: Arc::new(blocks) })
    }
}

fn expect_store(config: &Config) -> Result<(), StartError> {
    if writ_store::exists(&config.store) { Ok(()) } else { Err(StartError::NoStore(config.store.path.clone())) }
}

/// Names the file where the sealing key is not the one that the store was sealed with.
fn unopened(settings: &keys::Settings, error: KeysError) -> StartError {
    match error {
        KeysError::Seal(source @ SealError::Closed) => {
            StartError::SealingKey { path: settings.sealing_key.display().to_string(), source }
        }
        other => other.into(),
    }
}

async fn or_close<T, E>(store: &Store, opening: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let opened = opening.await;
    if opened.is_err() {
        store.clone().close().await;
    }
    opened
}

/// Reads the sealing keys that `settings` name.
///
/// # Errors
/// [`StartError::Secret`], [`StartError::SealingKey`].
pub fn sealing_keys(settings: &keys::Settings) -> Result<SealingKeys, StartError> {
    let read = |path: &std::path::PathBuf| {
        let at = |source| StartError::SealingKey { path: path.display().to_string(), source };
        seal::parse_sealing_key(&secret_file::read(path)?).map_err(at)
    };
    let previous = settings.previous_sealing_keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let failed = |source| StartError::SealingKey { path: settings.sealing_key.display().to_string(), source };
    SealingKeys::new(&read(&settings.sealing_key)?, &previous).map_err(failed)
}

/// A service that answers.
pub struct Service {
    store: Store,
    keys: Arc<KeyRing>,
    policies: Arc<Policies>,
    addresses: Addresses,
    running: Running,
    reload: Arc<Notify>,
    tasks: JoinSet<()>,
    in_flight: mpsc::Receiver<Infallible>,
}

/// Why the service ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// A listener did.
    #[error(transparent)]
    Listener(#[from] ListenError),
    /// What looks after keys, ledger or files did: nothing would rotate, or be reloaded.
    #[error("a part of the service ended; the log says why")]
    Part,
}

impl Service {
    /// Starts everything; clients are answered when this returns.
    ///
    /// # Errors
    /// [`StartError`]: the first thing that does not work; nothing is left running.
    pub async fn start(config: Config, log: Log, metrics: Metrics) -> Result<Self, StartError> {
        let audit = Audit::new(log);
        let policies = load_policies(&config)?;
        let issuers = Arc::new(Issuers::new(config.subject_issuers.clone(), config.clock_skew)?);
        let pdp = pdp(&config)?;
        let trust = Trust::load(config.listener.tls.clone())?;
        register(&trust, &policies.snapshot());
        if let Some(fit) = process::admit_connections(config.listener.max_connections as u64) {
            tracing::warn!(fit, "the limit on open files is too low for limits.max_connections");
        }
        let listeners = Listeners::bind(config.listener.clone())?;
        let core = Core::open(&config, &audit).await?;
        let started = Self::run(&config, audit, &core, policies, pdp, issuers, trust, listeners, metrics);
        match started {
            Ok(service) => Ok(service),
            Err(error) => {
                core.store.close().await;
                Err(error)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the rooms meet here and nowhere else")]
    fn run(
        config: &Config,
        audit: Audit,
        core: &Core,
        policies: Arc<Policies>,
        pdp: Option<Arc<Pdp>>,
        issuers: Arc<Issuers>,
        trust: Arc<Trust>,
        listeners: Listeners,
        metrics: Metrics,
    ) -> Result<Self, StartError> {
        let socket = Socket::bind(core.store.path()).map_err(StartError::Admin)?;
        let addresses = listeners.addresses();
        let (alive, in_flight) = mpsc::channel(1);
        let clock = Arc::new(Clock::start());
        let limits = Arc::new(Limits::new(config.limits));
        let exchange = Arc::new(Exchange {
            settings: config.claims.clone(),
            policies: Arc::clone(&policies),
            pdp: pdp.clone(),
            issuers: Arc::clone(&issuers),
            keys: Arc::clone(&core.keys),
            ledger: Arc::clone(&core.ledger),
            blocks: Arc::clone(&core.blocks),
            clock: Arc::clone(&clock),
            limits: Arc::clone(&limits),
            audit: audit.clone(),
            in_flight: alive.clone(),
        });
        let introspection = Arc::new(Introspection {
            trust_domain: config.trust_domain.clone(),
            policies: Arc::clone(&policies),
            keys: Arc::clone(&core.keys),
            ledger: Arc::clone(&core.ledger),
            blocks: Arc::clone(&core.blocks),
            clock: Arc::clone(&clock),
            limits,
            audit: audit.clone(),
            in_flight: alive,
        });
        let rooms = rooms(config, exchange, introspection, core, &clock, &policies, audit.clone(), metrics.clone());
        let running = listeners.start(&trust, &rooms)?;
        let reload = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        issuers.warm();
        let admin = Arc::new(core.admin(audit.clone()));
        tasks.spawn(admin.serve(socket, Arc::clone(&clock)));
        tasks.spawn(keep_keys(Arc::clone(&core.keys), Arc::clone(&clock), audit.clone()));
        let upkeep = Upkeep {
            store: core.store.clone(),
            ledger: Arc::clone(&core.ledger),
            keys: Arc::clone(&core.keys),
            blocks: Arc::clone(&core.blocks),
            clock,
        };
        tasks.spawn(upkeep.keep());
        tasks.spawn(keep_metrics(metrics));
        let watch = Watch::new(config.policies.clone(), &policies.snapshot());
        let files = Files { policies: Arc::clone(&policies), watch, rejected: false, pdp, trust, issuers, audit };
        tasks.spawn(files.keep(Arc::clone(&reload)));
        let (store, keys) = (core.store.clone(), Arc::clone(&core.keys));
        Ok(Self { store, keys, policies, addresses, running, reload, tasks, in_flight })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The policies in force now.
    pub fn policies(&self) -> Arc<PolicySet> {
        self.policies.snapshot()
    }

    /// What makes it read its files again at once.
    pub fn reloader(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    /// Serves until `stop`, lets what is in flight finish, and closes the store.
    ///
    /// # Errors
    /// [`Ended`] if it ended by itself.
    pub async fn until(self, stop: impl Future<Output = ()>) -> Result<(), Ended> {
        let Self { store, keys, running, mut tasks, mut in_flight, .. } = self;
        let mut whole = true;
        let stop = async {
            tokio::select! {
                () = stop => {}
                _ = tasks.join_next() => whole = false,
            }
        };
        let outcome = running.until(stop).await;
        // Its clients have gone, but what was counted belongs into the log.
        if timeout(FINISH, in_flight.recv()).await.is_err() {
            tracing::warn!("requests whose clients had gone were cut off");
        }
        // A step of the key ring writes files, which go on being written when it is cut off.
        let resting = timeout(FINISH, keys.pause()).await;
        tasks.shutdown().await;
        store.close().await;
        drop(resting);
        outcome?;
        if whole { Ok(()) } else { Err(Ended::Part) }
    }
}

fn load_policies(config: &Config) -> Result<Arc<Policies>, StartError> {
    let (set, remarks) = folder::load(&config.policies).map_err(StartError::Policies)?;
    for remark in &remarks {
        tracing::warn!("{remark}");
    }
    tell(&set);
    announce_redemption(&set);
    Ok(Arc::new(Policies::new(set)))
}

/// Redemption deviates from the draft, and whoever runs it shall know (R-DELAY-01).
fn announce_redemption(set: &PolicySet) {
    for policy in set.iter() {
        for rule in policy.purposes.iter().filter(|rule| rule.redemption.is_some()) {
            tracing::warn!(
                client = %policy.client_id,
                purpose = %rule.purpose,
                "redemption of expired Txn-Tokens is on, which the draft forbids in general (TT 6, 13.15)"
            );
        }
    }
}

fn tell(set: &PolicySet) {
    metrics::gauge!("writ_policies_info", "digest" => set.digest().to_owned()).set(1.0);
}

#[expect(clippy::too_many_arguments, reason = "the rooms meet here and nowhere else")]
fn rooms(
    config: &Config,
    exchange: Arc<Exchange>,
    introspection: Arc<Introspection>,
    core: &Core,
    clock: &Arc<Clock>,
    policies: &Arc<Policies>,
    audit: Audit,
    metrics: Metrics,
) -> Rooms {
    let document = metadata::Settings {
        issuer: config.issuer.clone(),
        discovery_url: config.discovery_url.clone(),
        trust_domain: config.trust_domain.to_string(),
        algorithm: config.keys.algorithm,
    };
    let (published, registered) = (Arc::clone(policies), Arc::clone(policies));
    let keys = Arc::clone(&core.keys);
    let (observed, watched, ledger) = (Arc::clone(&core.keys), Arc::clone(&core.keys), Arc::clone(&core.ledger));
    let (store, counted) = (core.store.clone(), Arc::clone(&core.ledger));
    let (clock, recorded) = (Arc::clone(clock), audit.clone());
    Rooms {
        token: Arc::new(move |ask| {
            let exchange = Arc::clone(&exchange);
            async move { exchange.token(ask).await }.boxed_local()
        }),
        introspect: Arc::new(move |ask| {
            let introspection = Arc::clone(&introspection);
            async move { introspection.introspect(ask).await }.boxed_local()
        }),
        holder: Arc::new(move |certificate| endpoint::holder(certificate, &registered.snapshot())),
        unheard: Arc::new(move |request| {
            if request.endpoint == Endpoint::Token {
                count_unheard(request.refusal);
            }
            let (audit, event) = (audit.clone(), request.endpoint.event(unheard(&request), true));
            async move {
                // No token is at stake: the refusal leaves even if the log is away.
                if let Err(error) = audit.write(&event).await {
                    tracing::error!(%error, "a refusal could not be recorded");
                }
            }
            .boxed_local()
        }),
        request_timeout: config.listener.request_timeout,
        jwks: Arc::new(move || keys.jwks().body.clone().into_bytes()),
        metadata: Arc::new(move || document.render(&published.snapshot())),
        documents_max_age: config.jwks_max_age,
        failing: Arc::new(move || failing(&store, &watched, &ledger, &recorded)),
        metrics: Arc::new(move || {
            observed.observe(clock.now());
            counted.observe();
            metrics.render()
        }),
    }
}

/// The parts that keep the service from being ready.
fn failing(store: &Store, keys: &KeyRing, ledger: &Ledger, audit: &Audit) -> Vec<&'static str> {
    let now = Timestamp::now();
    let mut parts = Vec::new();
    if !store.is_well() {
        parts.push("store");
    }
    if keys.signer(now).is_err() {
        parts.push("keys");
    }
    if ledger.check_clock(now).is_err() {
        parts.push("clock");
    }
    if audit.check().is_err() {
        parts.push("audit");
    }
    parts
}

/// Takes each step of the key ring when it is due, and records it.
async fn keep_keys(keys: Arc<KeyRing>, clock: Arc<Clock>, audit: Audit) {
    let (events, mut happened) = mpsc::unbounded_channel();
    let timer = async { keys.run(&clock, |event| drop(events.send(event))).await };
    let recorder = async {
        while let Some(event) = happened.recv().await {
            // The step is taken and cannot be undone; a log that does not write stops tokens, not rotation.
            if let Err(error) = audit.write(&Event::from(event)).await {
                tracing::error!(%error, "a change of the key ring could not be recorded");
            }
        }
    };
    tokio::join!(timer, recorder);
}

/// What is looked after each second.
struct Upkeep {
    store: Store,
    ledger: Arc<Ledger>,
    keys: Arc<KeyRing>,
    blocks: Arc<Blocks>,
    clock: Arc<Clock>,
}

impl Upkeep {
    /// Checks on a store that failed and a clock that stepped, and drops what ledger and kill switch need no longer.
    async fn keep(self) {
        let mut swept: Option<Instant> = None;
        let mut stepped = None;
        loop {
            let now = self.clock.now();
            stepped = self.tell_step(stepped);
            if self.clock.is_settled() && swept.is_none_or(|last| last.elapsed() >= SWEEP) {
                if self.sweep(now).await {
                    swept = Some(Instant::now());
                }
            } else if !self.store.is_well() {
                // Nothing else may be written just now, and somebody must notice that it works again.
                if let Err(error) = self.ledger.probe(now).await {
                    tracing::warn!(%error, "the store does not work yet");
                }
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    /// Whether all was swept.
    async fn sweep(&self, now: Timestamp) -> bool {
        if let Err(error) = self.ledger.expire(self.keys.oldest_signature(), now).await {
            tracing::warn!(%error, "the ledger could not be swept");
            return false;
        }
        // What is stopped would go on: that has time, also after a start.
        if self.clock.steady_for() >= SWEEP
            && let Err(error) = self.blocks.expire(now).await
        {
            tracing::warn!(%error, "the kill switch could not be swept");
            return false;
        }
        true
    }

    /// Says once that the clock has stepped ahead, and once what became of it.
    fn tell_step(&self, stepped: Option<Duration>) -> Option<Duration> {
        let ahead = self.clock.ahead();
        match (stepped, ahead) {
            (None, Some(by)) => tracing::error!(
                by = %HumanDuration(by),
                "the clock has stepped ahead: no record is dropped and no key forgotten for an hour; keys rotate by the time before until the step has lasted 15 s, or `writ store trust-clock`"
            ),
            (Some(_), None) => {
                tracing::warn!("the clock is back, or its step counts as right: keys rotate by it");
            }
            _ => {}
        }
        ahead
    }
}

/// Nobody may be reading the metrics, and samples must not pile up.
async fn keep_metrics(metrics: Metrics) {
    loop {
        tokio::time::sleep(SUM_UP).await;
        metrics.sum_up();
    }
}

/// What is reloaded from files.
struct Files {
    policies: Arc<Policies>,
    watch: Watch,
    /// Whether the policies that were looked at last were refused.
    rejected: bool,
    pdp: Option<Arc<Pdp>>,
    trust: Arc<Trust>,
    issuers: Arc<Issuers>,
    audit: Audit,
}

impl Files {
    /// Looks every second, and at once when told to.
    async fn keep(mut self, reload: Arc<Notify>) {
        loop {
            let at_once = tokio::select! {
                () = reload.notified() => true,
                () = tokio::time::sleep(WATCH) => false,
            };
            // Files may lie on a slow disk, and no worker may wait for it.
            let looked = tokio::task::spawn_blocking(move || {
                let listeners = self.trust.reload().is_some();
                let pdp = self.pdp.as_ref().is_some_and(|pdp| reload_pdp(pdp));
                let policies = if at_once { Some(self.watch.load()) } else { self.watch.look() };
                self.issuers.reload_files();
                (self, listeners || pdp, policies)
            });
            let Ok((files, certificates, policies)) = looked.await else { return };
            self = files;
            if certificates {
                self.record(Event::CertificatesReloaded).await;
            }
            let is_news = match policies {
                Some(checked) => self.take(checked).await,
                None => false,
            };
            if at_once && !certificates && !is_news {
                tracing::info!("the files were read again: certificates and policies are as they were");
            }
        }
    }

    /// Puts a sound set in force as a whole; of another, nothing. False if nothing is told: it is the one in force.
    async fn take(&mut self, checked: Checked) -> bool {
        let was_rejected = std::mem::replace(&mut self.rejected, checked.is_err());
        match checked {
            Ok((set, warnings)) => {
                for warning in &warnings {
                    tracing::warn!("{warning}");
                }
                let before = self.policies.snapshot();
                if before.digest() == set.digest() {
                    if was_rejected {
                        tracing::info!(
                            policies = before.digest(),
                            "the policies that were refused are put right: the files are again what is in force"
                        );
                    }
                    return was_rejected;
                }
                metrics::gauge!("writ_policies_info", "digest" => before.digest().to_owned()).set(0.0);
                tell(&set);
                let event = Event::PoliciesReloaded { policies: set.digest().to_owned(), clients: set.iter().count() };
                register(&self.trust, &set);
                self.policies.replace(set);
                metrics::counter!("writ_policy_reload_total", "outcome" => "ok").increment(1);
                self.record(event).await;
            }
            Err(problems) => {
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                metrics::counter!("writ_policy_reload_total", "outcome" => "rejected").increment(1);
                let first = problems.first().map(ToString::to_string).unwrap_or_default();
                self.record(Event::PoliciesRejected { problems: problems.len(), first }).await;
            }
        }
        true
    }

    async fn record(&self, event: Event) {
        if let Err(error) = self.audit.write(&event).await {
            tracing::error!(%error, "a reload could not be recorded");
        }
    }
}

fn pdp(config: &Config) -> Result<Option<Arc<Pdp>>, StartError> {
    let Some(settings) = config.pdp.clone() else { return Ok(None) };
    let pdp = Pdp::new(settings, config.trust_domain.clone()).map_err(StartError::Pdp)?;
    Ok(Some(Arc::new(pdp)))
}

/// Whether other certificates are in force for the decision point.
fn reload_pdp(pdp: &Pdp) -> bool {
    match pdp.reload() {
        None => false,
        Some(Ok(())) => true,
        Some(Err(error)) => {
            tracing::error!(%error, "what changed in the files of [pdp] is refused; the last good set stays");
            false
        }
    }
}

/// Admits the self-signed certificates that the policies name by their thumbprints.
fn register(trust: &Trust, set: &PolicySet) {
    let pinned = set.iter().filter(|policy| policy.identity.kind() == IdentityKind::Thumbprints);
    trust.register(pinned.flat_map(|policy| policy.identity.registered_thumbprints()).copied().collect());
}

/// A request that the listener answered alone: it never reached its room.
fn unheard(request: &UnheardRequest<'_>) -> Decision {
    Decision {
        request_id: request.name.id.clone(),
        trace_id: request.name.trace_id.clone(),
        client_certificate: request.certificate.map(|certificate| certificate.x5t_s256().to_owned()),
        error: Some(request.refusal.error()),
        reason: Some(request.refusal.reason()),
        cause: Some(request.refusal.to_string()),
        ..Decision::default()
    }
}

/// Counts a `POST /token` that the listener answered alone.
fn count_unheard(refusal: HttpRefusal) {
    let outcome = if refusal.is_fault() { "error" } else { "refused" };
    metrics::counter!("writ_token_requests_total",
        "client" => "-", "source" => "-", "outcome" => outcome, "reason" => refusal.reason())
    .increment(1);
}
