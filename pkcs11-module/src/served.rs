//! Whether the module's host passes on what others ask, as `p11-kit remote` does with a token's socket.
//!
//! What the parameter of a mechanism points to, p11-kit 0.24 and 0.25 carry along for the mechanisms alone
//! that they know. The parameter of any other goes through as the bytes that the client has sent: a pointer in
//! it is whatever number the client likes, and whoever may but use a key would read, or write, in the process
//! that has all of the token's. To such a host, mechanisms whose parameters have pointers are not there. Nor
//! are attributes that are templates, which have pointers too: 0.24 refuses them, and nothing is lost by not
//! relying on what others make of them.
//!
//! p11-kit's own programs are known by their names. Others are to set `STRONGROOM_SERVED=1` for the module,
//! and the unit in `systemd/` does.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

/// The programs of p11-kit that serve.
const SERVERS: [&str; 2] = ["p11-kit-remote", "p11-kit-server"];

const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

static SERVED: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Whether it does. That is looked at before anything of a client's is, be the module initialized or not.
pub(crate) fn is_served() -> bool {
    match SERVED.load(Ordering::Relaxed) {
        UNKNOWN => look(),
        known => known == YES,
    }
}

/// Looks again. Who has once served goes on serving.
pub(crate) fn look() -> bool {
    let variable = std::env::var_os("STRONGROOM_SERVED");
    let program = std::env::current_exe().ok();
    let served = SERVED.load(Ordering::Relaxed) == YES
        || says_so(variable.as_deref())
        || serves(program.as_deref());
    SERVED.store(if served { YES } else { NO }, Ordering::Relaxed);
    served
}

/// Whether it does is not known any more.
#[cfg(test)]
pub(crate) fn forget() {
    SERVED.store(UNKNOWN, Ordering::Relaxed);
}

fn says_so(variable: Option<&OsStr>) -> bool {
    variable.is_some_and(|value| !value.is_empty() && value != "0")
}

fn serves(program: Option<&Path>) -> bool {
    // What the kernel adds to the name of a program whose file was replaced, as by an upgrade.
    const REPLACED: &str = " (deleted)";
    let name = program.and_then(Path::file_name).and_then(OsStr::to_str);
    name.map(|name| name.strip_suffix(REPLACED).unwrap_or(name))
        .is_some_and(|name| SERVERS.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_known_by_their_names_and_others_say_so() {
        for (program, expected) in [
            ("/usr/libexec/p11-kit/p11-kit-remote", true),
            ("/usr/libexec/p11-kit/p11-kit-server", true),
            ("/usr/libexec/p11-kit/p11-kit-remote (deleted)", true),
            ("/usr/bin/p11-kit", false),
            ("/usr/sbin/nginx", false),
        ] {
            assert_eq!(serves(Some(Path::new(program))), expected, "{program}");
        }
        assert!(!serves(None));
        for (value, expected) in [("1", true), ("yes", true), ("0", false), ("", false)] {
            assert_eq!(says_so(Some(OsStr::new(value))), expected, "{value}");
        }
        assert!(!says_so(None));
    }
}
