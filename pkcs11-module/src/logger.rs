//! The module's log: lines on stderr, of Strongroom's own code only.
//!
//! The module is a guest. Its copy of `log` is its own, so a logger of the host's is not in the
//! way; but the host did not ask for what our dependencies have to say, and gets none of it.

use std::io::Write;
use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

/// Starts logging at the level that `STRONGROOM_LOG` names; `error` if it names none.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let level = std::env::var("STRONGROOM_LOG")
            .ok()
            .and_then(|level| level.trim().parse().ok())
            .unwrap_or(LevelFilter::Error);
        // Only this crate sets a logger in this library, and only once.
        if log::set_logger(&Stderr).is_ok() {
            log::set_max_level(level);
        }
    });
}

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("strongroom") && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_lowercase();
            let line = format!("strongroom: {level}: {}\n", record.args());
            // One write, so that lines of several threads stay whole. A host without a stderr
            // goes without the log.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
