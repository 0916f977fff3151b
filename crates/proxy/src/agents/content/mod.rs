//! What the agents that look into contents have in common: what they look
//! for, in bytes that come in pieces.

mod denied;
mod depth;
mod expression;
mod settings;

pub(crate) use self::denied::{Denied, Search, Seen};
pub(crate) use self::depth::Depth;
pub(crate) use self::expression::{Expression, State};
pub(crate) use self::settings::{each, flag, known, number, object, texts};
