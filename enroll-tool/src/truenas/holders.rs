//! Who has a database open: above all the middleware, which keeps rows in memory and writes them back.

use std::fs;
use std::path::Path;

/// A process that has a file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    /// What the kernel calls it (proc_pid_comm(5)).
    pub(crate) name: String,
}

/// The processes that have a database, or its WAL, open, but for this one. Those of others that this
/// user may not look into are not among them.
pub(crate) fn of(database: &Path) -> Vec<Holder> {
    let Ok(database) = fs::canonicalize(database) else {
        return Vec::new();
    };
    let mut wal = database.clone().into_os_string();
    wal.push("-wal");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut holders: Vec<_> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let files = fs::read_dir(format!("/proc/{pid}/fd"));
            // The link's own text: to follow it could mean to wait for a dead server.
            let mut links = files
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|file| fs::read_link(file.path()).ok());
            links.any(|link| link == database || link.as_os_str() == wal)
        })
        .map(|pid| Holder {
            pid,
            name: fs::read_to_string(format!("/proc/{pid}/comm"))
                .map(|name| name.trim().to_owned())
                .unwrap_or_default(),
        })
        .collect();
    holders.sort_by_key(|holder| holder.pid);
    holders
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn whoever_has_it_open_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("freenas-v1.db");
        fs::write(&database, "").expect("written");
        assert_eq!(of(&database), []);
        let mut child = Command::new("sh")
            .args(["-c", "exec 3< \"$0\"; echo; read -r line"])
            .arg(&database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut ready = [0];
        let stdout = child.stdout.as_mut().expect("piped");
        stdout.read_exact(&mut ready).expect("it says so");
        let holders = of(&database);
        let expected = Holder {
            pid: child.id(),
            name: "sh".to_owned(),
        };
        assert_eq!(holders, [expected]);
        drop(child.stdin.take());
        child.wait().expect("it ends");
        assert_eq!(of(&database), []);
    }
}
