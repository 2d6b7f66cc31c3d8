//! `--config`, and the configuration that it names.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::USAGE;
use super::output::print_problems;
use crate::config::{Config, Problem, environment, file};

const DEFAULT_CONFIG: &str = "writ.toml";

/// `--config` of a command that needs a configuration.
#[derive(Debug, clap::Args)]
pub(super) struct RequiredConfig {
    /// The configuration file
    #[arg(long, global = true, env = "WRIT_CONFIG", default_value = DEFAULT_CONFIG, value_name = "FILE")]
    pub(super) config: PathBuf,
}

/// `--config` of a command that also works without a configuration.
#[derive(Debug, clap::Args)]
pub(super) struct OptionalConfig {
    /// The configuration file [default: writ.toml, if it exists]
    #[arg(long, env = "WRIT_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

impl OptionalConfig {
    /// Reads the file, valid or not; `None` if none is named and the default one does not exist.
    pub(super) fn read(&self) -> Result<Option<file::Reading>, Problem> {
        let path = match &self.config {
            Some(path) => path.as_path(),
            None if !Path::new(DEFAULT_CONFIG).exists() => return Ok(None),
            None => Path::new(DEFAULT_CONFIG),
        };
        let mut reading = file::read(path, environment::variables());
        if reading.files.is_some() { Ok(Some(reading)) } else { Err(reading.problems.remove(0)) }
    }

    pub(super) fn trust_domain(&self) -> Result<Option<String>, Problem> {
        self.setting("trust_domain", |reading| reading.trust_domain.as_ref().map(ToString::to_string))
    }

    /// The host of `issuer`.
    pub(super) fn issuer_host(&self) -> Result<Option<String>, Problem> {
        let host =
            |issuer: &String| Some(url::Url::parse(issuer).ok()?.host_str()?.trim_matches(['[', ']']).to_owned());
        self.setting("issuer", |reading| reading.issuer.as_ref().and_then(host))
    }

    fn setting(&self, key: &str, value: impl Fn(&file::Reading) -> Option<String>) -> Result<Option<String>, Problem> {
        let Some(reading) = self.read()? else { return Ok(None) };
        if let Some(value) = value(&reading) {
            return Ok(Some(value));
        }
        let problem = reading.problems.into_iter().find(|problem| problem.key == key || problem.is_error());
        problem.map_or(Ok(None), Err)
    }
}

/// The configuration; its problems go to standard error.
pub(super) fn load(path: &Path) -> Result<Config, ExitCode> {
    match Config::load(path, environment::variables()) {
        Ok((config, warnings)) => {
            print_problems(&warnings);
            Ok(config)
        }
        Err(problems) => {
            print_problems(&problems);
            Err(ExitCode::from(USAGE))
        }
    }
}
