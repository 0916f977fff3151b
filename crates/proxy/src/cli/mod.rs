//! The command line. One file per command.

mod admin;
mod agent;
mod check;
mod healthcheck;
mod run;
mod shadow;
mod spawn_agent;
mod why;

use agent::AgentCommand;
use clap::{Args, Parser, Subcommand, ValueEnum};
use healthcheck::HealthcheckArgs;
use portcullis_config::{Diagnostics, Loaded, Style};
use shadow::ShadowCommand;
use std::{ffi::OsString, io::IsTerminal, path::PathBuf, process::ExitCode};
use why::WhyArgs;

/// Where the configuration is when nobody says.
const SYSTEM_CONFIG: &str = "/etc/portcullis/portcullis.kdl";
/// What is served when there is no configuration at all.
const QUICKSTART: &str = include_str!("../../../../config/quickstart.kdl");

/// A reverse proxy for the edge that asks agents at every phase of a request.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    about,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Check the configuration and exit, like the command `check`
    #[arg(short, long)]
    test: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default)
    Run(ConfigArgs),
    /// Check a configuration without side effects: 0 when it is good, 1 when it is not
    #[command(visible_aliases = ["test", "validate"])]
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// Warnings are errors
        #[arg(long)]
        strict: bool,
    },
    /// Ask a running proxy whether it is ready: 0 when it is, 1 when it is not
    Healthcheck(HealthcheckArgs),
    /// Ask a running proxy what became of a request and why: 0 when it knows, 1 when it does not
    Why(WhyArgs),
    /// Agents that are asked in the shadow of requests
    #[command(subcommand)]
    Shadow(ShadowCommand),
    /// Run an agent that is inside this binary, or test one of your own
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Become an agent that ends with the proxy
    #[command(hide = true)]
    SpawnAgent {
        /// Process id of the proxy
        #[arg(long)]
        parent: u32,
        /// The agent and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
struct ConfigArgs {
    /// The configuration file; without it /etc/portcullis/portcullis.kdl, and if that is missing, a built-in example
    #[arg(short, long, value_name = "FILE", env = "PORTCULLIS_CONFIG")]
    config: Option<PathBuf>,
    /// Colours in messages
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None if cli.test => check::check(&cli.config, false),
        None => run::run(&cli.config),
        Some(Command::Run(config)) => run::run(&config),
        Some(Command::Check { config, strict }) => check::check(&config, strict),
        Some(Command::Healthcheck(args)) => healthcheck::healthcheck(&args),
        Some(Command::Why(args)) => why::why(&args),
        Some(Command::Shadow(command)) => shadow::run(&command),
        Some(Command::Agent(command)) => agent::run(&command),
        Some(Command::SpawnAgent { parent, command }) => spawn_agent::run(parent, &command),
    }
}

impl ConfigArgs {
    /// Loads the configuration that is meant. The second value names it for people.
    fn load(&self) -> (Result<Loaded, Diagnostics>, String) {
        let environment = |name: &str| std::env::var(name).ok();
        let system = PathBuf::from(SYSTEM_CONFIG);
        let path = self
            .config
            .clone()
            .or_else(|| system.exists().then_some(system));
        match path {
            Some(path) => {
                let name = path.display().to_string();
                (portcullis_config::load_file(&path, &environment), name)
            }
            None => {
                let name = "the built-in quickstart configuration (no -c, no /etc/portcullis/portcullis.kdl)";
                let folder = PathBuf::from(".");
                let loaded = portcullis_config::load_str(
                    "quickstart.kdl",
                    QUICKSTART,
                    &folder,
                    &environment,
                );
                (loaded, name.to_owned())
            }
        }
    }

    /// Prints errors or warnings to standard error.
    fn print(&self, diagnostics: &Diagnostics) {
        let colours = match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stderr().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        };
        let style = if colours {
            Style::Coloured
        } else {
            Style::Plain
        };
        eprintln!("{}", diagnostics.render(style).trim_end());
    }
}
