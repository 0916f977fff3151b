//! `ip-allow` and `ip-deny` in `filters`.

use super::{address, cursor::Node, limit, value::Value};
use crate::{diagnostic::code, files, model::AddressList};
use ipnet::IpNet;

/// Of both kinds.
pub(super) fn address_list(node: &mut Node<'_>) -> Option<AddressList> {
    let allows = node.name() == "ip-allow";
    let file = node.property("file");
    let status = limit::status(node, 403);
    let mode = limit::mode(node);
    let mut networks = Vec::new();
    let mut is_empty = true;
    while let Some(value) = node.optional_argument() {
        is_empty = false;
        networks.push(address::any_network(value)?);
    }
    match file {
        Some(file) => networks.extend(read(file)?),
        None if is_empty => {
            let name = node.name();
            node.report(
                node.error(code::MISSING, format!("`{name}` names nobody"))
                    .help("write after it addresses or networks, such as \"10.0.0.0/8\", or file=\"…\""),
            );
            return None;
        }
        None => {}
    }
    Some(AddressList {
        allows,
        networks,
        status: status?,
        mode: mode?,
    })
}

/// A network on each line; `#` begins a comment.
fn read(value: Value<'_>) -> Option<Vec<IpNet>> {
    let path = value.path()?;
    let error = match files::read(&path).map(String::from_utf8) {
        Ok(Ok(text)) => return parse(value, &text, &path.display().to_string()),
        Ok(Err(_)) => "it is not UTF-8".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("cannot read the addresses in `{}`: {error}", path.display());
    value.report(
        value
            .error(code::FILE, message)
            .help("write an address or a network on each line of this file"),
    );
    None
}

fn parse(value: Value<'_>, text: &str, name: &str) -> Option<Vec<IpNet>> {
    let mut networks = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let written = line.split('#').next().unwrap_or_default().trim();
        if written.is_empty() {
            continue;
        }
        match address::parse_network(written) {
            Ok(network) => networks.push(network),
            Err((message, help)) => {
                let message = format!("line {} of `{name}`: {message}", number + 1);
                value.report(value.error(code::INVALID_VALUE, message).help(help));
                return None;
            }
        }
    }
    Some(networks)
}
