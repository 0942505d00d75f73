//! A stand-in for ZFS where no kernel module is needed: a `zfs` and a `zpool` for PATH, and a
//! `libzfs_core.so.3`, over datasets that are folders. It checks keys as the kernel does, by the
//! wrapping key alone, and keeps a record of what it was called with.
//!
//! What ZFS really does is tried in a virtual machine; this is for what a test could not arrange
//! there, such as being killed at a certain call.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::Run;
use crate::c_library::CLibrary;
use crate::executable;

/// Pools with datasets, and the programs that know them.
pub struct ZfsStandIn {
    folder: TempDir,
    with_library: bool,
}

/// What a test says of a dataset.
#[derive(Clone)]
pub struct StandInDataset {
    /// Its encryption root; empty where it is not encrypted.
    pub encryption_root: String,
    /// `raw`, `hex`, `passphrase` or `none`.
    pub keyformat: String,
    /// The 32 bytes that the kernel knows it by.
    pub wrapping_key: Vec<u8>,
    /// Of passphrases.
    pub iters: u64,
    /// Of passphrases.
    pub salt: u64,
}

impl ZfsStandIn {
    /// With the library.
    pub fn new() -> Self {
        Self::make(true)
    }

    /// Without, so that keys go through `zfs load-key`.
    pub fn without_library() -> Self {
        Self::make(false)
    }

    fn make(with_library: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder for datasets");
        for part in ["bin", "lib", "datasets", "pools"] {
            fs::create_dir(folder.path().join(part)).expect("the folder is new");
        }
        for program in ["zfs", "zpool"] {
            let path = folder.path().join("bin").join(program);
            executable::write(&path, PROGRAM);
        }
        if with_library {
            let place = folder.path().join("lib/libzfs_core.so.3");
            fs::copy(library(), place).expect("copied");
        }
        Self {
            folder,
            with_library,
        }
    }

    /// Puts ZFS into a program's surroundings.
    pub fn around(&self, run: Run) -> Run {
        let environment = self.environment().into_iter();
        environment.fold(run, |run, (name, value)| run.env(name, value))
    }

    /// What makes a program find it.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let folder = self.folder.path();
        let mut path = OsString::from(folder.join("bin"));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut environment = vec![("PATH", path), ("ZFS_STAND_IN", folder.into())];
        if self.with_library {
            environment.push(("LD_LIBRARY_PATH", folder.join("lib").into()));
        }
        environment
    }

    /// Makes a pool.
    pub fn pool(&self, name: &str, guid: u64) {
        fs::write(
            self.folder.path().join("pools").join(name),
            guid.to_string(),
        )
        .expect("written");
    }

    /// Makes a dataset, locked, of keylocation `prompt`.
    pub fn dataset(&self, name: &str, guid: u64, dataset: &StandInDataset) {
        let folder = self.place(name);
        fs::create_dir(&folder).expect("the dataset is new");
        let StandInDataset {
            encryption_root,
            keyformat,
            iters,
            salt,
            ..
        } = dataset;
        let encrypted = !encryption_root.is_empty();
        let or_none = |text: &str| if encrypted { text } else { "-" }.to_owned();
        for (property, value) in [
            ("encryptionroot", or_none(encryption_root)),
            ("keystatus", or_none("unavailable")),
            ("keyformat", keyformat.clone()),
            ("keylocation", or_none("prompt")),
            ("guid", guid.to_string()),
            ("pbkdf2iters", iters.to_string()),
            ("pbkdf2salt", salt.to_string()),
        ] {
            fs::write(folder.join(property), value).expect("written");
        }
        fs::write(folder.join("wrapping-key"), &dataset.wrapping_key).expect("written");
    }

    /// A dataset's property, or anything else that is in its folder; empty where it is not there.
    pub fn read(&self, dataset: &str, property: &str) -> String {
        fs::read_to_string(self.place(dataset).join(property)).unwrap_or_default()
    }

    /// Sets a property behind everyone's back.
    pub fn write(&self, dataset: &str, property: &str, value: impl AsRef<[u8]>) {
        fs::write(self.place(dataset).join(property), value).expect("written");
    }

    /// Takes a property away, if it is there.
    pub fn remove(&self, dataset: &str, property: &str) {
        let _ = fs::remove_file(self.place(dataset).join(property));
    }

    /// What the dataset's wrapping key is now.
    pub fn wrapping_key(&self, dataset: &str) -> Vec<u8> {
        fs::read(self.place(dataset).join("wrapping-key")).expect("there")
    }

    /// Unloads all keys, as a restart does.
    pub fn restart(&self) {
        for entry in fs::read_dir(self.folder.path().join("datasets")).expect("there") {
            let status = entry.expect("readable").path().join("keystatus");
            if fs::read_to_string(&status).expect("there") == "available" {
                fs::write(status, "unavailable").expect("written");
            }
        }
    }

    /// Kills whoever calls `zfs` for the `call`th time from now, before or after it did what it was
    /// told.
    pub fn kill_at(&self, call: usize, after: bool) {
        let when = if after { "after" } else { "before" };
        self.put("kill", format!("{when} {call}"));
        self.put("count", "0");
    }

    /// Kills nobody any more; how many calls of `zfs` there were since.
    pub fn kill_nobody(&self) -> usize {
        let _ = fs::remove_file(self.folder.path().join("kill"));
        let count = fs::read_to_string(self.folder.path().join("count"));
        count.map_or(0, |count| count.parse().expect("a number"))
    }

    /// The arguments of all calls so far.
    pub fn calls(&self) -> String {
        fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        self.put("calls", "");
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.folder.path().join(name), text).expect("written");
    }

    fn place(&self, dataset: &str) -> PathBuf {
        let folder = self.folder.path().join("datasets");
        folder.join(dataset.replace('/', "+"))
    }
}

impl Default for ZfsStandIn {
    fn default() -> Self {
        Self::new()
    }
}

impl StandInDataset {
    /// An encryption root with a raw key.
    pub fn raw(name: &str, key: &[u8]) -> Self {
        Self {
            encryption_root: name.to_owned(),
            keyformat: "raw".to_owned(),
            wrapping_key: key.to_vec(),
            iters: 0,
            salt: 0,
        }
    }

    /// The same of another keyformat; the wrapping key is the test's to know.
    #[must_use]
    pub fn with_format(mut self, keyformat: &str) -> Self {
        keyformat.clone_into(&mut self.keyformat);
        self
    }

    /// Without encryption.
    pub fn plain() -> Self {
        Self {
            encryption_root: String::new(),
            keyformat: "none".to_owned(),
            wrapping_key: Vec::new(),
            iters: 0,
            salt: 0,
        }
    }
}

/// The library, built once for a run of tests.
fn library() -> &'static Path {
    static BUILT: OnceLock<CLibrary> = OnceLock::new();
    BUILT.get_or_init(|| CLibrary::build(LIBRARY)).path()
}

/// The kernel's part: whether the 32 bytes are the ones that it knows.
const LIBRARY: &str = r#"
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int libzfs_core_init(void) { return getenv("ZFS_STAND_IN") ? 0 : ENOENT; }
void libzfs_core_fini(void) {}

static FILE *file(const char *name, const char *part, const char *mode) {
    char path[4096], flat[1024];
    snprintf(flat, sizeof flat, "%s", name);
    for (char *c = flat; *c; c++) if (*c == '/') *c = '+';
    snprintf(path, sizeof path, "%s/datasets/%s/%s", getenv("ZFS_STAND_IN"), flat, part);
    return fopen(path, mode);
}

int lzc_load_key(const char *name, int noop, uint8_t *key, unsigned len) {
    uint8_t right[33];
    char word[32] = "";
    FILE *f = file(name, "vanishes", "r");
    if (f) { fclose(f); return ENOENT; }
    if (len != 32) return EINVAL;
    if (!(f = file(name, "wrapping-key", "r"))) return ENOENT;
    size_t read = fread(right, 1, sizeof right, f);
    fclose(f);
    if (read != 32 || memcmp(right, key, 32)) return EACCES;
    if (noop) return 0;
    if (!(f = file(name, "keystatus", "r"))) return ENOENT;
    if (!fgets(word, sizeof word, f)) word[0] = 0;
    fclose(f);
    if (!strcmp(word, "available")) return EEXIST;
    if (!(f = file(name, "keystatus", "w"))) return EIO;
    fputs("available", f);
    return fclose(f) ? EIO : 0;
}
"#;

/// `zfs` and `zpool`, by the system's own Python: a wrapper in PATH can take longer than all the rest.
const PROGRAM: &str = r#"#!/usr/bin/python3 -IS
import fcntl, hashlib, os, signal, sys

STATE = os.environ["ZFS_STAND_IN"]
FOLDER = os.path.join(STATE, "datasets")
program, args = os.path.basename(sys.argv[0]), sys.argv[1:]


def fail(text):
    sys.stderr.write(text + "\n")
    sys.exit(1)


def place(name, part=""):
    return os.path.join(FOLDER, name.replace("/", "+"), part)


def read(name, part):
    try:
        with open(place(name, part), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write(name, part, value):
    with open(place(name, part), "wb") as file:
        file.write(value)


def names():
    return sorted(name.replace("+", "/") for name in os.listdir(FOLDER))


def known(name):
    if name not in names():
        fail(f"cannot open '{name}': dataset does not exist")
    return name


def value(name, prop):
    found = read(name, prop)
    if found is None and ":" in prop:
        parent = name.rpartition("/")[0]
        inherited = value(parent, prop)[0] if parent and os.path.isdir(place(parent)) else b"-"
        return inherited, "-" if inherited == b"-" else "inherited from " + parent
    return found or b"-", "local" if ":" in prop else "-"


def options(args, flags, valued):
    chosen, rest = {}, []
    args = list(args)
    while args:
        arg = args.pop(0)
        if arg == "--":
            rest += args
            break
        if arg in valued:
            chosen.setdefault(arg, []).append(args.pop(0))
        elif arg in flags:
            chosen[arg] = True
        elif arg.startswith("-"):
            fail(f"invalid option {arg}")
        else:
            rest.append(arg)
    return chosen, rest


def choose(wanted, recursive):
    """Those of the datasets that there are, and whether one is not."""
    failed, found = False, []
    for name in wanted or names():
        if name not in names():
            sys.stderr.write(f"cannot open '{name}': dataset does not exist\n")
            failed = True
            continue
        if recursive and read(name, "unlistable") is not None:
            sys.stderr.write(f"cannot open '{name}': I/O error\n")
            failed = True
            continue
        found.append(name)
        if recursive:
            found += [below for below in names() if below.startswith(name + "/")]
    return found, failed


def get(args):
    chosen, rest = options(args, ["-Hp", "-r"], ["-o", "-t", "-s"])
    props, wanted = rest[0].split(","), rest[1:]
    found, failed = choose(wanted, "-r" in chosen)
    sources = chosen.get("-s", [""])[0].split(",")
    for name in found:
        for prop in props:
            it, source = value(name, prop)
            if "-s" in chosen and source not in sources:
                continue
            columns = {"name": name.encode(), "property": prop.encode(), "value": it,
                       "source": source.encode()}
            row = b"\t".join(columns[column] for column in chosen["-o"][0].split(","))
            sys.stdout.buffer.write(row + b"\n")
    sys.stdout.flush()
    return 1 if failed else 0


def from_stdin(name, keyformat):
    key = sys.stdin.buffer.read()
    if keyformat == "raw":
        if len(key) != 32:
            fail("Key load error: Raw key too " + ("long" if len(key) > 32 else "short"))
        return key
    key = key.split(b"\n")[0]
    if keyformat == "hex":
        return bytes.fromhex(key.decode())
    salt = int(read(name, "pbkdf2salt")).to_bytes(8, "little")
    return hashlib.pbkdf2_hmac("sha1", key, salt, int(read(name, "pbkdf2iters")), 32)


def load_key(args):
    chosen, [name] = options(args, ["-n"], ["-L"])
    known(name)
    if "-n" not in chosen and read(name, "keystatus") == b"available":
        fail(f"Key load error: Key already loaded for '{name}'.")
    if from_stdin(name, read(name, "keyformat").decode()) != read(name, "wrapping-key"):
        fail(f"Key load error: Incorrect key provided for '{name}'.")
    if "-n" not in chosen:
        write(name, "keystatus", b"available")


def change_key(args):
    chosen, [name] = options(args, [], ["-o"])
    known(name)
    if read(name, "keystatus") != b"available":
        fail("Key change error: Key must be loaded.")
    if read(name, "unchangeable") is not None:
        fail("Key change error: Permission denied.")
    settings = dict(option.split("=", 1) for option in chosen["-o"])
    key = from_stdin(name, settings["keyformat"])
    write(name, "wrapping-key", key)
    for prop, setting in settings.items():
        write(name, prop, setting.encode())


def set_property(args):
    setting, name = args
    prop, _, text = setting.partition("=")
    if ":" in prop and len(text) > 8000:
        fail("property value too long")
    if read(known(name), "readonly") is not None:
        fail(f"cannot set property for '{name}': pool is read-only")
    write(name, prop, os.fsencode(text))


def inherit(args):
    prop, name = args
    os.remove(place(known(name), prop))


with open(os.path.join(STATE, "calls"), "a") as log:
    log.write(" ".join([program] + args) + "\n")

if program == "zpool":
    for pool in sorted(os.listdir(os.path.join(STATE, "pools"))):
        print(pool + "\t" + open(os.path.join(STATE, "pools", pool)).read())
    sys.exit(0)

when, at = "", 0
try:
    when, at = open(os.path.join(STATE, "kill")).read().split()
except FileNotFoundError:
    pass
# Several are called at once where keys go through the command.
with open(os.path.join(STATE, "count"), "a+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.seek(0)
    count = int(file.read() or 0)
    file.truncate(0)
    file.write(str(count + 1))
if when == "before" and count == int(at):
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit(1)
commands = {"get": get, "load-key": load_key, "change-key": change_key, "set": set_property,
            "inherit": inherit}
code = commands[args[0]](args[1:])
if when == "after" and count == int(at):
    os.kill(os.getppid(), signal.SIGKILL)
sys.exit(code)
"#;
