//! What agents decide that are made with the libraries of others: the same whatever the library.

use serde_json::Value;
use std::sync::{Mutex, PoisonError};

/// `/block` is blocked, `/redirect` redirected, everything else goes on with what was seen of it.
#[derive(Default)]
pub struct Judge {
    /// From the configuration that the proxy hands over.
    greeting: Mutex<Option<String>>,
}

/// In no library's words.
pub enum Judged {
    Block,
    Redirect { to: String, status: u16 },
    Pass { seen: String },
}

impl Judge {
    /// Takes a configuration; whether it can be used.
    pub fn learn(&self, config: &Value) -> bool {
        let greeting = config["greeting"].as_str().map(str::to_owned);
        let known = greeting.is_some();
        *self.greeting.lock().unwrap_or_else(PoisonError::into_inner) = greeting;
        known
    }

    /// `from` is something else that the agent was told.
    pub fn judge(&self, method: &str, uri: &str, from: &str) -> Judged {
        match uri.split('?').next().unwrap_or_default() {
            "/block" => Judged::Block,
            "/redirect" => Judged::Redirect {
                to: "https://interop.example/there".to_owned(),
                status: 307,
            },
            _ => {
                let greeting = self.greeting.lock().unwrap_or_else(PoisonError::into_inner);
                let greeting = greeting.as_deref().unwrap_or("unconfigured");
                Judged::Pass {
                    seen: format!("{greeting} {method} {uri} from {from}"),
                }
            }
        }
    }
}
