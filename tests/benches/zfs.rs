//! What it costs to unlock datasets, on a real kernel with a real /dev/tpm0 (in the test machine, with
//! swtpm behind it): TPM commands first, as swtpm sees them behind the kernel, then time, beside a
//! loop that does nothing but what must be done and beside what an admin would write.
//!
//! Time is taken twice: at swtpm as it is, and at one that takes 10 ms more for each command, as a chip
//! does at best. Once more the latter is on this host, whose processor is a real one, over a stand-in for ZFS.
//!
//! `cargo bench -p strongroom-tests --bench zfs [-- raw | slow-tpm | passphrases]`

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use strongroom_tests::{Boot, Gate, Machine, Run, StandInDataset, TestVault, ZfsStandIn};

const RAW: u32 = 100;
/// Of these the peer, which takes its time, unlocks so many in a round.
const PEER: u32 = 20;
/// A discrete TPM takes 10 to 100 ms for each command.
const COMMAND_OF_A_CHIP: Duration = Duration::from_millis(10);
const PASSPHRASES: u32 = 20;
const ITERATIONS: u32 = 350_000;
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Under `cargo test --benches` there is nothing to measure.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let parts = ["raw", "slow-tpm", "passphrases"];
    let named = |part: &str| arguments.iter().any(|argument| argument == part);
    let all = !parts.iter().any(|part| named(part));
    if all || named("raw") {
        raw();
    }
    if all || named("slow-tpm") {
        slow_tpm();
    }
    if all || named("passphrases") {
        passphrases();
    }
}

fn raw() {
    let mut machine = machine();
    let prepare = format!("{PREPARE}\n{TIMING}\nraw={RAW} peer={PEER} rounds={ROUNDS}\n{RAW_KEYS}");
    let ended = machine.run(
        &boot(),
        &format!("{prepare}\n{COUNT}\n{ROUND}\nexport_pools"),
    );
    let at_swtpm = Figures::read(&ended.ok().text());

    println!("Locked datasets with raw keys, in TPM commands for each\n");
    for (name, first, last, objects) in [
        ("load -a of 100, /dev/tpm0", "tpm0", "tpmrm0", RAW),
        ("load -a of 100, /dev/tpmrm0", "tpmrm0", "peer", RAW),
        ("tpm2_unseal | zfs load-key, 20 times", "peer", "end", PEER),
    ] {
        let mut commands = machine.tpm_commands_between(first, last);
        // The kernel's own, for its random numbers.
        commands.retain(|it| it.name != "GetRandom");
        let opens = commands.iter().filter(|it| it.name == "Unseal").count();
        println!(
            "{name:<40} {:>7.1}  ({} commands, {opens} of them Unseal)",
            f64::from(u32::try_from(commands.len()).expect("some thousands")) / f64::from(objects),
            commands.len(),
        );
    }
    at_swtpm.print("at swtpm as it is");

    let again = format!(
        "{TIMING}\nraw={RAW} peer={PEER} rounds={ROUNDS}\nimport_pools\n{PEER_OBJECT}\n{ROUND}"
    );
    let chip = boot().slow_tpm(COMMAND_OF_A_CHIP);
    Figures::read(&machine.run(&chip, &again).ok().text()).print(&format!(
        "at a TPM that takes {} ms more for each command",
        COMMAND_OF_A_CHIP.as_millis()
    ));
}

/// On this host, at a TPM that is as slow as a chip, over a stand-in for ZFS.
fn slow_tpm() {
    let (vault, zfs) = (TestVault::new(), ZfsStandIn::new());
    zfs.pool("tank", 1);
    zfs.dataset("tank", RAW.into(), &StandInDataset::plain());
    let key = [7; 32];
    for number in 0..RAW {
        let name = format!("tank/d{number}");
        zfs.dataset(&name, number.into(), &StandInDataset::raw(&name, &key));
        vault
            .strongroom(&["seal", "--token", "datasets", "--label", &name])
            .args(["--kind", "dataset-key", "--keyformat", "raw"])
            .stdin(key)
            .ok();
    }
    let key_file = vault.folder().join("key");
    fs::write(&key_file, key).expect("written");
    let gate = Gate::start(vault.recorder());
    let run = |program: Run| {
        zfs.restart();
        zfs.around(program).env("STRONGROOM_TCTI", gate.tcti())
    };
    let load = || {
        run(vault
            .run(vault.programs().zfs_keyprovider())
            .args(["load", "-a"]))
        .ok()
    };
    // The first writes recovery copies too.
    load();
    gate.slow_down(COMMAND_OF_A_CHIP);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        times[0].push(load().took.as_secs_f64());
        let floor = run(vault.run(env!("CARGO_BIN_EXE_zfs-floor")).arg(&key_file)).ok();
        let nanoseconds: f64 = floor.text().trim().parse().expect("a number");
        times[1].push(nanoseconds / 1e9);
    }
    let [load, floor] = times.map(median);
    println!(
        "{RAW} locked datasets with raw keys at a TPM that takes {} ms for each command, the median of \
         {ROUNDS} rounds on this host\n",
        COMMAND_OF_A_CHIP.as_millis()
    );
    println!("the five commands and lzc_load_key alone {floor:>9.2} s   1.00");
    println!(
        "load -a                                  {load:>9.2} s  {:>5.3}\n",
        load / floor
    );
}

/// In the machine.
fn passphrases() {
    let mut machine = machine();
    let script = format!(
        "{PREPARE}\n{TIMING}\npassphrases={PASSPHRASES} iterations={ITERATIONS} rounds={ROUNDS}\n{PASSPHRASE_KEYS}"
    );
    let figures = Figures::read(&machine.run(&boot(), &script).ok().text());
    let (derive, load) = (figures.median("derive") / 1e3, figures.median("load"));
    println!(
        "{PASSPHRASES} passphrases of {ITERATIONS} iterations, the median of {ROUNDS} rounds in one boot\n"
    );
    println!("deriving alone, on all processors {:>9.2} s", derive / 1e6);
    println!(
        "load -a                           {:>9.2} s  {:.3}\n",
        load / 1e6,
        load / derive
    );
}

fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.add_disk(1 << 30);
    let floor = fs::read(env!("CARGO_BIN_EXE_zfs-floor")).expect("it is built");
    machine.bring("/run/machine/zfs-floor", floor);
    machine
}

fn boot() -> Boot {
    Boot::direct().timeout(Duration::from_secs(3600))
}

/// What the script has measured: lines of a name and a number.
struct Figures(BTreeMap<String, Vec<f64>>);

impl Figures {
    fn read(text: &str) -> Self {
        let mut figures = BTreeMap::<String, Vec<f64>>::new();
        for line in text.lines() {
            if let Some((name, Ok(figure))) = line.split_once(' ').map(|(n, f)| (n, f.parse())) {
                figures.entry(name.to_owned()).or_default().push(figure);
            }
        }
        Self(figures)
    }

    fn median(&self, name: &str) -> f64 {
        median(self.0.get(name).expect("it was measured").clone())
    }

    /// The times of raw keys.
    fn print(&self, at: &str) {
        println!("\nTime for one {at}, the median of {ROUNDS} rounds in one boot\n");
        let floor = self.median("floor") / f64::from(RAW) / 1e3;
        for (name, time) in [
            ("the five commands and lzc_load_key alone", floor),
            ("load -a of 100", self.median("load") / f64::from(RAW)),
            (
                "tpm2_unseal | zfs load-key",
                self.median("peer") / f64::from(PEER),
            ),
        ] {
            println!("{name:<42} {:>9.1} ms  {:>6.2}", time / 1e3, time / floor);
        }
        println!();
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    assert_eq!(figures.len(), ROUNDS);
    figures.sort_by(f64::total_cmp);
    figures[ROUNDS / 2]
}

const PREPARE: &str = r"
chmod +x /run/machine/zfs-floor
make_disk
strongroom init --recovery-out /var/lib/kit --yes --pcrs 7 >/dev/null
truncate -s 800M /pool/tank
zpool create -O mountpoint=none tank /pool/tank
";

const TIMING: &str = r#"
# measured NAME COMMAND...: how many microseconds it took.
measured() {
    local begun=${EPOCHREALTIME/./} name=$1
    shift
    "$@" >/dev/null
    echo "$name $((${EPOCHREALTIME/./} - begun))"
}
peer() {
    local n
    for ((n = 0; n < peer; n++)); do
        command tpm2 load -Q -C primary.ctx -u sealed.pub -r sealed.priv -c item.ctx -T device:/dev/tpmrm0
        command tpm2 unseal -c item.ctx -p pcr:sha256:7 -T device:/dev/tpmrm0 | zfs load-key tank/d$n
    done
}
unload() { zfs unload-key -a >/dev/null 2>&1 || :; is "$(locked)" $raw; }
"#;

const RAW_KEYS: &str = r#"
a_key raw >/run/key
for ((n = 0; n < raw; n++)); do
    zfs create -o encryption=on -o keyformat=raw -o keylocation=prompt tank/d$n </run/key
    zfs-keyprovider adopt tank/d$n </run/key >/dev/null
done
mkdir /var/lib/peer
cp /run/key /var/lib/peer/key
cd /var/lib/peer
tpm2() { command tpm2 "$@" -T device:/dev/tpmrm0; }
tpm2 createprimary -Q -C o -c primary.ctx
tpm2 startauthsession -Q -S trial.ctx
tpm2 policypcr -Q -S trial.ctx -l sha256:7 -L pcr.policy
tpm2 flushcontext -Q trial.ctx
tpm2 create -Q -C primary.ctx -u sealed.pub -r sealed.priv -i key -L pcr.policy
"#;

/// After a restart.
const PEER_OBJECT: &str = r"
chmod +x /run/machine/zfs-floor
cd /var/lib/peer
command tpm2 createprimary -Q -C o -c primary.ctx -T device:/dev/tpmrm0
";

const COUNT: &str = r"
unload
tpm-mark tpm0
STRONGROOM_TCTI=device:/dev/tpm0 zfs-keyprovider load -a >/dev/null
tpm-mark tpmrm0
unload
STRONGROOM_TCTI=device:/dev/tpmrm0 zfs-keyprovider load -a >/dev/null
tpm-mark peer
unload
peer >/dev/null
tpm-mark end
";

const ROUND: &str = r#"
for ((round = 0; round < rounds; round++)); do
    unload
    measured load zfs-keyprovider load -a
    is "$(locked)" 0
    unload
    floor=$(/run/machine/zfs-floor key)
    echo "floor $floor"
    unload
    measured peer peer
    zfs unload-key -a >/dev/null
done
"#;

const PASSPHRASE_KEYS: &str = r#"
words="correct horse battery"
for ((n = 0; n < passphrases; n++)); do
    echo "$words" | zfs create -o encryption=on -o keyformat=passphrase -o keylocation=prompt \
        -o pbkdf2iters=$iterations tank/d$n
    echo "$words" | zfs-keyprovider adopt tank/d$n >/dev/null
done
for ((round = 0; round < rounds; round++)); do
    zfs unload-key -a >/dev/null
    measured load zfs-keyprovider load -a
    is "$(locked)" 0
    derive=$(/run/machine/zfs-floor --derive $passphrases $iterations)
    echo "derive $derive"
done
"#;
