//! A recorder between a client and its TPM: which commands, how many, how
//! long, and every byte of them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Swtpm;
use crate::someone;
use crate::swtpm::{control_of, socket_folder, socket_in, tcti_of};
use crate::tpm_commands;

/// One command and what became of it.
#[derive(Clone, Debug)]
pub struct Command {
    /// The command code, TPM_CC.
    pub cc: u32,
    /// Its name without `TPM2_`: `Unseal`.
    pub name: &'static str,
    /// The whole request as it crossed the bus.
    pub request: Vec<u8>,
    /// The whole response.
    pub response: Vec<u8>,
    /// The response code: 0 is success.
    pub rc: u32,
    /// The TPM's own time, from the request to the response.
    pub duration: Duration,
}

/// A running recorder. Clients reach the TPM at [`Recorder::tcti`], several at
/// a time if they like; the TPM may be rebooted behind it.
pub struct Recorder {
    tape: Tape,
    folder: TempDir,
    _channels: [Channel; 2],
}

impl Recorder {
    /// Puts a recorder in front of `tpm`.
    pub fn start(tpm: &Swtpm) -> Self {
        let folder = socket_folder();
        let socket = socket_in(folder.path());
        let tape = Tape::default();
        let commands = {
            let (tpm, tape) = (tpm.socket(), tape.clone());
            Channel::open(&socket, move |client| relay_commands(client, &tpm, &tape))
        };
        let control = {
            let tpm = control_of(&tpm.socket());
            Channel::open(&control_of(&socket), move |client| {
                relay_bytes(&client, &tpm)
            })
        };
        Self {
            tape,
            folder,
            _channels: [commands, control],
        }
    }

    /// Where clients reach the TPM so that they are recorded, in TCTI notation.
    pub fn tcti(&self) -> String {
        tcti_of(&self.socket())
    }

    /// The Unix socket behind [`Recorder::tcti`].
    pub fn socket(&self) -> PathBuf {
        socket_in(self.folder.path())
    }

    /// Lets the members of a group use the TPM through this recorder, as those of `tss` may use
    /// the kernel's device, and nobody else but root.
    pub fn let_in(&self, gid: u32) {
        someone::give(self.folder.path(), gid, 0o710);
        for socket in [self.socket(), control_of(&self.socket())] {
            someone::give(&socket, gid, 0o660);
        }
    }

    /// All commands so far, in the order in which they were answered.
    pub fn commands(&self) -> Vec<Command> {
        self.tape.lock().clone()
    }

    /// All commands so far; the record starts afresh.
    pub fn take(&self) -> Vec<Command> {
        std::mem::take(&mut self.tape.lock())
    }

    /// How many commands there were so far, by name.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for command in self.tape.lock().iter() {
            *counts.entry(command.name).or_default() += 1;
        }
        counts
    }

    /// Whether `bytes` crossed the bus in clear, either way, within one message.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        assert!(!bytes.is_empty(), "every message contains nothing");
        let holds = |message: &[u8]| message.windows(bytes.len()).any(|part| part == bytes);
        self.tape
            .lock()
            .iter()
            .any(|command| holds(&command.request) || holds(&command.response))
    }
}

/// The record, shared with the threads that write it.
#[derive(Clone, Default)]
struct Tape(Arc<Mutex<Vec<Command>>>);

impl Tape {
    fn lock(&self) -> MutexGuard<'_, Vec<Command>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket and the thread that accepts its clients, each served in a thread
/// of its own. Dropped, it accepts no more.
pub(crate) struct Channel {
    socket: PathBuf,
    closing: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Channel {
    pub(crate) fn open(
        socket: &Path,
        serve: impl Fn(UnixStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(socket).expect("listen for clients of the TPM");
        let closing = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&closing);
        let serve = Arc::new(serve);
        let acceptor = thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if told.load(Ordering::SeqCst) {
                    break;
                }
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    if let Err(error) = serve(client) {
                        eprintln!("recorder: a client lost the TPM: {error}");
                    }
                });
            }
        });
        Self {
            socket: socket.to_owned(),
            closing,
            acceptor: Some(acceptor),
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Nothing else wakes a thread out of accept.
        let woken = UnixStream::connect(&self.socket).is_ok();
        if let Some(acceptor) = self.acceptor.take().filter(|_| woken) {
            let _ = acceptor.join();
        }
    }
}

/// Passes a client's commands to the TPM, and records each.
///
/// swtpm serves one connection at a time, so each command has its own, closed
/// before the answer is passed on: an idle client then blocks no other.
fn relay_commands(mut client: UnixStream, tpm: &Path, tape: &Tape) -> io::Result<()> {
    while let Some(request) = read_message(&mut client)? {
        let mut connection = UnixStream::connect(tpm)?;
        let sent = Instant::now();
        connection.write_all(&request)?;
        let response = read_message(&mut connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let duration = sent.elapsed();
        drop(connection);

        let cc = code_of(&request);
        // First the record: a client that has its answer is already in it.
        tape.lock().push(Command {
            cc,
            name: tpm_commands::name(cc),
            rc: code_of(&response),
            request,
            response: response.clone(),
            duration,
        });
        client.write_all(&response)?;
    }
    Ok(())
}

/// Passes bytes both ways until either side has no more: the control channel,
/// whose messages have no common form.
pub(crate) fn relay_bytes(client: &UnixStream, tpm: &Path) -> io::Result<()> {
    let tpm = &UnixStream::connect(tpm)?;
    let pass = |mut from: &UnixStream, mut to: &UnixStream| {
        let passed = io::copy(&mut from, &mut to);
        // The other side may have gone already, which ends it as well.
        let _ = to.shutdown(Shutdown::Write);
        passed
    };
    thread::scope(|scope| {
        let there = scope.spawn(|| pass(client, tpm));
        let back = pass(tpm, client);
        let there = there.join().expect("passing bytes does not panic");
        there.and(back).map(|_| ())
    })
}

/// Reads one TPM message: tag (2 bytes), size of the whole (4), code (4), and
/// the rest. `None` at the end of the stream.
pub(crate) fn read_message(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    const HEADER: usize = 10;
    const LARGEST: usize = 1 << 16;
    let mut message = vec![0; HEADER];
    match stream.read(&mut message)? {
        0 => return Ok(None),
        len => stream.read_exact(&mut message[len..])?,
    }
    let size = u32_at(&message, 2) as usize;
    if !(HEADER..=LARGEST).contains(&size) {
        return Err(io::Error::other(format!("a TPM message of {size} bytes")));
    }
    message.resize(size, 0);
    stream.read_exact(&mut message[HEADER..])?;
    Ok(Some(message))
}

/// The command code of a request, the response code of a response.
pub(crate) fn code_of(message: &[u8]) -> u32 {
    u32_at(message, 6)
}

fn u32_at(message: &[u8], offset: usize) -> u32 {
    let bytes = message[offset..offset + 4].try_into();
    u32::from_be_bytes(bytes.expect("four bytes"))
}
