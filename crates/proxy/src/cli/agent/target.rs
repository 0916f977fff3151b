//! Where an agent is, and how it is reached.

use portcullis_agent_protocol::{ConnectError, ConnectOptions, Connection};
use std::{fmt, io, path::PathBuf, str::FromStr};
use tokio::net::UnixStream;

/// Where an agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The socket on which it listens.
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = match text.split_once("://") {
            Some((scheme, _)) => {
                return Err(format!(
                    "agents over {scheme} cannot be reached; give unix:PATH"
                ));
            }
            None => text.strip_prefix("unix:").unwrap_or(text),
        };
        match path {
            "" => Err("it names no socket; give unix:PATH".to_owned()),
            path => Ok(Self::Unix(path.into())),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// A connection whose driver runs on the current runtime.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub(super) async fn connect(
        &self,
        options: &ConnectOptions,
    ) -> Result<Connection, ConnectError> {
        let Self::Unix(path) = self;
        let (connection, driver) = Connection::connect(path, options).await?;
        tokio::spawn(driver);
        Ok(connection)
    }

    /// A connection on which nothing was said yet.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(super) async fn dial(&self) -> io::Result<UnixStream> {
        let Self::Unix(path) = self;
        UnixStream::connect(path).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_socket() {
        for (text, path) in [
            ("unix:/run/a.sock", "/run/a.sock"),
            ("/run/a.sock", "/run/a.sock"),
            ("a.sock", "a.sock"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target, Target::Unix(path.into()));
            assert_eq!(target.to_string(), format!("unix:{path}"));
        }
        for wrong in ["", "unix:", "smoke://signals"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
