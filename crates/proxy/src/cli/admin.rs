//! Asking a running proxy: where its `admin` is, what is asked, and what can go wrong meanwhile.

use super::ConfigArgs;
use clap::Args;
use http::{Method, StatusCode};
use pingora::{
    http::RequestHeader,
    protocols::{http::v1::client::HttpSession, l4::stream::Stream},
};
use portcullis_config::{AdminAddress, parse_duration};
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use tokio::net::{TcpStream, UnixStream};

/// Where `admin` of the samples is.
const USUAL_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

/// Which proxy is asked, and for how long.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask here; without it `admin` of the configuration is asked
    #[arg(long, value_name = "HOST:PORT|unix:PATH")]
    admin: Option<String>,
    /// For an answer, connecting included
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(super) timeout: Duration,
}

impl AdminArgs {
    /// Whom to ask.
    ///
    /// # Errors
    /// It is not known.
    pub(super) fn target(&self) -> Result<Target, NoAnswer> {
        if let Some(address) = &self.admin {
            if let Some(path) = address.strip_prefix("unix:") {
                return Ok(Target::Socket(path.into()));
            }
            return match address.parse() {
                Ok(address) => Target::at(address).ok_or(NoAnswer::NoPort(address)),
                Err(_) => Ok(Target::Name(address.clone())),
            };
        }
        let (loaded, name) = self.config.load();
        let Ok(loaded) = loaded else {
            // A proxy that runs keeps its configuration when the file is spoilt.
            eprintln!(
                "portcullis: {name} is not usable, see portcullis check; asking {USUAL_ADMIN}"
            );
            return Ok(Target::Addresses(vec![USUAL_ADMIN]));
        };
        match loaded.config.admin.map(|admin| admin.address) {
            None => Err(NoAnswer::NobodyToAsk(name)),
            Some(AdminAddress::Unix(path)) => Ok(Target::Socket(path)),
            Some(AdminAddress::Tcp(address)) => {
                Target::at(address).ok_or(NoAnswer::NoPort(address))
            }
        }
    }
}

/// Where the answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The first that takes a connection.
    Addresses(Vec<SocketAddr>),
    /// Where it usually is, because this file cannot be used.
    Usual(String, SocketAddr),
    /// To be resolved.
    Name(String),
    Socket(PathBuf),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
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
}

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Question<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    /// JSON, or nothing.
    pub(super) body: &'a [u8],
    /// How much of an answer is read, in bytes.
    pub(super) longest: usize,
}

impl<'a> Question<'a> {
    /// For what is at this path.
    pub(super) fn get(path: &'a str, longest: usize) -> Self {
        Self {
            method: Method::GET,
            path,
            body: &[],
            longest,
        }
    }
}

impl Target {
    /// Who listens on all addresses is asked on the loopback. Where there is no IPv6, `[::]` is asked over IPv4, which it
    /// takes as well. `None` for port 0, which is not where anybody listens.
    pub(super) fn at(address: SocketAddr) -> Option<Self> {
        let port = address.port();
        if port == 0 {
            return None;
        }
        let loopback_v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Some(Self::Addresses(match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => vec![loopback_v4],
            IpAddr::V6(ip) if ip.is_unspecified() => {
                vec![(Ipv6Addr::LOCALHOST, port).into(), loopback_v4]
            }
            _ => vec![address],
        }))
    }

    /// What `admin` takes from those who come over TCP.
    fn host(&self) -> String {
        match self {
            Self::Addresses(_) | Self::Name(_) => self.to_string(),
            Self::Usual(_, address) => address.to_string(),
            Self::Socket(_) => "localhost".to_owned(),
        }
    }

    async fn connect(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Addresses(addresses) => TcpStream::connect(addresses.as_slice()).await?.into(),
            Self::Usual(_, address) => TcpStream::connect(address).await?.into(),
            Self::Name(name) => TcpStream::connect(name).await?.into(),
            Self::Socket(path) => UnixStream::connect(path).await?.into(),
        })
    }

    /// Asks on a connection of its own, all within this time.
    ///
    /// # Errors
    /// There is no answer.
    pub(super) fn answer(
        &self,
        question: &Question<'_>,
        timeout: Duration,
    ) -> Result<(StatusCode, Vec<u8>), NoAnswer> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| NoAnswer::Runtime(self.clone(), error))?;
        let answer = runtime.block_on(async {
            let asked = async {
                let connected = self.connect().await;
                let stream = connected.map_err(|error| NoAnswer::Connect(self.clone(), error))?;
                let answer = exchange(stream, self.host(), question).await;
                answer.map_err(|error| NoAnswer::Ask(self.clone(), error))
            };
            tokio::time::timeout(timeout, asked)
                .await
                .unwrap_or_else(|_| Err(NoAnswer::Timeout(self.clone(), timeout)))
        });
        // A name that is still being resolved would hold up the end.
        runtime.shutdown_background();
        answer
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usual(file, address) => {
                write!(f, "{file} is not usable, see portcullis check; {address}")
            }
            Self::Addresses(addresses) => match addresses.first() {
                Some(first) => first.fmt(f),
                None => f.write_str("nowhere"),
            },
            Self::Name(name) => f.write_str(name),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

async fn exchange(
    stream: Stream,
    host: String,
    question: &Question<'_>,
) -> pingora::Result<(StatusCode, Vec<u8>)> {
    let path = question.path.as_bytes();
    let mut request = RequestHeader::build(question.method.clone(), path, None)?;
    request.insert_header("host", host)?;
    request.insert_header("connection", "close")?;
    if question.method != Method::GET {
        request.insert_header("content-length", question.body.len())?;
    }
    if !question.body.is_empty() {
        request.insert_header("content-type", "application/json")?;
    }
    let mut session = HttpSession::new(Box::new(stream));
    session.write_request_header(Box::new(request)).await?;
    if !question.body.is_empty() {
        session.write_body(question.body).await?;
    }
    let status = session.read_resp_header_parts().await?.status;
    let mut body = Vec::new();
    while body.len() < question.longest
        && let Some(bytes) = session.read_body_bytes().await?
    {
        let room = question.longest - body.len();
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

    fn at(address: &str) -> Option<String> {
        let Target::Addresses(addresses) = Target::at(address.parse().unwrap())? else {
            panic!("an address stays one");
        };
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        Some(texts.join(" "))
    }

    #[test]
    fn who_listens_everywhere_is_asked_on_the_loopback() {
        for (address, asked) in [
            ("0.0.0.0:9902", "127.0.0.1:9902"),
            ("[::]:9902", "[::1]:9902 127.0.0.1:9902"),
            ("10.0.0.1:9902", "10.0.0.1:9902"),
            ("[fd00::1]:9902", "[fd00::1]:9902"),
        ] {
            assert_eq!(at(address).as_deref(), Some(asked));
        }
        assert_eq!(at("127.0.0.1:0"), None);
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
