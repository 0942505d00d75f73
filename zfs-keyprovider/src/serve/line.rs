//! The line between the two processes: a packet for each question and each answer.
//!
//! The server says once that it is ready. It asks which sealed keys of a dataset there are to choose
//! from, which takes ZFS, and is answered with a [`Choice`]; where there are several, it asks of one
//! after the other whether it is the dataset's. That question alone has a key in it, and it goes from
//! pages that are wiped into pages that are wiped. When either end is closed, the process at the
//! other ends too.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};
use strongroom::Secret;
use strongroom::error::Error;

use crate::failure::Failure;
use crate::sealed::Choice;
use crate::zfs::Refused;

/// How long ZFS may take to answer: a pool that is suspended never does.
const ZFS_PATIENCE: Duration = Duration::from_secs(3);

/// The longest packet. A choice has some 400 bytes for each key; of more keys than fit in here,
/// nothing is given.
const PACKET: usize = 128 * 1024;

const SILENCE: &str = "ZFS does not answer in time";

/// What the process with the mount learns of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Ready,
    Gone,
}

/// Whom the process with the mount asks.
pub(super) trait Zfs: Send + Sync + 'static {
    /// Which sealed keys may be the dataset's.
    fn choice(&self, dataset: &str) -> Result<Choice, Failure>;

    /// Whether a key, in the dataset's keyformat, is the dataset's.
    fn fits(&self, dataset: &str, key: &Secret) -> Result<(), Refused>;
}

/// What the server says. A key follows behind a newline.
#[derive(Serialize, Deserialize)]
enum Message {
    Ready,
    Question {
        number: u64,
        dataset: String,
        about: About,
    },
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum About {
    /// Which sealed keys may be the dataset's.
    Choice,
    /// Whether the key that follows is the dataset's.
    Key,
}

/// To the question of the same number.
#[derive(Serialize, Deserialize)]
struct Answer {
    number: u64,
    outcome: Outcome,
}

#[derive(Serialize, Deserialize)]
enum Outcome {
    Choice(Choice),
    Fits,
    /// There is no such key, in words.
    NoKey(String),
    /// The dataset or the key is not what it must be, in words.
    NotUsable(String),
    /// ZFS does not say, in words.
    Unclear(String),
}

/// Why the process with the mount says no.
#[derive(Debug)]
pub(super) enum No {
    /// There is no such key.
    NoKey(String),
    /// The dataset is not what it must be.
    NotUsable(String),
    /// ZFS, or the vault's list, does not say.
    Unclear(String),
}

/// Both ends of a line, which keeps packets apart and tells when an end is closed.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Listens to the server until it is gone, and answers what it asks, each question on a thread of
/// its own: ZFS may never answer one, which must not hold up the next.
pub(super) fn answer(line: OwnedFd, zfs: impl Zfs, tell: impl Fn(Said)) {
    let (mut line, zfs) = (File::from(line), Arc::new(zfs));
    let mut packet = Secret::zeroed(PACKET);
    while let Ok(len @ 1..) = line.read(packet.expose_mut()) {
        let said = &packet.expose()[..len];
        let end = said.iter().position(|&byte| byte == b'\n').unwrap_or(len);
        let (question, key) = (&said[..end], said.get(end + 1..).unwrap_or_default());
        let message = serde_json::from_slice(question);
        let key = Secret::copy_of(key);
        packet.expose_mut()[..len].fill(0);
        match message {
            Ok(Message::Ready) => tell(Said::Ready),
            Ok(Message::Question {
                number,
                dataset,
                about,
            }) => {
                let (zfs, Ok(line)) = (Arc::clone(&zfs), line.try_clone()) else {
                    break;
                };
                thread::spawn(move || {
                    let outcome = ask(&*zfs, &dataset, about, &key);
                    // The server may be gone by now.
                    let _ = send(&line, &Answer { number, outcome }, None);
                });
            }
            Err(_) => break,
        }
    }
    tell(Said::Gone);
}

fn ask(zfs: &impl Zfs, dataset: &str, about: About, key: &Secret) -> Outcome {
    match about {
        About::Choice => match zfs.choice(dataset) {
            Ok(choice) => Outcome::Choice(choice),
            Err(failure @ Failure::Vault(Error::NoSuchObject { .. })) => {
                Outcome::NoKey(failure.to_string())
            }
            Err(failure @ Failure::Dataset { .. }) => Outcome::NotUsable(failure.to_string()),
            Err(failure) => Outcome::Unclear(failure.to_string()),
        },
        About::Key => match zfs.fits(dataset, key) {
            Ok(()) => Outcome::Fits,
            Err(refused) => Outcome::NotUsable(refused.to_string()),
        },
    }
}

/// The server's end.
pub(super) struct Line {
    line: File,
    /// How many questions were asked.
    asked: u64,
    answers: Receiver<Answer>,
}

impl Line {
    /// Listens from now on, and ends this process when the other one has ended.
    pub(super) fn open(line: OwnedFd) -> io::Result<Self> {
        Self::open_until(line, || process::exit(0))
    }

    fn open_until(line: OwnedFd, gone: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (sender, answers) = mpsc::channel();
        let line = File::from(line);
        let mut listener = line.try_clone()?;
        thread::Builder::new()
            .name("line".to_owned())
            .spawn(move || {
                let mut packet = vec![0; PACKET];
                while let Ok(len @ 1..) = listener.read(&mut packet) {
                    if let Ok(answer) = serde_json::from_slice(&packet[..len]) {
                        let _ = sender.send(answer);
                    }
                }
                gone();
            })?;
        Ok(Self {
            line,
            asked: 0,
            answers,
        })
    }

    pub(super) fn say_ready(&self) -> io::Result<()> {
        send(&self.line, &Message::Ready, None)
    }

    /// Which sealed keys may be the dataset's.
    pub(super) fn choice(&mut self, dataset: &str) -> Result<Choice, No> {
        match self.ask(dataset, About::Choice, None) {
            Some(Outcome::Choice(choice)) => Ok(choice),
            Some(Outcome::NoKey(reason)) => Err(No::NoKey(reason)),
            Some(Outcome::NotUsable(reason)) => Err(No::NotUsable(reason)),
            Some(Outcome::Unclear(reason)) => Err(No::Unclear(reason)),
            Some(Outcome::Fits) | None => Err(No::Unclear(SILENCE.to_owned())),
        }
    }

    /// Whether a key, in the dataset's keyformat, is the dataset's.
    pub(super) fn fits(&mut self, dataset: &str, key: &Secret) -> Result<(), Refused> {
        match self.ask(dataset, About::Key, Some(key)) {
            Some(Outcome::Fits) => Ok(()),
            Some(Outcome::NotUsable(reason)) => Err(Refused::Other(reason)),
            _ => Err(Refused::Other(SILENCE.to_owned())),
        }
    }

    fn ask(&mut self, dataset: &str, about: About, key: Option<&Secret>) -> Option<Outcome> {
        self.asked += 1;
        let question = Message::Question {
            number: self.asked,
            dataset: dataset.to_owned(),
            about,
        };
        send(&self.line, &question, key).ok()?;
        let deadline = Instant::now() + ZFS_PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.answers.recv_timeout(left).ok()?;
            // What comes too late was to an earlier question.
            if answer.number == self.asked {
                return Some(answer.outcome);
            }
        }
    }
}

fn send(mut line: &File, message: &impl Serialize, key: Option<&Secret>) -> io::Result<()> {
    let message = serde_json::to_vec(message)?;
    let packet = match key {
        Some(key) => Secret::concat(&[&message, b"\n", key.expose()]),
        None => Secret::take(message),
    };
    if packet.len() > PACKET {
        return Err(io::ErrorKind::InvalidData.into());
    }
    line.write_all(packet.expose())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows one dataset and its key.
    struct Stub;

    impl Zfs for Stub {
        fn choice(&self, dataset: &str) -> Result<Choice, Failure> {
            Err(Failure::dataset(dataset, "it was put in its place"))
        }

        fn fits(&self, dataset: &str, key: &Secret) -> Result<(), Refused> {
            match (dataset, key.expose()) {
                ("tank/my data", b"a key\nof two lines") => Ok(()),
                _ => Err(Refused::WrongKey),
            }
        }
    }

    #[test]
    fn what_is_asked_is_answered_and_a_late_answer_is_not_taken_for_another() {
        let (ours, theirs) = pair().expect("sockets");
        let (sender, gone) = mpsc::channel();
        let ended = move || sender.send(()).expect("somebody waits");
        let mut line = Line::open_until(theirs, ended).expect("a thread");
        let late = Answer {
            number: 0,
            outcome: Outcome::Fits,
        };
        let before = File::from(ours.try_clone().expect("a descriptor"));
        send(&before, &late, None).expect("room");
        drop(before);
        let process_with_mount = thread::spawn(move || {
            let (said, heard) = mpsc::channel();
            answer(ours, Stub, |what| said.send(what).expect("room"));
            heard.try_iter().collect::<Vec<_>>()
        });
        line.say_ready().expect("room");
        let key = |bytes: &[u8]| Secret::copy_of(bytes);
        assert!(line.fits("tank/my data", &key(b"another")).is_err());
        assert!(
            line.fits("tank/my data", &key(b"a key\nof two lines"))
                .is_ok()
        );
        match line.choice("tank") {
            Err(No::NotUsable(reason)) => assert!(reason.contains("in its place"), "{reason}"),
            other => panic!("{other:?}"),
        }
        rustix::net::shutdown(&line.line, rustix::net::Shutdown::Write).expect("a socket");
        let heard = process_with_mount.join().expect("no panic");
        assert_eq!(heard, [Said::Ready, Said::Gone]);
        gone.recv().expect("the server ends with the other process");
    }
}
