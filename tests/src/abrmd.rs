//! A resource manager in front of the test's TPM: tpm2-abrmd, on a D-Bus of its own.

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;

use tempfile::TempDir;

use crate::swtpm::socket_folder;
use crate::{Daemon, Run};

/// What clients of the resource manager write in TCTI notation. The bus is the session bus, and
/// which that is stands in their environment, see [`Abrmd::environment`].
pub const TCTI: &str = "tabrmd:bus_type=session";

/// A running tpm2-abrmd. It has the TPM to itself as a kernel's resource manager has; a test may
/// still ask the TPM itself what is loaded.
pub struct Abrmd {
    // Dropped in this order: the broker before its bus, and both before their folder.
    _broker: Daemon,
    _bus: Daemon,
    folder: TempDir,
}

impl Abrmd {
    /// Puts a resource manager in front of the TPM at `tcti`: a [`Swtpm`](crate::Swtpm), or the
    /// [`Recorder`](crate::Recorder) of one, which then sees what the broker makes of its clients'
    /// commands.
    pub fn start(tcti: &str) -> Self {
        let folder = socket_folder();
        let bus = start_bus(&folder);
        let mut command = Daemon::command("tpm2-abrmd");
        command
            // Tests run as root in some places, and here the bus is nobody else's.
            .args(["--allow-root", "--session", "--logger=stdout"])
            .arg(format!("--tcti={tcti}"))
            .env("DBUS_SESSION_BUS_ADDRESS", address(&folder));
        let mut broker = Daemon::spawn(command, &folder.path().join("abrmd.log"));
        broker.wait_until("tpm2-abrmd answers", |_| answers(&folder).then_some(()));
        Self {
            _broker: broker,
            _bus: bus,
            folder,
        }
    }

    /// What leads a client to the TPM through this resource manager: ours, tpm2-pkcs11, or one of
    /// tpm2-tools.
    pub fn environment(&self) -> [(&'static str, OsString); 4] {
        [
            ("STRONGROOM_TCTI", TCTI.into()),
            ("TPM2_PKCS11_TCTI", TCTI.into()),
            ("TPM2TOOLS_TCTI", TCTI.into()),
            ("DBUS_SESSION_BUS_ADDRESS", address(&self.folder).into()),
        ]
    }
}

/// A D-Bus that everybody who finds its socket may use, and that starts no services by itself.
fn start_bus(folder: &TempDir) -> Daemon {
    let config = folder.path().join("bus.conf");
    let text = format!(
        "<busconfig>\
           <type>session</type>\
           <listen>{}</listen>\
           <auth>EXTERNAL</auth>\
           <policy context=\"default\">\
             <allow send_destination=\"*\" eavesdrop=\"true\"/>\
             <allow eavesdrop=\"true\"/>\
             <allow own=\"*\"/>\
           </policy>\
         </busconfig>",
        address(folder)
    );
    fs::write(&config, text).expect("write the bus's configuration");
    let mut command = Daemon::command("dbus-daemon");
    command
        .args(["--nofork", "--nopidfile", "--config-file"])
        .arg(config);
    let mut bus = Daemon::spawn(command, &folder.path().join("bus.log"));
    // Its socket is there before anybody listens at it.
    bus.wait_until("the bus answers", |_| {
        UnixStream::connect(folder.path().join("bus")).ok()
    });
    bus
}

fn address(folder: &TempDir) -> String {
    format!("unix:path={}", folder.path().join("bus").display())
}

fn answers(folder: &TempDir) -> bool {
    Run::new("tpm2")
        .args(["getrandom", "--hex", "1"])
        .env("TPM2TOOLS_TCTI", TCTI)
        .env("DBUS_SESSION_BUS_ADDRESS", address(folder))
        .finish()
        .status
        .success()
}
