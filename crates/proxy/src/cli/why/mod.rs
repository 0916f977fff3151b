//! `portcullis why`: asks a running proxy what became of a request and why.

mod text;

use super::{ConfigArgs, healthcheck::exchange};
use clap::Args;
use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pingora::protocols::l4::stream::Stream;
use portcullis_config::{AdminAddress, parse_duration};
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use tokio::net::{TcpStream, UnixStream};

/// Where `admin` of the samples is.
const USUAL_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);
/// How much of an answer is read; more than sixteen requests with all that can be said of them.
const LONGEST_ANSWER: usize = 8 << 20;

/// Which request, and whom to ask.
#[derive(Debug, Clone, Args)]
pub(super) struct WhyArgs {
    /// The id on the error page, in `x-request-id` and in the access log
    #[arg(value_name = "REQUEST_ID")]
    request_id: String,
    /// Ask here; without it `admin` of the configuration is asked
    #[arg(long, value_name = "HOST:PORT or unix:PATH")]
    admin: Option<String>,
    /// Print what the proxy says as it is, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
    /// For everything together
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
}

/// Where `admin` is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Name(String),
    Socket(PathBuf),
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
enum Unexplained {
    #[error(
        "{0} has no admin to ask; add `admin {{ address \"127.0.0.1:9901\" }}`, or give --admin"
    )]
    NobodyToAsk(String),
    #[error("{0}: the configuration lets the system choose the port; give --admin")]
    NoPort(SocketAddr),
    #[error("{0}: not asked: {1}")]
    Runtime(Target, io::Error),
    #[error("{0}: no connection: {1}")]
    Connect(Target, io::Error),
    #[error("{0}: no answer: {1}")]
    Ask(Target, Box<pingora::Error>),
    #[error("{0}: no answer within {1:?}")]
    Timeout(Target, Duration),
    #[error(
        "{0}: no such request; kept are requests that were refused or failed, or brought the trace token, and of these the last ones"
    )]
    NotFound(Target),
    #[error("{0}: {1}; is it the address of admin, of this version?")]
    Refused(Target, StatusCode),
    #[error("{0}: the answer is not understood")]
    Garbled(Target),
}

pub(super) fn why(args: &WhyArgs) -> ExitCode {
    let explained = target(args).and_then(|target| {
        let body = ask_in_time(&target, &args.request_id, args.timeout)?;
        if args.json {
            return Ok(text::printable(&String::from_utf8_lossy(&body)));
        }
        text::explain(&body).ok_or(Unexplained::Garbled(target))
    });
    match explained {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("portcullis: {reason}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn say(text: &str) {
    println!("{}", text.trim_end());
}

fn target(args: &WhyArgs) -> Result<Target, Unexplained> {
    if let Some(admin) = &args.admin {
        return Ok(match admin.strip_prefix("unix:") {
            Some(path) => Target::Socket(path.into()),
            None => Target::Name(admin.clone()),
        });
    }
    let (loaded, name) = args.config.load();
    let Ok(loaded) = loaded else {
        // A proxy that runs keeps its configuration when the file is spoilt.
        eprintln!("portcullis: {name} is not usable, see portcullis check; asking {USUAL_ADMIN}");
        return Ok(Target::Name(USUAL_ADMIN.to_string()));
    };
    match loaded.config.admin.map(|admin| admin.address) {
        None => Err(Unexplained::NobodyToAsk(name)),
        Some(AdminAddress::Unix(path)) => Ok(Target::Socket(path)),
        Some(AdminAddress::Tcp(address)) if address.port() == 0 => {
            Err(Unexplained::NoPort(address))
        }
        Some(AdminAddress::Tcp(address)) => Ok(Target::Name(address.to_string())),
    }
}

impl Target {
    /// What `admin` takes from those who come over TCP.
    fn host(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Socket(_) => "localhost".to_owned(),
        }
    }

    async fn connect(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Name(name) => TcpStream::connect(name).await?.into(),
            Self::Socket(path) => UnixStream::connect(path).await?.into(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

fn ask_in_time(target: &Target, id: &str, timeout: Duration) -> Result<Vec<u8>, Unexplained> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Unexplained::Runtime(target.clone(), error))?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(timeout, ask(target, id))
            .await
            .unwrap_or_else(|_| Err(Unexplained::Timeout(target.clone(), timeout)))
    });
    // A name that is still being resolved would hold up the end.
    runtime.shutdown_background();
    answer
}

async fn ask(target: &Target, id: &str) -> Result<Vec<u8>, Unexplained> {
    let connected = target.connect().await;
    let stream = connected.map_err(|error| Unexplained::Connect(target.clone(), error))?;
    let path = format!("/requests/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    let (status, body) = exchange(stream, target.host(), path.as_bytes(), LONGEST_ANSWER)
        .await
        .map_err(|error| Unexplained::Ask(target.clone(), error))?;
    match status {
        StatusCode::OK => Ok(body),
        // Somebody else has no such path, and does not say so in JSON.
        StatusCode::NOT_FOUND if body.starts_with(b"{") => {
            Err(Unexplained::NotFound(target.clone()))
        }
        _ => Err(Unexplained::Refused(target.clone(), status)),
    }
}
