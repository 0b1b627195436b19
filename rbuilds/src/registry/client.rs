//! Requests to one repository of a registry: logging in, redirects, and asking again.
//!
//! A credential goes to the registry and to the token server it names, never to where a redirect leads. Plain HTTP is
//! spoken to this machine only.

use std::{io::Read, path::Path, sync::Arc, time::Duration};

use manifest::ImageReference;
use ureq::{
    Agent, Body,
    http::{
        Response, Uri,
        header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    tls::{Certificate, RootCerts, TlsConfig},
};

use super::{
    auth::{Challenge, TokenAnswer, choose, form},
    credentials::{self, Credentials},
    error::{Answer, RegistryError},
    retry::Retries,
};

const USER_AGENT: &str = concat!("glasshouse/", env!("CARGO_PKG_VERSION"));
/// Where the registry that engines call `docker.io` listens.
const DEFAULT_REGISTRY: (&str, &str) = ("docker.io", "registry-1.docker.io");
/// How many redirects may stand behind one another. Registries use one, to their storage.
const MAX_REDIRECTS: usize = 5;
/// How long connecting, an answer, or the next bytes of one may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer of a token server, in bytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// How much of an error's text is shown, in characters, and read, in bytes.
const MAX_ANSWER_CHARS: usize = 300;
const MAX_ANSWER_BYTES: u64 = 16 << 10;
/// What a token server calls us (OAuth 2.0, `client_id`).
const CLIENT_ID: &str = "glasshouse";

/// A conversation with a registry about one of its repositories.
#[derive(Debug)]
pub(super) struct Client<'r> {
    reference: ImageReference,
    auth_file: Option<&'r Path>,
    home: Origin,
    agent: Agent,
    authorization: Option<String>,
    /// Whether what was sent last was made with credentials of the user's.
    is_known: bool,
}

/// Scheme and authority of a URL: to whom a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    is_plain: bool,
    /// Host and perhaps port, in lower case.
    authority: String,
}

impl<'r> Client<'r> {
    pub(super) fn new(reference: ImageReference, auth_file: Option<&'r Path>) -> Result<Self, RegistryError> {
        let host = match reference.registry() {
            name if name == DEFAULT_REGISTRY.0 => DEFAULT_REGISTRY.1,
            name => name,
        };
        let authority = host.to_ascii_lowercase();
        let home = Origin { is_plain: is_loopback(&authority), authority };
        let agent = agent(home.is_plain)?;
        Ok(Self { reference, auth_file, home, agent, authorization: None, is_known: false })
    }

    /// Asks for `what`, `manifests/TAG` or `blobs/DIGEST`, from a byte on. The answer is a success.
    pub(super) fn fetch(
        &mut self,
        what: &str,
        accept: &str,
        from: u64,
    ) -> Result<Response<Body>, RegistryError> {
        let url = format!("{}/v2/{}/{what}", self.home.url(), self.reference.repository());
        let mut retries = Retries::default();
        let mut logged_in = false;
        loop {
            let answer = self.follow(&url, accept, from).and_then(|(answer, is_home)| {
                match answer.status().as_u16() {
                    200 | 206 => Ok(answer),
                    // Asks once per request: a token may have run out since the last one.
                    401 if is_home && !logged_in => {
                        logged_in = true;
                        let known = credentials::find(self.auth_file, self.reference.registry())?;
                        self.is_known = known.is_some();
                        self.authorization = Some(self.log_in(&answer, known)?);
                        self.follow(&url, accept, from)
                            .and_then(|(answer, _)| self.checked(what, &url, answer))
                    }
                    _ => self.checked(what, &url, answer),
                }
            });
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => retries.after(error)?,
            }
        }
    }

    /// The answer at the end of all redirects, and whether it is the registry's own.
    fn follow(&self, url: &str, accept: &str, from: u64) -> Result<(Response<Body>, bool), RegistryError> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let is_home = Origin::of(&url).as_ref() == Some(&self.home);
            let mut request = self.agent.get(&url).header(ACCEPT, accept);
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let (Some(authorization), true) = (&self.authorization, is_home) {
                request = request.header(AUTHORIZATION, authorization);
            }
            let answer = request.call().map_err(|e| no_answer(&url, e))?;
            if !matches!(answer.status().as_u16(), 301..=303 | 307 | 308) {
                return Ok((answer, is_home));
            }
            url = self.redirect(&url, header(&answer, LOCATION.as_str()).unwrap_or_default())?;
        }
        let reason = "there are too many redirects one after another";
        Err(RegistryError::Redirect { location: url.clone(), url, reason })
    }

    fn redirect(&self, url: &str, location: &str) -> Result<String, RegistryError> {
        let refused = |reason| RegistryError::Redirect {
            url: url.to_owned(),
            location: location.chars().take(MAX_ANSWER_CHARS).collect(),
            reason,
        };
        let target = match location.strip_prefix('/') {
            Some(rest) if !rest.starts_with('/') => {
                format!("{}{location}", Origin::of(url).map(|origin| origin.url()).unwrap_or_default())
            }
            _ => location.to_owned(),
        };
        let origin = Origin::of(&target).ok_or_else(|| refused("it is no HTTP address"))?;
        if !self.may_ask(&origin) {
            return Err(refused(
                "it leads from an encrypted connection to one that is not, or over the network in plain",
            ));
        }
        Ok(target)
    }

    /// Whether a request may go there: encrypted, or from this machine to itself.
    fn may_ask(&self, origin: &Origin) -> bool {
        !origin.is_plain || (self.home.is_plain && is_loopback(&origin.authority))
    }

    /// The value of an `Authorization` header that does what a 401 asks for.
    fn log_in(&self, answer: &Response<Body>, known: Option<Credentials>) -> Result<String, RegistryError> {
        let headers =
            answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenge = choose(headers)
            .ok_or_else(|| self.login_error("it asks for neither a password (Basic) nor a token (Bearer)"))?;
        match challenge {
            Challenge::Basic => known
                .filter(|known| !known.is_refresh_token)
                .map(|known| known.basic())
                .ok_or_else(|| self.unauthorized()),
            Challenge::Bearer { realm, service, scope } => {
                let scope =
                    scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository()));
                self.token(&realm, service.as_deref(), &scope, known.as_ref())
                    .map(|token| format!("Bearer {token}"))
            }
        }
    }

    /// Gets a token; an anonymous one if the user is not known.
    fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        known: Option<&Credentials>,
    ) -> Result<String, RegistryError> {
        if !Origin::of(realm).is_some_and(|origin| self.may_ask(&origin)) {
            return Err(
                self.login_error(&format!("its token server {realm:?} is not asked without encryption"))
            );
        }
        let mut members = vec![("scope", scope)];
        members.extend(service.map(|service| ("service", service)));
        let answer = match known {
            Some(known) if known.is_refresh_token => {
                members.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", CLIENT_ID),
                    ("refresh_token", &known.secret),
                ]);
                let request =
                    self.agent.post(realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
                request.send(form(&members))
            }
            _ => {
                let separator = if realm.contains('?') { '&' } else { '?' };
                let mut request = self.agent.get(format!("{realm}{separator}{}", form(&members)));
                if let Some(known) = known {
                    request = request.header(AUTHORIZATION, known.basic());
                }
                request.call()
            }
        };
        let answer = answer.map_err(|e| no_answer(realm, e))?;
        match answer.status().as_u16() {
            200 => {}
            400 | 401 | 403 => return Err(self.unauthorized()),
            _ => {
                return self
                    .checked("token", realm, answer)
                    .and_then(|_| Err(self.login_error("no token came")));
            }
        }
        let body = answer.into_body().into_reader().take(MAX_TOKEN_BYTES);
        let parsed: Option<TokenAnswer> = serde_json::from_reader(body).ok();
        let token = parsed.and_then(TokenAnswer::into_token);
        token.ok_or_else(|| self.login_error(&format!("its token server {realm:?} sent no token")))
    }

    /// A success, or what its status means.
    fn checked(
        &self,
        what: &str,
        url: &str,
        answer: Response<Body>,
    ) -> Result<Response<Body>, RegistryError> {
        let status = answer.status().as_u16();
        let retry_after = header(&answer, RETRY_AFTER.as_str())
            .and_then(|value| value.trim().parse().ok())
            .map(Duration::from_secs);
        let registry = self.reference.registry().to_owned();
        let repository = self.reference.repository().to_owned();
        Err(match status {
            200 | 206 => return Ok(answer),
            401 => self.unauthorized(),
            403 => RegistryError::Forbidden { registry, repository, answer: said(answer) },
            404 => {
                RegistryError::NotFound { registry, repository, what: what.to_owned(), answer: said(answer) }
            }
            429 => RegistryError::TooManyRequests { registry, retry_after },
            _ => RegistryError::Status { url: url.to_owned(), status, answer: said(answer), retry_after },
        })
    }

    fn unauthorized(&self) -> RegistryError {
        RegistryError::Unauthorized {
            registry: self.reference.registry().to_owned(),
            repository: self.reference.repository().to_owned(),
            known: self.is_known,
        }
    }

    fn login_error(&self, reason: &str) -> RegistryError {
        RegistryError::Login { registry: self.reference.registry().to_owned(), reason: reason.to_owned() }
    }
}

impl Origin {
    fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let authority = uri.authority()?.as_str().to_ascii_lowercase();
        let is_plain = match uri.scheme_str()? {
            "http" => true,
            "https" => false,
            _ => return None,
        };
        (!authority.contains('@')).then_some(Self { is_plain, authority })
    }

    fn url(&self) -> String {
        format!("{}://{}", if self.is_plain { "http" } else { "https" }, self.authority)
    }
}

/// Whether a host, with or without a port, is this machine by its name.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

/// A client that leaves redirects and statuses to its caller. What is on this machine is not asked through a proxy.
fn agent(is_local: bool) -> Result<Agent, RegistryError> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(USER_AGENT)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_per_read(Some(ANSWER_TIMEOUT));
    if is_local {
        return Ok(config.proxy(None).build().into());
    }
    let roots: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    if roots.is_empty() {
        return Err(RegistryError::NoAuthorities);
    }
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Ok(config.tls_config(tls.build()).build().into())
}

pub(super) fn header<'a>(answer: &'a Response<Body>, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

fn no_answer(url: &str, error: ureq::Error) -> RegistryError {
    // A query may hold the signature that lets one fetch a blob from a storage.
    let url = url.split('?').next().unwrap_or_default().to_owned();
    RegistryError::NoAnswer { url, source: error.into_io() }
}

/// What a registry says beside an error status: JSON with `errors` (distribution specification), or a short text.
fn said(answer: Response<Body>) -> Answer {
    let mut bytes = Vec::new();
    // Whatever came is shown; that there was no more is not the news.
    let _ = answer.into_body().into_reader().take(MAX_ANSWER_BYTES).read_to_end(&mut bytes);
    let message = |json: &serde_json::Value| json["errors"][0]["message"].as_str().map(str::to_owned);
    let text = serde_json::from_slice(&bytes).ok().as_ref().and_then(message);
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
    Answer(text.trim().chars().filter(|c| !c.is_control()).take(MAX_ANSWER_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_in_plain() {
        for name in ["localhost", "localhost:5000", "127.0.0.1:1", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(name), "{name}");
        }
        for name in
            ["localhost.example", "127.0.0.1.example:80", "10.0.0.1", "[::2]:80", "registry.example:5000"]
        {
            assert!(!is_loopback(name), "{name}");
        }
    }

    #[test]
    fn redirects_lead_to_encrypted_places_only_unless_all_is_on_this_machine() {
        let local: ImageReference = "localhost:5000/web".parse().unwrap();
        let client = Client::new(local, None).unwrap();
        let url = "http://localhost:5000/v2/web/blobs/x";
        assert_eq!(client.redirect(url, "/other?a=b").unwrap(), "http://localhost:5000/other?a=b");
        assert_eq!(client.redirect(url, "https://store.example/x").unwrap(), "https://store.example/x");
        assert!(client.redirect(url, "http://127.0.0.1:6000/x").is_ok());
        for refused in
            ["http://store.example/x", "//store.example/x", "ftp://localhost/x", "", "https://u@h.example/"]
        {
            assert!(client.redirect(url, refused).is_err(), "{refused}");
        }
        let remote = Client { home: Origin::of("https://registry.example").unwrap(), ..client };
        assert!(remote.redirect("https://registry.example/v2/", "http://localhost:5000/x").is_err());
    }
}
