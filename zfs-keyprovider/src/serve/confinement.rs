//! What the server may still do once it serves: read the vault, use the TPM, and answer.
//!
//! A unit cannot confine it by namespaces of the file system, for its mount would not be seen outside
//! of them. So it does so itself: capabilities but one are dropped, Landlock leaves it the vault,
//! the TPM's devices, libraries and /proc, and a filter of system calls leaves it no other program,
//! no network and no mount. Where the kernel lacks one of them, that is said, and the others hold: a
//! box without its keys is the worse outcome.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};
use strongroom::Tcti;
use strongroom::error::Error;
use strongroom::event_log::Place;

/// The newest Landlock that is used here; older kernels enforce what they know of it.
const LANDLOCK: ABI = ABI::V6;

/// What is read besides the vault and the event log: libtss2's parts for a kind of TPM are loaded when it is opened,
/// and the log names callers.
const READ: [&str; 6] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/ssl/openssl.cnf",
    "/proc",
];

/// The kernel's TPM.
const TPM: [&str; 2] = ["/dev/tpm0", "/dev/tpmrm0"];

/// Confines this thread and all that it will start. There must be no others.
///
/// # Errors
/// [`Error::Input`] where it fails for another reason than a kernel that cannot.
pub(super) fn confine(dir: &Path, tcti: &Tcti) -> Result<(), Error> {
    let place = tcti.to_string();
    let device = place.strip_prefix("device:").map(Path::new);
    if device.is_some() && !TPM.iter().map(Path::new).chain(device).any(Path::exists) {
        log::warn!("there is no TPM, and one that appears later is not seen: start again then");
    }
    drop_capabilities()?;
    let status = restrict_files(dir, device, tcti.is_kernels())
        .map_err(|error| Error::input("Landlock", error.to_string()))?;
    if status.ruleset == RulesetStatus::NotEnforced {
        log::warn!("this kernel has no Landlock: the server is not confined to its files");
    }
    let filter = system_calls(device.is_none())
        .map_err(|error| Error::input("the filter of system calls", error.to_string()))?;
    if let Err(error) = seccompiler::apply_filter(&filter) {
        log::warn!("this kernel filters no system calls for the server: {error}");
    }
    Ok(())
}

/// Root without capabilities is a user like any other. The TPM's device belongs to the user `tss`,
/// and the vault may be another user's, so that one is kept.
fn drop_capabilities() -> Result<(), Error> {
    let failed = |error: rustix::io::Errno| {
        Error::input("capabilities", std::io::Error::from(error).to_string())
    };
    let kept = CapabilitySet::DAC_OVERRIDE & capabilities(None).map_err(failed)?.permitted;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed)
}

fn restrict_files(
    dir: &Path,
    device: Option<&Path>,
    is_kernels: bool,
) -> Result<RestrictionStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let read_and_write = AccessFs::ReadFile | AccessFs::WriteFile;
    let log = Place::new(None, is_kernels).paths();
    let readable = READ.iter().map(Path::new).chain([dir]);
    let readable = readable.chain(log.iter().map(PathBuf::as_path));
    let readable = readable.map(|it| (it, read));
    let writable = TPM.iter().map(Path::new).chain(device);
    let null = ["/dev/null", "/dev/urandom"].iter().map(Path::new);
    let writable = writable.chain(null).map(|it| (it, read_and_write));
    let rules = readable
        .chain(writable)
        // What is not there needs no rule.
        .filter_map(|(path, access): (&Path, BitFlags<AccessFs>)| {
            let open = PathFd::new(path).ok()?;
            // A file has no entries.
            let all = if path.is_dir() {
                AccessFs::from_all(LANDLOCK)
            } else {
                AccessFs::from_file(LANDLOCK)
            };
            Some(Ok::<_, RulesetError>(PathBeneath::new(open, access & all)))
        });
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?;
    if device.is_some() {
        ruleset = ruleset.handle_access(AccessNet::from_all(LANDLOCK))?;
    }
    ruleset.create()?.add_rules(rules)?.restrict_self()
}

/// The system calls that are left. A TPM that is no device is reached by a socket.
fn system_calls(with_sockets: bool) -> Result<BpfProgram, BackendError> {
    let sockets = if with_sockets { SOCKETS } else { &[] };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED
        .iter()
        .chain(sockets)
        .map(|&call| (call, Vec::new()))
        .collect();
    let only_if = |argument, operator, value| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    // Threads, and no processes. (clone3 hides its flags; without it, the C library uses clone.)
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let threads = only_if(0, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![threads]);
    // The names of threads.
    let name = u64::from(libc::PR_SET_NAME.unsigned_abs());
    let names = only_if(0, SeccompCmpOp::Eq, name)?;
    rules.insert(libc::SYS_prctl, vec![names]);
    // Limits are read, and not set.
    let reads = only_if(2, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![reads]);
    SeccompFilter::new(
        rules,
        // As if the kernel had none, for which libraries have other ways.
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

const ALLOWED: &[i64] = &[
    // Files that are open, the kernel's device and the line among them.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fchmod,
    libc::SYS_fstat,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Files by name, which Landlock judges.
    libc::SYS_openat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    // Threads, time and the end.
    libc::SYS_futex,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Who and where.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    // What newer machines never had.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

const SOCKETS: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::thread;

    use super::*;

    #[test]
    fn the_vault_is_read_and_nothing_else_is_done() {
        let folder = std::env::temp_dir().join(format!("confined-{}", std::process::id()));
        fs::create_dir_all(folder.join("vault")).expect("a folder");
        fs::write(folder.join("vault/vault.json"), "what is in it").expect("a file");
        fs::write(folder.join("other"), "what is not").expect("a file");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let tcti: Tcti = "device:/dev/tpmrm0".parse().expect("a TCTI");

        let beside = folder.clone();
        thread::spawn(move || {
            let vault = beside.join("vault");
            confine(&vault, &tcti).expect("it confines itself");
            let read = |path: &Path| fs::read(path).map_err(|error| error.kind());
            assert_eq!(
                read(&vault.join("vault.json")),
                Ok(b"what is in it".to_vec())
            );
            for other in [&beside.join("other"), Path::new("/etc/passwd")] {
                assert_eq!(read(other), Err(ErrorKind::PermissionDenied));
            }
            assert!(read(Path::new("/proc/1/comm")).is_ok());
            assert!(fs::write(vault.join("new"), "x").is_err());
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
            assert!(Command::new("/usr/bin/true").status().is_err());
            let status = fs::read_to_string("/proc/thread-self/status").expect("a file");
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
            assert!(status.contains("Seccomp:\t2"), "{status}");
            let heir = thread::spawn(|| fs::read("/etc/passwd").is_err());
            assert!(heir.join().expect("a thread can be started"));
        })
        .join()
        .expect("it is confined, and works");
        fs::remove_dir_all(&folder).expect("only that thread was confined");
    }
}
