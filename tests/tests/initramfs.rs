//! The scripts of `debian-initramfs/`, as far as they run without an initramfs: what they hand to ZFS,
//! and what they put into an image.

use std::fs;
use std::path::{Path, PathBuf};

use strongroom_tests::executable;
use strongroom_tests::someone::skipped;
use strongroom_tests::{Output, Run, TestVault};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

#[test]
fn the_root_file_system_is_unlocked_with_its_key_out_of_the_vault() {
    let vault = TestVault::new();
    seal(&vault, "rpool/root");
    for location in ["prompt", "file:///run/zfs-keys/rpool/root"] {
        let (outcome, given) = load_key(&vault, "rpool/root", location);
        outcome.ok().does_not_show(KEY);
        assert_eq!(given.as_deref(), Some(KEY.as_bytes()), "{location}");
    }
}

#[test]
fn a_key_that_is_elsewhere_is_left_to_zfs() {
    let vault = TestVault::new();
    seal(&vault, "rpool/root");
    for location in ["file:///root/key", "https://keys.example/root"] {
        let (outcome, given) = load_key(&vault, "rpool/root", location);
        assert_ne!(outcome.code(), Some(0), "{outcome}");
        assert_eq!(given, None, "{location}");
    }
}

#[test]
fn a_key_that_is_not_given_leaves_the_prompt() {
    let mut vault = TestVault::new();
    seal(&vault, "rpool/root");
    let (outcome, given) = load_key(&vault, "rpool/other", "prompt");
    assert_ne!(outcome.code(), Some(0), "{outcome}");
    assert_eq!(given.as_deref(), Some(&b""[..]));
    outcome.says("rpool%2Fother");

    vault.reboot(&[(7, "another boot"), (9, "x"), (11, "y")]);
    let (outcome, given) = load_key(&vault, "rpool/root", "prompt");
    assert_ne!(outcome.code(), Some(0), "{outcome}");
    assert_eq!(given.as_deref(), Some(&b""[..]));
    outcome.says("the policy refused this boot");
}

#[test]
fn an_image_gets_what_its_root_needs_and_no_other_key() {
    let vault = TestVault::new();
    let id = seal(&vault, "rpool/root");
    seal(&vault, "rpool/root2");
    seal(&vault, "tank");
    vault.seal("credentials", "offsite", b"secret");
    let image = Image::new(&vault);
    let told = image.hook("077", "rpool/root").ok();
    assert_eq!(
        image.files(),
        [
            format!("var/lib/strongroom/objects/datasets/{id}.json"),
            "var/lib/strongroom/policy.json".to_owned(),
            "var/lib/strongroom/vault.json".to_owned(),
        ]
    );
    let copied = fs::read_to_string(image.folder.join("calls")).expect("it was called");
    for line in [
        "/zfs-keyprovider /usr/bin/zfs-keyprovider",
        "/libtss2-tcti-device.so.0 /usr/lib/libtss2-tcti-device.so.0",
        "manual_add_modules tpm_crb tpm_tis",
    ] {
        assert!(copied.contains(line), "{line}: {copied}");
    }
    // A list that is part of what is measured cannot have it.
    told.says("the vault is bound to PCR 9");
    // The key comes out of what was copied.
    let copy = image.folder.join("image/var/lib/strongroom");
    let given = vault
        .run(vault.programs().zfs_keyprovider())
        .args(["get", "rpool/root", "--dir"])
        .arg(copy)
        .ok();
    assert_eq!(given.stdout, KEY.as_bytes());
}

#[test]
fn an_image_that_everybody_reads_gets_nothing() {
    let vault = TestVault::new();
    seal(&vault, "rpool/root");
    let image = Image::new(&vault);
    image
        .hook("022", "rpool/root")
        .ok()
        .says("readable for everybody");
    assert_eq!(image.files(), [""; 0]);
    let conf = fs::read_to_string(folder().join("conf-hook")).expect("the script");
    assert!(conf.contains("\nUMASK=0077\n"));
}

#[test]
fn an_image_of_another_root_is_left_alone_and_a_missing_key_stops_no_kernel() {
    let vault = TestVault::new();
    seal(&vault, "tank");
    let image = Image::new(&vault);
    for not_encrypted in ["", "-"] {
        let told = image.hook("077", not_encrypted).ok();
        assert_eq!(told.stderr, "");
        assert_eq!(image.files(), [""; 0]);
    }
    image
        .hook("077", "rpool/root")
        .ok()
        .says("the vault has no key of rpool/root");
    fs::rename(vault.dir(), vault.folder().join("away")).expect("the test may");
    Image::new(&vault)
        .hook("077", "rpool/root")
        .ok()
        .says("there is no vault in");
}

#[test]
fn shellcheck_finds_nothing() {
    let is_there = Run::new("sh").args(["-c", "command -v shellcheck"]);
    if is_there.finish().code() != Some(0) {
        skipped("shellcheck is not there");
        return;
    }
    Run::new("shellcheck")
        .args(["load-key", "hook", "conf-hook"].map(|name| folder().join(name)))
        .ok();
}

/// Sources the script as zfs-initramfs does, with a `zfs` that keeps what it is given. Returns what
/// it was given as a key, if it was.
fn load_key(vault: &TestVault, root: &str, location: &str) -> (Output, Option<Vec<u8>>) {
    let given = vault.folder().join("given");
    let _ = fs::remove_file(&given);
    let zfs = vault.folder().join("zfs");
    let text = format!(
        "#!/bin/sh\n\
         if [ \"$1\" = get ]; then echo \"cannot open '{root}': dataset does not exist\" >&2; exit 1; fi\n\
         test \"$1 $2 $3 $4\" = 'load-key -L prompt {root}' || exit 1\n\
         cat >'{given}'\n\
         test -s '{given}'\n",
        given = given.display()
    );
    executable::write(&zfs, text);
    let outcome = vault
        .run("sh")
        .args(["-c", "(. \"$1\") && exit 0; exit 1", "init"])
        .arg(folder().join("load-key"))
        .env("PATH", path(vault))
        .env("ZFS", "zfs")
        .env("ENCRYPTIONROOT", root)
        .env("KEYLOCATION", location)
        .env("KEYSTATUS", "unavailable")
        .finish();
    (outcome, fs::read(&given).ok())
}

/// The stand-ins first, then our programs, then the system's.
fn path(vault: &TestVault) -> String {
    let programs = vault.programs().zfs_keyprovider();
    let programs = programs.parent().expect("a folder").display().to_string();
    let system = std::env::var("PATH").expect("there is one");
    format!("{}:{programs}:{system}", vault.folder().display())
}

/// An initramfs that is being made.
struct Image<'a> {
    vault: &'a TestVault,
    folder: PathBuf,
}

impl<'a> Image<'a> {
    fn new(vault: &'a TestVault) -> Self {
        let folder = vault.folder().join("initramfs");
        fs::create_dir_all(folder.join("image")).expect("the folder can be written");
        Self { vault, folder }
    }

    /// Runs the hook with this umask, on a system whose root has this encryption root. What
    /// initramfs-tools does for hooks is only written down.
    fn hook(&self, umask: &str, encryption_root: &str) -> Output {
        let functions = self.folder.join("hook-functions");
        let calls = self.folder.join("calls");
        let text = format!(
            "copy_exec() {{ echo \"copy_exec $*\" >>'{calls}'; }}\n\
             manual_add_modules() {{ echo \"manual_add_modules $*\" >>'{calls}'; }}\n",
            calls = calls.display()
        );
        fs::write(&functions, text).expect("the folder can be written");
        let original = "/usr/share/initramfs-tools/hook-functions";
        let hook = fs::read_to_string(folder().join("hook")).expect("the hook");
        assert!(hook.contains(original));
        let hook = hook.replace(original, &functions.display().to_string());
        let copy = self.folder.join("hook");
        fs::write(&copy, hook).expect("the folder can be written");

        for (name, answer) in [("findmnt", "rpool/root/debian"), ("zfs", encryption_root)] {
            let program = self.vault.folder().join(name);
            let text = format!("#!/bin/sh\necho '{answer}'\n");
            executable::write(&program, text);
        }
        self.vault
            .run("sh")
            .args([
                "-c",
                "umask \"$1\"; shift; exec sh \"$@\"",
                "mkinitramfs",
                umask,
            ])
            .arg(&copy)
            .env("PATH", path(self.vault))
            .env("DESTDIR", self.folder.join("image"))
            .finish()
    }

    /// What is in the image.
    fn files(&self) -> Vec<String> {
        let image = self.folder.join("image");
        let mut files = Vec::new();
        let mut folders = vec![image.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&image).expect("it is in it");
                    files.push(name.display().to_string());
                }
            }
        }
        files.sort();
        files
    }
}

fn seal(vault: &TestVault, dataset: &str) -> String {
    let sealed = vault
        .strongroom(&["seal", "--token", "datasets", "--label", dataset, "--json"])
        .args(["--kind", "dataset-key", "--keyformat", "hex"])
        .stdin(KEY)
        .ok();
    sealed.json()["id"].as_str().expect("an id").to_owned()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../debian-initramfs")
}
