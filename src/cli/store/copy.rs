//! `writ store copy`: moves all records from the store of one configuration to that of another.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::super::{USAGE, failed, load, print};
use super::operators_audit;
use crate::config::Config;
use crate::service::{StartError, sealing_keys};
use writ_core::audit::Event;
use writ_core::keys::seal::SealingKeys;
use writ_core::keys::{KeyRing, RingFiles};
use writ_store::copy::{Copy, Report, Step};
use writ_store::ring::StoredRing;

/// How often progress is written to a terminal, and to anything else.
const REDRAW: Duration = Duration::from_millis(100);
const REPEAT: Duration = Duration::from_secs(5);
const BAR: usize = 30;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration of the store that has the records, and is not served afterwards [default: that of --config]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The configuration of the store that gets them
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub(super) async fn run(args: &Args, config: &Path) -> ExitCode {
    let files = (args.from.as_deref().unwrap_or(config), args.to.as_path());
    let (from, to) = match (load(files.0), load(files.1)) {
        (Ok(from), Ok(to)) => (from, to),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    if from.trust_domain != to.trust_domain {
        let (one, other) = (&from.trust_domain, &to.trust_domain);
        eprintln!("writ: the trust domain is {one} in {} and {other} in {}", files.0.display(), files.1.display());
        return ExitCode::from(USAGE);
    }
    match copy(&from, &to).await {
        Ok(told) => print(&told, ExitCode::SUCCESS),
        Err(error) => failed(&error),
    }
}

/// Returns what to tell.
async fn copy(from: &Config, to: &Config) -> Result<String, StartError> {
    let (old, new) = (sealing_keys(&from.keys)?, sealing_keys(&to.keys)?);
    let copy = Box::pin(Copy::open(&from.store, &to.store)).await?;
    let (source, target) = (copy.source(), copy.target());
    if copy.is_done() {
        return Ok(format!("the records of {source} were moved to {target} before; nothing was changed"));
    }
    check(copy.ring(), &old, from).await?;
    let key_files = check(copy.ring(), &new, to).await?;
    let mut progress = Display::new();
    let outcome = Box::pin(copy.run(|report| progress.show(report))).await;
    progress.end();
    let moved = outcome?;
    let contents = moved.contents();
    let [tokens, uses, single_use] = [contents.tokens, contents.uses, contents.single_use].map(|tally| tally.records);
    let (keys, blocks) = (contents.keys.records, contents.blocks.records);
    let told = format!(
        "{target} contains, read back and compared with the source:\n  {keys} keys, {blocks} blocks\n  \
         {tokens} tokens on record, {uses} counts of uses, {single_use} used single-use tokens\n\
         {source} can no longer be served"
    );
    // Before the move is complete: a run that is interrupted here is repeated, and so are these.
    key_files.write().await?;
    operators_audit().write(&Event::StoreMoved { from: source, to: target, tokens, uses, single_use }).await?;
    Box::pin(moved.complete()).await?;
    Ok(told)
}

/// A service with this configuration would accept the keys.
async fn check(ring: StoredRing, sealing: &SealingKeys, config: &Config) -> Result<RingFiles, StartError> {
    let key_folder = writ_store::key_folder(&config.store);
    let checked = KeyRing::check(ring, sealing, &config.trust_domain, key_folder).await;
    checked.map_err(|error| StartError::of_keys(&config.keys, error))
}

/// Progress on standard error: a bar on a terminal, a line every few seconds elsewhere.
struct Display {
    is_terminal: bool,
    shown: Option<(Step, Instant)>,
}

impl Display {
    fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), shown: None }
    }

    fn show(&mut self, report: Report) {
        let interval = if self.is_terminal { REDRAW } else { REPEAT };
        let is_due = self.shown.is_none_or(|(step, at)| step != report.step || at.elapsed() >= interval);
        if !is_due && report.total != Some(report.done) {
            return;
        }
        if self.is_terminal && self.shown.is_some_and(|(step, _)| step != report.step) {
            eprintln!();
        }
        self.shown = Some((report.step, Instant::now()));
        let text = text(report);
        // Progress that cannot be written is no reason to stop.
        let _ =
            if self.is_terminal { write!(io::stderr(), "\r{text}\u{1b}[K") } else { writeln!(io::stderr(), "{text}") };
    }

    fn end(&self) {
        if self.is_terminal && self.shown.is_some() {
            eprintln!();
        }
    }
}

fn text(Report { step, done, total }: Report) -> String {
    let what = match step {
        Step::Count => "counting the source",
        Step::Copy => "copying",
        Step::Verify => "reading back",
    };
    let Some(total) = total else { return format!("{what}: {done} records") };
    let share = done.checked_mul(100).and_then(|hundredfold| hundredfold.checked_div(total)).unwrap_or(100).min(100);
    let full = usize::try_from(share).unwrap_or(100) * BAR / 100;
    format!("{what:>12} [{:<BAR$}] {share:>3} %, {done} of {total} records", "#".repeat(full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_how_far_it_is() {
        let report = |done, total| text(Report { step: Step::Copy, done, total });
        assert_eq!(report(5, Some(20)), "     copying [#######                       ]  25 %, 5 of 20 records");
        assert_eq!(report(0, Some(0)), format!("     copying [{}] 100 %, 0 of 0 records", "#".repeat(BAR)));
        let counted = text(Report { step: Step::Count, done: 7, total: None });
        assert_eq!(counted, "counting the source: 7 records");
    }
}
