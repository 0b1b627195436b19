//! Records of what was reached, or was not allowed to be.

use std::{
    io::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use egress::{Poll, Record, Recorder};
use tokio::sync::Notify;

use super::ledger::Ledger;

/// Records on their way to init, who puts them on the event stream: one JSON object a line on standard output.
#[derive(Debug, Default)]
pub(super) struct Records {
    recorder: Mutex<Recorder>,
    news: Notify,
}

impl Records {
    pub(super) fn push(&self, record: Record) {
        self.recorder().push(record);
        self.news.notify_one();
    }

    /// Writes records as they come, for good. Alike ones become one while the ledger cannot keep up.
    pub(super) async fn write(self: Arc<Self>, mut ledger: Option<Ledger>) {
        loop {
            let next = self.recorder().poll(now_ms());
            match next {
                Poll::Write(record) => {
                    put(&record);
                    if let Some(ledger) = &mut ledger {
                        ledger.append(&record).await;
                    }
                }
                Poll::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                Poll::Empty => self.news.notified().await,
            }
        }
    }

    /// Writes what is left.
    pub(super) fn flush(&self) {
        self.recorder().drain().for_each(|record| put(&record));
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        // Whoever panicked left a queue that is still one.
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since 1970, by the enclave's clock.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn put(record: &Record) {
    // Init reads as long as it lives, and without it there is no enclave.
    let _ = writeln!(std::io::stdout().lock(), "{}", record.to_json());
}
