//! `admin { … }` and `probes { … }`.

use super::{
    address::{self, Use},
    cursor::{Later, Node},
};
use crate::{diagnostic::code, model::AdminAddress, source::Spanned};
use std::net::SocketAddr;

const LATER: &[Later] = &[Later::new("token"), Later::new("token-file")];

pub(super) fn admin(node: &mut Node<'_>) -> Option<Spanned<AdminAddress>> {
    node.block(|block| {
        block.later(LATER);
        block.required("address", "address \"127.0.0.1:9901\"", |node| {
            node.later_properties(LATER);
            let value = node.argument("an address, such as \"127.0.0.1:9901\"")?;
            let is_socket = matches!(value.raw().as_string(), Some(text) if text.starts_with("unix:"));
            if is_socket {
                return Some(value.spanned(AdminAddress::Unix(value.socket_path("unix:")?)));
            }
            let address = address::socket_address(value, Use::Listen)?;
            if !address.value.ip().is_loopback() {
                value.report(
                    value
                        .error(code::INVALID_VALUE, format!("`{}` can be reached from other machines", address.value))
                        .label("not a loopback address")
                        .help(format!(
                            "write \"127.0.0.1:{0}\" or \"[::1]:{0}\"; health and metrics for others are in `probes`",
                            address.value.port()
                        )),
                );
                return None;
            }
            Some(value.spanned(AdminAddress::Tcp(address.value)))
        })
    })
}

pub(super) fn probes(node: &mut Node<'_>) -> Option<Spanned<SocketAddr>> {
    node.block(|block| {
        block.required("address", "address \"0.0.0.0:9902\"", |node| {
            let value = node.argument("an address, such as \"0.0.0.0:9902\"")?;
            address::socket_address(value, Use::Listen)
        })
    })
}
