//! `portcullis healthcheck`: asks a running proxy whether it is ready, for containers that have no other client in them.

use super::{
    ConfigArgs,
    admin::{NoAnswer, Question, Target, first_line},
};
use clap::Args;
use http::StatusCode;
use portcullis_config::{Admin, AdminAddress, Probes, parse_duration};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

/// What is asked for. In this form the answer says what is missing, if the listener allows it.
const PATH: &str = "/readyz?verbose";
/// Where the probes of the samples and of the container image are.
const USUAL_PROBES: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9902);
/// How much of an answer is read; more than the names of many agents and what is wrong with each.
const LONGEST_ANSWER: usize = 4096;

/// Whom to ask, and for how long.
#[derive(Debug, Clone, Args)]
pub(super) struct HealthcheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask here; without it `probes` of the configuration is asked, or if that is missing, `admin`
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// For everything together
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    timeout: Duration,
}

/// Why the proxy does not count as ready.
#[derive(Debug, thiserror::Error)]
enum Unhealthy {
    #[error("{0} has neither probes nor admin; give --address")]
    NobodyToAsk(String),
    #[error("{0}: the configuration lets the system choose the port; give --address")]
    NoPort(SocketAddr),
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error("{0}: {1} {2}")]
    NotReady(Target, StatusCode, String),
}

pub(super) fn healthcheck(args: &HealthcheckArgs) -> ExitCode {
    let asked = target(args).and_then(|target| {
        let answer = ask(&target, args.timeout)?;
        Ok((target, answer))
    });
    match asked {
        Ok((target, answer)) => {
            say(&target, &answer);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("portcullis: {reason}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn say(target: &Target, answer: &str) {
    println!("portcullis: {target}: {answer}");
}

fn target(args: &HealthcheckArgs) -> Result<Target, Unhealthy> {
    if let Some(address) = &args.address {
        return match address.parse() {
            Ok(address) => at(address),
            Err(_) => Ok(Target::Name(address.clone())),
        };
    }
    let (loaded, name) = args.config.load();
    match loaded {
        Ok(loaded) => of(&loaded.config.probes, &loaded.config.admin, name),
        // A proxy that runs keeps its configuration when the file is spoilt, and is as healthy as before.
        Err(_) => Ok(Target::Usual(name, USUAL_PROBES)),
    }
}

fn of(probes: &Option<Probes>, admin: &Option<Admin>, name: String) -> Result<Target, Unhealthy> {
    match (probes, admin.as_ref().map(|admin| &admin.address)) {
        (Some(probes), _) => at(probes.address),
        (None, Some(AdminAddress::Tcp(address))) => at(*address),
        (None, Some(AdminAddress::Unix(path))) => Ok(Target::Socket(path.clone())),
        (None, None) => Err(Unhealthy::NobodyToAsk(name)),
    }
}

fn at(address: SocketAddr) -> Result<Target, Unhealthy> {
    Target::at(address).ok_or(Unhealthy::NoPort(address))
}

fn ask(target: &Target, timeout: Duration) -> Result<String, Unhealthy> {
    let (status, body) = target.answer(&Question::get(PATH, LONGEST_ANSWER), timeout)?;
    let line = first_line(&body);
    match status {
        StatusCode::OK => Ok(line),
        _ => Err(Unhealthy::NotReady(target.clone(), status, line)),
    }
}
