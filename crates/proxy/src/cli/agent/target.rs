//! Where an agent is, and how it is reached.

use clap::Args;
use portcullis_agent_protocol::{
    AnyConnection, ConnectError, ConnectOptions, GrpcEndpoint, Target as Reached, TlsFiles,
};
use std::{fmt, io, path::PathBuf, str::FromStr};
use tokio::net::UnixStream;

/// The package of the service of protocol version 2, unless another is given.
const PACKAGE: &str = "zentinel.agent.v2";
/// How a target is written.
const HOW: &str = "give unix:PATH, or http://HOST:PORT for gRPC, or v1:PATH for version 1";

/// Where an agent is, and what is spoken there.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct Target {
    /// Where the agent listens: a path or unix:PATH; for gRPC grpc:HOST:PORT, http://HOST:PORT or https://HOST:PORT; for version 1 of
    /// the protocol v1:PATH
    #[arg(value_name = "TARGET")]
    place: Place,
    /// The package of the service of an agent over gRPC, which is another in forks. Default: zentinel.agent.v2
    #[arg(long, value_name = "PACKAGE", value_parser = package)]
    package: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// The socket on which it listens.
    Unix(PathBuf),
    /// Scheme, host and port.
    Grpc(String),
    /// The socket on which an agent of version 1 listens.
    V1(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(place) = text.strip_prefix("grpc:") {
            let place = place.strip_prefix("//").unwrap_or(place);
            return url(&format!("http://{place}"));
        }
        if let Some(path) = text.strip_prefix("v1:") {
            return socket(path).map(Self::V1);
        }
        match text.split_once("://") {
            Some(("http" | "https", _)) => url(text),
            Some((scheme, _)) => Err(format!("agents over {scheme} cannot be reached; {HOW}")),
            None => socket(text.strip_prefix("unix:").unwrap_or(text)).map(Self::Unix),
        }
    }
}

fn socket(path: &str) -> Result<PathBuf, String> {
    match path {
        "" => Err(format!("it names no socket; {HOW}")),
        path => Ok(path.into()),
    }
}

fn url(text: &str) -> Result<Place, String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("{error}; {HOW}"))?;
    let is_bare = uri.path() == "/" && uri.query().is_none();
    match (uri.scheme_str(), uri.authority()) {
        (Some(scheme), Some(place))
            if is_bare && place.port().is_some() && !place.as_str().contains('@') =>
        {
            Ok(Place::Grpc(format!("{scheme}://{place}")))
        }
        _ => Err(format!(
            "an agent over gRPC has a host and a port and nothing else; {HOW}"
        )),
    }
}

/// The package of a service: names with dots between them.
fn package(text: &str) -> Result<String, String> {
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name
                .chars()
                .all(|it| it.is_ascii_alphanumeric() || it == '_')
    };
    match text.split('.').all(is_name) {
        true => Ok(text.to_owned()),
        false => Err("give the `package` of the agent's .proto file".to_owned()),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
            Place::Grpc(url) => f.write_str(url),
            Place::V1(path) => write!(f, "v1:{}", path.display()),
        }
    }
}

impl Target {
    /// Whether what was given goes together.
    ///
    /// # Errors
    /// What does not.
    pub(super) fn valid(&self) -> Result<(), String> {
        match (&self.package, &self.place) {
            (Some(_), Place::Unix(_) | Place::V1(_)) => Err(format!(
                "--package is for agents over gRPC, and {self} is none"
            )),
            (Some(_), Place::Grpc(_)) | (None, _) => Ok(()),
        }
    }

    /// Whether the bytes of version 2 over a Unix socket can be written there by hand.
    pub(super) fn is_socket(&self) -> bool {
        matches!(self.place, Place::Unix(_))
    }

    /// Whether version 1 is spoken there.
    pub(super) fn is_v1(&self) -> bool {
        matches!(self.place, Place::V1(_))
    }

    /// A connection whose driver runs on the current runtime.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub(super) async fn connect(
        &self,
        options: &ConnectOptions,
    ) -> Result<AnyConnection, ConnectError> {
        let (connection, driver) = AnyConnection::connect(&self.reached(), options).await?;
        tokio::spawn(driver);
        Ok(connection)
    }

    fn reached(&self) -> Reached {
        match &self.place {
            Place::Unix(path) => Reached::UnixSocket(path.clone()),
            Place::V1(path) => Reached::V1UnixSocket(path.clone()),
            Place::Grpc(url) => Reached::V2Grpc {
                endpoint: GrpcEndpoint {
                    url: url.clone(),
                    tls: TlsFiles::default(),
                    keep_alive: None,
                },
                package: self.package.as_deref().unwrap_or(PACKAGE).to_owned(),
            },
        }
    }

    /// A connection on which nothing was said yet.
    ///
    /// # Errors
    /// Nobody listens there, or it is no socket of version 2.
    pub(super) async fn dial(&self) -> io::Result<UnixStream> {
        match &self.place {
            Place::Unix(path) => UnixStream::connect(path).await,
            Place::Grpc(_) | Place::V1(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Result<Target, String> {
        text.parse().map(|place| Target {
            place,
            package: None,
        })
    }

    #[test]
    fn a_target_is_a_socket_or_a_place_in_the_network() {
        for (text, is_socket, said) in [
            ("unix:/run/a.sock", true, "unix:/run/a.sock"),
            ("/run/a.sock", true, "unix:/run/a.sock"),
            ("a.sock", true, "unix:a.sock"),
            ("v1:/run/a.sock", false, "v1:/run/a.sock"),
            ("grpc:[::1]:1", false, "http://[::1]:1"),
            ("grpc://a.example:1", false, "http://a.example:1"),
            ("http://127.0.0.1:1/", false, "http://127.0.0.1:1"),
            ("https://a.example:1", false, "https://a.example:1"),
        ] {
            let target = at(text).unwrap();
            assert_eq!(
                (target.is_socket(), &*target.to_string()),
                (is_socket, said)
            );
            assert_eq!(target.is_v1(), text.starts_with("v1:"));
        }
        for wrong in [
            "",
            "unix:",
            "v1:",
            "smoke://signals",
            "grpc:",
            "grpc:a",
            "http://a.example",
            "http://a:1/path",
            "http://a:1?b",
            "http://me@a:1",
            "http:// :1",
        ] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_package_is_one_of_grpc() {
        for (text, package_of) in [
            ("http://a:1", Some("grapsus.agent.v2")),
            ("http://a:1", None),
        ] {
            let target = Target {
                package: package_of.map(|text| package(text).unwrap()),
                ..at(text).unwrap()
            };
            assert_eq!(target.valid(), Ok(()));
            let Reached::V2Grpc { package, .. } = target.reached() else {
                panic!("{target} is over gRPC");
            };
            assert_eq!(package, package_of.unwrap_or(PACKAGE));
        }
        for text in ["a.sock", "v1:a.sock"] {
            let target = Target {
                package: Some("a".to_owned()),
                ..at(text).unwrap()
            };
            assert!(target.valid().unwrap_err().contains("--package"));
        }
        for wrong in ["", "a.", ".a", "a/b", "1a", "a b"] {
            assert!(package(wrong).is_err(), "{wrong}");
        }
    }
}
