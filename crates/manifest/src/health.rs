//! How it is found out whether a running service is well: what the image says, what the manifest says, what is measured.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};
use toml::Spanned;

use crate::source::{Mistake, mistake};

/// Between two checks, and the longest that one may take, unless something else is said; as container engines have it.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
/// Between two checks while the service starts.
const DEFAULT_START_INTERVAL: Duration = Duration::from_secs(5);
/// Failures in a row that make a service unhealthy.
const DEFAULT_RETRIES: NonZeroU32 = NonZeroU32::new(3).expect("3 is not 0");
/// What runs the string of a `CMD-SHELL` check when the image names no other shell.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// Longest time that a manifest can give, a year, in seconds.
const MAX_SECONDS: f64 = 366.0 * 86400.0;

// Members stand in ascending order of their names, as the canonical form wants them.

/// A command that says by its exit status whether a service is well. Every member is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Healthcheck {
    /// Program and arguments, run exactly as the service: user, root directory, environment, working directory. Status
    /// 0 means well.
    pub command: Vec<String>,
    /// Milliseconds from the end of a check to the next one, at least 1.
    pub interval_ms: u64,
    /// What happens when the service becomes unhealthy.
    pub on_unhealthy: OnUnhealthy,
    /// Failures in a row that make the service unhealthy.
    pub retries: NonZeroU32,
    /// As [`Self::interval_ms`], until the first success within [`Self::start_period_ms`], or before the service is ready if
    /// it is ready when it is healthy. At least 1.
    pub start_interval_ms: u64,
    /// Milliseconds from the start of the service in which failures before the first success do not count.
    pub start_period_ms: u64,
    /// Milliseconds that a check may take, at least 1; then it is killed and has failed.
    pub timeout_ms: u64,
}

/// What init does when a service becomes unhealthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnhealthy {
    /// Tell the host.
    #[default]
    Report,
    /// Tell the host, stop the service and let its restart policy start it again.
    Restart,
}

/// `Healthcheck` of an image's configuration, as it is written there. Times are in nanoseconds; 0 means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageHealthcheck {
    /// Empty, `NONE`, `CMD` with a program and its arguments, or `CMD-SHELL` with a line for the shell.
    #[serde(deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// Between two checks.
    pub interval: i64,
    /// The longest that one may take.
    pub timeout: i64,
    /// In which failures do not count.
    pub start_period: i64,
    /// Between two checks in this period.
    pub start_interval: i64,
    /// Failures in a row that make the container unhealthy.
    pub retries: i64,
}

fn or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Healthcheck {
    /// Checks the rules of the measured form.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if !is_command(&self.command) {
            return Err("a health check has no command, or a NUL byte in it");
        }
        if [self.interval_ms, self.start_interval_ms, self.timeout_ms].contains(&0) {
            return Err("an interval or the timeout of a health check is 0");
        }
        Ok(())
    }
}

fn is_command(words: &[String]) -> bool {
    words.first().is_some_and(|program| !program.is_empty()) && !words.iter().any(|word| word.contains('\0'))
}

/// What one of the two sides says; `None` leaves it to the other or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    command: Option<Vec<String>>,
    interval: Option<Duration>,
    on_unhealthy: Option<OnUnhealthy>,
    retries: Option<NonZeroU32>,
    start_interval: Option<Duration>,
    start_period: Option<Duration>,
    timeout: Option<Duration>,
}

impl Wanted {
    /// The image's word, `None` for no check.
    fn from_image(image: &ImageHealthcheck, shell: &[String]) -> Result<Option<Self>, &'static str> {
        let command = match image.test.split_first() {
            None => None,
            Some((kind, [])) if kind == "NONE" => return Ok(None),
            Some((kind, words)) if kind == "CMD" && is_command(words) => Some(words.to_vec()),
            Some((kind, [line])) if kind == "CMD-SHELL" && !line.contains('\0') => {
                let mut words: Vec<_> = DEFAULT_SHELL.map(str::to_owned).to_vec();
                if is_command(shell) {
                    words = shell.to_vec();
                }
                words.push(line.clone());
                Some(words)
            }
            _ => return Err("Test is none of [\"NONE\"], [\"CMD\", PROGRAM, ...] and [\"CMD-SHELL\", LINE]"),
        };
        let time = |nanoseconds: i64| match u64::try_from(nanoseconds) {
            Ok(0) => Ok(None),
            // Nothing shorter than a millisecond is measured, and 0 would be another meaning.
            Ok(n) => Ok(Some(Duration::from_nanos(n).max(Duration::from_millis(1)))),
            Err(_) => Err("a time is negative"),
        };
        let retries =
            u32::try_from(image.retries).map_err(|_| "Retries is negative or more than 4294967295")?;
        Ok(Some(Self {
            command,
            interval: time(image.interval)?,
            on_unhealthy: None,
            retries: NonZeroU32::new(retries),
            start_interval: time(image.start_interval)?,
            start_period: time(image.start_period)?,
            timeout: time(image.timeout)?,
        }))
    }

    /// This side's word before the `other`'s.
    fn or(self, other: Self) -> Self {
        Self {
            command: self.command.or(other.command),
            interval: self.interval.or(other.interval),
            on_unhealthy: self.on_unhealthy.or(other.on_unhealthy),
            retries: self.retries.or(other.retries),
            start_interval: self.start_interval.or(other.start_interval),
            start_period: self.start_period.or(other.start_period),
            timeout: self.timeout.or(other.timeout),
        }
    }

    /// The whole, or nothing where there is no command.
    fn complete(self) -> Option<Healthcheck> {
        let interval = self.interval.unwrap_or(DEFAULT_INTERVAL);
        Some(Healthcheck {
            command: self.command?,
            interval_ms: milliseconds(interval),
            on_unhealthy: self.on_unhealthy.unwrap_or_default(),
            retries: self.retries.unwrap_or(DEFAULT_RETRIES),
            start_interval_ms: milliseconds(
                self.start_interval.unwrap_or(DEFAULT_START_INTERVAL.min(interval)),
            ),
            start_period_ms: milliseconds(self.start_period.unwrap_or_default()),
            timeout_ms: milliseconds(self.timeout.unwrap_or(DEFAULT_INTERVAL)),
        })
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a manifest says of a service's health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HealthOverrides(Said);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Said {
    /// Nothing: the image's word holds.
    #[default]
    Nothing,
    /// No check, whatever the image says.
    Off,
    Some(Wanted),
}

/// Why a service's health check cannot be made out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HealthError {
    /// The image's is malformed.
    Image(&'static str),
    /// The manifest says how often, but neither says what.
    NoCommand,
}

impl HealthOverrides {
    /// The check that is measured. `image` is `None` for a service that is not the image's own program.
    pub(crate) fn resolve(
        &self,
        image: Option<(&ImageHealthcheck, &[String])>,
    ) -> Result<Option<Healthcheck>, HealthError> {
        let of_image = || match image {
            Some((image, shell)) => Wanted::from_image(image, shell).map_err(HealthError::Image),
            None => Ok(None),
        };
        match &self.0 {
            Said::Off => Ok(None),
            Said::Nothing => Ok(of_image()?.and_then(Wanted::complete)),
            // The image's check is not looked at where nothing of it would be left but times for another command.
            Said::Some(own) if own.command.is_some() => Ok(own.clone().complete()),
            Said::Some(own) => {
                let whole = own.clone().or(of_image()?.unwrap_or_default());
                whole.complete().map(Some).ok_or(HealthError::NoCommand)
            }
        }
    }

    pub(crate) fn restarts(&self) -> bool {
        matches!(&self.0, Said::Some(Wanted { on_unhealthy: Some(OnUnhealthy::Restart), .. }))
    }
}

/// `healthcheck` in a manifest: a table, or `"none"`.
pub(crate) enum RawHealth {
    Off,
    Table(Box<RawTable>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTable {
    command: Option<Spanned<Vec<String>>>,
    interval: Option<Spanned<f64>>,
    on_unhealthy: Option<OnUnhealthy>,
    retries: Option<Spanned<u32>>,
    start_interval: Option<Spanned<f64>>,
    start_period: Option<Spanned<f64>>,
    timeout: Option<Spanned<f64>>,
}

impl<'de> Deserialize<'de> for RawHealth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RawHealth;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`healthcheck`: a table, or \"none\" to switch the image's off")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawHealth, E> {
                let off = (text == "none").then_some(RawHealth::Off);
                off.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RawHealth, A::Error> {
                let table = RawTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(RawHealth::Table(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl RawHealth {
    pub(crate) fn check(raw: Option<Self>) -> Result<HealthOverrides, Mistake> {
        let table = match raw {
            None => return Ok(HealthOverrides(Said::Nothing)),
            Some(Self::Off) => return Ok(HealthOverrides(Said::Off)),
            Some(Self::Table(table)) => table,
        };
        if let Some(command) = table.command.as_ref().filter(|words| !is_command(words.get_ref())) {
            let text = "`healthcheck.command`: at least the program, as a list of strings without NUL bytes";
            return Err(mistake(command, text));
        }
        let retries = match &table.retries {
            None => None,
            Some(retries) => Some(
                NonZeroU32::new(*retries.get_ref())
                    .ok_or_else(|| mistake(retries, "`healthcheck.retries`: at least 1"))?,
            ),
        };
        let least = Duration::from_millis(1);
        Ok(HealthOverrides(Said::Some(Wanted {
            interval: time("interval", table.interval.as_ref(), least)?,
            on_unhealthy: table.on_unhealthy,
            retries,
            start_interval: time("start_interval", table.start_interval.as_ref(), least)?,
            start_period: time("start_period", table.start_period.as_ref(), Duration::ZERO)?,
            timeout: time("timeout", table.timeout.as_ref(), least)?,
            command: table.command.map(Spanned::into_inner),
        })))
    }
}

fn time(key: &str, seconds: Option<&Spanned<f64>>, least: Duration) -> Result<Option<Duration>, Mistake> {
    let Some(seconds) = seconds else { return Ok(None) };
    let found = Some(*seconds.get_ref()).filter(|found| *found <= MAX_SECONDS);
    match found.and_then(|found| Duration::try_from_secs_f64(found).ok()) {
        Some(time) if time >= least => Ok(Some(time)),
        _ => {
            let text = format!(
                "`healthcheck.{key}`: {} is not allowed: seconds, from {} to a year",
                seconds.get_ref(),
                least.as_secs_f64()
            );
            Err(mistake(seconds, text))
        }
    }
}
