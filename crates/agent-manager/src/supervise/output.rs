//! What agents print goes to our log, under their names and no faster than a reader could follow.

use crate::allowance::Allowance;
use portcullis_config::AgentId;
use std::time::Instant;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Child,
    task::JoinSet,
};

/// Longer lines of an agent's output are cut into pieces of this many bytes.
const LONGEST_LINE_BYTES: usize = 4096;
/// More lines than this in one second are counted and not logged.
const LINES_PER_SECOND: u32 = 200;

/// Logs what the agent prints. The tasks end with the pipes, or when the returned set is dropped.
pub(super) fn hear(id: &AgentId, child: &mut Child) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(pipe) = child.stdout.take() {
        tasks.spawn(log_lines(id.clone(), pipe));
    }
    if let Some(pipe) = child.stderr.take() {
        tasks.spawn(log_lines(id.clone(), pipe));
    }
    tasks
}

async fn log_lines(id: AgentId, mut pipe: impl AsyncRead + Unpin) {
    let mut buffer = Vec::with_capacity(LONGEST_LINE_BYTES);
    let mut allowance = Allowance::new(LINES_PER_SECOND, Instant::now());
    while let Ok(count) = pipe.read_buf(&mut buffer).await {
        let ended = count == 0;
        while let Some(line) = take_line(&mut buffer, ended) {
            if let Some(dropped) = allowance.take(Instant::now()) {
                if dropped > 0 {
                    tracing::warn!(agent = %id, dropped, "the agent prints too much, lines were dropped");
                }
                let line = String::from_utf8_lossy(&line);
                tracing::info!(target: "portcullis::agent_output", agent = %id, "{}", line.trim_end());
            }
        }
        if ended {
            return;
        }
    }
}

/// Takes the first line off `buffer`, or a piece of it when it is too long; at the end of the output what is left.
fn take_line(buffer: &mut Vec<u8>, ended: bool) -> Option<Vec<u8>> {
    let end = match buffer.iter().position(|byte| *byte == b'\n') {
        Some(at) => at + 1,
        None if buffer.len() >= LONGEST_LINE_BYTES => LONGEST_LINE_BYTES,
        None if ended && !buffer.is_empty() => buffer.len(),
        None => return None,
    };
    let rest = buffer.split_off(end.min(buffer.len()));
    Some(std::mem::replace(buffer, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_whole_or_in_pieces() {
        let mut buffer = b"one\ntwo".to_vec();
        assert_eq!(take_line(&mut buffer, false), Some(b"one\n".to_vec()));
        assert_eq!(take_line(&mut buffer, false), None);
        assert_eq!(take_line(&mut buffer, true), Some(b"two".to_vec()));
        let mut long = vec![b'x'; LONGEST_LINE_BYTES + 5];
        assert_eq!(
            take_line(&mut long, false).map(|line| line.len()),
            Some(LONGEST_LINE_BYTES)
        );
        assert_eq!(long.len(), 5);
    }
}
