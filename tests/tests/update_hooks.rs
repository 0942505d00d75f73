//! The scripts of `update-hooks/` with a `strongroom` that writes down how it is called, and the unit
//! that commits a boot.

use std::fs;
use std::path::{Path, PathBuf};

use strongroom_tests::executable;
use strongroom_tests::someone::skipped;
use strongroom_tests::unit::{self, ServiceUnit};
use strongroom_tests::{Output, Run};
use tempfile::TempDir;

const COMMIT: &str = "strongroom-commit.service";

#[test]
fn a_unified_kernel_image_is_prepared_by_its_version_or_its_name() {
    let system = System::new();
    system.file("boot/vmlinuz-6.12");
    system.file("boot/initrd.img-6.12");
    let image = system.file("boot/efi/EFI/Linux/debian-6.12.efi");
    system.file("boot/efi/EFI/Linux/debian-6.11.efi");
    let told = system.prepare(&["6.12"]);
    told.says(&format!("{image} is prepared"));
    assert_eq!(system.called(), format!("prepare --yes --uki {image}"));

    let named = system.file("boot/other.efi");
    system.prepare(&["6.12", &named]);
    assert_eq!(system.called(), format!("prepare --yes --uki {named}"));

    let pattern = system.at("boot/efi/EFI/Linux/debian-%v.efi");
    system.settings(&format!("STRONGROOM_UKI={}", pattern.display()));
    system.prepare(&["6.12"]);
    assert_eq!(system.called(), format!("prepare --yes --uki {image}"));
    system
        .prepare(&["6.13"])
        .says("is not there")
        .says("--recovery");
    assert_eq!(system.called(), "");
}

#[test]
fn a_kernel_is_prepared_with_the_initrd_that_there_is() {
    let system = System::new();
    let kernel = system.file("boot/vmlinuz-6.12");
    system.prepare(&["6.12"]);
    assert_eq!(system.called(), format!("prepare --yes --kernel {kernel}"));
    let initrd = system.file("boot/initrd.img-6.12");
    system.prepare(&["6.12"]);
    assert_eq!(
        system.called(),
        format!("prepare --yes --kernel {kernel} --initrd {initrd}")
    );
}

#[test]
fn no_hook_makes_an_update_fail() {
    let system = System::new();
    system.prepare(&[]).says("no kernel version");
    system.prepare(&["6.12"]).says("neither");
    system.file("boot/vmlinuz-6.12");
    system.program("echo 'PCR 8 cannot be predicted' >&2; exit 7");
    system
        .prepare(&["6.12"])
        .says("PCR 8 cannot be predicted")
        .says("the next boot is not prepared")
        .says("rebind --recovery");
    let one = system.file("boot/efi/EFI/Linux/a-6.12.efi");
    let two = system.file("boot/efi/EFI/Linux/b-6.12.efi");
    system
        .prepare(&["6.12"])
        .says(&one)
        .says(&two)
        .says("STRONGROOM_UKI");
    // No vault, or no program: nothing to say.
    fs::remove_file(system.at("vault/vault.json")).expect("removed");
    assert_eq!(system.prepare(&["6.12"]).stderr, "");
    for hook in ["debian", "kernel-install"] {
        Run::new(folder().join(hook)).args(["add", "6.12"]).ok();
    }
}

#[test]
fn the_hooks_hand_on_the_version_and_the_image() {
    let system = System::new();
    let helper = system.file("prepare");
    executable::write(
        Path::new(&helper),
        format!(
            "#!/bin/sh\necho \"$*\" >'{}'\n",
            system.at("called").display()
        ),
    );
    let hook = |name: &str| {
        let text = fs::read_to_string(folder().join(name)).expect("a hook");
        let text = text.replace("/usr/local/lib/strongroom/prepare-next-boot", &helper);
        let file = system.at(name);
        executable::write(&file, text);
        Run::new(file)
    };
    hook("debian").args(["6.12", "/boot/vmlinuz-6.12"]).ok();
    assert_eq!(system.called(), "6.12");
    hook("kernel-install").args(["remove", "6.12"]).ok();
    assert_eq!(system.called(), "");
    hook("kernel-install")
        .args(["add", "6.12", "/boot/entry", "/vmlinuz"])
        .ok();
    assert_eq!(system.called(), "6.12");
    for name in ["token-6.12.efi", "token-6.12+3.efi"] {
        let image = system.file(&format!("esp/EFI/Linux/{name}"));
        hook("kernel-install")
            .args(["add", "6.12", "/boot/entry", "/vmlinuz"])
            .env("KERNEL_INSTALL_LAYOUT", "uki")
            .env("KERNEL_INSTALL_BOOT_ROOT", system.at("esp"))
            .env("KERNEL_INSTALL_ENTRY_TOKEN", "token")
            .ok();
        assert_eq!(system.called(), format!("6.12 {image}"));
        fs::remove_file(image).expect("removed");
    }
}

#[test]
fn shellcheck_finds_nothing() {
    let is_there = Run::new("sh").args(["-c", "command -v shellcheck"]);
    if is_there.finish().code() != Some(0) {
        skipped("shellcheck is not there");
        return;
    }
    Run::new("shellcheck")
        .args(["prepare-next-boot", "debian", "kernel-install"].map(|name| folder().join(name)))
        .ok();
}

#[test]
fn a_boot_is_committed_when_it_is_good_and_no_more_exposed_than_it_must_be() {
    unit::verify(&[COMMIT]);
    let unit = ServiceUnit::read(COMMIT, "");
    assert_eq!(unit.exec_start(), ["strongroom", "commit", "--yes"]);
    for name in ["Requires", "After"] {
        assert!(
            unit.settings(name).contains(&"boot-complete.target"),
            "{name}"
        );
    }
    assert!(unit.settings("After").contains(&"systemd-pcrphase.service"));
    assert!(unit.settings("Conflicts").contains(&"rescue.target"));
    // What is prepared later in this boot must outlive it.
    assert_eq!(unit.setting("RemainAfterExit"), "yes");
    if let Some(exposure) = unit::exposure(COMMIT) {
        assert!(exposure <= 15, "{exposure} of 100");
    }
}

/// As much of a system as the scripts look at.
struct System {
    folder: TempDir,
}

impl System {
    fn new() -> Self {
        let system = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        system.file("vault/vault.json");
        system.settings("");
        system.program("");
        system
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        let file = self.at(name);
        fs::create_dir_all(file.parent().expect("in a folder")).expect("folders");
        fs::write(&file, "something").expect("written");
        file.display().to_string()
    }

    fn settings(&self, more: &str) {
        let vault = self.at("vault");
        let text = format!("STRONGROOM_DIR={}\n{more}\n", vault.display());
        fs::write(self.at("settings"), text).expect("written");
    }

    /// What `strongroom` does beside writing down how it is called.
    fn program(&self, more: &str) {
        let called = self.at("called");
        let file = self.file("bin/strongroom");
        let text = format!("#!/bin/sh\necho \"$*\" >'{}'\n{more}\n", called.display());
        executable::write(Path::new(&file), text);
    }

    /// How it was called since this was asked last.
    fn called(&self) -> String {
        let called = self.at("called");
        let text = fs::read_to_string(&called).unwrap_or_default();
        let _ = fs::remove_file(called);
        text.trim_end().to_owned()
    }

    fn prepare(&self, args: &[&str]) -> Output {
        let path = std::env::var("PATH").expect("a PATH");
        Run::new(folder().join("prepare-next-boot"))
            .args(args)
            .env("PATH", format!("{}:{path}", self.at("bin").display()))
            .env("STRONGROOM_SETTINGS", self.at("settings"))
            .env("STRONGROOM_BOOT", self.at("boot"))
            .ok()
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../update-hooks")
}
