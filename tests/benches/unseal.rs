//! What a secret out of the TPM costs, beside the peers, on one software TPM in one run: TPM
//! commands first, for a discrete TPM takes 10 to 100 ms for each, then time.
//!
//! Each round takes every contestant in turn, so that a machine whose speed drifts drifts for all.
//! Time is that of whole processes as an admin runs them, and for the vault's batch the time per
//! object within one.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use strongroom::object::{Kind, NewObject, ObjectId, TokenName};
use strongroom::{Secret, Tcti, Vault};
use strongroom_tests::{Recorder, Run, TestVault};

const ROUNDS: usize = 20;

/// Objects in a batch.
const BATCH: u16 = 50;

/// Objects in the large vault whose rebind is counted.
const LARGE: usize = 1000;

fn main() {
    // Under `cargo test --benches` there is nothing to measure.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let vault = TestVault::new();
    let bench = Bench::prepare(&vault);
    println!("A secret out of the TPM ({ROUNDS} rounds, swtpm, one run)\n");
    bench.compare();
    println!("\nRebind, in TPM commands\n");
    rebinds();
}

struct Contestant<'a> {
    name: &'static str,
    /// Whether one run of it gives one secret; else [`BATCH`] secrets.
    single: bool,
    run: Box<dyn Fn(&str) + 'a>,
}

struct Bench<'a> {
    vault: &'a TestVault,
    ids: Vec<ObjectId>,
}

impl<'a> Bench<'a> {
    fn prepare(vault: &'a TestVault) -> Self {
        let ids = seal(vault, BATCH.into());
        let folder = vault.folder();
        fs::write(folder.join("secret"), "a secret of 24 characters").expect("written");
        for line in [
            "tpm2 createprimary -Q -C o -c primary.ctx",
            "tpm2 flushcontext -Q -t",
            "tpm2 startauthsession -Q -S trial.ctx",
            "tpm2 policypcr -Q -S trial.ctx -l sha256:7,9,11 -L pcr.policy",
            "tpm2 flushcontext -Q trial.ctx",
            "tpm2 create -Q -C 0x81000001 -u sealed.pub -r sealed.priv -i secret -L pcr.policy",
            "tpm2 flushcontext -Q -t",
            r#"clevis encrypt tpm2 '{"pcr_bank":"sha256","pcr_ids":"7,9,11"}' <secret >secret.jwe"#,
        ] {
            shell(folder, &vault.tpm().tcti(), line);
        }
        if has_systemd_creds() {
            let line = "systemd-creds encrypt --with-key=tpm2 --tpm2-device=$TPM2TOOLS_TCTI \
                        --tpm2-pcrs=7+9+11 --name=secret secret secret.cred";
            shell(folder, &vault.tpm().tcti(), line);
        } else {
            println!("systemd-creds is not on this machine and is left out.");
        }
        Self { vault, ids }
    }

    fn contestants(&self) -> Vec<Contestant<'_>> {
        let folder = self.vault.folder();
        let peer = move |line: &'static str| -> Box<dyn Fn(&str)> {
            Box::new(move |tcti| shell(folder, tcti, line))
        };
        let mut contestants = vec![
            Contestant {
                name: "vault, per object of a batch",
                single: false,
                run: Box::new(|tcti| {
                    let mut open = open(self.vault, tcti);
                    for id in &self.ids {
                        open.unseal(*id).expect("unsealed");
                    }
                }),
            },
            Contestant {
                name: "strongroom unseal",
                single: true,
                run: Box::new(|tcti| {
                    self.vault
                        .strongroom(&["unseal", "--id", &self.ids[0].to_string()])
                        .env("STRONGROOM_TCTI", tcti)
                        .ok();
                }),
            },
            Contestant {
                name: "tpm2_load + tpm2_unseal",
                single: true,
                run: peer(
                    "tpm2 load -Q -C 0x81000001 -u sealed.pub -r sealed.priv -c sealed.ctx && \
                     tpm2 unseal -Q -c sealed.ctx -p pcr:sha256:7,9,11 >out",
                ),
            },
            Contestant {
                name: "clevis decrypt",
                single: true,
                run: peer("clevis decrypt <secret.jwe >out"),
            },
        ];
        if has_systemd_creds() {
            contestants.push(Contestant {
                name: "systemd-creds decrypt",
                single: true,
                run: peer(
                    "systemd-creds decrypt --tpm2-device=$TPM2TOOLS_TCTI --name=secret \
                     secret.cred out",
                ),
            });
        }
        contestants
    }

    /// Takes out of the TPM what a contestant has left there: it has no resource manager. Neither
    /// counted nor timed.
    fn clean_up(&self) {
        let tcti = self.vault.tpm().tcti();
        let line = "tpm2 flushcontext -Q -t; tpm2 flushcontext -Q -l";
        shell(self.vault.folder(), &tcti, line);
    }

    fn compare(&self) {
        let contestants = self.contestants();
        let commands: Vec<usize> = contestants
            .iter()
            .map(|contestant| {
                let recorder = Recorder::start(self.vault.tpm());
                (contestant.run)(&recorder.tcti());
                let count = recorder.take().len();
                self.clean_up();
                count
            })
            .collect();
        let tcti = self.vault.tpm().tcti();
        let mut times = vec![Vec::new(); contestants.len()];
        for _ in 0..ROUNDS {
            for (contestant, times) in contestants.iter().zip(&mut times) {
                let start = Instant::now();
                (contestant.run)(&tcti);
                times.push(start.elapsed());
                self.clean_up();
            }
        }
        println!(
            "{:32} {:>16} {:>12} {:>8}",
            "", "TPM commands", "median ms", "ratio"
        );
        let of = |number: usize| {
            median(&times[number])
                / if contestants[number].single {
                    1
                } else {
                    u32::from(BATCH)
                }
        };
        let own = of(0);
        for (number, contestant) in contestants.iter().enumerate() {
            let shown = if contestant.single {
                commands[number].to_string()
            } else {
                let once = commands[number] % usize::from(BATCH);
                format!("{} (+{once} once)", commands[number] / usize::from(BATCH))
            };
            println!(
                "{:32} {shown:>16} {:>12.2} {:>8.1}",
                contestant.name,
                of(number).as_secs_f64() * 1e3,
                of(number).as_secs_f64() / own.as_secs_f64(),
            );
        }
    }
}

/// The commands of a rebind, in a vault of one object and in a large one.
fn rebinds() {
    let (small, large) = (TestVault::new(), TestVault::new());
    seal(&small, 1);
    seal(&large, LARGE);
    let other = format!("11={}", "ab".repeat(32));
    println!("{:40} {:>10} {LARGE:>10}", "objects in the vault", 1);
    for (name, arguments, recovery) in [
        (
            "rebind --add, from the allowed boot",
            vec!["--add", other.as_str()],
            false,
        ),
        ("rebind, from the allowed boot", vec![], false),
        ("rebind --recovery, from another boot", vec![], true),
    ] {
        let [one, many] = [&small, &large].map(|vault| {
            if recovery {
                vault.tpm().extend(11, b"another kernel");
            }
            vault.recorder().take();
            let mut run = vault.strongroom(&["rebind", "--yes"]).args(&arguments);
            if recovery {
                run = run.arg("--recovery").arg(vault.recovery());
            }
            run.ok();
            vault.recorder().take().len()
        });
        println!("{name:40} {one:>10} {many:>10}");
    }
}

fn seal(vault: &TestVault, count: usize) -> Vec<ObjectId> {
    let mut open = open(vault, &vault.tpm().tcti());
    (0..count)
        .map(|number| {
            let label = format!("tank/{number}").parse().expect("a label");
            let object = NewObject::new(TokenName::keys(), label, Kind::SecretKey);
            open.seal(object, &Secret::random(32)).expect("sealed")
        })
        .collect()
}

fn open(vault: &TestVault, tcti: &str) -> strongroom::Unlocked {
    let tcti: Tcti = tcti.parse().expect("a TCTI");
    let vault = Vault::open(&vault.dir()).expect("a vault");
    vault.unlock(&tcti).expect("the usual boot")
}

/// systemd is not everywhere where this runs, and is not installed for its sake.
fn has_systemd_creds() -> bool {
    Path::new("/usr/bin/systemd-creds").exists()
}

fn shell(folder: &Path, tcti: &str, line: &str) {
    let script = format!("cd '{}' && {line}", folder.display());
    Run::new("sh")
        .args(["-c", &script])
        .env("TPM2TOOLS_TCTI", tcti)
        .env("TSS2_LOG", "all+NONE")
        .timeout(Duration::from_secs(30))
        .ok();
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}
