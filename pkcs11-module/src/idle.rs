//! The module's one thread, which takes out of the TPM what no call has used for a while.
//!
//! It exists from the first use of the TPM to `C_Finalize`, sleeps while the TPM holds nothing of
//! ours, and takes no signal from the host's threads.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

/// The thread, and how to end it.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts the thread. `look` says how long to sleep until the next look; nothing for "until
    /// [`Watch::wake`]".
    pub(crate) fn start(look: impl Fn() -> Option<Duration> + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watch = move || {
            while !stopped.load(Ordering::Acquire) {
                match look() {
                    Some(rest) => thread::park_timeout(rest),
                    None => thread::park(),
                }
            }
        };
        let thread = without_signals(|| {
            Builder::new()
                .name("strongroom".to_owned())
                .stack_size(1 << 20)
                .spawn(watch)
        })?;
        Ok(Self { stop, thread })
    }

    /// Has the thread look.
    pub(crate) fn wake(&self) {
        self.thread.thread().unpark();
    }

    /// Ends the thread. The module's lock must not be held: the thread may be waiting for it.
    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        // It does not panic but with a bug, which has been told by then.
        let _ = self.thread.join();
    }
}

/// Does something, such as to start a thread, which inherits that all signals are blocked: the
/// host's handlers run in the host's threads.
fn without_signals<T>(action: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: both are memory for a signal set, and `all` is one before it is used.
    let changed = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) == 0
    };
    let outcome = action();
    if changed {
        // SAFETY: `before` is the set that was in force, as the call above has written it.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    outcome
}
