//! A virtual machine of the test's own, for what only a real kernel shows: ZFS, the TPM's device
//! and the kernel's resource manager, a boot that firmware, boot loader and kernel measure.
//!
//! `tests/vm` builds what it boots, and says how. A [`Machine`] keeps its root, its firmware's
//! variables and its TPM from boot to boot, as a box does; each [`Boot`] runs one script as root.
//!
//! In the machine: the built programs are in `/usr/local/bin`; `/var` and the rest of the root
//! outlast a reboot; there is no network. A script is one of bash and begins with
//! `tests/vm/tools.sh`, so it ends with the first command that fails. A boot without systemd is the
//! quicker one, and has no udev, so ZFS wants files there and not whole disks.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::c_library::CLibrary;
use crate::recorder::Command;
use crate::swtpm::socket_folder;
use crate::tpm_commands::of_log;
use crate::{Daemon, Output, Programs, Run};

/// How a machine starts.
#[derive(Clone, Debug)]
#[must_use]
pub struct Boot {
    firmware: Firmware,
    command_line: String,
    initrd: Initrd,
    systemd: bool,
    tpm: bool,
    tpm_command: Duration,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum Initrd {
    /// The machine's own, and behind it another archive.
    Ours(Vec<u8>),
    /// One that was made otherwise.
    Theirs(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Firmware {
    /// The kernel itself, without UEFI: PCRs 9 and 11 stay at zero.
    Direct,
    /// UEFI and a unified kernel image.
    Uefi { signed: bool },
}

impl Boot {
    /// The quickest way: QEMU starts the kernel, and nobody measures it.
    pub fn direct() -> Self {
        Self {
            firmware: Firmware::Direct,
            command_line: "console=ttyS0 panic=-1 quiet".to_owned(),
            initrd: Initrd::Ours(Vec::new()),
            systemd: false,
            tpm: true,
            tpm_command: Duration::ZERO,
            timeout: Duration::from_secs(180),
        }
    }

    /// UEFI and a unified kernel image. Firmware, systemd's stub and the kernel extend PCRs, 7, 9
    /// and 11 among them, and leave the event log.
    pub fn measured() -> Self {
        Self {
            firmware: Firmware::Uefi { signed: true },
            ..Self::direct()
        }
    }

    /// The same, by an image that nobody signed.
    pub fn unsigned() -> Self {
        Self {
            firmware: Firmware::Uefi { signed: false },
            ..Self::direct()
        }
    }

    /// Adds to the kernel's command line. In a measured boot PCR 11 tells.
    pub fn command_line(mut self, words: &str) -> Self {
        self.command_line = format!("{} {words}", self.command_line);
        self
    }

    /// Adds a file of this content to the initrd. In a measured boot PCRs 9 and 11 tell.
    pub fn initrd(mut self, content: &str) -> Self {
        self.initrd = Initrd::Ours(one_file_archive("another-initrd", content.as_bytes()));
        self
    }

    /// Takes an initrd that was made in the machine, which finds the root by itself, and what the
    /// host sends only later, by `machine-run`.
    pub fn other_initrd(mut self, file: &Path) -> Self {
        self.initrd = Initrd::Theirs(file.to_owned());
        self
    }

    /// Boots without a TPM.
    pub fn without_tpm(mut self) -> Self {
        self.tpm = false;
        self
    }

    /// Has the TPM take so much longer for each command, as a chip does.
    pub fn slow_tpm(mut self, command: Duration) -> Self {
        self.tpm_command = command;
        self
    }

    /// Boots systemd, and runs the script when all of multi-user.target has been started.
    pub fn systemd(mut self) -> Self {
        self.systemd = true;
        self
    }

    /// How long the boot, the script and the end may take: three minutes otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What stands before libtpms in swtpm, to make it as slow as a chip: SLOW_TPM microseconds more for
/// each command.
const SLOW_TPM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

uint32_t TPMLIB_Process(unsigned char **answer, uint32_t *size, uint32_t *buffer,
                        unsigned char *command, uint32_t command_size) {
    usleep(atoi(getenv("SLOW_TPM")));
    uint32_t (*process)(unsigned char **, uint32_t *, uint32_t *, unsigned char *, uint32_t) =
        dlsym(RTLD_NEXT, "TPMLIB_Process");
    return process(answer, size, buffer, command, command_size);
}
"#;

/// What each script begins with.
const TOOLS: &str = include_str!("../vm/tools.sh");

/// What comes back from a script, through a port of virtio's each; `tests/vm/run` writes to them.
const PORTS: [&str; 3] = ["stdout", "stderr", "status"];

/// What firmware starts where nobody has told it of anything else.
const STARTED: &str = "system/EFI/BOOT/BOOTX64.EFI";

/// A machine that is off between two boots.
pub struct Machine {
    parts: &'static Parts,
    folder: TempDir,
    disks: Vec<PathBuf>,
}

impl Machine {
    /// A machine as it comes from the shop: a TPM that nobody owns, Secure Boot off, and a fresh
    /// Debian with the built programs.
    pub fn new() -> Self {
        Self::with_variables(&uefi_file("VARS_4M"))
    }

    /// One whose firmware starts only what the test machine's own key has signed, as it has all
    /// that [`Boot::measured`] starts and nothing that [`Boot::unsigned`] does.
    pub fn with_secure_boot() -> Self {
        Self::with_variables(Parts::get().variables_with_keys())
    }

    fn with_variables(variables: &Path) -> Self {
        let (parts, folder) = (Parts::get(), socket_folder());
        let machine = Self {
            parts,
            folder,
            disks: Vec::new(),
        };
        fs::create_dir(machine.path("tpm")).expect("create the TPM's state folder");
        fs::create_dir_all(machine.path("payload/run/machine")).expect("create a folder");
        fs::copy(variables, machine.path("variables")).expect("copy the firmware's variables");
        Run::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([parts.file("root.ext4"), machine.path("root")])
            .ok();
        machine
    }

    /// Runs a script of bash on this boot; what comes back is the script's own. Panics with the
    /// console's log if the machine ends before the script does, or not at all.
    #[track_caller]
    pub fn run(&mut self, boot: &Boot, script: &str) -> Output {
        let ended = self.boot(boot, script);
        match ended.status {
            Some(code) => ended.output(code, script),
            None => panic!("the script should have ended: {}", ended.console),
        }
    }

    /// Runs a script that cuts the power, by `echo b >/proc/sysrq-trigger`: what was not synced
    /// is lost, and the TPM is not told. The status is that of a kill.
    #[track_caller]
    pub fn run_until_power_cut(&mut self, boot: &Boot, script: &str) -> Output {
        let ended = self.boot(boot, script);
        assert!(
            ended.status.is_none(),
            "the power should have been cut: {}",
            ended.console
        );
        ended.output(128 + 9, script)
    }

    /// Expects that the firmware refuses to start this boot, whose time is then up: there is no
    /// other sign of it but what the console says.
    #[track_caller]
    pub fn refuses(&mut self, boot: &Boot) {
        let boot = boot.clone().timeout(Duration::from_secs(60));
        let ended = self.boot(&boot, "true");
        let console = String::from_utf8_lossy(&ended.console.stdout);
        assert!(
            ended.status.is_none() && console.contains("Access Denied"),
            "the firmware should have refused it: {}",
            ended.console
        );
    }

    /// Puts a file into the machine, before each boot from now on.
    pub fn bring(&mut self, path: &str, content: impl AsRef<[u8]>) {
        let file = self.path("payload").join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().expect("below the folder")).expect("create folders");
        fs::write(file, content).expect("write what the machine gets");
    }

    /// The unified kernel image that a measured boot will start.
    pub fn kernel_image(&self, boot: &Boot) -> Vec<u8> {
        self.write_initrd(boot);
        let signed = boot.firmware != Firmware::Uefi { signed: false };
        self.write_unified_kernel_image(&boot.command_line, signed);
        fs::read(self.path(STARTED)).expect("just written")
    }

    /// Adds a disk: the first is `/dev/vdd` in the machine, the next `/dev/vde`. Between two boots
    /// the file is the test's to read and write.
    pub fn add_disk(&mut self, size: u64) -> PathBuf {
        let disk = self.path(&format!("disk-{}", self.disks.len()));
        let file = File::create(&disk).expect("create a disk");
        file.set_len(size).expect("size a disk");
        self.disks.push(disk.clone());
        disk
    }

    /// Takes the firmware's keys away, so that it starts whatever there is.
    pub fn switch_secure_boot_off(&mut self) {
        fs::copy(uefi_file("VARS_4M"), self.path("variables")).expect("copy the variables");
    }

    /// Puts another TPM in, as a new mainboard does.
    pub fn replace_tpm(&mut self) {
        fs::remove_dir_all(self.path("tpm")).expect("remove the TPM's state");
        fs::create_dir(self.path("tpm")).expect("create the TPM's state folder");
    }

    /// All commands that the TPM has executed since the last power-on, firmware's and kernel's
    /// included, as swtpm itself saw them: behind the kernel's resource manager.
    pub fn tpm_commands(&self) -> Vec<Command> {
        let log = fs::read_to_string(self.path("tpm.log")).expect("the machine has been on");
        of_log(&log)
    }

    /// Those between two calls of `tpm-mark NAME` in the script.
    #[track_caller]
    pub fn tpm_commands_between(&self, first: &str, last: &str) -> Vec<Command> {
        let commands = self.tpm_commands();
        let place = |name: &str| {
            let mark = |command: &Command| {
                command.name == "StirRandom" && command.request[12..] == *name.as_bytes()
            };
            let found = commands.iter().position(mark);
            found.unwrap_or_else(|| panic!("the script should have said `tpm-mark {name}`"))
        };
        commands[place(first) + 1..place(last)].to_vec()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    #[track_caller]
    fn boot(&self, boot: &Boot, script: &str) -> Ended {
        let begun = Instant::now();
        self.write_payload(boot, script);
        let initrd = self.write_initrd(boot);

        // Two machines at once on few cores would both run out of time.
        let turn = File::create(self.parts.folder.with_file_name("turn")).expect("open the lock");
        flock(&turn, FlockOperation::LockExclusive).expect("wait for the machine that is on");

        // What the boot before left.
        for name in PORTS {
            let _ = fs::remove_file(self.path(name));
        }
        let _tpm = boot.tpm.then(|| self.power_tpm(boot.tpm_command));
        let mut qemu = self.qemu(boot);
        qemu = match boot.firmware {
            Firmware::Direct => qemu
                .arg("-kernel")
                .arg(self.parts.file("vmlinuz"))
                .arg("-initrd")
                .arg(initrd)
                .args(["-append", &boot.command_line]),
            Firmware::Uefi { signed } => {
                self.write_unified_kernel_image(&boot.command_line, signed);
                self.with_uefi(qemu)
            }
        };
        // It ends by the time itself, and this is the second line.
        let console = qemu
            .timeout(boot.timeout + Duration::from_secs(30))
            .finish();
        let [stdout, stderr, status] = PORTS.map(|name| fs::read(self.path(name)));
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ended {
            status: text(&status.unwrap_or_default()).parse().ok(),
            stdout: stdout.unwrap_or_default(),
            stderr: text(&stderr.unwrap_or_default()),
            took: begun.elapsed(),
            console,
        }
    }

    fn write_initrd(&self, boot: &Boot) -> PathBuf {
        let initrd = self.path("initrd");
        let all = match &boot.initrd {
            Initrd::Ours(more) => {
                let ours = fs::read(self.parts.file("initrd")).expect("the initrd was built");
                [ours.as_slice(), more].concat()
            }
            Initrd::Theirs(file) => fs::read(file).expect("the machine has made it"),
        };
        fs::write(&initrd, all).expect("write the initrd");
        initrd
    }

    /// What the machine gets with this boot, as an archive on a disk.
    fn write_payload(&self, boot: &Boot, script: &str) {
        let payload = self.path("payload");
        let init = if boot.systemd {
            "/sbin/init"
        } else {
            "/usr/local/sbin/machine-run"
        };
        fs::write(payload.join("run/machine/init"), init).expect("write what is process 1");
        let script = format!("{TOOLS}\n{script}");
        fs::write(payload.join("run/machine/script"), script).expect("write the script");
        // Files without the folders above them, whose owners and modes are the machine's own.
        let files = Run::new("find")
            .arg(&payload)
            .args(["-type", "f", "-printf", "%P\\0"])
            .ok();
        Run::new("tar")
            .args(["--create", "--owner=0", "--group=0", "--file"])
            .arg(self.path("payload.tar"))
            .arg("--directory")
            .arg(payload)
            .args(["--null", "--files-from=-"])
            .stdin(files.stdout)
            .ok();
    }

    fn power_tpm(&self, command_takes: Duration) -> Daemon {
        let socket = self.path("tpm.socket");
        let _ = fs::remove_file(&socket);
        // It would be added to.
        let _ = fs::remove_file(self.path("tpm.log"));
        let mut command = Daemon::command("swtpm");
        command
            .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
            .arg(format!("dir={}", self.path("tpm").display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", socket.display()))
            .arg("--log")
            // The level at which it writes down every byte of every command.
            .arg(format!("level=20,file={}", self.path("tpm.log").display()));
        if !command_takes.is_zero() {
            static BUILT: OnceLock<CLibrary> = OnceLock::new();
            let library = BUILT.get_or_init(|| CLibrary::build(SLOW_TPM)).path();
            command
                .env("LD_PRELOAD", library)
                .env("SLOW_TPM", command_takes.as_micros().to_string());
        }
        let mut daemon = Daemon::spawn(command, &self.path("tpm.output"));
        daemon.wait_until("swtpm listens", |_| socket.exists().then_some(()));
        daemon
    }

    /// QEMU with all but what it boots. Its standard output is the machine's console.
    fn qemu(&self, boot: &Boot) -> Run {
        let (cpu, cpus) = match self.parts.accelerator.as_str() {
            "kvm" => ("host", "2"),
            // QEMU 7.2 computes flags wrongly after this one instruction, and newer kernels fall.
            // They fall too, now and then, where one processor runs what another one is just
            // writing, as a kernel patches itself.
            _ => ("max,-cx16", "1"),
        };
        let mut qemu = Run::new("setpriv")
            .args(["--pdeathsig", "TERM", "timeout", "--signal=KILL"])
            .arg(boot.timeout.as_secs().to_string())
            .arg("qemu-system-x86_64")
            .args(["-accel", &self.parts.accelerator, "-cpu", cpu])
            .args(["-machine", "q35,smm=on", "-m", "1024", "-smp", cpus])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-nic", "none"])
            .args(["-device", "virtio-rng-pci"])
            .args(["-chardev", "stdio,id=console,signal=off"])
            .args(["-serial", "chardev:console"])
            .args(["-device", "virtio-serial-pci"]);
        if boot.tpm {
            let socket = self.path("tpm.socket");
            qemu = qemu
                .arg("-chardev")
                .arg(format!("socket,id=tpm,path={}", socket.display()))
                .args(["-tpmdev", "emulator,id=tpm,chardev=tpm"])
                .args(["-device", "tpm-crb,tpmdev=tpm"]);
        }
        for (port, name) in PORTS.iter().enumerate() {
            let file = self.path(name);
            qemu = qemu
                .arg("-chardev")
                .arg(format!("file,id={name},path={}", file.display()))
                .arg("-device")
                .arg(format!("virtserialport,chardev={name},nr={}", port + 1));
        }
        // In the order of their names in the machine: /dev/vda is the first.
        qemu = disk(qemu, "root", "format=qcow2", &self.path("root"));
        let read_only = "format=raw,readonly=on";
        qemu = disk(qemu, "payload", read_only, &self.path("payload.tar"));
        qemu = disk(qemu, "programs", read_only, &self.parts.programs);
        for (index, file) in self.disks.iter().enumerate() {
            qemu = disk(qemu, &format!("disk-{index}"), "format=raw", file);
        }
        qemu
    }

    /// Adds the firmware, and the disk that it boots from.
    fn with_uefi(&self, qemu: Run) -> Run {
        let code = uefi_file("CODE_4M.secboot");
        let variables = self.path("variables");
        let system = self.path("system");
        qemu.arg("-drive")
            .arg(format!(
                "if=pflash,unit=0,format=raw,readonly=on,file={}",
                code.display()
            ))
            .arg("-drive")
            .arg(format!(
                "if=pflash,unit=1,format=raw,file={}",
                variables.display()
            ))
            .args(["-global", "driver=cfi.pflash01,property=secure,value=on"])
            .arg("-drive")
            .arg(format!(
                "if=none,id=system,format=raw,readonly=on,file=fat:ro:{}",
                system.display()
            ))
            .args(["-device", "virtio-blk-pci,drive=system,bootindex=0"])
    }

    /// The kernel, its initrd and its command line as further sections of systemd's stub.
    fn write_unified_kernel_image(&self, command_line: &str, signed: bool) {
        const PAGE: u64 = 0x1000;
        let stub = self.parts.file("stub.efi");
        let started = self.path(STARTED);
        let folder = started.parent().expect("it is in a folder");
        fs::create_dir_all(folder).expect("create the system partition");
        fs::write(self.path("cmdline"), command_line).expect("write the command line");
        fs::write(self.path("osrel"), "ID=strongroom-tests\n").expect("write the release");

        let mut objcopy = Run::new("objcopy");
        let mut address = end_of_image(&fs::read(&stub).expect("the stub was built"));
        for (section, file) in [
            ("osrel", self.path("osrel")),
            ("cmdline", self.path("cmdline")),
            ("linux", self.parts.file("vmlinuz")),
            ("initrd", self.path("initrd")),
        ] {
            address = address.next_multiple_of(PAGE);
            objcopy = objcopy
                .arg("--add-section")
                .arg(format!(".{section}={}", file.display()))
                .arg("--change-section-vma")
                .arg(format!(".{section}={address:#x}"));
            address += fs::metadata(file).expect("just written").len();
        }
        let image = self.path("image");
        objcopy.arg(stub).arg(&image).ok();
        let mut made = fs::read(&image).expect("just written");
        // The same parts are the same image, whenever it is made.
        set_no_time(&mut made);
        fs::write(&image, made).expect("write the image");
        if signed {
            let mut sbsign = Run::new("sbsign").args(self.parts.key());
            sbsign = sbsign.arg("--output").arg(started).arg(image);
            sbsign.ok();
        } else {
            fs::rename(image, started).expect("both are in the machine's folder");
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// What is left when a machine has gone off.
struct Ended {
    /// The script's, if it came to its end.
    status: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
    took: Duration,
    console: Output,
}

impl Ended {
    fn output(self, code: i32, script: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: self.stdout,
            stderr: self.stderr,
            took: self.took,
            command: format!("in a machine:\n{script}"),
        }
    }
}

/// What all machines of this process are made of.
struct Parts {
    /// What `tests/vm/build` has built.
    folder: PathBuf,
    accelerator: String,
    /// A file system with the built programs.
    programs: PathBuf,
}

impl Parts {
    fn get() -> &'static Self {
        static PARTS: OnceLock<Parts> = OnceLock::new();
        PARTS.get_or_init(|| {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/build");
            let built = Run::new(script).timeout(Duration::from_secs(1800)).ok();
            let folder = PathBuf::from(built.text().trim_end());
            let accelerator = fs::read_to_string(folder.join("accel")).expect("it was chosen");
            let accelerator = accelerator.lines().next().expect("it is there").to_owned();
            Self {
                folder,
                accelerator,
                programs: programs_disk(&Programs::locate()),
            }
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Options that sign with the machine's key.
    fn key(&self) -> Vec<PathBuf> {
        vec![
            "--key".into(),
            self.file("db.key"),
            "--cert".into(),
            self.file("db.crt"),
        ]
    }

    /// The firmware's variables with the machine's key as platform key, key exchange key and in
    /// db: a machine itself writes them, once, as whoever owns one may while it has no keys.
    fn variables_with_keys(&'static self) -> &'static Path {
        static VARIABLES: OnceLock<PathBuf> = OnceLock::new();
        VARIABLES.get_or_init(|| {
            let finished = self.file("variables");
            if finished.exists() {
                return finished;
            }
            let mut machine = Machine::new();
            let list = machine.path("list");
            Run::new("sbsiglist")
                .args(["--owner", OWNER, "--type", "x509", "--output"])
                .arg(&list)
                .arg(self.certificate(&machine.path("db.der")))
                .ok();
            for variable in ["db", "KEK", "PK"] {
                let update = machine.path(variable);
                Run::new("sbvarsign")
                    .args(self.key())
                    .args(["--include-attrs", "--attr", VARIABLE, "--output"])
                    .arg(&update)
                    .arg(variable)
                    .arg(&list)
                    .ok();
                let update = fs::read(update).expect("just written");
                machine.bring(&format!("/run/machine/{variable}"), update);
            }
            machine.run(&Boot::measured(), ENROL_KEYS).ok();
            // Whoever comes second writes the same again.
            let partial = self.file(&format!("variables.{}", std::process::id()));
            fs::copy(machine.path("variables"), &partial).expect("copy the variables");
            fs::rename(partial, &finished).expect("keep the variables");
            finished
        })
    }

    fn certificate(&self, der: &Path) -> PathBuf {
        Run::new("openssl")
            .args(["x509", "-outform", "DER", "-in"])
            .arg(self.file("db.crt"))
            .arg("-out")
            .arg(der)
            .ok();
        der.to_owned()
    }
}

/// Whose keys they are: any UUID.
const OWNER: &str = "5bd8a9ea-3cb7-4f7b-9b8e-6b0c6a1f4c10";

/// What such a variable is; sbvarsign would also say that the write appends.
const VARIABLE: &str =
    "NON_VOLATILE,BOOTSERVICE_ACCESS,RUNTIME_ACCESS,TIME_BASED_AUTHENTICATED_WRITE_ACCESS";

/// Each in one write, as the kernel wants it, and the platform key last: it closes the door.
const ENROL_KEYS: &str = r"
set -e
cd /run/machine
variables=/sys/firmware/efi/efivars
global=8be4df61-93ca-11d2-aa0d-00e098032b8c
database=d719b2cb-3d3a-4596-a3bc-dad00e67656f
dd bs=64K status=none if=db of=$variables/db-$database
dd bs=64K status=none if=KEK of=$variables/KEK-$global
dd bs=64K status=none if=PK of=$variables/PK-$global
";

/// Adds a disk.
fn disk(qemu: Run, id: &str, options: &str, file: &Path) -> Run {
    let file = file.display();
    qemu.arg("-drive")
        .arg(format!(
            "if=none,id={id},cache=unsafe,{options},file={file}"
        ))
        .arg("-device")
        .arg(format!("virtio-blk-pci,drive={id}"))
}

/// A file of the UEFI firmware that Debian's ovmf has.
fn uefi_file(name: &str) -> PathBuf {
    PathBuf::from(format!("/usr/share/OVMF/OVMF_{name}.fd"))
}

/// A file system with the built programs, beside them; it is made again when they are.
fn programs_disk(programs: &Programs) -> PathBuf {
    let built = [
        programs.strongroom(),
        programs.zfs_keyprovider(),
        programs.credential_provider(),
        programs.pkcs11_module(),
    ];
    let folder = built[0].parent().expect("a program is in a folder");
    let disk = folder.join("machine-programs.ext4");
    let lock = File::create(folder.join("machine-programs.lock")).expect("open the lock");
    flock(&lock, FlockOperation::LockExclusive).expect("wait for whoever makes it");
    let made = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let newest = built.iter().map(|path| made(path).expect("it is built"));
    if made(&disk).is_ok_and(|disk| newest.max().is_some_and(|newest| newest < disk)) {
        return disk;
    }
    let stage = tempfile::tempdir_in(folder).expect("create a folder");
    fs::set_permissions(
        stage.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("it is the test's own");
    for program in &built {
        let name = program.file_name().expect("a program has a name");
        Run::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(stage.path().join(name))
            .arg(program)
            .ok();
    }
    let partial = folder.join("machine-programs.partial");
    let _ = fs::remove_file(&partial);
    Run::new("mke2fs")
        .args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E"])
        .args(["root_owner=0:0", "-d"])
        .arg(stage.path())
        .arg(&partial)
        .arg("256M")
        .ok();
    fs::rename(&partial, &disk).expect("keep the disk");
    disk
}

/// The first address after all sections of a PE image of 64 bits.
fn end_of_image(image: &[u8]) -> u64 {
    let u16_at = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let u32_at = |at: usize| {
        let bytes = image[at..at + 4].try_into();
        u32::from_le_bytes(bytes.expect("four bytes"))
    };
    let header = u32_at(0x3c) as usize + 4;
    let optional = header + 20;
    let base = u64::from(u32_at(optional + 24)) | u64::from(u32_at(optional + 28)) << 32;
    let sections = optional + usize::from(u16_at(header + 16));
    (0..usize::from(u16_at(header + 2)))
        .map(|index| sections + 40 * index)
        .map(|section| base + u64::from(u32_at(section + 8)) + u64::from(u32_at(section + 12)))
        .max()
        .expect("an image has sections")
}

/// Takes the time at which it was linked out of a PE image.
fn set_no_time(image: &mut [u8]) {
    let header = image[0x3c..0x40].try_into().map(u32::from_le_bytes);
    let time = header.expect("four bytes") as usize + 8;
    image[time..time + 4].fill(0);
}

/// An archive of one file as the kernel unpacks it behind another initrd.
fn one_file_archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in [(name, 0o100_644, content), ("TRAILER!!!", 0, &[])] {
        let fields = [
            0,
            mode,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        archive.extend_from_slice(b"070701");
        for field in fields {
            write!(archive, "{field:08x}").expect("memory can be written");
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}
