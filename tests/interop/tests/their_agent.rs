//! An agent made with the published library decides on requests through our proxy.

use portcullis_interop::{Process, accepts, free_address, get, portcullis};
use std::{fs, net::SocketAddr, path::Path};
use tempfile::TempDir;

/// The proxy with the agent on its only route, in front of the echo origin.
struct Stage {
    address: SocketAddr,
    proxy: Process,
    _agent: Process,
    _directory: TempDir,
}

impl Stage {
    fn set() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let socket = path("agent.sock");
        let program = Path::new(env!("CARGO_BIN_EXE_published-agent"));
        let mut agent = Process::start(program, &[socket.to_str().unwrap()], path("agent.log"));
        agent.wait_until(|| accepts(&socket));

        let (address, probes) = (free_address(), free_address());
        let config = path("interop.kdl");
        fs::write(&config, configuration(address, probes, &socket)).unwrap();
        let arguments = ["run", "--config", config.to_str().unwrap()];
        let mut proxy = Process::start(&portcullis(), &arguments, path("proxy.log"));
        proxy.wait_until(|| get(probes, "/readyz").is_some_and(|answer| answer.status == 200));
        Self {
            address,
            proxy,
            _agent: agent,
            _directory: directory,
        }
    }
}

fn configuration(address: SocketAddr, probes: SocketAddr, socket: &Path) -> String {
    format!(
        r#"schema-version "1"
system {{ worker-threads 1 }}
probes {{ address "{probes}" }}
listeners {{ listener "http" {{ address "{address}" }} }}
routes {{
    route "all" {{
        match {{ path-prefix "/" }}
        filters {{ agent "published" }}
        upstream "echo"
    }}
}}
upstreams {{ upstream "echo" {{ builtin "echo" }} }}
agents {{
    agent "published" {{
        unix-socket "{}"
        timeout "5s"
        failure-mode "closed"
        config {{ greeting "hello" }}
    }}
}}
observability {{ access-log "stdout" format="json" }}
"#,
        socket.display()
    )
}

#[test]
fn it_allows_and_sets_headers() {
    let stage = Stage::set();
    let answer = get(stage.address, "/anything?a=b").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    // The origin says what it was asked. The value shows that the agent was configured and understood the whole event.
    assert!(
        answer.body.to_lowercase().contains("x-published-agent"),
        "{answer:?}"
    );
    assert!(
        answer.body.contains("hello GET /anything?a=b from interop"),
        "{answer:?}"
    );
    assert_eq!(
        answer.header("x-published-answer"),
        Some("all"),
        "{answer:?}"
    );
}

#[test]
fn it_blocks_with_body_and_headers() {
    let stage = Stage::set();
    let answer = get(stage.address, "/block").unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(answer.body, "blocked by a published agent\n");
    assert_eq!(answer.header("x-why"), Some("interop"), "{answer:?}");
}

#[test]
fn it_redirects() {
    let stage = Stage::set();
    let answer = get(stage.address, "/redirect").unwrap();
    assert_eq!(answer.status, 307, "{answer:?}");
    let location = answer.header("location");
    assert_eq!(
        location,
        Some("https://interop.example/there"),
        "{answer:?}"
    );
}

#[test]
fn the_log_names_it() {
    let mut stage = Stage::set();
    get(stage.address, "/block").unwrap();
    let line = stage.proxy.wait_for_line("/block");
    assert!(line.contains(r#""blocked_by":"published""#), "{line}");
}
