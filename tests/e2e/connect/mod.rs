//! How targets are found and connected to.

mod files;
mod kept;
mod names;
mod proxy_protocol;
mod tls;
mod truncated;
mod unix;

const TO_POOL: &str = r#"routes { route "all" { upstream "pool" } }"#;
