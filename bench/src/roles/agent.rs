//! An agent that allows everything: at once, after a while, or never. Whatever it does, it answers pings.

use crate::error::BenchError;
use async_trait::async_trait;
use portcullis_agent_protocol::{
    Decision, RequestHeaders,
    server::{self, Agent, AgentError, ServeOptions},
};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// When to answer.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen.
    #[arg(long)]
    socket: PathBuf,
    /// Answers come so many milliseconds after the question.
    #[arg(long, default_value_t = 0)]
    after_ms: u64,
    /// There are no answers.
    #[arg(long, conflicts_with = "after_ms")]
    never: bool,
    /// Each verdict may be used again for so many milliseconds.
    #[arg(long, default_value_t = 0)]
    hold_for_ms: u64,
}

/// Serves until it is killed.
///
/// # Errors
/// The socket cannot be bound.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let runtime = super::current_thread_runtime()?;
    runtime.block_on(async {
        let socket = &options.socket;
        let listener = server::bind_socket(socket).map_err(BenchError::file("bind", socket))?;
        let answers = Arc::new(Answers {
            after: (!options.never).then(|| Duration::from_millis(options.after_ms)),
            hold_for: Duration::from_millis(options.hold_for_ms),
        });
        // More than the proxy may have it work on: what waits shall wait in the proxy.
        let serving = ServeOptions {
            concurrency: 1024,
            ..ServeOptions::default()
        };
        server::serve(answers, listener, serving, std::future::pending())
            .await
            .map_err(BenchError::io("serve"))
    })
}

struct Answers {
    /// `None`: never.
    after: Option<Duration>,
    /// Zero: a verdict is for one request.
    hold_for: Duration,
}

#[async_trait]
impl Agent for Answers {
    fn name(&self) -> &str {
        "bench"
    }

    async fn request_headers(&self, _event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        match self.after {
            Some(wait) if wait.is_zero() => {}
            Some(wait) => tokio::time::sleep(wait).await,
            None => std::future::pending().await,
        }
        Ok(Decision::allow().hold_for(self.hold_for))
    }
}
