//! The command line, as clap reads it and as `--help` explains it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use strongroom::Tcti;
use strongroom::dataset_key::KeyFormat;
use strongroom::object::{Kind, Label, ObjectId, TokenLabel, TokenName};
use strongroom::peer::{Fingerprint, PeerId};
use strongroom::policy::{Fence, PcrSelection, Phase};
use strongroom::uri::Selector;

use crate::truenas::middleware::SOCKET;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  some objects failed, the rest are done
  2  wrong usage, or not confirmed
  3  the policy refused: the machine is in another boot state
  4  TPM missing, not the vault's, busy or in lockout
  5  vault missing, damaged, forged or of a newer format
  6  no such object
  7  the input is not what it must be

Environment:
  STRONGROOM_DIR        the vault's folder (default /var/lib/strongroom, else /data/strongroom)
  STRONGROOM_TCTI       the TPM, in tpm2-tss's notation (default /dev/tpm0, else /dev/tpmrm0)
  STRONGROOM_EVENT_LOG  the event log of the present boot (default the kernel's)
  STRONGROOM_LOG        error, warn (default), info, debug";

const MIGRATE_HELP: &str = "\
Examples:
  strongroom migrate plan --database /data/freenas-v1.db --pwenc-secret /data/pwenc_secret
  strongroom migrate --database /data/freenas-v1.db --pwenc-secret /data/pwenc_secret \\
    --backup /mnt/tank/strongroom.backup --yes
  strongroom migrate --resume --yes
  strongroom migrate rollback --database /data/freenas-v1.db --pwenc-secret /data/pwenc_secret --yes

Stop the middleware meanwhile (systemctl stop middlewared). Every secret is sealed, read back and
compared, and copied into the backup, before anything is cleared. A run that was cut short is finished
by the next one.";

const ROLLBACK_HELP: &str = "\
Examples:
  strongroom migrate rollback --database /data/freenas-v1.db --pwenc-secret /data/pwenc_secret --yes
  strongroom migrate rollback --database /data/freenas-v1.db --pwenc-secret /data/pwenc_secret \\
    --recovery kit.txt --backup /mnt/tank/strongroom.backup --yes

Values that are something else by now are left as they are. The vault keeps its objects. Private keys
that are in the TPM are given back with --recovery alone.";

const SUSPEND_HELP: &str = "\
Example:
  strongroom suspend --boots 3     # then update the firmware

Until then, whoever boots anything on this machine that leaves the PCRs which stay as they are can open
the vault: with PCR 7 alone, any other system that the same keys have signed. The TPM itself counts the
restarts. After a good boot of what is new, `strongroom commit` allows that for good and ends the
suspension.";

const DOCTOR_HELP: &str = "\
Examples:
  strongroom doctor
  strongroom doctor --json
  strongroom doctor --event-log binary_bios_measurements

The exit code is 0 whatever is found: what is left open is in the report, each finding with its
grade (serious, caution, note) and remedy. What cannot be looked at, a TPM or its log, is said there
too. It changes nothing.";

const PREPARE_HELP: &str = "\
Examples:
  strongroom prepare --uki /boot/efi/EFI/Linux/debian.efi --yes
  strongroom prepare --kernel /boot/vmlinuz-6.12 --initrd /boot/initrd.img-6.12 --yes
  strongroom prepare --dbx dbxupdate.bin --yes
  strongroom prepare --root /mnt/be --uki /boot/debian.efi --dry-run

Without a file it allows the present boot in its other phases. What cannot be predicted from this
boot's event log is refused, with the reason; nothing is changed then.";

const PAIR_HELP: &str = "\
Example, A being the vault's own machine and B the second:
  A  rsync /var/lib/strongroom/vault.json B:/var/lib/strongroom/
  B  strongroom pair export --out b.export
  A  strongroom pair add b.export                        # type the fingerprint that B has shown
  A  rsync -a --exclude 'policy*.json' --exclude 'event-logs*' --exclude '.*' \\
       /var/lib/strongroom/ B:/var/lib/strongroom/
  B  strongroom pair settle --vault-key-sha256 HEX       # the one that A has shown

After later changes on A only the last two steps are needed, and of the last the SHA-256 no more. Nothing
of B's own must be copied over: policy-*.json, vault-key-*.json, event-logs-*.";

const STATUS_HELP: &str = "\
Examples:
  strongroom status
  strongroom status --json
  strongroom status --html /mnt/tank/www/strongroom.html
  strongroom status --prometheus > /var/lib/node_exporter/strongroom.prom.new &&
    mv /var/lib/node_exporter/strongroom.prom.new /var/lib/node_exporter/strongroom.prom

It changes nothing. The exit code is that of the vault: 0 it opens; 1 some of its files are damaged; 3, 4
or 5 it does not open, and why. What is still in plaintext is in the report alone.";

const ENROL_HELP: &str = "\
Examples:
  strongroom enrol
  strongroom enrol --dry-run --json

It does what `strongroom migrate` does, for the classes that were migrated and not given back, and while
the middleware runs: a value is sealed, proven and copied, given to the middleware's memory, and then
cleared in one transaction, if it is still what was sealed. Where nothing is new it asks no TPM and
writes nothing. strongroom-enrol.path and strongroom-enrol.timer run it.";

const INSTALL_HELP: &str = "\
Examples:
  ./strongroom install --dry-run
  ./strongroom install

Programs go to /root/strongroom, which an upgrade takes along and which may run; units, drop-ins and
p11-kit's module file to /etc. It makes no vault: `/root/strongroom/strongroom init` does, in
/data/strongroom. Run it again at will: what is as it should be stays.";

const UNINSTALL_HELP: &str = "\
Examples:
  strongroom uninstall --dry-run
  systemctl stop middlewared && strongroom uninstall --yes; systemctl start middlewared
  strongroom uninstall --recovery kit.txt --yes

First the database is given back everything that came out of it, as by `strongroom migrate rollback`, and
is read again: nothing is removed as long as one secret is in the vault alone. Private keys that are in
the TPM need --recovery. Where no vault is found, and something is empty in the database that a migration
may have emptied, nothing is removed either: name the vault, or say --without-vault if there never was one.
The vault's folder stays; remove it by hand, when you need it no more.";

const UPGRADE_GUARD_HELP: &str = "\
Examples:
  strongroom upgrade-guard                       # in the running system: what an upgrade took is mended
  strongroom upgrade-guard --root /mnt/newbe     # in the system that an upgrade has made

It puts back units and drop-ins, gives tokens back to their groups, brings the new system's copy of the
vault up to date, and allows the boot of its kernel and initrd, as `strongroom prepare` does. What it
cannot do it says, with exit code 1. In another system it writes nothing unless this one's list of allowed
boots is the one that the TPM holds to. strongroom-upgrade-guard.service runs it, at shutdown for the system
that is started next.";

const AUDIT_HELP: &str = "\
Examples:
  strongroom audit
  strongroom audit --root /mnt/tank/backups --pwenc-secret /media/usb/pwenc_secret
  strongroom audit --check --json

It looks for copies of the database and of its secret, configurations that were downloaded, old
ciphertext in free pages, recovery kits, exports of keys, credentials of rclone and restic; in ZFS
snapshots of the roots, too. What is encrypted counts where a secret that was found opens it. Each
finding has its grade (serious, caution, note) and remedy.

It changes nothing, and needs neither a TPM nor a vault. The exit code is 0 whatever it finds, unless
--check is given, and 1 where it could not look at something, which is named.";

const ROTATE_HELP: &str = "\
Examples:
  strongroom rotate tank/home tank/vm --yes
  strongroom rotate --all --yes
  strongroom rotate --list --database /data/freenas-v1.db

Each dataset must be unlocked, and is done by itself: one that fails stops no other. --all leaves
those whose key is a passphrase, which somebody may know by heart; name these if they are to have a
random key.

ZFS encrypts its master key anew, not the data: blocks on the disks that still hold the master key
under the old key open with that until they are written over. Where somebody may have both, make a new
dataset and move the data into it (zfs send, zfs receive).";

const EXPORT_HELP: &str = "\
Examples:
  strongroom export --out /media/usb/dataset_keys.json
  strongroom export --recovery recovery.txt --out /media/usb/dataset_keys.json

The form is that of TrueNAS's own export: {\"tank/home\": \"64 hexadecimal digits\", ...}. Of each
dataset the newest sealed key is given. After a rotation that was cut short, that may be one which the
dataset never got: `zfs-keyprovider get` asks ZFS. With > FILE the file has the mode that your umask
leaves; --out makes it yours alone.";

/// Keeps this box's keys sealed to its TPM, bound to its measured boot.
#[derive(Debug, Parser)]
#[command(name = "strongroom", version, after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The vault's folder [default: $STRONGROOM_DIR, else /var/lib/strongroom, else /data/strongroom]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,

    /// The TPM, such as device:/dev/tpmrm0 [default: $STRONGROOM_TCTI, else the kernel's]
    #[arg(long, global = true)]
    pub(crate) tcti: Option<Tcti>,

    /// The event log of the present boot [default: $STRONGROOM_EVENT_LOG, else the kernel's, of the
    /// kernel's TPM]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) event_log: Option<PathBuf>,

    /// Report as JSON on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Go on only with the vault whose key has this SHA-256, which init and the recovery kit name
    #[arg(long, global = true, value_name = "HEX", env = "STRONGROOM_VAULT_KEY_SHA256",
        value_parser = sha256)]
    pub(crate) vault_key_sha256: Option<[u8; 32]>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a vault on this machine's TPM, bound to the present boot
    #[command(
        after_help = "Example:\n  strongroom init --recovery-out /media/usb/recovery.txt --yes"
    )]
    Init(Init),

    /// Say how the vault stands: TPM, boot, objects
    #[command(after_help = STATUS_HELP)]
    Status(Status),

    /// Say what this machine's boot is worth and what is left open; needs no vault
    #[command(after_help = DOCTOR_HELP)]
    Doctor {
        /// The TrueNAS database, which says who gets in without a key [default: that of TrueNAS, where
        /// this is one]
        #[arg(long, value_name = "FILE")]
        database: Option<PathBuf>,
    },

    /// List the vault's objects; needs no TPM
    #[command(after_help = "Example:\n  strongroom list")]
    List,

    /// Seal a secret that is read from a file or standard input
    #[command(
        after_help = "Example:\n  strongroom seal --token credentials --label offsite \
        --kind credential < secret"
    )]
    Seal(Seal),

    /// Unseal a secret to a file or a pipe
    #[command(
        after_help = "Example:\n  strongroom unseal --token credentials --label offsite | wc -c"
    )]
    Unseal(Unseal),

    /// Move secrets out of a TrueNAS database, see what is there, give them back
    #[command(after_help = MIGRATE_HELP)]
    Migrate(Migrate),

    /// Hand TrueNAS's middleware the dataset keys, into its memory, before it imports pools
    #[command(after_help = "\
Example:
  strongroom hand-over --wait 60

ix-zfs.service runs it before it imports pools (systemd/ix-zfs.service.d). The middleware's own unlock
then finds the keys; nothing of them is written anywhere. Keys that are in its memory already stay.")]
    HandOver(HandOver),

    /// Enrol what TrueNAS has written into its database since the migration; a unit runs it
    #[command(after_help = ENROL_HELP)]
    Enrol(Enrol),

    /// Put on a TrueNAS system what Strongroom needs there, where it may run and stays
    #[command(after_help = INSTALL_HELP)]
    Install(Install),

    /// Give the keys back to TrueNAS, and only then take Strongroom off the system
    #[command(after_help = UNINSTALL_HELP)]
    Uninstall(Uninstall),

    /// Carry an installation over into the system that an upgrade has made, before it is started
    #[command(after_help = UPGRADE_GUARD_HELP)]
    UpgradeGuard(UpgradeGuard),

    /// Allow the present boot, or one more, with one write to the TPM
    #[command(
        after_help = "Examples:\n  strongroom rebind --add 11=HEX --yes        # before an update\n  \
        strongroom rebind --recovery recovery.txt --yes   # after one that locked the vault"
    )]
    Rebind(Rebind),

    /// Allow the next boot before it happens: predicted from the event log and what it will start
    #[command(after_help = PREPARE_HELP)]
    Prepare(Prepare),

    /// Drop all allowed boots but the present one, in its phases: after a good boot
    #[command(after_help = "\
Example:
  strongroom commit --yes

Nothing is written where nothing is to be dropped. strongroom-commit.service runs it once per boot.")]
    Commit(Commit),

    /// Let other boots in for a few restarts, where an update cannot be predicted
    #[command(after_help = SUSPEND_HELP)]
    Suspend(Suspend),

    /// Write a whole copy of the vault, ciphertext only, into one file
    #[command(after_help = "Example:\n  strongroom backup /mnt/tank/strongroom.backup")]
    Backup {
        /// The file to write
        file: PathBuf,
    },

    /// Remove an object for good
    #[command(
        after_help = "Example:\n  strongroom remove --id 7d0c4c8e-5f0b-4f52-9f3e-0d6a3b1c2d4e --yes"
    )]
    Remove(Remove),

    /// Make tokens, set their PINs, say who may use them
    #[command(
        after_help = "Examples:\n  strongroom token list\n  strongroom token add web --with-pins\n  \
        strongroom token allow keys --group www-data\n  strongroom token deny keys"
    )]
    Token {
        /// What to do
        #[command(subcommand)]
        action: TokenAction,
    },

    /// Let a second machine open the vault beside its own: a controller, a spare mainboard
    #[command(after_help = PAIR_HELP)]
    Pair {
        /// What to do
        #[command(subcommand)]
        action: PairAction,
    },

    /// Make the vault open on this TPM with the recovery kit: after a new mainboard, a cleared TPM,
    /// lost or damaged files
    #[command(after_help = "Example:\n  strongroom recover --recovery recovery.txt \
        --backup /mnt/tank/strongroom.backup --yes")]
    Recover(Recover),

    /// Print the recovery kit as a sheet for paper, with a QR code
    #[command(after_help = "\
Examples:
  strongroom recovery-kit --recovery recovery.txt | lp
  strongroom recovery-kit --recovery recovery.txt --svg /media/usb/kit.svg
  strongroom recovery-kit --recovery recovery.txt --protect --out /media/usb/kit.txt

The kit is kept nowhere on this machine, so it must be given. Where a vault is here, the kit must be
that vault's. The sheet is a kit itself: --recovery takes it, and what the QR code holds.")]
    RecoveryKit(RecoveryKit),

    /// Prove that the recovery kit opens everything; changes nothing, and needs no TPM
    #[command(
        after_help = "Example:\n  strongroom recovery-test --recovery recovery.txt \
        --backup /mnt/tank/strongroom.backup"
    )]
    RecoveryTest(RecoveryTest),

    /// Find old copies of what the vault keeps, and say what to do about each; changes nothing
    #[command(after_help = AUDIT_HELP)]
    Audit(Audit),

    /// Give datasets new keys, or list the cloud credentials that are to be made anew
    #[command(after_help = ROTATE_HELP)]
    Rotate(Rotate),

    /// Write all dataset keys in clear, in the form of TrueNAS's own export: for who wants out
    #[command(after_help = EXPORT_HELP)]
    Export(Export),

    /// Write the manual pages into a folder
    #[command(hide = true, after_help = "Example:\n  strongroom man target/man")]
    Man {
        /// The folder
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The PCRs to bind to [default: those of 7,9,11 that are extended here]. One that the event log
    /// does not lead to is refused unless it is named here
    #[arg(long, value_name = "N,N,...")]
    pub(crate) pcrs: Option<PcrSelection>,

    /// The bank of PCRs
    #[arg(long, default_value = "sha256", value_parser = ["sha256"])]
    pub(crate) bank: String,

    /// Put dataset keys behind a fence, for life: once `zfs-keyprovider load --fence` has extended
    /// this unused PCR of 8 to 15, nothing opens them until a restart
    #[arg(long, value_name = "PCR")]
    pub(crate) fence: Option<Fence>,

    /// Write the recovery kit into this new file instead of showing it
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_out: Option<PathBuf>,

    /// Take it as confirmed that the recovery kit is kept
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Seal {
    /// The token to put the object in
    #[arg(long)]
    pub(crate) token: TokenName,

    /// The object's name; for a dataset key the dataset's
    #[arg(long)]
    pub(crate) label: Label,

    /// What it is: dataset-key, credential or secret-key
    #[arg(long)]
    pub(crate) kind: Kind,

    /// For a dataset key, its form: raw, hex or passphrase
    #[arg(long)]
    pub(crate) keyformat: Option<KeyFormat>,

    /// Read the secret from this file instead of standard input
    #[arg(long)]
    pub(crate) file: Option<PathBuf>,

    /// In a token with PINs, the file with its user's PIN; asked for otherwise
    #[arg(long, value_name = "FILE", conflicts_with = "without_pin")]
    pub(crate) pin_file: Option<PathBuf>,

    /// In a token with PINs, let everyone open this who may use the token
    #[arg(long)]
    pub(crate) without_pin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Unseal {
    /// The object, as a PKCS#11 URI
    #[arg(value_name = "URI", conflicts_with_all = ["token", "label", "id"])]
    pub(crate) uri: Option<Selector>,

    /// The object's token
    #[arg(long)]
    pub(crate) token: Option<TokenName>,

    /// The object's name
    #[arg(long)]
    pub(crate) label: Option<String>,

    /// The object's id
    #[arg(long)]
    pub(crate) id: Option<ObjectId>,

    /// Write into this new file, mode 0600, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Write even to a terminal
    #[arg(long)]
    pub(crate) force: bool,

    /// Open with this recovery kit (- for standard input) instead of the TPM
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) passphrase: PassphraseFile,

    /// Of an object behind a PIN, the file with the PIN of its token's user; asked for otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Migrate {
    #[command(subcommand)]
    pub(crate) action: Option<MigrateAction>,

    #[command(flatten)]
    pub(crate) run: MigrateRun,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateAction {
    /// Say of every encrypted value what it is and where it would go; changes nothing
    #[command(
        after_help = "Example:\n  strongroom migrate plan --database /data/freenas-v1.db \
        --pwenc-secret /data/pwenc_secret"
    )]
    Plan(MigratePlan),

    /// Give the database back what was moved out of it
    #[command(after_help = ROLLBACK_HELP)]
    Rollback(Rollback),
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
pub(crate) struct MigrateRun {
    /// The TrueNAS configuration database, such as /data/freenas-v1.db
    #[arg(long, value_name = "FILE")]
    pub(crate) database: Option<PathBuf>,

    /// The secret that its columns are encrypted under, such as /data/pwenc_secret
    #[arg(long, value_name = "FILE")]
    pub(crate) pwenc_secret: Option<PathBuf>,

    /// Where to write the vault's copy before anything is cleared: off the boot disk
    #[arg(long, value_name = "FILE")]
    pub(crate) backup: Option<PathBuf>,

    /// Migrate these classes [default: datasets,credentials]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CLASS,...")]
    pub(crate) only: Option<Vec<Class>>,

    /// With --only certificates: the key that the web interface serves with, too
    #[arg(long)]
    pub(crate) ui_certificate: bool,

    /// Say what would happen, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Take a backup on the ZFS pool that the vault is on: a dead boot pool would take both
    #[arg(long)]
    pub(crate) backup_on_same_pool: bool,

    /// Go on though another process, such as the middleware, has the database open
    #[arg(long)]
    pub(crate) while_in_use: bool,

    /// Go on where an interrupted run stopped; what is not named is taken from its journal
    #[arg(long)]
    pub(crate) resume: bool,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

impl MigrateRun {
    /// What is migrated where nothing else is asked for: what TrueNAS goes on with as before, once
    /// the box has Strongroom's parts.
    pub(crate) const USUAL: [Class; 2] = [Class::Datasets, Class::Credentials];
}

#[derive(Debug, Args)]
pub(crate) struct MigratePlan {
    /// The TrueNAS configuration database, such as /data/freenas-v1.db
    #[arg(long, value_name = "FILE")]
    pub(crate) database: PathBuf,

    /// The secret that its columns are encrypted under, such as /data/pwenc_secret
    #[arg(long, value_name = "FILE")]
    pub(crate) pwenc_secret: PathBuf,

    /// Plan for these classes [default: datasets,credentials]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CLASS,...")]
    pub(crate) only: Option<Vec<Class>>,

    /// With --only certificates: the key that the web interface serves with, too
    #[arg(long)]
    pub(crate) ui_certificate: bool,

    /// Show values that are empty, too
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The TrueNAS configuration database, such as /data/freenas-v1.db
    #[arg(long, value_name = "FILE")]
    pub(crate) database: PathBuf,

    /// The secret that its columns are encrypted under, such as /data/pwenc_secret
    #[arg(long, value_name = "FILE")]
    pub(crate) pwenc_secret: PathBuf,

    /// Give back these classes alone
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CLASS,...")]
    pub(crate) only: Option<Vec<Class>>,

    /// Open the objects with this recovery kit (- for standard input) and no TPM
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) passphrase: PassphraseFile,

    /// Take them out of this backup, where there is no vault any more
    #[arg(long, value_name = "FILE", requires = "recovery")]
    pub(crate) backup: Option<PathBuf>,

    /// Go on though another process, such as the middleware, has the database open
    #[arg(long)]
    pub(crate) while_in_use: bool,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What is migrated together.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    /// The keys of encrypted datasets
    Datasets,
    /// The secret fields of cloud credentials
    Credentials,
    /// The private keys of SSH key pairs
    Keychain,
    /// The private keys of certificates; into the TPM, where it has their kind
    Certificates,
    /// The keys that replications give to the datasets they make
    Replication,
    /// The passwords of cloud sync and cloud backup tasks
    Tasks,
}

impl Class {
    /// All of them, in the order in which they move.
    pub(crate) const ALL: [Self; 6] = [
        Self::Datasets,
        Self::Credentials,
        Self::Keychain,
        Self::Certificates,
        Self::Replication,
        Self::Tasks,
    ];
}

#[derive(Debug, Args)]
pub(crate) struct HandOver {
    /// The middleware's local socket
    #[arg(long, value_name = "FILE", default_value = SOCKET)]
    pub(crate) socket: PathBuf,

    /// How many seconds to wait for it
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) wait: u64,

    /// Only keys of datasets that it has none of: after it was started anew
    #[arg(long)]
    pub(crate) only_missing: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Enrol {
    /// The database [default: that of the last migration]
    #[arg(long, value_name = "FILE")]
    pub(crate) database: Option<PathBuf>,

    /// The secret that its columns are encrypted under [default: that of the last migration]
    #[arg(long, value_name = "FILE")]
    pub(crate) pwenc_secret: Option<PathBuf>,

    /// Where to write the vault's copy [default: that of the last migration]
    #[arg(long, value_name = "FILE")]
    pub(crate) backup: Option<PathBuf>,

    /// The middleware's local socket
    #[arg(long, value_name = "FILE", default_value = SOCKET)]
    pub(crate) socket: PathBuf,

    /// Say what would be enrolled, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Of every command that works on an installation.
#[derive(Debug, Args)]
pub(crate) struct Installation {
    /// The root folder of the system
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    pub(crate) root: PathBuf,

    /// Say what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Install {
    #[command(flatten)]
    pub(crate) at: Installation,

    /// Take the programs from this folder [default: where this one is]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) from: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    pub(crate) at: Installation,

    /// Open the objects with this recovery kit (- for standard input) and no TPM
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) passphrase: PassphraseFile,

    /// There never was a vault, whatever the empty values of the database look like
    #[arg(long)]
    pub(crate) without_vault: bool,

    /// Go on though another process, such as the middleware, has the database open
    #[arg(long)]
    pub(crate) while_in_use: bool,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpgradeGuard {
    #[command(flatten)]
    pub(crate) at: Installation,

    /// Take the programs from this folder [default: where this one is]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) from: Option<PathBuf>,

    /// Do not allow the boot of what is there: it is done in another way
    #[arg(long)]
    pub(crate) without_prepare: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Look into this TrueNAS database for what is still there in plaintext [default: that of
    /// TrueNAS, where it is one]
    #[arg(long, value_name = "FILE", requires = "pwenc_secret")]
    pub(crate) database: Option<PathBuf>,

    /// The secret that its columns are encrypted under
    #[arg(long, value_name = "FILE", requires = "database")]
    pub(crate) pwenc_secret: Option<PathBuf>,

    /// Write a web page into this file, besides: one file, with nothing outside of it
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,

    /// Print metrics in Prometheus's text format instead, such as for node_exporter
    #[arg(long, conflicts_with = "json")]
    pub(crate) prometheus: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rebind {
    /// Allow one more boot: the present one with these PCRs at other values
    #[arg(long, value_name = "PCR=HEX,...", value_delimiter = ',', value_parser = pcr_value)]
    pub(crate) add: Vec<(u8, [u8; 32])>,

    /// Bind to these PCRs from now on
    #[arg(long, value_name = "N,N,...", conflicts_with = "add")]
    pub(crate) pcrs: Option<PcrSelection>,

    /// Authorise it by this recovery kit (- for standard input); works in any boot
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) passphrase: PassphraseFile,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Prepare {
    /// The unified kernel image that will be started
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "initrd", "cmdline"])]
    pub(crate) uki: Option<PathBuf>,

    /// The kernel that will be started, by GRUB, systemd-boot or the firmware
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,

    /// Its initrd; several in the order in which the boot loader has them
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Vec<PathBuf>,

    /// Its command line, or @FILE with it
    #[arg(long, value_name = "TEXT|@FILE", requires = "kernel")]
    pub(crate) cmdline: Option<String>,

    /// An update of Secure Boot's db that will be applied
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Vec<PathBuf>,

    /// An update of Secure Boot's dbx that will be applied
    #[arg(long, value_name = "FILE")]
    pub(crate) dbx: Vec<PathBuf>,

    /// The phases of the boot that may unseal, where systemd has any: initrd, start, sysinit, ready
    #[arg(long, value_name = "PHASE,...", value_delimiter = ',', default_values_t = Phase::USUAL)]
    pub(crate) phases: Vec<Phase>,

    /// Take files from this other root, such as a new boot environment
    #[arg(long, value_name = "FOLDER")]
    pub(crate) root: Option<PathBuf>,

    /// Say what would be allowed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Commit {
    /// Say what would be left, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Suspend {
    /// For how many restarts: a firmware update may take three and more
    #[arg(long, value_name = "N", required_unless_present = "end")]
    pub(crate) boots: Option<u32>,

    /// The PCRs that are to be as they are now all the same [default: 7]
    #[arg(long, value_name = "N,N,...", conflicts_with = "end")]
    pub(crate) pcrs: Option<PcrSelection>,

    /// End the suspension now
    #[arg(long, conflicts_with = "boots")]
    pub(crate) end: bool,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The object's id, as `strongroom list` shows it
    #[arg(long)]
    pub(crate) id: ObjectId,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What to do with a token.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenAction {
    /// List the tokens: how many objects, and which group may use them
    #[command(after_help = "Example:\n  strongroom token list --json")]
    List,

    /// Make a token
    #[command(
        after_help = "Examples:\n  strongroom token add web\n  strongroom token add \
        signing --label 'Code signing' --with-pins"
    )]
    Add(TokenAdd),

    /// Set or change a PIN of a token
    #[command(after_help = "\
Examples:
  strongroom token set-pin signing
  strongroom token set-pin signing --by-so
  strongroom token set-pin signing --recovery recovery.txt

Ten wrong PINs, one after the other, lock a PIN: then the security officer sets the user's anew, and
the recovery kit either.")]
    SetPin(TokenSetPin),

    /// Let no PKCS#11 client make, change or destroy a token's objects, as it is of datasets and
    /// credentials
    #[command(after_help = "Example:\n  strongroom token protect keys")]
    Protect {
        /// The token
        token: TokenName,
    },

    /// Let PKCS#11 clients make, change and destroy a token's objects
    #[command(after_help = "Example:\n  strongroom token unprotect credentials")]
    Unprotect {
        /// The token
        token: TokenName,
    },

    /// Remove a token that holds nothing, and its PINs
    #[command(after_help = "Example:\n  strongroom token remove web")]
    Remove {
        /// The token
        token: TokenName,
    },

    /// Let the members of a group use a token's objects, and no other group any more
    #[command(after_help = "\
Example:
  strongroom token allow keys --group www-data

Members may read the files of the token's objects: where they have the TPM too (group tss), they can
use and unseal these, in an allowed boot. vault.json and policy.json, which hold no secret, can then
be read by everybody. All other tokens stay the owner's alone.")]
    Allow(TokenAllow),

    /// Take a token back from its group
    #[command(after_help = "\
Example:
  strongroom token deny keys

With the last token that is taken back, the whole vault is its owner's alone again. What a member
has copied before, they still have.")]
    Deny {
        /// The token
        token: TokenName,
    },
}

/// What to do with a second machine.
#[derive(Debug, Subcommand)]
pub(crate) enum PairAction {
    /// On the second machine: make it ready, bound to its present boot, and say what is public of it
    #[command(after_help = "\
Examples:
  strongroom pair export --out b.export
  strongroom pair export --out b.export --pcrs 7

The vault's folder must hold a copy of its vault.json. The fingerprint that is shown is what the vault's own
machine believes the export by: carry it there by another way than the file.")]
    Export(PairExport),

    /// On the vault's own machine: give every object to a second machine, and all that is sealed later
    #[command(after_help = "\
Examples:
  strongroom pair add b.export
  strongroom pair add b.export --fingerprint '3f5a 0c1e ...' --yes

Cut short, run it again. Private keys in this TPM and what is behind a PIN are left out, and named.")]
    Add(PairAdd),

    /// On the second machine: seal again, under its own boot, what was sent to it
    #[command(after_help = "\
Examples:
  strongroom pair settle --vault-key-sha256 HEX    # the first time
  strongroom pair settle                           # after every copy of the vault

The first time, the SHA-256 of the vault key tells that it is the owner's vault and not a stranger's, and
seals that key under this machine's boot. Until an object is settled it opens all the same, with some TPM
commands more. Cut short, run it again.")]
    Settle,

    /// List the second machines, and what each opens; needs no TPM
    #[command(after_help = "Example:\n  strongroom pair list --json")]
    List,

    /// On the vault's own machine: seal nothing more for a second machine
    #[command(after_help = "\
Example:
  strongroom pair remove 0d3c1b7e-5f0b-4f52-9f3e-0d6a3b1c2d4e --yes

What that machine's copy of the vault holds it still opens: change the keys themselves where it is not
yours any more.")]
    Remove(PairRemove),
}

#[derive(Debug, Args)]
pub(crate) struct PairExport {
    /// Write the export into this new file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// The PCRs to bind this machine to [default: those of 7,9,11 that are extended here]
    #[arg(long, value_name = "N,N,...")]
    pub(crate) pcrs: Option<PcrSelection>,
}

#[derive(Debug, Args)]
pub(crate) struct PairAdd {
    /// What `strongroom pair export` has written on the second machine
    pub(crate) export: PathBuf,

    /// The fingerprint that it has shown there; asked for otherwise
    #[arg(long, value_name = "HEX")]
    pub(crate) fingerprint: Option<Fingerprint>,

    /// Do not ask
    #[arg(long, requires = "fingerprint")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PairRemove {
    /// Which, as `strongroom pair list` shows it
    pub(crate) id: PeerId,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenAdd {
    /// Its name: 1 to 32 characters of a-z, 0-9 and -
    pub(crate) token: TokenName,

    /// What PKCS#11 clients see it called, if that is not its name
    #[arg(long)]
    pub(crate) label: Option<TokenLabel>,

    /// Put it behind a fence, for life: an unused PCR of 8 to 15 that is extended once what it holds was
    /// read
    #[arg(long, value_name = "PCR")]
    pub(crate) fence: Option<Fence>,

    /// Give it PINs: its user's, and its security officer's, who can set the user's
    #[arg(long)]
    pub(crate) with_pins: bool,

    /// The file with the user's PIN; asked for otherwise
    #[arg(long, value_name = "FILE", requires = "with_pins")]
    pub(crate) pin_file: Option<PathBuf>,

    /// The file with the security officer's PIN; asked for otherwise
    #[arg(long, value_name = "FILE", requires = "with_pins")]
    pub(crate) so_pin_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenSetPin {
    /// The token
    pub(crate) token: TokenName,

    /// The security officer's PIN instead of the user's
    #[arg(long, conflicts_with = "by_so")]
    pub(crate) so: bool,

    /// By the security officer's PIN instead of the old one
    #[arg(long)]
    pub(crate) by_so: bool,

    /// By this recovery kit (- for standard input) instead of the old one, whatever became of it
    #[arg(long, value_name = "FILE", conflicts_with = "by_so")]
    pub(crate) recovery: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) passphrase: PassphraseFile,

    /// The file with the old PIN, or with --by-so the security officer's; asked for otherwise
    #[arg(long, value_name = "FILE", conflicts_with = "recovery")]
    pub(crate) old_pin_file: Option<PathBuf>,

    /// The file with the new PIN; asked for otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenAllow {
    /// The token
    pub(crate) token: TokenName,

    /// The group, by name or number
    #[arg(long)]
    pub(crate) group: String,
}

#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// The recovery kit (- for standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery: PathBuf,

    #[command(flatten)]
    pub(crate) passphrase: PassphraseFile,

    /// Give up the private keys that were made in another TPM and never left it
    #[arg(long)]
    pub(crate) lose_keys: bool,

    /// Put back from this backup what the vault's folder lacks, or all of it
    #[arg(long, value_name = "FILE")]
    pub(crate) backup: Option<PathBuf>,

    /// The PCRs to bind to [default: those that the vault is bound to]
    #[arg(long, value_name = "N,N,...")]
    pub(crate) pcrs: Option<PcrSelection>,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RecoveryKit {
    /// The recovery kit (- for standard input; at a terminal it is asked for, line by line)
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery: PathBuf,

    #[command(flatten)]
    pub(crate) passphrase: PassphraseFile,

    /// Encrypt the identity on the sheet under a passphrase, which is asked for
    #[arg(long)]
    pub(crate) protect: bool,

    /// The file with that passphrase, instead of asking
    #[arg(long, value_name = "FILE", requires = "protect")]
    pub(crate) new_passphrase_file: Option<PathBuf>,

    /// Write the sheet into this new file, mode 0600, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Write the QR code as a drawing into this new file, mode 0600, besides
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RecoveryTest {
    /// The recovery kit (- for standard input; at a terminal it is asked for, line by line)
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery: PathBuf,

    #[command(flatten)]
    pub(crate) passphrase: PassphraseFile,

    /// Test this backup as well; without a vault, it alone
    #[arg(long, value_name = "FILE")]
    pub(crate) backup: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Look below this folder, on its file system and in its snapshots [default: those of /data,
    /// /root, /home and /var/db/system that are there]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) root: Vec<PathBuf>,

    /// The database that TrueNAS runs on: all others are copies
    #[arg(long, value_name = "FILE", default_value = "/data/freenas-v1.db")]
    pub(crate) database: PathBuf,

    /// Secrets of databases to try besides those that are found; the first is the one that TrueNAS
    /// runs on [default: /data/pwenc_secret]
    #[arg(long, value_name = "FILE")]
    pub(crate) pwenc_secret: Vec<PathBuf>,

    /// Exit with 1 if anything is found that is more than a note
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// The datasets, encryption roots that the vault has the keys of
    #[arg(value_name = "DATASET", required_unless_present_any = ["all", "list"])]
    pub(crate) datasets: Vec<String>,

    /// All datasets that the vault has a key of, but those with passphrases
    #[arg(long, conflicts_with = "datasets")]
    pub(crate) all: bool,

    /// The new keys' keyformat: raw, or hex, which can also be typed
    #[arg(long, value_name = "FORMAT", default_value = "raw", value_parser = ["raw", "hex"])]
    pub(crate) keyformat: String,

    /// Rotate nothing, but list the vault's cloud credentials, and where each provider makes new ones
    #[arg(long, conflicts_with_all = ["datasets", "all", "yes"])]
    pub(crate) list: bool,

    /// For --list, the TrueNAS database, which knows the providers
    #[arg(long, value_name = "FILE", requires = "list")]
    pub(crate) database: Option<PathBuf>,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Write into this new file, mode 0600, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Give passphrases too, as their text; TrueNAS's own export has none
    #[arg(long)]
    pub(crate) passphrases: bool,

    /// Open with this recovery kit (- for standard input) instead of the TPM
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) passphrase: PassphraseFile,

    /// Where keys are behind a PIN, the file with the PIN of their token's user; asked for otherwise
    #[arg(long, value_name = "FILE", conflicts_with = "recovery")]
    pub(crate) pin_file: Option<PathBuf>,
}

/// Of every command that takes a recovery kit.
#[derive(Debug, Args)]
pub(crate) struct PassphraseFile {
    /// Of a recovery kit that is protected, the file with its passphrase; asked for otherwise
    #[arg(long, value_name = "FILE", requires = "recovery")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// A SHA-256 digest.
pub(crate) fn sha256(text: &str) -> Result<[u8; 32], String> {
    let mut value = [0; 32];
    hex::decode_to_slice(text, &mut value)
        .map_err(|_| "it must be 64 hexadecimal digits".to_owned())?;
    Ok(value)
}

/// `PCR=HEX`, a SHA-256 value.
fn pcr_value(text: &str) -> Result<(u8, [u8; 32]), String> {
    let wrong = || format!("{text:?} is not PCR=HEX with 64 hexadecimal digits");
    let (pcr, digits) = text.split_once('=').ok_or_else(wrong)?;
    let value = sha256(digits).map_err(|_| wrong())?;
    Ok((pcr.parse().map_err(|_| wrong())?, value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        let cli = super::Cli::command();
        let mut commands: Vec<_> = cli.get_subcommands().collect();
        while let Some(command) = commands.pop() {
            let help = command.get_after_help().map(ToString::to_string);
            assert!(
                help.is_some_and(|help| help.contains("Example")),
                "{}",
                command.get_name()
            );
            commands.extend(command.get_subcommands());
        }
    }
}
