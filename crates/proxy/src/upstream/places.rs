//! From what the configuration says about the targets of an upstream to the targets that there are now.

use super::target::FoundTarget;
use crate::discovery::{Changes, Discovery, Source};
use pingora::upstreams::peer::HttpPeer;
use portcullis_config::{Origin, TargetAddress};
use std::{path::Path, sync::Arc};

/// A line about targets.
#[derive(Debug)]
pub(super) enum Place {
    /// One that is there as long as the configuration is.
    Fixed(Box<FoundTarget>),
    /// As many as there are at the moment.
    Found {
        source: Arc<Source>,
        /// What the share of each of them is multiplied by.
        weight: u32,
        is_backup: bool,
    },
}

/// All places of an upstream.
#[derive(Debug)]
pub(crate) struct Places(Vec<Place>);

impl Places {
    /// # Errors
    /// The path of a socket is too long for the system.
    pub(crate) fn new(
        upstream: &portcullis_config::Upstream,
        discovery: &Discovery,
        echo_socket: &Path,
    ) -> Result<Self, String> {
        let targets = match &upstream.origin {
            Origin::Targets(targets) => targets,
            Origin::BuiltinEcho => {
                return Ok(Self(vec![Place::Fixed(Box::new(socket(
                    echo_socket,
                    None,
                )?))]));
            }
        };
        let places = targets.iter().map(|target| {
            let mut fixed = match &target.address {
                TargetAddress::Socket(address) => FoundTarget {
                    address: Some(address.to_string().into()),
                    peer: HttpPeer::new(address, false, String::new()),
                    weight: 1,
                    is_backup: false,
                },
                TargetAddress::Unix(path) => socket(path, Some(target.address.to_string()))?,
                found => {
                    let source = discovery.source(&upstream.id, found);
                    let source = source.ok_or_else(|| format!("nobody looks for {found}"))?;
                    return Ok(Place::Found {
                        source: source.clone(),
                        weight: target.weight,
                        is_backup: target.is_backup,
                    });
                }
            };
            fixed.weight = target.weight;
            fixed.is_backup = target.is_backup;
            Ok(Place::Fixed(Box::new(fixed)))
        });
        places.collect::<Result<_, _>>().map(Self)
    }

    /// The targets that there are now.
    pub(super) fn targets(&self) -> Vec<FoundTarget> {
        let mut targets = Vec::with_capacity(self.0.len());
        for place in &self.0 {
            match place {
                Place::Fixed(target) => targets.push((**target).clone()),
                Place::Found {
                    source,
                    weight,
                    is_backup,
                } => {
                    let found = source.found().unwrap_or_default();
                    let first = found.iter().map(|found| found.priority).min();
                    let found = found.iter().filter(|found| Some(found.priority) == first);
                    targets.extend(found.map(|found| FoundTarget {
                        address: Some(found.address.to_string().into()),
                        peer: HttpPeer::new(found.address, false, String::new()),
                        weight: found.weight.saturating_mul(*weight),
                        is_backup: *is_backup,
                    }));
                }
            }
        }
        targets
    }

    /// Whether the same are asked.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        let (mut own, mut others) = (self.sources(), other.sources());
        loop {
            match (own.next(), others.next()) {
                (None, None) => return true,
                (Some(one), Some(other)) if Arc::ptr_eq(one, other) => {}
                _ => return false,
            }
        }
    }

    pub(super) fn are_fixed(&self) -> bool {
        self.sources().next().is_none()
    }

    pub(super) fn changes(&self) -> Vec<Changes> {
        self.sources().map(|source| source.changes()).collect()
    }

    fn sources(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.0.iter().filter_map(|place| match place {
            Place::Fixed(_) => None,
            Place::Found { source, .. } => Some(source),
        })
    }
}

fn socket(path: &Path, address: Option<String>) -> Result<FoundTarget, String> {
    let text = path.display().to_string();
    let peer = HttpPeer::new_uds(&text, false, String::new())
        .map_err(|error| format!("{text}: {error}"))?;
    Ok(FoundTarget {
        address: address.map(Into::into),
        peer,
        weight: 1,
        is_backup: false,
    })
}
