//! What is shown of a transfer: a bar while it goes on, and what it was at its end.

use std::{
    future::Future,
    io::Write,
    time::{Duration, Instant},
};

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use tokio::time::MissedTickBehavior;

use crate::transfer::{Meter, Outcome, client::ClientError, printable};

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);
const KNOWN: &str = "{bar:30} {percent:>3}%  {bytes}/{total_bytes}  {msg}";
const UNKNOWN: &str = "{spinner} {bytes}  {msg}";
/// Over how long the rate is averaged, in seconds.
const AVERAGED_S: f64 = 3.0;

/// What is shown, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Show {
    pub(super) verb: &'static str,
    pub(super) json: bool,
    pub(super) summary: bool,
    pub(super) bar: bool,
    /// The content goes to standard output, so nothing else may.
    pub(super) to_stdout: bool,
}

impl Show {
    /// Waits for `transfer` and shows how it goes.
    pub(super) async fn during(
        self,
        meter: &Meter,
        transfer: impl Future<Output = Result<Outcome, ClientError>>,
    ) -> Result<Outcome, ClientError> {
        let begin = Instant::now();
        let bar = self.bar.then(new_bar);
        let (mut rate, mut shown) = (Rate::default(), begin);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(transfer);
        let result = loop {
            tokio::select! {
                result = &mut transfer => break result,
                _ = ticks.tick(), if bar.is_some() => {
                    if let Some(bar) = &bar {
                        let moved = meter.bytes().saturating_sub(meter.kept());
                        rate.observe(moved, shown.elapsed().as_secs_f64());
                        shown = Instant::now();
                        advance(bar, meter, &rate);
                    }
                }
            }
        };
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        if let Ok(outcome) = &result {
            self.end(meter, outcome, begin.elapsed());
        }
        result
    }

    fn end(self, meter: &Meter, outcome: &Outcome, took: Duration) {
        let digest = blake3::Hash::from(outcome.content.unwrap_or(outcome.total.digest)).to_hex();
        let seconds = took.as_secs_f64();
        let line = if self.json {
            format!(
                "{{\"verb\":\"{}\",\"entries\":{},\"bytes\":{},\"kept\":{},\"skipped\":{},\"seconds\":{seconds:.3},\
                 \"blake3\":\"{digest}\"}}",
                self.verb,
                outcome.total.entries,
                outcome.total.bytes,
                meter.kept(),
                meter.skipped(),
            )
        } else if self.summary {
            summary(meter, outcome, seconds, &digest)
        } else {
            return;
        };
        // The transfer is done; that nobody reads its summary does not undo it.
        let _ = if self.json && !self.to_stdout {
            writeln!(std::io::stdout(), "{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }
}

/// Bytes a second, of those that moved: what was there already came in no time, and says nothing about the rest.
#[derive(Debug, Default)]
struct Rate {
    moved: u64,
    per_second: f64,
}

impl Rate {
    /// `moved` bytes have moved in all, `seconds` after the last time that this was said.
    fn observe(&mut self, moved: u64, seconds: f64) {
        let now = moved.saturating_sub(self.moved) as f64 / seconds.max(1e-3);
        let weight = if self.moved == 0 { 1.0 } else { 1.0 - (-seconds / AVERAGED_S).exp() };
        self.per_second += weight * (now - self.per_second);
        self.moved = moved;
    }

    fn text(&self) -> String {
        format!("{}/s", BinaryBytes(whole(self.per_second)))
    }

    /// How long `rest` more bytes take, as people read it.
    fn eta(&self, rest: u64) -> String {
        if self.per_second < 1.0 {
            return "-".to_owned();
        }
        let seconds = whole((rest as f64 / self.per_second).ceil());
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, s) => format!("{s}s"),
            (0, m, s) => format!("{m}m{s:02}s"),
            (h, m, _) => format!("{h}h{m:02}m"),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a number too large becomes the largest")]
fn whole(number: f64) -> u64 {
    number as u64
}

/// A bar that goes away with the transfer, however that ends.
fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(UNKNOWN).expect("the template is well-formed"));
    bar.with_finish(ProgressFinish::AndClear)
}

fn advance(bar: &ProgressBar, meter: &Meter, rate: &Rate) {
    if let (Some(expected), None) = (meter.expected(), bar.length()) {
        bar.set_length(expected);
        bar.set_style(ProgressStyle::with_template(KNOWN).expect("the template is well-formed"));
    }
    bar.set_message(match bar.length() {
        None => format!("{}  {} entries", rate.text(), meter.entries()),
        Some(all) => format!("{}  eta {}", rate.text(), rate.eta(all.saturating_sub(meter.bytes()))),
    });
    bar.set_position(meter.bytes());
    bar.tick();
}

fn summary(meter: &Meter, outcome: &Outcome, seconds: f64, digest: &str) -> String {
    let total = outcome.total;
    let mut text = String::new();
    for path in meter.skipped_paths() {
        text.push_str(&format!("left out, being a FIFO, a socket or a device: {}\n", printable(&path)));
    }
    if meter.skipped() > meter.skipped_paths().len() as u64 {
        text.push_str(&format!("left out in all: {}\n", meter.skipped()));
    }
    let moved = total.bytes.saturating_sub(meter.kept());
    let rate = if seconds > 0.0 { moved as f64 / seconds } else { 0.0 };
    let what = match (outcome.content, total.entries) {
        (Some(_), _) => String::new(),
        (None, 1) => "1 entry, ".to_owned(),
        (None, entries) => format!("{entries} entries, "),
    };
    text.push_str(&format!("{what}{} in {seconds:.2} s, {:.1} MB/s", BinaryBytes(total.bytes), rate / 1e6));
    if meter.kept() > 0 {
        text.push_str(&format!(", {} of it was there already", BinaryBytes(meter.kept())));
    }
    text.push_str(&format!("\nBLAKE3 {digest}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::entry::Total;

    /// After a cut the next attempt began with a rate of gigabytes a second, since what was there counted as moved.
    #[test]
    fn the_rate_is_that_of_what_moves() {
        let mut rate = Rate::default();
        assert_eq!(rate.eta(1 << 20), "-");
        rate.observe(0, 0.1);
        rate.observe(10 << 20, 0.1);
        assert_eq!((rate.text(), rate.eta(1000 << 20)), ("100.00 MiB/s".to_owned(), "10s".to_owned()));
        rate.observe(10 << 20, 1.0);
        assert!((50e6..100e6).contains(&rate.per_second), "{rate:?}");
        for _ in 0..100 {
            rate.observe(rate.moved + (1 << 20), 1.0);
        }
        assert_eq!(rate.eta(59 << 20), "59s");
        assert_eq!((rate.eta(61 << 20), rate.eta(3660 << 20)), ("1m01s".to_owned(), "1h01m".to_owned()));
    }

    #[test]
    fn a_summary_says_what_was_moved_and_what_was_there() {
        let meter = Meter::default();
        meter.add_kept(1 << 20);
        meter.add_bytes(1 << 20);
        meter.skip(b"a\x1b[2J");
        let total = Total { entries: 3, bytes: 2 << 20, digest: [0; 32] };
        let text = summary(&meter, &Outcome { total, content: None }, 0.5, "00");
        assert_eq!(
            text,
            "left out, being a FIFO, a socket or a device: a\\u{1b}[2J\n\
             3 entries, 2.00 MiB in 0.50 s, 2.1 MB/s, 1.00 MiB of it was there already\nBLAKE3 00"
        );
    }
}
