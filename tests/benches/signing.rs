//! What it costs to sign through the module, beside tpm2-pkcs11, each on a software TPM of its own,
//! in one run: TPM commands first, then time.
//!
//! Each round takes one contestant after the other, so that a machine whose speed drifts drifts for
//! both. Both go through the same libtss2, and every signature is verified, after the clock was
//! stopped. A contestant that fails or hangs is told of, and does not end the run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use strongroom_tests::host::{Answer, Done, Failure};
use strongroom_tests::{Abrmd, Host, KeyType, Recorder, Swtpm, Token, Tpm2Pkcs11, tpm2_pkcs11};

/// How often a host is started.
const STARTS: usize = 15;

/// How often it is counted how many signatures are made, and in how long: longer than the module
/// holds a key in the TPM.
const ROUNDS: usize = 5;
const WHILE: Duration = Duration::from_secs(2);

const KEYS: [(KeyType, &str, &str); 2] = [
    (KeyType::Rsa2048, "rsa", "RSA-2048"),
    (KeyType::P256, "p256", "P-256"),
];

fn main() {
    // Under `cargo test --benches` there is nothing to measure.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let (token, peer) = (Token::guarded(), Tpm2Pkcs11::new());
    for (key, label, _) in KEYS {
        token.generate(key, label);
        peer.generate(key, label);
    }
    let both = [Contestant::ours(&token), Contestant::peer(&peer)];
    // `-- start-up`, `-- commands` or `-- throughput` measures that alone.
    let wanted = |part: &str| {
        let mut parts = std::env::args().skip(1).filter(|it| !it.starts_with('-'));
        let first = parts.next();
        first.is_none_or(|first| first == part) || parts.any(|it| it == part)
    };
    if wanted("start-up") {
        println!("Until the first signature ({STARTS} rounds, swtpm, one run)\n");
        start_up(&both);
    }
    if wanted("commands") {
        println!("\nTPM commands for each signature\n");
        commands(&both);
    }
    if wanted("throughput") {
        println!(
            "\nSignatures in a second, of all threads or processes together ({ROUNDS} rounds)\n"
        );
        throughput(&both);
    }
}

struct Contestant<'a> {
    name: &'static str,
    module: PathBuf,
    environment: Vec<(&'static str, OsString)>,
    /// The variable that names the TCTI.
    tcti: &'static str,
    /// Who has one logs in.
    pin: Option<&'static str>,
    tpm: &'a Swtpm,
    recorder: &'a Recorder,
}

/// Where a host reaches the TPM.
#[derive(Clone, Copy)]
enum Place<'a> {
    Bare,
    Recorded,
    Managed(&'a Abrmd),
}

impl<'a> Contestant<'a> {
    fn ours(token: &'a Token) -> Self {
        let vault = token.vault().expect("it is ours");
        Self {
            name: "strongroom",
            module: token.module().to_owned(),
            environment: token.environment().to_vec(),
            tcti: "STRONGROOM_TCTI",
            pin: token.pin(),
            tpm: vault.tpm(),
            recorder: vault.recorder(),
        }
    }

    fn peer(token: &'a Tpm2Pkcs11) -> Self {
        Self {
            name: "tpm2-pkcs11",
            module: token.module(),
            environment: token.environment().to_vec(),
            tcti: "TPM2_PKCS11_TCTI",
            pin: Some(tpm2_pkcs11::PIN),
            tpm: token.tpm(),
            recorder: token.recorder(),
        }
    }

    fn host(&self, place: Place) -> Host {
        let mut environment = self.environment.clone();
        match place {
            Place::Bare => environment.push((self.tcti, self.tpm.tcti().into())),
            Place::Recorded => environment.push((self.tcti, self.recorder.tcti().into())),
            Place::Managed(abrmd) => environment.extend(abrmd.environment()),
        }
        Host::start(&self.module, environment)
    }

    /// Takes out of the TPM what was left there, and forgives what the TPM took for attacks: it has
    /// no resource manager. Neither counted nor timed.
    fn clean_up(&self) {
        self.tpm.flush();
        self.tpm
            .tpm2(&["dictionarylockout", "--clear-lockout"])
            .ok();
    }
}

/// The steps to a first signature, and what a list costs without a login.
const STEPS: [&str; 5] = [
    "load, C_Initialize",
    "C_OpenSession",
    "C_Login",
    "first signature, P-256",
    "load, list, without login",
];

/// Runs all steps; a step that a contestant has no use for is missing.
fn steps(contestant: &Contestant, place: Place, mut done: impl FnMut(usize, Done)) {
    let expect = |step: usize, answer: Answer| match answer {
        Ok(done) => done,
        Err(error) => panic!("{}: {}: {error:?}", contestant.name, STEPS[step]),
    };
    let mut host = contestant.host(place);
    done(0, expect(0, host.initialize()));
    done(1, expect(1, host.open()));
    if let Some(pin) = contestant.pin {
        done(2, expect(2, host.log_in(pin)));
    }
    done(3, expect(3, host.sign("p256", 1)));
    host.finish().expect("it finishes");
    contestant.clean_up();

    // Cleaning up is no part of the next step.
    contestant.recorder.take();
    let mut host = contestant.host(place);
    let parts = [host.initialize(), host.open(), host.list()].map(|answer| expect(4, answer));
    done(
        4,
        Done {
            count: parts[2].count,
            took: parts.iter().map(|part| part.took).sum(),
        },
    );
    host.finish().expect("it finishes");
    contestant.clean_up();
}

fn start_up(both: &[Contestant; 2]) {
    let commands = both.each_ref().map(|contestant| {
        let mut counts = [None; STEPS.len()];
        contestant.recorder.take();
        steps(contestant, Place::Recorded, |step, _| {
            counts[step] = Some(contestant.recorder.take().len());
        });
        counts
    });
    let mut times = [const { [const { Vec::new() }; STEPS.len()] }; 2];
    for _ in 0..STARTS {
        for (contestant, times) in both.iter().zip(&mut times) {
            steps(contestant, Place::Bare, |step, done| {
                times[step].push(done.took.as_secs_f64() * 1e3);
            });
        }
    }
    let times = times.map(|steps| steps.map(|times| median(&times)));

    println!("{:28} {:>25}   {:>25}", "", "TPM commands", "median ms");
    println!(
        "{:28} {:>12} {:>12}   {:>12} {:>12} {:>7}",
        "", both[0].name, both[1].name, both[0].name, both[1].name, "ratio"
    );
    let row = |name: &str, commands: [Option<usize>; 2], times: [Option<f64>; 2]| {
        let [ours, peers] = commands.map(|count| shown(count.map(|count| count.to_string())));
        let ratio = match times {
            [Some(ours), Some(peers)] => Some(format!("{:.2}", ours / peers)),
            _ => None,
        };
        let [own_time, peers_time] = times.map(|time| shown(time.map(|time| format!("{time:.2}"))));
        println!(
            "{name:28} {ours:>12} {peers:>12}   {own_time:>12} {peers_time:>12} {:>7}",
            shown(ratio)
        );
    };
    for (step, name) in STEPS.iter().enumerate() {
        if step == STEPS.len() - 1 {
            row(
                "together",
                commands.map(|steps| Some(steps[..step].iter().flatten().sum())),
                times.map(|steps| Some(steps[..step].iter().flatten().sum())),
            );
            println!();
        }
        row(
            name,
            [commands[0][step], commands[1][step]],
            [times[0][step], times[1][step]],
        );
    }
}

fn commands(both: &[Contestant; 2]) {
    println!("{:40} {:>12} {:>12}", "", both[0].name, both[1].name);
    for (_, label, name) in KEYS {
        let counts = both.each_ref().map(|contestant| {
            let mut host = contestant.host(Place::Recorded);
            let ready = host.prepare(contestant.pin);
            let outcome = ready.and_then(|_| host.sign(label, 1)).and_then(|_| {
                contestant.recorder.take();
                host.sign(label, 1)
            });
            let loaded = outcome.map(|_| contestant.recorder.take().len().to_string());
            host.start_signing(label, 1, WHILE);
            let sustained = host.outcome(WHILE).map(|done| per(contestant, done));
            drop(host);
            contestant.clean_up();

            let abrmd = Abrmd::start(&contestant.recorder.tcti());
            let mut host = contestant.host(Place::Managed(&abrmd));
            let ready = host.prepare(contestant.pin);
            let managed = ready.and_then(|_| host.sign(label, 1)).and_then(|_| {
                contestant.recorder.take();
                host.start_signing(label, 1, WHILE);
                host.outcome(WHILE).map(|done| per(contestant, done))
            });
            drop(host);
            drop(abrmd);
            contestant.clean_up();
            [loaded, sustained, managed].map(|outcome| outcome.unwrap_or_else(|error| error.reason))
        });
        let what = [
            "the key is loaded",
            "for seconds, all included",
            "the same, behind tpm2-abrmd",
        ];
        for (number, what) in what.iter().enumerate() {
            println!(
                "{:40} {:>12} {:>12}",
                format!("{name}, {what}"),
                counts[0][number],
                counts[1][number]
            );
        }
    }
}

/// The commands that were recorded, for each signature.
fn per(contestant: &Contestant, done: Done) -> String {
    #[allow(clippy::cast_precision_loss)] // There are not so many.
    let commands = contestant.recorder.take().len() as f64;
    format!("{:.2}", commands / f64::from(done.count))
}

/// Who signs at once.
#[derive(Clone, Copy)]
struct Crowd {
    name: &'static str,
    managed: bool,
    processes: usize,
    threads: u32,
}

const CROWDS: [Crowd; 6] = [
    Crowd {
        name: "1 thread",
        managed: false,
        processes: 1,
        threads: 1,
    },
    Crowd {
        name: "16 threads",
        managed: false,
        processes: 1,
        threads: 16,
    },
    Crowd {
        name: "8 processes",
        managed: false,
        processes: 8,
        threads: 1,
    },
    Crowd {
        name: "tpm2-abrmd, 1 process",
        managed: true,
        processes: 1,
        threads: 1,
    },
    Crowd {
        name: "tpm2-abrmd, 16 threads",
        managed: true,
        processes: 1,
        threads: 16,
    },
    Crowd {
        name: "tpm2-abrmd, 8 processes",
        managed: true,
        processes: 8,
        threads: 1,
    },
];

fn throughput(both: &[Contestant; 2]) {
    let mut rates = vec![[const { Rates::new() }; 2]; KEYS.len() * CROWDS.len()];
    for _ in 0..ROUNDS {
        let mut row = rates.iter_mut();
        for (_, label, _) in KEYS {
            for crowd in CROWDS {
                let row = row.next().expect("there is one for each");
                for (rates, contestant) in row.iter_mut().zip(both) {
                    rates.add(|| rate(contestant, label, crowd));
                }
            }
        }
    }

    println!(
        "{:34} {:>14} {:>14} {:>7}",
        "", both[0].name, both[1].name, "ratio"
    );
    let mut rows = rates.iter();
    for (_, _, name) in KEYS {
        let mut alone = None;
        for crowd in CROWDS {
            let row = rows.next().expect("there is one for each");
            let is_alone = crowd.processes == 1 && crowd.threads == 1;
            if is_alone {
                alone = Some(row);
            }
            let [ours, peers] = [0, 1].map(|number| {
                let alone = alone.filter(|_| !is_alone).map(|row| &row[number]);
                row[number].shown(alone)
            });
            println!(
                "{:34} {ours:>14} {peers:>14} {:>7}",
                format!("{name}, {}", crowd.name),
                shown(row[0].against(&row[1]))
            );
        }
    }
    println!(
        "\nIn brackets: against one alone at the same place. Ratios are medians of each round's."
    );
    let mut rows = rates.iter();
    for (_, _, name) in KEYS {
        for crowd in CROWDS {
            let row = rows.next().expect("there is one for each");
            for (rates, contestant) in row.iter().zip(both) {
                if let Some(failure) = &rates.failure {
                    let round = rates.rates.len() + 1;
                    println!(
                        "{}, {name}, {}: fails in round {round}: {failure}",
                        contestant.name, crowd.name
                    );
                }
            }
        }
    }
}

/// The rates of all rounds; up to a failure, after which it is not tried again.
#[derive(Clone)]
struct Rates {
    rates: Vec<f64>,
    failure: Option<String>,
}

impl Rates {
    const fn new() -> Self {
        Self {
            rates: Vec::new(),
            failure: None,
        }
    }

    fn add(&mut self, rate: impl FnOnce() -> Result<f64, Failure>) {
        if self.failure.is_some() {
            return;
        }
        match rate() {
            Ok(rate) => self.rates.push(rate),
            Err(failure) => self.failure = Some(failure.reason),
        }
    }

    /// The median, and its ratio to another's if there is one.
    fn shown(&self, other: Option<&Self>) -> String {
        match median(&self.rates).filter(|_| self.failure.is_none()) {
            None => "fails".to_owned(),
            Some(median) => match other.and_then(|other| self.against(other)) {
                None => format!("{median:.0}       "),
                Some(ratio) => format!("{median:.0} ({ratio})"),
            },
        }
    }

    /// The median ratio to another's rate in the same round.
    fn against(&self, other: &Self) -> Option<String> {
        let (rates, others) = (self.rates.iter(), other.rates.iter());
        let ratios: Vec<_> = rates.zip(others).map(|(one, other)| one / other).collect();
        let whole = self.failure.is_none() && other.failure.is_none();
        median(&ratios)
            .filter(|_| whole)
            .map(|ratio| format!("{ratio:.2}"))
    }
}

/// How many signatures a crowd makes in a second. The first of each process, for which the key must
/// be loaded, is not counted.
fn rate(contestant: &Contestant, label: &str, crowd: Crowd) -> Result<f64, Failure> {
    let abrmd = crowd.managed.then(|| Abrmd::start(&contestant.tpm.tcti()));
    let place = abrmd.as_ref().map_or(Place::Bare, Place::Managed);
    let outcome = sign_at_once(contestant, place, label, crowd);
    drop(abrmd);
    contestant.clean_up();
    outcome
}

fn sign_at_once(
    contestant: &Contestant,
    place: Place,
    label: &str,
    crowd: Crowd,
) -> Result<f64, Failure> {
    let mut hosts = Vec::new();
    for _ in 0..crowd.processes {
        let mut host = contestant.host(place);
        host.prepare(contestant.pin)?;
        host.sign(label, 1)?;
        hosts.push(host);
    }
    for host in &mut hosts {
        host.start_signing(label, crowd.threads, WHILE);
    }
    let mut count = 0.0;
    let mut longest = Duration::ZERO;
    for host in &mut hosts {
        let done = host.outcome(WHILE)?;
        count += f64::from(done.count);
        longest = longest.max(done.took);
    }
    for host in hosts {
        host.finish()?;
    }
    Ok(count / longest.as_secs_f64())
}

fn shown(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// The one in the middle, if there is one.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}
