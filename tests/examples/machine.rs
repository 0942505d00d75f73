//! Runs a script in a test machine of its own, for who wants to look around:
//! `cargo run -p strongroom-tests --example machine -- [--measured] [--systemd] [--slow-tpm] [--commands]
//! < SCRIPT`. It has a disk of 1 GiB for pools. `--slow-tpm` is one that takes 10 ms more for each command;
//! `--commands` prints what the TPM was sent between `tpm-mark first` and `tpm-mark last`.

use std::io::{self, Read, Write};
use std::time::Duration;

use strongroom_tests::{Boot, Machine};

fn main() -> io::Result<()> {
    let (mut boot, mut commands) = (Boot::direct(), false);
    for argument in std::env::args().skip(1) {
        boot = match argument.as_str() {
            "--measured" => Boot::measured(),
            "--systemd" => boot.systemd(),
            "--slow-tpm" => boot.slow_tpm(Duration::from_millis(10)),
            "--commands" => {
                commands = true;
                boot
            }
            other => {
                eprintln!("machine: {other:?} is not known; see the first lines of its source");
                std::process::exit(2);
            }
        };
    }
    let mut script = String::new();
    io::stdin().read_to_string(&mut script)?;
    let mut machine = Machine::new();
    machine.add_disk(1 << 30);
    let ended = machine.run(&boot.timeout(Duration::from_secs(1800)), &script);
    io::stdout().write_all(&ended.stdout)?;
    io::stderr().write_all(ended.stderr.as_bytes())?;
    if commands {
        for command in machine.tpm_commands_between("first", "last") {
            println!("{}", command.name);
        }
    }
    std::process::exit(ended.code().unwrap_or(1));
}
