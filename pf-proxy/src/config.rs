//! The file of `pf-proxy run`: many routes in one process. Written down in `docs/guide/network.md`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use transport::{Addr, ParseAddrError};

use crate::ingress::{NamedTarget, Options, PatternError, ProxyHeader, RouteConfig};

/// What `pf-proxy run` does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// For all routes together. Read at the start only.
    pub options: Options,
    /// Where metrics are served, if anywhere. Read at the start only.
    pub metrics: Option<Addr>,
    /// The routes.
    pub routes: Vec<RouteConfig>,
}

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// It is not TOML, or has keys or values that do not exist.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// An address is none.
    #[error("{key}: {source}")]
    Addr {
        /// Where in the file.
        key: &'static str,
        /// Why.
        #[source]
        source: ParseAddrError,
    },
    /// A server name is none.
    #[error(transparent)]
    Name(#[from] PatternError),
    /// A number that has to be at least 1 is 0.
    #[error("{key}: has to be at least 1")]
    Zero {
        /// Where in the file.
        key: &'static str,
    },
    /// A route leads nowhere.
    #[error("route {route}: needs a `target`, or a `server_name` entry")]
    NoTarget {
        /// Its name.
        route: String,
    },
    /// There is nothing to do.
    #[error("there is no [[route]]")]
    NoRoute,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    threads: Option<usize>,
    max_connections: Option<usize>,
    drain_s: Option<u64>,
    metrics: Option<String>,
    #[serde(default)]
    route: Vec<RawRoute>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoute {
    name: Option<String>,
    listen: String,
    target: Option<String>,
    #[serde(default)]
    proxy_protocol: RawHeader,
    max_connections: Option<usize>,
    max_per_source: Option<u32>,
    connect_timeout_s: Option<u64>,
    header_timeout_s: Option<u64>,
    idle_timeout_s: Option<u64>,
    half_open_timeout_s: Option<u64>,
    #[serde(default)]
    server_name: Vec<RawName>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawHeader {
    #[default]
    Off,
    Send,
    Accept,
    Pass,
    Source,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawName {
    name: String,
    target: String,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: RawConfig = toml::from_str(text)?;
        let defaults = Options::default();
        let options = Options {
            threads: positive("threads", raw.threads)?.unwrap_or(defaults.threads),
            max_connections: positive("max_connections", raw.max_connections)?
                .unwrap_or(defaults.max_connections),
            grace: raw.drain_s.map_or(defaults.grace, Duration::from_secs),
            ..defaults
        };
        let metrics = raw.metrics.as_deref().map(|text| addr("metrics", text)).transpose()?;
        let routes = raw.route.into_iter().map(RouteConfig::try_from).collect::<Result<Vec<_>, _>>()?;
        if routes.is_empty() {
            return Err(ConfigError::NoRoute);
        }
        Ok(Self { options, metrics, routes })
    }
}

impl TryFrom<RawRoute> for RouteConfig {
    type Error = ConfigError;

    fn try_from(raw: RawRoute) -> Result<Self, ConfigError> {
        let listen = addr("route.listen", &raw.listen)?;
        let name = raw.name.unwrap_or_else(|| listen.to_string());
        let named = raw.server_name.iter().map(|entry| {
            let target = addr("route.server_name.target", &entry.target)?;
            Ok(NamedTarget { pattern: entry.name.parse()?, target })
        });
        let named = named.collect::<Result<Vec<_>, ConfigError>>()?;
        let target = raw.target.as_deref().map(|text| addr("route.target", text)).transpose()?;
        if target.is_none() && named.is_empty() {
            return Err(ConfigError::NoTarget { route: name });
        }
        let seconds = |key, value| positive(key, value).map(|value| value.map(Duration::from_secs));
        let default = Duration::from_secs(5);
        Ok(Self {
            name,
            listen,
            target,
            named,
            proxy_header: match raw.proxy_protocol {
                RawHeader::Off => ProxyHeader::Off,
                RawHeader::Send => ProxyHeader::Send,
                RawHeader::Accept => ProxyHeader::Accept,
                RawHeader::Pass => ProxyHeader::Pass,
                RawHeader::Source => ProxyHeader::Source,
            },
            max_connections: positive("route.max_connections", raw.max_connections)?,
            max_per_source: positive("route.max_per_source", raw.max_per_source)?,
            connect_timeout: seconds("route.connect_timeout_s", raw.connect_timeout_s)?.unwrap_or(default),
            header_timeout: seconds("route.header_timeout_s", raw.header_timeout_s)?.unwrap_or(default),
            idle_timeout: seconds("route.idle_timeout_s", raw.idle_timeout_s)?,
            half_open_timeout: seconds("route.half_open_timeout_s", raw.half_open_timeout_s)?,
        })
    }
}

fn addr(key: &'static str, text: &str) -> Result<Addr, ConfigError> {
    text.parse().map_err(|source| ConfigError::Addr { key, source })
}

fn positive<T: Default + PartialEq>(key: &'static str, value: Option<T>) -> Result<Option<T>, ConfigError> {
    if value == Some(T::default()) { Err(ConfigError::Zero { key }) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the guide is one that works.
    #[test]
    fn example_of_the_guide_is_a_configuration() {
        let guide = include_str!("../../docs/guide/network.md");
        let start = guide.find("```toml\n# proxy.toml\n").expect("the guide has the example");
        let text = guide[start..].split("```").nth(1).unwrap().trim_start_matches("toml");
        let config = Config::parse(text).unwrap();
        assert_eq!(config.routes.len(), 3);
        assert!(config.metrics.is_some());
        assert_eq!(config.routes[1].named.len(), 2);
        assert_eq!(config.routes[0].proxy_header, ProxyHeader::Send);
    }

    #[test]
    fn mistakes_are_told_apart() {
        let error = |text: &str| Config::parse(text).unwrap_err();
        let route = "[[route]]\nlisten = \"tcp://127.0.0.1:0\"\n";
        assert!(matches!(error(""), ConfigError::NoRoute));
        assert!(matches!(error(route), ConfigError::NoTarget { .. }));
        assert!(matches!(error("thread = 1"), ConfigError::Toml(_)));
        assert!(matches!(
            error(&format!("{route}target = \"80\"")),
            ConfigError::Addr { key: "route.target", .. }
        ));
        let target = format!("{route}target = \"unix:/x\"\n");
        assert!(matches!(error(&format!("threads = 0\n{target}")), ConfigError::Zero { key: "threads" }));
        assert!(matches!(error(&format!("{target}idle_timeout_s = 0")), ConfigError::Zero { .. }));
        let named = "[[route.server_name]]\nname = \"*\"\ntarget = \"unix:/y\"";
        assert!(matches!(error(&format!("{target}{named}")), ConfigError::Name(_)));
    }
}
