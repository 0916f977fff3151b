//! `ip-allow` and `ip-deny`: which clients may come.

use super::Enforcement;
use ipnet::IpNet;

/// Clients by their addresses, after trusted proxies were looked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressList {
    /// Whether those in the list pass, and nobody else, or everybody but them.
    pub allows: bool,
    /// Those of the line and of its file together; never empty, unless its file is.
    pub networks: Vec<IpNet>,
    /// What others are answered with. Default 403; 400 to 599.
    pub status: u16,
    /// Whether they are refused.
    pub mode: Enforcement,
}
