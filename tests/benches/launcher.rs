//! What the launcher costs over plain rclone, on one software TPM in one run: TPM commands, and time.
//!
//! Each round takes every contestant in turn, so that a machine whose speed drifts drifts for all. What
//! rclone does is the least that reads its configuration: it lists an empty folder.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use strongroom_tests::launcher::obscure;
use strongroom_tests::{Launcher, Run, TestVault};

const ROUNDS: usize = 30;

fn main() {
    // Under `cargo test --benches` there is nothing to measure.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let bench = Bench::prepare(&vault, &launcher);
    println!("rclone that lists an empty folder ({ROUNDS} rounds, swtpm, one run)\n");
    bench.compare();
}

struct Bench<'a> {
    vault: &'a TestVault,
    launcher: &'a Launcher<'a>,
    folder: PathBuf,
}

struct Contestant {
    name: &'static str,
    launched: bool,
    config: PathBuf,
    commands: usize,
    unseals: usize,
    took: Vec<Duration>,
}

impl<'a> Bench<'a> {
    fn prepare(vault: &'a TestVault, launcher: &'a Launcher<'a>) -> Self {
        let folder = launcher.file("empty");
        fs::create_dir(&folder).expect("the folder can be written");
        Self {
            vault,
            launcher,
            folder,
        }
    }

    fn contestants(&self) -> Vec<Contestant> {
        let seal = |label: &str, secrets: serde_json::Value| {
            self.vault
                .seal("credentials", label, secrets.to_string().as_bytes())
        };
        let clear = "[remote]\ntype = webdav\nurl = http://127.0.0.1:9\nuser = nas\n".to_owned();
        let one = seal("one", json!({ "pass": "x" }));
        let pass = obscure(&format!("strongroom:v1:{one}"));
        let one = format!("{clear}pass = {pass}\n");
        let [password, salt] = ["password", "password2"].map(|field| {
            let id = seal(field, json!({ (field): "x" }));
            obscure(&format!("strongroom:v1:{id}"))
        });
        let three = format!(
            "{one}[encrypted]\ntype = crypt\nremote = remote:\npassword = {password}\n\
             password2 = {salt}\n"
        );
        let contestant = |name, launched, text: &str| Contestant {
            name,
            launched,
            config: self.launcher.write(&format!("{name}.conf"), text),
            commands: 0,
            unseals: 0,
            took: Vec::new(),
        };
        vec![
            contestant("plain rclone", false, &clear),
            contestant("launched, no placeholder", true, &clear),
            contestant("launched, 1 object", true, &one),
            contestant("launched, 3 objects", true, &three),
        ]
    }

    fn compare(&self) {
        let mut contestants = self.contestants();
        for round in 0..=ROUNDS {
            for contestant in &mut contestants {
                let program = if contestant.launched {
                    self.launcher.run("rclone")
                } else {
                    Run::new("rclone")
                };
                let run = program.arg("--config").arg(&contestant.config);
                let run = run.arg("lsf").arg(&self.folder);
                self.vault.recorder().take();
                let begun = Instant::now();
                run.ok();
                let took = begun.elapsed();
                // The first round fills caches.
                if round > 0 {
                    contestant.took.push(took);
                }
                let counts = self.vault.recorder().counts();
                contestant.commands = counts.values().sum();
                contestant.unseals = counts.get("Unseal").copied().unwrap_or_default();
            }
        }
        let plain = median(&mut contestants[0].took);
        println!("                           TPM commands  unseals    median   over plain  ratio");
        for contestant in &mut contestants {
            let took = median(&mut contestant.took);
            println!(
                "{:26} {:12}  {:7}  {:6.1} ms  {:7.1} ms  {:5.2}",
                contestant.name,
                contestant.commands,
                contestant.unseals,
                took.as_secs_f64() * 1e3,
                (took.as_secs_f64() - plain.as_secs_f64()) * 1e3,
                took.as_secs_f64() / plain.as_secs_f64(),
            );
        }
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}
