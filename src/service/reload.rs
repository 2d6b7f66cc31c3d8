//! Reload: policies, certificates, trust anchors and revocation lists take effect when their files change.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::files::{LoadedFiles, register_thumbprints, set_digest_metric};
use crate::config::{Problem, policy};

use crate::config::policy::folder::{Checked, Watch};
use writ_core::audit::{Audit, Event};
use writ_core::pdp::Pdp;
use writ_core::policy::PolicySet;

/// How often files are checked for changes.
const FILE_POLL_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Reloader {
    files: LoadedFiles,
    watch: Watch,
    /// Whether the policies that were read last were refused.
    rejected: bool,
    audit: Audit,
}

struct Changes {
    certificates: bool,
    policies: Option<Checked>,
}

impl Reloader {
    pub(super) fn new(files: LoadedFiles, policies: policy::Settings, audit: Audit) -> Self {
        let watch = Watch::new(policies, &files.policies.snapshot());
        Self { files, watch, rejected: false, audit }
    }

    /// Checks the files every second, and at once when `reload` is notified.
    pub(super) async fn run(mut self, reload: Arc<Notify>) {
        loop {
            let at_once = tokio::select! {
                () = reload.notified() => true,
                () = sleep(FILE_POLL_INTERVAL) => false,
            };
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
        let pdp = self.files.pdp.as_ref().is_some_and(|pdp| reload_pdp(pdp));
        let policies = if at_once { Some(self.watch.load()) } else { self.watch.poll() };
        self.files.issuers.reload_files();
        Changes { certificates: listeners || pdp, policies }
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

/// Whether changed certificates of `[pdp]` were put in force.
fn reload_pdp(pdp: &Pdp) -> bool {
    match pdp.reload() {
        None => false,
        Some(Ok(())) => true,
        Some(Err(error)) => {
            tracing::error!(%error, "the changed files of [pdp] are refused; the previous ones stay in force");
            false
        }
    }
}
