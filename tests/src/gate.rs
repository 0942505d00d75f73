//! A gate between a client and its TPM, for tests of what happens between two commands: it lets
//! an exact number of them pass, and then holds the next, or cuts the client off. Or it lets each
//! take its time, as at a TPM that is a chip of its own.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::Recorder;
use crate::recorder::{Channel, read_message, relay_bytes};
use crate::swtpm::{control_of, socket_folder, socket_in, tcti_of};

/// A gate that is open at first. Clients come to it at [`Gate::tcti`].
pub struct Gate {
    latch: Arc<Latch>,
    folder: TempDir,
    _channels: [Channel; 2],
}

impl Gate {
    /// Puts a gate in front of `recorder`: what it lets pass is recorded.
    pub fn start(recorder: &Recorder) -> Self {
        let folder = socket_folder();
        let socket = socket_in(folder.path());
        let latch = Arc::new(Latch::default());
        let commands = {
            let (tpm, latch) = (recorder.socket(), Arc::clone(&latch));
            Channel::open(&socket, move |client| relay(client, &tpm, &latch))
        };
        let control = {
            let tpm = control_of(&recorder.socket());
            Channel::open(&control_of(&socket), move |client| {
                relay_bytes(&client, &tpm)
            })
        };
        Self {
            latch,
            folder,
            _channels: [commands, control],
        }
    }

    /// Where clients reach the TPM through the gate, in TCTI notation.
    pub fn tcti(&self) -> String {
        tcti_of(&socket_in(self.folder.path()))
    }

    /// Lets `commands` more pass, and holds the next until something else is said.
    pub fn hold_after(&self, commands: usize) {
        self.latch.set(Some(commands), Beyond::Held);
    }

    /// Lets `commands` more pass, and then cuts every client off, as a TPM that is gone.
    pub fn cut_after(&self, commands: usize) {
        self.latch.set(Some(commands), Beyond::Cut);
    }

    /// Cuts off whoever waits, with its command unsent, and lets everything pass from then on.
    pub fn turn_away(&self) {
        self.cut_after(0);
        while self.holds_one() {
            thread::sleep(Duration::from_millis(1));
        }
        self.open();
    }

    /// Lets `commands` more pass, answers the next `times` with a response code in the TPM's place,
    /// and lets everything pass from then on.
    pub fn answer_after(&self, commands: usize, code: u32, times: usize) {
        self.latch
            .set(Some(commands), Beyond::Answered(code, times));
    }

    /// Lets everything pass, first of all what is held.
    pub fn open(&self) {
        self.latch.set(None, Beyond::Held);
    }

    /// Has each command take so much longer from now on.
    pub fn slow_down(&self, by: Duration) {
        self.latch.lock().pause = by;
    }

    /// Whether a command waits at the gate: the TPM has answered every command before it.
    pub fn holds_one(&self) -> bool {
        self.latch.lock().waiting > 0
    }
}

/// What becomes of a command that may not pass.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Beyond {
    #[default]
    Held,
    Cut,
    /// With a response code, so many times.
    Answered(u32, usize),
}

/// Whether a command may pass.
enum Verdict {
    Pass,
    Cut,
    Answer(u32),
}

#[derive(Default)]
struct Rule {
    /// How many may pass; none: all.
    left: Option<usize>,
    beyond: Beyond,
    waiting: usize,
    /// What each takes beyond what the TPM takes.
    pause: Duration,
}

/// The rule, and the wait for a change of it.
#[derive(Default)]
struct Latch {
    rule: Mutex<Rule>,
    changed: Condvar,
}

impl Latch {
    fn lock(&self) -> MutexGuard<'_, Rule> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, left: Option<usize>, beyond: Beyond) {
        let mut rule = self.lock();
        rule.left = left;
        rule.beyond = beyond;
        self.changed.notify_all();
    }

    /// Waits until it is known whether a command may pass.
    fn pass(&self) -> Verdict {
        let mut rule = self.lock();
        loop {
            match (rule.left, rule.beyond) {
                (None, _) | (Some(0), Beyond::Answered(_, 0)) => return Verdict::Pass,
                (Some(0), Beyond::Cut) => return Verdict::Cut,
                (Some(0), Beyond::Answered(code, times)) => {
                    rule.beyond = Beyond::Answered(code, times.saturating_sub(1));
                    return Verdict::Answer(code);
                }
                (Some(0), Beyond::Held) => {
                    rule.waiting += 1;
                    rule = self
                        .changed
                        .wait(rule)
                        .unwrap_or_else(PoisonError::into_inner);
                    rule.waiting -= 1;
                }
                (Some(left), _) => {
                    rule.left = Some(left - 1);
                    return Verdict::Pass;
                }
            }
        }
    }
}

/// Passes a client's commands on, each after it was let pass.
fn relay(mut client: UnixStream, tpm: &Path, latch: &Latch) -> io::Result<()> {
    let mut tpm = UnixStream::connect(tpm)?;
    while let Some(request) = read_message(&mut client)? {
        match latch.pass() {
            Verdict::Pass => {}
            Verdict::Cut => break,
            Verdict::Answer(code) => {
                // A response without sessions: tag, size, code (Part 1, section 18.2).
                let mut response = vec![0x80, 0x01, 0, 0, 0, 10];
                response.extend(code.to_be_bytes());
                client.write_all(&response)?;
                continue;
            }
        }
        let pause = latch.lock().pause;
        thread::sleep(pause);
        tpm.write_all(&request)?;
        let response = read_message(&mut tpm)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        client.write_all(&response)?;
    }
    Ok(())
}
