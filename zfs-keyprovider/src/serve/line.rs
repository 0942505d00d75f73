//! The line between the two processes: lines of text, and no secret in any.
//!
//! The server says `ready` once, and asks for a dataset's keyformat by `keyformat DATASET`; it is
//! answered with `FORMAT DATASET`. When either end is closed, the process at the other ends too.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use strongroom::dataset_key::KeyFormat;

/// How long ZFS may take to say what a dataset's keyformat is: a pool that is suspended never does.
const ZFS_PATIENCE: Duration = Duration::from_secs(3);

const UNKNOWN: &str = "unknown";

/// What the process with the mount learns of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Ready,
    Gone,
}

/// Listens to the server until it is gone, and answers what it asks.
pub(super) fn answer(
    line: &UnixStream,
    keyformat: &dyn Fn(&str) -> Option<KeyFormat>,
    tell: impl Fn(Said),
) {
    let mut answers = line;
    for said in BufReader::new(line).lines() {
        let Ok(said) = said else { break };
        if said == "ready" {
            tell(Said::Ready);
        } else if let Some(dataset) = said.strip_prefix("keyformat ") {
            let format = keyformat(dataset).map_or(UNKNOWN, KeyFormat::as_str);
            if writeln!(answers, "{format} {dataset}").is_err() {
                break;
            }
        }
    }
    tell(Said::Gone);
}

/// The server's end.
pub(super) struct Line {
    stream: UnixStream,
    answers: Receiver<String>,
}

impl Line {
    /// Listens from now on, and ends this process when the other one has ended.
    pub(super) fn open(stream: UnixStream) -> io::Result<Self> {
        Self::open_until(stream, || process::exit(0))
    }

    fn open_until(stream: UnixStream, gone: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (sender, answers) = mpsc::channel();
        let listener = stream.try_clone()?;
        thread::Builder::new()
            .name("line".to_owned())
            .spawn(move || {
                for answer in BufReader::new(listener).lines().map_while(Result::ok) {
                    let _ = sender.send(answer);
                }
                gone();
            })?;
        Ok(Self { stream, answers })
    }

    pub(super) fn say_ready(&mut self) -> io::Result<()> {
        writeln!(self.stream, "ready")
    }

    /// The dataset's keyformat as ZFS has it. `None` where there is no ZFS, it does not know the
    /// dataset, or does not answer.
    pub(super) fn keyformat(&mut self, dataset: &str) -> Option<KeyFormat> {
        writeln!(self.stream, "keyformat {dataset}").ok()?;
        let deadline = Instant::now() + ZFS_PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(answer) = self.answers.recv_timeout(left) else {
                log::warn!("ZFS does not say what the keyformat of {dataset} is");
                return None;
            };
            // An answer that came too late was to an earlier question.
            match answer.split_once(' ') {
                Some((format, of)) if of == dataset => return format.parse().ok(),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use super::*;

    #[test]
    fn a_keyformat_is_asked_for_and_a_late_answer_is_not_taken_for_another() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let (sender, gone) = mpsc::channel();
        let ended = move || sender.send(()).expect("somebody waits");
        let mut line = Line::open_until(theirs, ended).expect("a thread");
        let process_with_mount = thread::spawn(move || {
            writeln!(&ours, "hex tank/earlier").expect("a line");
            let zfs = |dataset: &str| (dataset == "tank/my data").then_some(KeyFormat::Raw);
            let (said, heard) = mpsc::channel();
            answer(&ours, &zfs, |what| said.send(what).expect("room"));
            heard.try_iter().collect::<Vec<_>>()
        });
        line.say_ready().expect("a line");
        assert_eq!(line.keyformat("tank/my data"), Some(KeyFormat::Raw));
        assert_eq!(line.keyformat("tank"), None);
        line.stream.shutdown(Shutdown::Write).expect("a socket");
        let heard = process_with_mount.join().expect("no panic");
        assert_eq!(heard, [Said::Ready, Said::Gone]);
        gone.recv().expect("the server ends with the other process");
    }
}
