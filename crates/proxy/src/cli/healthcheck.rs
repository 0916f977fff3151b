//! `portcullis healthcheck`: asks a running proxy whether it is ready, for containers that have no other client in them.

use super::ConfigArgs;
use clap::Args;
use http::StatusCode;
use pingora::{
    http::RequestHeader,
    protocols::{http::v1::client::HttpSession, l4::stream::Stream},
};
use portcullis_config::{Admin, AdminAddress, Probes, parse_duration};
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use tokio::net::{TcpStream, UnixStream};

/// What is asked for. In this form the answer says what is missing, if the listener allows it.
const PATH: &[u8] = b"/readyz?verbose";
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

/// Where the answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The first that takes a connection.
    Addresses(Vec<SocketAddr>),
    /// Where probes usually are, because this file cannot be used.
    Usual(String),
    /// To be resolved.
    Name(String),
    Socket(PathBuf),
}

/// Why the proxy does not count as ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unhealthy {
    #[error("{0} has neither probes nor admin; give --address")]
    NobodyToAsk(String),
    #[error("{0}: the configuration lets the system choose the port; give --address")]
    NoPort(SocketAddr),
    #[error("{0}: not asked: {1}")]
    Runtime(Target, io::Error),
    #[error("{0}: no connection: {1}")]
    Connect(Target, io::Error),
    #[error("{0}: no answer: {1}")]
    Ask(Target, Box<pingora::Error>),
    #[error("{0}: no answer within {1:?}")]
    Timeout(Target, Duration),
    #[error("{0}: {1} {2}")]
    NotReady(Target, StatusCode, String),
}

pub(super) fn healthcheck(args: &HealthcheckArgs) -> ExitCode {
    let asked = target(args).and_then(|target| {
        let answer = ask_in_time(&target, args.timeout)?;
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
            Ok(address) => Target::at(address),
            Err(_) => Ok(Target::Name(address.clone())),
        };
    }
    let (loaded, name) = args.config.load();
    match loaded {
        Ok(loaded) => Target::of(&loaded.config.probes, &loaded.config.admin, name),
        // A proxy that runs keeps its configuration when the file is spoilt, and is as healthy as before.
        Err(_) => Ok(Target::Usual(name)),
    }
}

impl Target {
    fn of(probes: &Option<Probes>, admin: &Option<Admin>, name: String) -> Result<Self, Unhealthy> {
        match (probes, admin.as_ref().map(|admin| &admin.address)) {
            (Some(probes), _) => Self::at(probes.address),
            (None, Some(AdminAddress::Tcp(address))) => Self::at(*address),
            (None, Some(AdminAddress::Unix(path))) => Ok(Self::Socket(path.clone())),
            (None, None) => Err(Unhealthy::NobodyToAsk(name)),
        }
    }

    /// Who listens on all addresses is asked on the loopback. Where there is no IPv6, `[::]` is asked over IPv4, which it
    /// takes as well.
    pub(super) fn at(address: SocketAddr) -> Result<Self, Unhealthy> {
        let port = address.port();
        if port == 0 {
            return Err(Unhealthy::NoPort(address));
        }
        let loopback_v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self::Addresses(match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => vec![loopback_v4],
            IpAddr::V6(ip) if ip.is_unspecified() => {
                vec![(Ipv6Addr::LOCALHOST, port).into(), loopback_v4]
            }
            _ => vec![address],
        }))
    }

    /// What `admin` takes from those who come over TCP.
    pub(super) fn host(&self) -> String {
        match self {
            Self::Addresses(_) | Self::Name(_) => self.to_string(),
            Self::Usual(_) => USUAL_PROBES.to_string(),
            Self::Socket(_) => "localhost".to_owned(),
        }
    }

    pub(super) async fn connect(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Addresses(addresses) => TcpStream::connect(addresses.as_slice()).await?.into(),
            Self::Usual(_) => TcpStream::connect(USUAL_PROBES).await?.into(),
            Self::Name(name) => TcpStream::connect(name).await?.into(),
            Self::Socket(path) => UnixStream::connect(path).await?.into(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usual(file) => write!(
                f,
                "{file} is not usable, see portcullis check; {USUAL_PROBES}"
            ),
            Self::Addresses(addresses) => match addresses.first() {
                Some(first) => first.fmt(f),
                None => f.write_str("nowhere"),
            },
            Self::Name(name) => f.write_str(name),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

fn ask_in_time(target: &Target, timeout: Duration) -> Result<String, Unhealthy> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Unhealthy::Runtime(target.clone(), error))?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(timeout, ask(target))
            .await
            .unwrap_or_else(|_| Err(Unhealthy::Timeout(target.clone(), timeout)))
    });
    // A name that is still being resolved would hold up the end.
    runtime.shutdown_background();
    answer
}

async fn ask(target: &Target) -> Result<String, Unhealthy> {
    let connected = target.connect().await;
    let stream = connected.map_err(|error| Unhealthy::Connect(target.clone(), error))?;
    let (status, body) = exchange(stream, target.host(), PATH, LONGEST_ANSWER)
        .await
        .map_err(|error| Unhealthy::Ask(target.clone(), error))?;
    let line = first_line(&body);
    match status {
        StatusCode::OK => Ok(line),
        _ => Err(Unhealthy::NotReady(target.clone(), status, line)),
    }
}

/// Asks for a path. Of the answer's body no more than so many bytes are read.
pub(super) async fn exchange(
    stream: Stream,
    host: String,
    path: &[u8],
    longest: usize,
) -> pingora::Result<(StatusCode, Vec<u8>)> {
    let mut request = RequestHeader::build("GET", path, None)?;
    request.insert_header("host", host)?;
    request.insert_header("connection", "close")?;
    let mut session = HttpSession::new(Box::new(stream));
    session.write_request_header(Box::new(request)).await?;
    let status = session.read_resp_header_parts().await?.status;
    let mut body = Vec::new();
    while body.len() < longest
        && let Some(bytes) = session.read_body_bytes().await?
    {
        let room = longest - body.len();
        body.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    Ok((status, body))
}

/// What is asked may be anybody, and what is printed must stay one line.
pub(super) fn first_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().next().unwrap_or_default().trim();
    printable(line)
}

/// What others wrote, without anything that a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Result<String, String> {
        let target = Target::at(address.parse().unwrap());
        let Target::Addresses(addresses) = target.map_err(|error| error.to_string())? else {
            panic!("an address stays one");
        };
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        Ok(texts.join(" "))
    }

    #[test]
    fn who_listens_everywhere_is_asked_on_the_loopback() {
        for (address, asked) in [
            ("0.0.0.0:9902", "127.0.0.1:9902"),
            ("[::]:9902", "[::1]:9902 127.0.0.1:9902"),
            ("10.0.0.1:9902", "10.0.0.1:9902"),
            ("[fd00::1]:9902", "[fd00::1]:9902"),
        ] {
            assert_eq!(at(address), Ok(asked.to_owned()));
        }
        assert!(at("127.0.0.1:0").is_err());
    }

    #[test]
    fn an_answer_is_one_printable_line() {
        for (body, line) in [
            (&b"ready\n"[..], "ready"),
            (b"", ""),
            (b"not ready: a\x1b[2J\nmore", "not ready: a\u{fffd}[2J"),
            (b"\xff\r\n", "\u{fffd}"),
        ] {
            assert_eq!(first_line(body), line);
        }
    }
}
