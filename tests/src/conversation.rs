//! A program at a terminal, and what somebody types there, question by question.

use std::path::Path;

use crate::Run;

/// Runs a program on a pseudo-terminal of its own. Python's standard library has one, and so has
/// every machine that the tests run on.
const TERMINAL: &str = r#"
import fcntl, json, os, pty, select, struct, sys, termios, time

columns, talk, program = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    os.execvp(program[0], program)
seen, heard, end = b"", 0, time.time() + 50
while time.time() < end:
    if select.select([terminal], [], [], 0.1)[0]:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    while talk and (place := seen.find(talk[0][0].encode(), heard)) >= 0:
        question, answer = talk.pop(0)
        heard = place + len(question.encode())
        # People wait for the question too: whoever asks turns the echo off after it.
        time.sleep(0.1)
        os.write(terminal, answer.encode() + b"\n")
_, status = os.waitpid(pid, 0)
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(status))
"#;

/// Puts a run at a terminal of so many columns: `start` begins a run of python3, `program` is what
/// it runs there. Each question is answered when it appears after the one before. What the terminal
/// shows is the run's standard output.
pub fn converse(
    start: impl FnOnce(&str) -> Run,
    program: &Path,
    columns: usize,
    talk: &[(&str, &str)],
) -> Run {
    let talk: Vec<_> = talk
        .iter()
        .map(|(question, answer)| [*question, *answer])
        .collect();
    let talk = serde_json::to_string(&talk).expect("texts are JSON");
    start("/usr/bin/python3")
        .args(["-c", TERMINAL, &columns.to_string(), &talk])
        .arg(program)
}
