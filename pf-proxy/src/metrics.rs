//! Counters in the text format of Prometheus, and the address where they are served.
//!
//! A [`Registry`] keeps what it is asked for; whoever counts holds on to the handle, which is one atomic number. Nothing
//! here knows what is counted.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::{Listener, Stream};

/// A number that others read.
#[derive(Clone, Debug, Default)]
pub struct Number(Arc<AtomicU64>);

impl Number {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// One less; for what goes up and down.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// As it is now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of a histogram of durations, in milliseconds.
const BOUNDS_MS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 250, 1000, 5000];

/// How long things took.
#[derive(Clone, Debug, Default)]
pub struct Durations(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    /// By the first bound that is not exceeded; the last is for those that exceed all.
    counts: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Durations {
    /// One more has taken this long.
    pub fn record(&self, duration: Duration) {
        let bound = BOUNDS_MS.iter().position(|bound| duration <= Duration::from_millis(*bound));
        if let Some(count) = self.0.counts.get(bound.unwrap_or(BOUNDS_MS.len())) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.sum_us.fetch_add(micros, Ordering::Relaxed);
    }
}

/// What a series is; also its word in the text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

#[derive(Debug)]
enum Value {
    Number(Number),
    Durations(Durations),
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    /// By labels, as text.
    series: Vec<(String, Value)>,
}

/// Everything that is counted. Clones are the same registry.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    families: Arc<Mutex<Vec<Family>>>,
}

impl Registry {
    /// A number that only grows. The same name and labels give the same number.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Number {
        self.number(Kind::Counter, name, help, labels)
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Number {
        self.number(Kind::Gauge, name, help, labels)
    }

    /// A histogram of durations, in seconds.
    pub fn durations(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Durations {
        let value = || Value::Durations(Durations::default());
        self.series(Kind::Histogram, name, help, labels, value, |value| match value {
            Value::Durations(durations) => durations.clone(),
            Value::Number(_) => Durations::default(),
        })
    }

    fn number(&self, kind: Kind, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Number {
        let value = || Value::Number(Number::default());
        self.series(kind, name, help, labels, value, |value| match value {
            Value::Number(number) => number.clone(),
            Value::Durations(_) => Number::default(),
        })
    }

    fn series<T>(
        &self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        new: impl FnOnce() -> Value,
        handle: impl FnOnce(&Value) -> T,
    ) -> T {
        let mut families = self.lock();
        let family = match families.iter().position(|family| family.name == name && family.kind == kind) {
            Some(index) => &mut families[index],
            None => {
                families.push(Family { name, help, kind, series: Vec::new() });
                families.last_mut().expect("one was just added")
            }
        };
        let labels = label_text(labels);
        if let Some((_, value)) = family.series.iter().find(|(known, _)| *known == labels) {
            return handle(value);
        }
        let value = new();
        let handle = handle(&value);
        family.series.push((labels, value));
        handle
    }

    /// Everything, in the text format (version 0.0.4).
    pub fn render(&self) -> String {
        let mut text = String::new();
        for family in self.lock().iter() {
            // Writing to a string does not fail.
            let _ = render_family(family, &mut text);
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Family>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `a="b",c="d"`, with what the format asks to be escaped.
fn label_text(labels: &[(&str, &str)]) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    labels.join(",")
}

fn render_family(family: &Family, text: &mut String) -> fmt::Result {
    let Family { name, help, kind, series } = family;
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
    for (labels, value) in series {
        match value {
            Value::Number(number) if labels.is_empty() => writeln!(text, "{name} {}", number.value())?,
            Value::Number(number) => writeln!(text, "{name}{{{labels}}} {}", number.value())?,
            Value::Durations(durations) => render_histogram(name, labels, &durations.0, text)?,
        }
    }
    Ok(())
}

fn render_histogram(name: &str, labels: &str, buckets: &Buckets, text: &mut String) -> fmt::Result {
    let separator = if labels.is_empty() { "" } else { "," };
    let mut total = 0;
    for (index, count) in buckets.counts.iter().enumerate() {
        total += count.load(Ordering::Relaxed);
        let bound = BOUNDS_MS.get(index).map_or("+Inf".to_owned(), |ms| seconds(ms * 1000));
        writeln!(text, "{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {total}")?;
    }
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let sum = seconds(buckets.sum_us.load(Ordering::Relaxed));
    writeln!(text, "{name}_sum{braces} {sum}\n{name}_count{braces} {total}")
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// How long a request may take to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest request that is read.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// Answers `GET /metrics`, one request a connection, until dropped or the listener breaks.
///
/// One at a time: who asks here is one collector.
pub async fn serve(listener: Listener, registry: Registry) {
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(%error, "metrics are not served any more");
                return;
            }
        };
        // A collector that goes away is its own affair.
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, answer(stream, &registry)).await;
    }
}

async fn answer(mut stream: Stream, registry: &Registry) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= MAX_REQUEST_BYTES || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let is_ours = request.starts_with(b"GET /metrics ");
    let (status, body) =
        if is_ours { ("200 OK", registry.render()) } else { ("404 Not Found", String::new()) };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_each_family_once_with_its_series() {
        let registry = Registry::default();
        registry.counter("a_total", "How many.", &[("route", "x\"y")]).add(3);
        registry.counter("a_total", "How many.", &[("route", "z")]).increment();
        registry.counter("a_total", "How many.", &[("route", "z")]).increment();
        registry.gauge("open", "Now.", &[]).increment();
        let took = registry.durations("dial_seconds", "How long.", &[("route", "z")]);
        took.record(Duration::from_millis(2));
        took.record(Duration::from_millis(300));
        took.record(Duration::from_secs(9));
        let text = registry.render();
        for line in [
            "# TYPE a_total counter\na_total{route=\"x\\\"y\"} 3\na_total{route=\"z\"} 2\n",
            "# TYPE open gauge\nopen 1\n",
            "dial_seconds_bucket{route=\"z\",le=\"0.001000\"} 0\n",
            "dial_seconds_bucket{route=\"z\",le=\"0.002000\"} 1\n",
            "dial_seconds_bucket{route=\"z\",le=\"1.000000\"} 2\n",
            "dial_seconds_bucket{route=\"z\",le=\"+Inf\"} 3\n",
            "dial_seconds_sum{route=\"z\"} 9.302000\ndial_seconds_count{route=\"z\"} 3\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# HELP a_total").count(), 1);
    }
}
