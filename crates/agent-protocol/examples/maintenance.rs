//! An agent in a few lines: while a file exists, it blocks all requests but
//! those to `/status` with 503.
//!
//! ```text
//! cargo run --example maintenance -- /tmp/maintenance.sock
//! ```
//!
//! Its configuration names the file: `{"file": "/etc/maintenance"}`.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use portcullis_agent_protocol::server::{self, Agent, AgentError, ServeOptions};
use portcullis_agent_protocol::{Decision, RequestHeaders};
use serde_json::Value;

#[derive(Default)]
struct Maintenance {
    file: RwLock<PathBuf>,
}

#[async_trait::async_trait]
impl Agent for Maintenance {
    fn name(&self) -> &str {
        "maintenance"
    }

    async fn configure(&self, config: &Value) -> Result<(), String> {
        let file = config["file"].as_str().ok_or("`file` is missing")?;
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = file.into();
        Ok(())
    }

    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        let file = self
            .file
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // An error here is a failed call, which the proxy's policy decides on.
        let closed = tokio::fs::try_exists(&file).await?;
        if !closed || event.path() == "/status" {
            return Ok(Decision::allow());
        }
        Ok(Decision::block(503)
            .with_header("retry-after", "60")
            .with_body("down for maintenance\n")
            .reason("maintenance"))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let argument = std::env::args_os().nth(1).map(PathBuf::from);
    let path = argument
        .or_else(server::socket_from_env)
        .unwrap_or_else(|| "agent.sock".into());
    let listener = server::bind_socket(&path)?;
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    server::serve(
        Arc::new(Maintenance::default()),
        listener,
        ServeOptions::default(),
        stop,
    )
    .await
}
