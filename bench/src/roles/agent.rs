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
        let answers = Arc::new(match options.never {
            true => Answers::Never,
            false => Answers::After(Duration::from_millis(options.after_ms)),
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

enum Answers {
    After(Duration),
    Never,
}

#[async_trait]
impl Agent for Answers {
    fn name(&self) -> &str {
        "bench"
    }

    async fn request_headers(&self, _event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        match self {
            Self::After(wait) if wait.is_zero() => {}
            Self::After(wait) => tokio::time::sleep(*wait).await,
            Self::Never => std::future::pending().await,
        }
        Ok(Decision::allow())
    }
}
