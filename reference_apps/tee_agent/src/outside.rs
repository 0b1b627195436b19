//! JSON asked of servers outside: with a limit on what is read, a deadline, and a bound on how many are asked at once.
//!
//! Certificates have to be under one of Mozilla's roots, as of the build. Redirects are not followed: the answer would come from a server
//! that the configuration does not name.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use ureq::{
    Agent,
    tls::{RootCerts, TlsConfig},
};

/// Longest answer read.
const MAX_ANSWER_BYTES: u64 = 4 << 20;
/// Most questions under way. Each takes a thread.
const MAX_CONCURRENT: usize = 64;

/// A client for servers outside.
#[derive(Clone, Debug)]
pub struct Outside {
    agent: Agent,
    permits: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutsideError {
    /// It took too long.
    #[error("no answer in time")]
    Slow,
    /// As many questions as there may be are under way.
    #[error("too many questions are under way")]
    Busy,
    /// No connection, or one that broke.
    #[error("no answer: {0}")]
    Failed(#[source] Box<ureq::Error>),
    /// It said no. What it said is not passed on: it may hold a part of the key that was sent.
    #[error("the answer has status {0}")]
    Status(u16),
}

impl Default for Outside {
    fn default() -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::WebPki)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("tee_agent/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        Self { agent: agent.into(), permits: Arc::new(Semaphore::new(MAX_CONCURRENT)) }
    }
}

impl Outside {
    /// Posts JSON and returns the body of an answer with status 200.
    ///
    /// # Errors
    /// [`OutsideError`] as its variants say.
    pub async fn post(
        &self,
        url: &str,
        bearer: Option<&str>,
        body: String,
        within: Duration,
    ) -> Result<String, OutsideError> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| OutsideError::Busy)?;
        let mut request = self
            .agent
            .post(url)
            .config()
            .timeout_global(Some(within))
            .build()
            .header("content-type", "application/json")
            .header("accept", "application/json");
        if let Some(token) = bearer {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let asked = tokio::task::spawn_blocking(move || {
            // Held by the thread, which goes on when who asked has gone.
            let _permit = permit;
            let mut response = request.send(body)?;
            let status = response.status().as_u16();
            let text = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string()?;
            Ok((status, text))
        });
        match asked.await {
            Ok(Ok((200, text))) => Ok(text),
            Ok(Ok((status, _))) => Err(OutsideError::Status(status)),
            Ok(Err(ureq::Error::Timeout(_))) => Err(OutsideError::Slow),
            Ok(Err(error)) => Err(OutsideError::Failed(Box::new(error))),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}
