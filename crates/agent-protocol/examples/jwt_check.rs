//! Lets only requests with a valid JSON Web Token pass, and tells the server
//! who it is from.
//!
//! ```text
//! cargo run --example jwt_check -- /tmp/jwt.sock
//! ```
//!
//! Its configuration: `{"secret-file": "/run/secrets/jwt", "issuer": "https://login.example.com", "audience": "shop"}`.
//! The subject of the token goes to the server in `x-user`. The proxy has to
//! own that for the agent (`owns-headers "x-user"`), or clients could send it
//! to routes without the agent.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use portcullis_agent_protocol::server::{self, Agent, AgentError, ServeOptions};
use portcullis_agent_protocol::{Decision, RequestHeaders};
use serde::Deserialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

/// Seconds by which clocks may differ.
const LEEWAY: u64 = 30;
/// What HS256 asks for.
const LEAST_SECRET_BYTES: usize = 32;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    /// The secret of HS256, in a file that others cannot read. White space at
    /// its ends does not belong to it.
    secret_file: PathBuf,
    /// Who may have made the token; without it anybody who knows the secret.
    issuer: Option<String>,
    /// For whom it has to be made; without it for nobody in particular.
    audience: Option<String>,
}

struct Rule {
    key: DecodingKey,
    validation: Validation,
}

impl Rule {
    async fn new(config: &Value) -> Result<Self, String> {
        let config = Config::deserialize(config).map_err(|error| error.to_string())?;
        let secret = tokio::fs::read(&config.secret_file)
            .await
            .map_err(|error| format!("`secret-file`: {error}"))?;
        let secret = secret.trim_ascii();
        if secret.len() < LEAST_SECRET_BYTES {
            let least = LEAST_SECRET_BYTES;
            return Err(format!("`secret-file` has fewer than {least} bytes"));
        }
        // The token must not choose the algorithm.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &config.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &config.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        Ok(Self {
            key: DecodingKey::from_secret(secret),
            validation,
        })
    }

    fn decide(&self, token: &str) -> Decision {
        match jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation) {
            Ok(token) => Decision::allow().set_request_header("x-user", token.claims.sub),
            Err(error) => refuse(
                "Bearer error=\"invalid_token\"",
                &format!("jwt:{:?}", error.kind()),
            ),
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

/// The token of a request. Of two nobody knows which one the server believes.
fn token_of(headers: &HeaderMap) -> Option<&str> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (field, None) = (fields.next()?, fields.next()) else {
        return None;
    };
    let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

fn refuse(challenge: &str, reason: &str) -> Decision {
    Decision::block(401)
        .with_header("www-authenticate", challenge)
        .reason(reason)
}

#[derive(Default)]
pub(crate) struct JwtCheck {
    rule: RwLock<Option<Arc<Rule>>>,
}

#[async_trait::async_trait]
impl Agent for JwtCheck {
    fn name(&self) -> &str {
        "jwt-check"
    }

    async fn configure(&self, config: &Value) -> Result<(), String> {
        let rule = Arc::new(Rule::new(config).await?);
        *self.rule.write().unwrap_or_else(PoisonError::into_inner) = Some(rule);
        Ok(())
    }

    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        let rule = self
            .rule
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // Without a configuration there is nobody who could be let in.
        let rule = rule.ok_or_else(|| AgentError::new("there is no configuration"))?;
        Ok(match token_of(event.headers) {
            Some(token) => rule.decide(token),
            None => refuse("Bearer", "jwt:missing"),
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let argument = std::env::args_os().nth(1).map(PathBuf::from);
    let path = argument
        .or_else(server::socket_from_env)
        .unwrap_or_else(|| "agent.sock".into());
    let listener = server::bind_socket(&path)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        terminate.recv().await;
    };
    let agent = Arc::new(JwtCheck::default());
    server::serve(agent, listener, ServeOptions::default(), stop).await
}
