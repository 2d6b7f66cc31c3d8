//! Reload: policies, certificates, trust anchors and revocation lists take effect when their files change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use super::files::{LoadedFiles, register_thumbprints, set_digest_metric};
use crate::config::Problem;

use crate::config::policy::folder::Checked;
use writ_core::audit::{Audit, Event};
use writ_core::pdp::Pdp;
use writ_core::policy::PolicySet;
use writ_platform::watch::FileWatch;

/// How often the service asks whether a file may have changed, and the time between two looks at files that are changing.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often all files are read although no change was noticed: changes that another host makes on a network file system
/// are not reported.
const FULL_LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How often they are read while one of them cannot be used: the cause may be over without a change of the file, such as
/// a lack of file descriptors, or a certificate that is not valid yet.
const FAILED_LOOK_INTERVAL: Duration = Duration::from_secs(2);

pub(super) struct Reloader {
    files: LoadedFiles,
    /// `None` if changes cannot be noticed.
    watch: Option<FileWatch>,
    /// Whether the last look has found everything as the one before it had, so that nothing is being changed.
    is_settled: bool,
    last_look: Instant,
    /// The time from it to the next one if no change is noticed.
    until_next_look: Duration,
    /// Whether it was logged that changes may not be noticed.
    is_unwatched: bool,
    /// Whether the policies that were read last were refused.
    rejected: bool,
    audit: Audit,
}

struct Changes {
    certificates: bool,
    policies: Option<Checked>,
}

impl Reloader {
    pub(super) fn new(files: LoadedFiles, audit: Audit) -> Self {
        let watch = FileWatch::new();
        let watch = watch.inspect_err(|error| tracing::warn!(%error, "{UNWATCHED}"));
        let is_unwatched = watch.is_err();
        let last_look = Instant::now();
        let mut this = Self {
            files,
            watch: watch.ok(),
            is_settled: false,
            last_look,
            until_next_look: FULL_LOOK_INTERVAL,
            is_unwatched,
            rejected: false,
            audit,
        };
        // The files were read before: the first look finds what has changed since.
        this.follow();
        this
    }

    /// Checks the files within a second of a change, now and then without one, and at once when `reload` is notified.
    pub(super) async fn run(mut self, reload: Arc<Notify>) {
        loop {
            let at_once = tokio::select! {
                () = reload.notified() => true,
                () = sleep(LOOK_INTERVAL) => false,
            };
            let is_due = self.files.trust.keep_time();
            // Asked even where it does not matter, so that this look answers for all changes so far.
            let is_changed = self.watch.as_mut().is_some_and(FileWatch::changed);
            let is_quiet = self.is_settled && self.last_look.elapsed() < self.until_next_look;
            if is_quiet && !(at_once || is_changed || is_due) {
                continue;
            }
            // Files may be on a slow disk, which must not block a worker.
            let checked = tokio::task::spawn_blocking(move || {
                let changes = self.check(at_once);
                (self, changes)
            });
            let Ok((reloader, changes)) = checked.await else { return };
            self = reloader;
            if changes.certificates {
                self.record(Event::CertificatesReloaded).await;
            }
            let policies_logged = match changes.policies {
                Some(checked) => self.apply_policies(checked).await,
                None => false,
            };
            if at_once && !changes.certificates && !policies_logged {
                tracing::info!("the files were read again: certificates and policies are unchanged");
            }
        }
    }

    /// Puts changed certificates in force, and reads changed policies; with `at_once`, unchanged policies too.
    fn check(&mut self, at_once: bool) -> Changes {
        let listeners = self.files.trust.reload().is_some();
        let pdp = self.files.pdp.as_ref().and_then(|pdp| reload_pdp(pdp));
        let folder = &mut self.files.folder;
        let policies = if at_once { Some(folder.load()) } else { folder.poll() };
        let are_usable = self.files.issuers.reload_files();
        let is_failing = self.files.trust.is_refused() || pdp == Some(false) || !are_usable || folder.is_unreadable();
        self.until_next_look = if is_failing { FAILED_LOOK_INTERVAL } else { FULL_LOOK_INTERVAL };
        // What is watched only now may have changed since it was read.
        self.is_settled = !self.follow() && self.files.folder.is_settled();
        self.last_look = Instant::now();
        Changes { certificates: listeners || pdp == Some(true), policies }
    }

    /// Watches the files where they are now. True if some were not watched before.
    fn follow(&mut self) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        let (named, folder) = (self.files.named.iter().map(PathBuf::as_path), &self.files.folder);
        let followed = watch.follow(named.chain(folder.files()), [folder.directory()]);
        let was_unwatched = std::mem::replace(&mut self.is_unwatched, followed.is_err());
        followed.unwrap_or_else(|error| {
            if !was_unwatched {
                tracing::warn!(%error, "{UNWATCHED}");
            }
            false
        })
    }

    /// Puts a valid set in force as a whole, and no part of an invalid one. False if the set is already in force, so that
    /// there is nothing to log.
    async fn apply_policies(&mut self, checked: Checked) -> bool {
        let was_rejected = std::mem::replace(&mut self.rejected, checked.is_err());
        let (set, warnings) = match checked {
            Ok(checked) => checked,
            Err(problems) => {
                self.reject_policies(&problems).await;
                return true;
            }
        };
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let before = self.files.policies.snapshot();
        if before.digest() != set.digest() {
            self.replace_policies(&before, set).await;
            return true;
        }
        if was_rejected {
            tracing::info!(
                policies = before.digest(),
                "the refused policies were corrected: the files are again the policies in force"
            );
        }
        was_rejected
    }

    async fn replace_policies(&self, before: &PolicySet, set: PolicySet) {
        set_digest_metric(before, 0.0);
        set_digest_metric(&set, 1.0);
        let event = Event::PoliciesReloaded { policies: set.digest().to_owned(), clients: set.iter().count() };
        register_thumbprints(&self.files.trust, &set);
        self.files.policies.replace(set);
        metrics::counter!("writ_policy_reload_total", "outcome" => "ok").increment(1);
        self.record(event).await;
    }

    async fn reject_policies(&self, problems: &[Problem]) {
        for problem in problems {
            tracing::error!("{problem}");
        }
        metrics::counter!("writ_policy_reload_total", "outcome" => "rejected").increment(1);
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        self.record(Event::PoliciesRejected { problems: problems.len(), first }).await;
    }

    async fn record(&self, event: Event<'_>) {
        if let Err(error) = self.audit.write(&event).await {
            tracing::error!(%error, "a reload could not be recorded");
        }
    }
}

const UNWATCHED: &str = "changes of files cannot be noticed: they take effect within a minute, or at once on SIGHUP";

/// Whether changed certificates of `[pdp]` were put in force; `None` if there are none.
fn reload_pdp(pdp: &Pdp) -> Option<bool> {
    let reloaded = pdp.reload()?;
    if let Err(error) = &reloaded {
        tracing::error!(%error, "the changed files of [pdp] are refused; the previous ones stay in force");
    }
    Some(reloaded.is_ok())
}
