//! The log: lines of Strongroom's own code on standard error.
//!
//! The PKCS#11 module is a guest in other people's processes, and the programs' users did not ask
//! for what dependencies have to say; so only targets of ours are shown. Libraries log through the
//! `log` crate, and whoever is a process or a module of its own starts this once.

use std::io::Write;
use std::sync::OnceLock;

use log::{LevelFilter, Log, Metadata, Record};

/// Names the environment variable that holds the level: error, warn, info, debug, trace, off.
pub const LEVEL_VARIABLE: &str = "STRONGROOM_LOG";

/// Starts the log for the program or module of this name, at the level that `STRONGROOM_LOG`
/// names, or `default` if it names none. Later calls change nothing.
pub fn start(name: &'static str, default: LevelFilter) {
    static LOGGER: OnceLock<Stderr> = OnceLock::new();
    let level = std::env::var(LEVEL_VARIABLE)
        .ok()
        .and_then(|level| level.trim().parse().ok())
        .unwrap_or(default);
    let logger = LOGGER.get_or_init(|| Stderr { name });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

struct Stderr {
    name: &'static str,
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        const OURS: [&str; 4] = [
            "strongroom",
            "strongroom_pkcs11",
            "zfs_keyprovider",
            "credential_provider",
        ];
        let target = metadata.target();
        let root = target.split("::").next().unwrap_or(target);
        OURS.contains(&root) && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_lowercase();
            let line = format!("{}: {level}: {}\n", self.name, record.args());
            // One write, so that lines of several threads stay whole. Who has no standard error
            // goes without the log.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
