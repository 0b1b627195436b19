//! What the agent is held to. It lies in the image or in the environment that `glasshouse.toml` gives the program, so it is
//! measured: who verifies the agent reads its operator, its limits and its upstream from the manifest.

use std::{collections::BTreeMap, fmt::Display, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use crate::{
    eth::{Address, Amount, OperatorKey},
    log::{Kept, Options},
    spending::{Chain, Destination, Token},
    variables::{MAX_VALUE_BYTES, Variable, is_valid_name},
};

/// Longest name of an agent.
const MAX_TEE_NAME_BYTES: usize = 64;
/// Most variables.
const MAX_VARIABLES: usize = 256;
/// What stands for any recipient of a token.
const ANYBODY: &str = "any";

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agent's name, in its answers and in what its operator signs.
    pub tee_name: String,
    /// Whose updates of variables are taken.
    pub operator: OperatorKey,
    /// Whether updates with signatures of the legacy form are taken too.
    pub legacy_signatures: bool,
    /// Variables that there are, with the values that they start with.
    pub variables: BTreeMap<String, Variable>,
    /// Where the log is kept, and how it is signed.
    pub log: Options,
    /// Who answers prompts; none: nobody.
    pub upstream: Option<Upstream>,
    /// The variable whose value callers of `sign-transaction` have to know; none: there need be no token.
    pub token_variable: Option<String>,
    /// What may be signed.
    pub chains: Vec<Chain>,
}

/// A server that answers as OpenAI's `chat/completions` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The whole URL.
    pub url: String,
    /// The model where a request names none.
    pub model: String,
    /// The variable that holds the bearer token; none: none is sent.
    pub key_variable: Option<String>,
    /// Most tokens that a request may ask for.
    pub max_tokens: u32,
    /// Seconds it has to answer.
    pub timeout_s: u32,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not of the form.
    #[error(transparent)]
    Form(#[from] toml::de::Error),
    /// A value that cannot be.
    #[error("`{key}`: {message}")]
    Value {
        /// Where.
        key: &'static str,
        /// What is allowed.
        message: String,
    },
}

impl Config {
    /// Reads TOML.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key and what is allowed.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        toml::from_str::<Raw>(text)?.check()
    }
}

/// Whether an agent can have that name: `A-Z a-z 0-9 _ - .`, so that no text about it is ambiguous.
pub fn is_valid_tee_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=MAX_TEE_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    tee_name: String,
    operator: String,
    #[serde(default)]
    legacy_signatures: bool,
    #[serde(default)]
    variable: Vec<RawVariable>,
    #[serde(default)]
    log: RawLog,
    upstream: Option<RawUpstream>,
    transactions: Option<RawTransactions>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVariable {
    name: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    public: bool,
    #[serde(default)]
    immutable: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    file: Option<PathBuf>,
    key: Option<PathBuf>,
    #[serde(default)]
    legacy_signatures: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUpstream {
    url: String,
    model: String,
    key: Option<String>,
    #[serde(default = "default_max_tokens")]
    max_tokens: u32,
    #[serde(default = "default_timeout_s")]
    timeout_s: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTransactions {
    token: Option<String>,
    #[serde(default)]
    open: bool,
    #[serde(default)]
    chain: Vec<RawChain>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChain {
    id: u64,
    rpc: Vec<String>,
    #[serde(default = "default_max_gas")]
    max_gas: u64,
    #[serde(deserialize_with = "text")]
    max_gas_price: Amount,
    #[serde(deserialize_with = "text")]
    per_transaction: Amount,
    #[serde(deserialize_with = "text")]
    total: Amount,
    #[serde(default)]
    destination: Vec<RawDestination>,
    #[serde(default)]
    token: Vec<RawToken>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDestination {
    #[serde(deserialize_with = "text")]
    address: Address,
    #[serde(default)]
    call: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToken {
    #[serde(deserialize_with = "text")]
    address: Address,
    #[serde(deserialize_with = "text")]
    per_transaction: Amount,
    #[serde(deserialize_with = "text")]
    total: Amount,
    to: Vec<String>,
}

fn default_max_tokens() -> u32 {
    4096
}

fn default_timeout_s() -> u32 {
    30
}

fn default_max_gas() -> u64 {
    500_000
}

/// A string that says a value: amounts are more than TOML's integers hold.
fn text<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

fn value(key: &'static str, message: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, message: message.into() }
}

impl Raw {
    fn check(self) -> Result<Config, ConfigError> {
        if !is_valid_tee_name(&self.tee_name) {
            return Err(value("tee_name", format!("1 to {MAX_TEE_NAME_BYTES} of A-Z a-z 0-9 _ - .")));
        }
        let operator =
            OperatorKey::parse(&self.operator).map_err(|error| value("operator", error.to_string()))?;
        if self.legacy_signatures && operator.public_key_hex().is_none() {
            return Err(value("legacy_signatures", "need the operator's public key, not its address"));
        }
        let variables = check_variables(self.variable)?;
        let declared = |key, name: &String| match variables.contains_key(name) {
            true => Ok(()),
            false => Err(value(key, format!("{name:?} is no [[variable]]"))),
        };
        if let Some(RawUpstream { key: Some(name), .. }) = &self.upstream {
            declared("upstream.key", name)?;
        }
        let (token_variable, chains) = match self.transactions {
            None => (None, Vec::new()),
            Some(transactions) => {
                if transactions.open == transactions.token.is_some() {
                    return Err(value("transactions", "either `token` names a variable, or `open = true`"));
                }
                transactions.token.iter().try_for_each(|name| declared("transactions.token", name))?;
                (
                    transactions.token,
                    transactions.chain.into_iter().map(RawChain::check).collect::<Result<Vec<_>, _>>()?,
                )
            }
        };
        let mut ids: Vec<u64> = chains.iter().map(|chain| chain.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(value("transactions.chain", "each id once"));
        }
        Ok(Config {
            tee_name: self.tee_name,
            operator,
            legacy_signatures: self.legacy_signatures,
            variables,
            log: self.log.check()?,
            upstream: self.upstream.map(RawUpstream::check).transpose()?,
            token_variable,
            chains,
        })
    }
}

fn check_variables(raw: Vec<RawVariable>) -> Result<BTreeMap<String, Variable>, ConfigError> {
    if raw.len() > MAX_VARIABLES {
        return Err(value("variable", format!("at most {MAX_VARIABLES}")));
    }
    let mut variables = BTreeMap::new();
    for RawVariable { name, value: text, public, immutable } in raw {
        if !is_valid_name(&name) || text.len() > MAX_VALUE_BYTES {
            return Err(value(
                "variable",
                format!("{name:?}: names are of a-z 0-9 _, values have at most {MAX_VALUE_BYTES} bytes"),
            ));
        }
        let variable = Variable { value: text, public, immutable, weak: false };
        if variables.insert(name.clone(), variable).is_some() {
            return Err(value("variable", format!("{name:?} is there twice")));
        }
    }
    Ok(variables)
}

fn check_url(key: &'static str, url: &str) -> Result<(), ConfigError> {
    match url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(()),
        _ => Err(value(key, format!("{url:?} is no https:// or http:// URL"))),
    }
}

impl RawLog {
    fn check(self) -> Result<Options, ConfigError> {
        let Self { file, key, legacy_signatures } = self;
        if file.iter().chain(&key).any(|path| !path.is_absolute() || path.file_name().is_none()) {
            return Err(value("log", "`file` and `key` are paths from the root"));
        }
        if file.is_none() && key.is_some() {
            return Err(value("log", "`key` without `file`: a log in memory has a key of its own"));
        }
        Ok(Options { kept: file.map(|file| Kept { file, key }), legacy_signatures })
    }
}

impl RawUpstream {
    fn check(self) -> Result<Upstream, ConfigError> {
        check_url("upstream.url", &self.url)?;
        if self.max_tokens == 0 || !(1..=600).contains(&self.timeout_s) {
            return Err(value("upstream", "`max_tokens` is at least 1, `timeout_s` 1 to 600"));
        }
        Ok(Upstream {
            url: self.url,
            model: self.model,
            key_variable: self.key,
            max_tokens: self.max_tokens,
            timeout_s: self.timeout_s,
        })
    }
}

impl RawChain {
    fn check(self) -> Result<Chain, ConfigError> {
        if self.rpc.is_empty() || self.id == 0 {
            return Err(value("transactions.chain", "`id` is not 0, and `rpc` names at least one node"));
        }
        self.rpc.iter().try_for_each(|url| check_url("transactions.chain.rpc", url))?;
        Ok(Chain {
            id: self.id,
            rpc: self.rpc,
            max_gas: self.max_gas,
            max_gas_price: self.max_gas_price,
            per_transaction: self.per_transaction,
            total: self.total,
            destinations: self
                .destination
                .into_iter()
                .map(|RawDestination { address, call }| Destination { address, call })
                .collect(),
            tokens: self.token.into_iter().map(RawToken::check).collect::<Result<_, _>>()?,
        })
    }
}

impl RawToken {
    fn check(self) -> Result<Token, ConfigError> {
        let recipients = match &*self.to {
            [any] if any == ANYBODY => None,
            addresses => Some(
                addresses
                    .iter()
                    .map(|text| {
                        text.parse().map_err(|error| {
                            value("transactions.chain.token.to", format!("{text:?}: {error}"))
                        })
                    })
                    .collect::<Result<_, _>>()?,
            ),
        };
        let Self { address, per_transaction, total, .. } = self;
        Ok(Token { address, per_transaction, total, recipients })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = include_str!("../testdata/config.toml");

    #[test]
    fn a_whole_one_is_read() {
        let config = Config::parse(WHOLE).unwrap();
        assert_eq!(config.tee_name, "robot_sensory_forest");
        assert!(config.variables["motto"].public && !config.variables["openrouter_api_key"].public);
        assert_eq!(config.upstream.unwrap().key_variable.as_deref(), Some("openrouter_api_key"));
        assert_eq!(config.log, Options::default());
        let kept = WHOLE.replace("[upstream]", "[log]\nfile = \"/var/lib/agent/log\"\n[upstream]");
        let kept = Config::parse(&kept).unwrap().log.kept.unwrap();
        assert_eq!(kept, Kept { file: "/var/lib/agent/log".into(), key: None });
        assert_eq!(config.token_variable.as_deref(), Some("secret_token"));
        let chain = &config.chains[0];
        assert_eq!((chain.id, chain.max_gas), (84532, 500_000));
        assert_eq!(chain.total.to_string(), "20000000000000000");
        assert_eq!(chain.tokens[0].recipients, None);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        for (from, to, key) in [
            ("robot_sensory_forest", "robot forest", "tee_name"),
            ("name = \"motto\"", "name = \"mot-to\"", "variable"),
            ("name = \"motto\"", "name = \"secret_token\"", "variable"),
            ("key = \"openrouter_api_key\"", "key = \"nobody\"", "upstream.key"),
            ("token = \"secret_token\"", "", "transactions"),
            ("token = \"secret_token\"", "token = \"secret_token\"\nopen = true", "transactions"),
            ("token = \"secret_token\"", "token = \"nobody\"", "transactions.token"),
            ("https://openrouter.ai", "ftp://openrouter.ai", "upstream.url"),
            ("id = 84532", "id = 0", "transactions.chain"),
            ("to = [\"any\"]", "to = [\"all\"]", "transactions.chain.token.to"),
            ("max_tokens = 4096", "max_tokens = 0", "upstream"),
            ("[upstream]", "[log]\nfile = \"log\"\n[upstream]", "log"),
            ("[upstream]", "[log]\nkey = \"/log\"\n[upstream]", "log"),
        ] {
            assert!(WHOLE.contains(from), "{from}");
            let error = Config::parse(&WHOLE.replacen(from, to, 1)).unwrap_err();
            assert!(
                matches!(&error, ConfigError::Value { key: found, .. } if *found == key),
                "{to}: {error}"
            );
        }
        let twice = format!("{WHOLE}\n{}", &WHOLE[WHOLE.find("[[transactions.chain]]").unwrap()..]);
        assert!(Config::parse(&twice).is_err());
        for (from, to) in [("total = \"20", "total = \"-20"), ("tee_name", "name"), ("D96dbA\"", "D96dba\"")]
        {
            let error = Config::parse(&WHOLE.replacen(from, to, 1)).unwrap_err();
            assert!(matches!(error, ConfigError::Form(_)), "{to}: {error}");
        }
        let operator = "operator = \"0x86693CbE3f2581DF512635823F46f0d593D96dbA\"\nlegacy_signatures = true";
        let line = WHOLE.lines().find(|line| line.starts_with("operator")).unwrap();
        assert!(Config::parse(&WHOLE.replace(line, operator)).is_err());
    }
}
