//! `writ completions` and `writ man`: shell completions and manual pages, generated from the command line's definition.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory as _;

use super::{Cli, failed};

/// `writ completions …`
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// `writ man …`
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The folder for a page of each command, created if it is missing; without it the page of `writ` goes to standard
    /// output
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "writ", &mut script);
    exit_code(io::stdout().write_all(&script))
}

pub(super) fn man(args: &ManArgs) -> ExitCode {
    exit_code(args.dir.as_deref().map_or_else(print_page, write_pages))
}

fn print_page() -> io::Result<()> {
    io::stdout().write_all(&page(Cli::command())?)
}

fn page(command: clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(page)
}

/// Unlike other files that Writ writes, manual pages are readable by everyone.
fn write_pages(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    }
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_page(command, dir)
}

/// Writes the page of a command, and those of its subcommands.
fn write_page(command: clap::Command, dir: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).cloned() {
        write_page(subcommand, dir)?;
    }
    let path = dir.join(clap_mangen::Man::new(command.clone()).get_filename());
    fs::write(&path, page(command)?)?;
    fs::set_permissions(&path, Permissions::from_mode(0o644))
}

fn exit_code(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}
