//! `reverse "PATH" …`: agents that dial us.

use super::Secret;
use std::path::PathBuf;

/// Where an agent registers, and what it has to be for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentReverse {
    /// The Unix socket that we listen on; several agents may have the same. The path is resolved against the configuration
    /// file.
    pub path: PathBuf,
    /// The mode of the socket. Default 0600. Agents of one socket have the same.
    pub mode: u32,
    /// The user that its process belongs to. None: ours.
    pub uid: Option<u32>,
    /// What it has to show beside that.
    pub token: Option<Secret>,
    /// How many connections it may have. Default 1, 1 to 64.
    pub replicas: usize,
}
