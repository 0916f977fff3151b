//! How agents are reached that do not listen on a Unix socket.

use super::agent::{Script, TestAgent};
use serde::{Deserialize, Serialize};
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

/// Where an agent speaks gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grpc {
    pub(super) address: SocketAddr,
    /// With TLS, and proxies have to show who they are.
    pub(super) tls: bool,
}

/// Where an agent dials the proxy, and what it shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reverse {
    pub(super) place: Place,
    pub(super) agent_id: String,
    pub(super) token: String,
}

/// What an agent dials.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Place {
    Socket(PathBuf),
    Tls(SocketAddr, TlsClient),
}

/// What an agent that dials over TLS shows, and of whom it takes it that it is the proxy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TlsClient {
    /// `agent` for the files `agent.pem` and `agent.key`.
    pub(crate) shows: Option<String>,
    /// The name in the certificate of the proxy.
    pub(crate) expects: String,
}

impl TlsClient {
    /// With a certificate for `agent.test`.
    pub(crate) fn right() -> Self {
        Self {
            shows: Some("agent".to_owned()),
            expects: "proxy.test".to_owned(),
        }
    }

    /// With that of somebody else.
    pub(crate) fn showing(shows: Option<&str>) -> Self {
        Self {
            shows: shows.map(str::to_owned),
            ..Self::right()
        }
    }

    pub(crate) fn expecting(expects: &str) -> Self {
        Self {
            expects: expects.to_owned(),
            ..Self::right()
        }
    }
}

/// A file of certificates, see `tests/fixtures/tls`.
pub(crate) fn tls_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/tls")
        .join(name)
}

impl TestAgent {
    /// One that speaks gRPC; with the dialect `Json` nothing but the published protocol.
    pub(crate) fn over_grpc(mut self) -> Self {
        // The agent binds it again, also when it has been killed.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        self.script.grpc = Some(Grpc {
            address,
            tls: false,
        });
        self
    }

    /// The same with TLS; it lets in whom `ca.pem` has signed.
    pub(crate) fn over_mtls(mut self) -> Self {
        self = self.over_grpc();
        if let Some(grpc) = &mut self.script.grpc {
            grpc.tls = true;
        }
        self
    }

    /// One that dials the proxy, and shows this token.
    pub(crate) fn dialling(mut self, token: &str) -> Self {
        self.script.reverse = Some(Reverse {
            place: Place::Socket(self.folder.path().join("reverse.sock")),
            agent_id: self.script.name.clone(),
            token: token.to_owned(),
        });
        self
    }

    /// The same over TLS, at an address that was free.
    pub(crate) fn dialling_over_tls(mut self, token: &str, client: TlsClient) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        self.script.reverse = Some(Reverse {
            place: Place::Tls(address, client),
            agent_id: self.script.name.clone(),
            token: token.to_owned(),
        });
        self
    }

    /// One that dials over TLS is this client from now on.
    pub(crate) fn being(mut self, client: TlsClient) -> Self {
        if let Some(reverse) = &mut self.script.reverse
            && let Place::Tls(_, before) = &mut reverse.place
        {
            *before = client;
        }
        self
    }

    /// Another process that does the same and dials the same proxy. It does not run yet.
    pub(crate) fn twin(&self) -> Self {
        let mut twin = Self::named(&self.script.name);
        twin.script = Script {
            socket: twin.script.socket.clone(),
            record: twin.script.record.clone(),
            release: twin.script.release.clone(),
            says: twin.script.says.clone(),
            ..self.script.clone()
        };
        twin
    }

    /// The socket of the proxy that it dials.
    pub(crate) fn door(&self) -> &Path {
        match &self.script.reverse.as_ref().unwrap().place {
            Place::Socket(path) => path,
            Place::Tls(..) => panic!("it dials an address"),
        }
    }

    /// How the configuration says where it is.
    pub(crate) fn way(&self) -> String {
        if let Some(reverse) = &self.script.reverse {
            return match &reverse.place {
                Place::Socket(path) => format!("reverse \"{}\"", path.display()),
                Place::Tls(address, _) => format!("reverse \"{address}\""),
            };
        }
        match self.script.grpc {
            None => format!("unix-socket \"{}\"", self.socket().display()),
            Some(Grpc {
                address,
                tls: false,
            }) => format!("grpc \"http://{address}\""),
            Some(Grpc { address, tls: true }) => format!("grpc \"https://{address}\""),
        }
    }
}
