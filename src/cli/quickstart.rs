//! `writ quickstart`: shows what Writ does, with the real service on this host.

mod call;
mod folder;
mod issuer;
mod page;
mod ports;
mod story;

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;

use self::folder::{Folder, FolderError};
use self::issuer::IssuerError;
use self::page::Page;
use self::story::StoryError;
use super::serve::stop_signal;
use crate::config::{Config, Problem};
use writ_platform::clock::Timestamp;

use crate::server::DocumentServer;
use crate::service::{Ended, Service, StartError};
use crate::telemetry;
use writ_platform::telemetry::{Format, Log, Metrics, MetricsError, TraceError};

/// `writ quickstart …`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder for all files
    #[arg(long, default_value = "quickstart")]
    dir: PathBuf,
    /// Exit after the story; otherwise the service keeps running
    #[arg(long)]
    once: bool,
}

/// The settings of `writ.toml` that the story overrides, to show weeks in seconds.
const STORY: [(&str, &str); 4] = [
    ("WRIT_TOKENS__LIFETIME", "2s"),
    ("WRIT_TOKENS__MAX_LIFETIME", "2s"),
    ("WRIT_TOKENS__JWKS_MAX_AGE", "1s"),
    ("WRIT_KEYS__ROTATION_PERIOD", "3s"),
];

/// Why quickstart failed.
#[derive(Debug, thiserror::Error)]
enum QuickstartError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error("the configuration cannot be used:\n{}", lines(.0))]
    Config(Vec<Problem>),
    #[error("the policies cannot be used:\n{}", lines(.0))]
    Policies(Vec<Problem>),
    #[error("the service does not start: {0}")]
    Start(StartError),
    #[error("the service ended: {0}")]
    Ended(#[from] Ended),
    #[error(transparent)]
    Story(#[from] StoryError),
    #[error("the story was interrupted")]
    Interrupted,
    #[error("the log cannot be started: {0}")]
    Log(#[from] TraceError),
    #[error("the metrics cannot be started: {0}")]
    Metrics(#[from] MetricsError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl QuickstartError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Story(_) | Self::Interrupted => super::NO,
            _ => super::USAGE,
        }
    }
}

/// The exit code is 1 if a step of the story had another outcome than the story says.
pub(super) async fn run(args: Args) -> ExitCode {
    match perform(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("writ quickstart: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn perform(args: &Args) -> Result<(), QuickstartError> {
    let folder = Folder::prepare(&args.dir, Timestamp::now())?;
    let mut stop = pin!(stop_signal()?);
    let host = Host::new(&folder).await?;
    let mut page = Page::new();
    print_introduction(&folder, &page)?;

    folder.clear_stage()?;
    let mut settings = STORY.to_vec();
    settings.extend(folder.has_store.then_some(("WRIT_STORE__PATH", folder::STAGE)));
    let service = host.start(&settings).await?;
    let mut outcome = Err(QuickstartError::Interrupted);
    let story = async {
        tokio::select! {
            ended = story::run(&folder, &mut page) => outcome = ended.map_err(QuickstartError::from),
            () = &mut stop => {}
        }
    };
    service.until(story).await?;
    folder.clear_stage()?;
    outcome?;
    if args.once {
        return Ok(page.text("That was the whole story.")?);
    }

    let service = host.start(&[]).await?;
    print_next_steps(&folder, &page)?;
    Ok(service.until(stop).await?)
}

/// The environment of the service: toy issuer, log, metrics.
struct Host<'a> {
    folder: &'a Folder,
    log: Log,
    metrics: Metrics,
    _issuer: DocumentServer,
}

impl<'a> Host<'a> {
    async fn new(folder: &'a Folder) -> Result<Self, QuickstartError> {
        folder.store_token(folder::ACCESS_TOKEN, &folder.access_token()?)?;
        let (certificate, key) = (folder.pem("server.pem")?, folder.pem("server.key")?);
        let issuer = folder.issuer.serve(folder.ports.issuer, &certificate, &key).await?;
        let log = Log::start_monitored(Format::Json, folder.log()?)?;
        telemetry::trace_to(&log)?;
        Ok(Self { folder, log, metrics: telemetry::install_metrics()?, _issuer: issuer })
    }

    /// Starts the service with the configuration of the folder and these overrides. Variables of the
    /// environment are ignored: they belong to another service.
    async fn start(&self, settings: &[(&str, &str)]) -> Result<Service, QuickstartError> {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let (config, _) = Config::load(&self.folder.config(), settings).map_err(QuickstartError::Config)?;
        let started = Service::start(config, self.log.clone(), self.metrics.clone()).await;
        started.map_err(|error| match error {
            StartError::Policies(problems) => QuickstartError::Policies(problems),
            error => QuickstartError::Start(error),
        })
    }
}

fn print_introduction(folder: &Folder, page: &Page) -> io::Result<()> {
    page.title("Writ quickstart")?;
    page.text(&format!("Everything is in {}:", folder.path("").display()))?;
    page.lines(&folder.report)?;
    page.text("The service runs in this process, on its real listeners:")?;
    page.lines(addresses(folder))?;
    page.text(
        "In the story time runs fast: a Txn-Token lives 2 s instead of 60 s, and a key signs for 3 s instead of 24 h, \
         so that weeks pass in seconds. All other settings are those of production. The overridden settings:",
    )?;
    page.lines(STORY.map(|(name, value)| format!("{name}={value}")))
}

fn addresses(folder: &Folder) -> [String; 5] {
    let ports = folder.ports;
    [
        format!("exchange    https://tts.trust-domain.example:{}  with client certificates", ports.exchange),
        format!("discovery   https://tts.trust-domain.example:{}  published keys, metadata", ports.discovery),
        format!("ops         http://127.0.0.1:{}  health, metrics", ports.ops),
        format!("toy issuer  {}  signs Ann's access token", issuer::jwks_uri(ports.issuer)),
        format!("log         {}", folder.path("writ.log").display()),
    ]
}

fn print_next_steps(folder: &Folder, page: &Page) -> Result<(), QuickstartError> {
    folder.store_token(folder::ACCESS_TOKEN, &folder.access_token()?)?;
    page.title("Your turn")?;
    page.text(if folder.has_store {
        "The service was restarted with normal lifetimes on the store of the first run, and the stored token is from the \
         first run: if it was redeemed before, the service refuses it. Run these commands in another shell."
    } else {
        "The service was restarted on the same store with normal lifetimes: a Txn-Token lives 60 s, a key signs for 24 h. \
         The keys of the story are history. Run these commands in another shell."
    })?;
    for (text, command) in [
        ("The gateway exchanges Ann's access token (valid for an hour):", story::REFUND.curl(folder)),
        ("The mail delivery agent gets a token for Bob's mailbox:", story::DELIVER.curl(folder)),
        (
            "The purge job redeems the stored token; for 60 s the same call returns the same claims, then it is \
             refused as redemption_exhausted:",
            story::PURGE.curl(folder),
        ),
        ("The published keys:", call::discovery(folder, "/.well-known/jwks.json")),
        (
            "The metadata from which clients configure themselves:",
            call::discovery(folder, "/.well-known/oauth-authorization-server"),
        ),
        ("Who got what, and how long it took:", format!("curl -sS http://127.0.0.1:{}/metrics", folder.ports.ops)),
        ("The key ring with its history; `writ keys revoke KID` ends all trust in a key:", keys(folder)),
    ] {
        page.text(text)?;
        page.command(&command)?;
    }
    page.text("Change a policy: it takes effect within seconds.")?;
    let ports = folder.ports;
    if (ports.exchange, ports.discovery) != (8443, 8444) {
        let (exchange, discovery) = (ports.exchange, ports.discovery);
        let note = format!("Note: the README's commands use 8443 and 8444; here they are {exchange} and {discovery}.");
        page.text(&note)?;
    }
    Ok(page.text("Serving. Ctrl-C stops it.")?)
}

fn keys(folder: &Folder) -> String {
    let writ = std::env::current_exe().map_or_else(|_| "writ".to_owned(), |path| path.display().to_string());
    let config = folder.config().display().to_string();
    format!("{} keys list --config {}", call::quoted(&writ), call::quoted(&config))
}

impl Folder {
    /// Signs a new access token for Ann.
    fn access_token(&self) -> Result<zeroize::Zeroizing<String>, IssuerError> {
        self.issuer.access_token(story::ANN, story::ANNS_SCOPE, Timestamp::now())
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key must be published for `jwks_max_age` before it signs, and for the lifetime of its tokens afterwards.
    #[test]
    fn the_configuration_is_valid_with_and_without_the_storys_overrides() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::prepare(dir.path(), Timestamp::now()).unwrap();
        for settings in [&STORY[..], &[]] {
            let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let (config, warnings) = Config::load(&folder.config(), settings).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}");
            let (policies, warnings) = crate::config::policy::folder::load(&config.policies).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}");
            let purpose = "account.purge".parse().unwrap();
            assert!(policies.redeemable_for(&purpose, "account-service").is_some());
        }
    }
}
