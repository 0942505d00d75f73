//! What a boot does by itself: the units on systemd, and an encrypted root pool through Debian's ZFS
//! initramfs.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use strongroom_tests::{Boot, Machine};

/// What the units need here besides: the programs are on a disk of their own.
const PROGRAMS: &str = "[Unit]\nRequiresMountsFor=/usr/local/bin\n";

#[test]
#[ignore = "four boots of systemd"]
fn the_units_unlock_and_mount_and_without_a_tpm_the_boot_says_what_is_locked() {
    let mut machine = Machine::new();
    machine.add_disk(256 << 20);
    for unit in ["strongroom-zfs-load-key", "strongroom-keyfs"] {
        machine.bring(
            &format!("/etc/systemd/system/{unit}.service"),
            ours(&format!("systemd/{unit}.service")),
        );
        machine.bring(
            &format!("/etc/systemd/system/{unit}.service.d/programs.conf"),
            PROGRAMS,
        );
    }
    let boot = Boot::direct().systemd();
    machine.run(&boot, ENROL).ok();

    machine.run(&boot, UNLOCKED).ok();

    // One that says of itself where its key is, without the unit that loads all.
    let served = "
        systemctl disable strongroom-zfs-load-key
        systemctl is-active strongroom-keyfs
        sync";
    machine.run(&boot, served).ok();
    machine.run(&boot, SERVED).ok();

    let locked = machine.run(&boot.clone().without_tpm(), LOCKED).ok();
    let locked = locked.text();
    for words in ["tank/home", "tank/served", "tank/volume", "no TPM answers"] {
        assert!(locked.contains(words), "{locked}");
    }
}

const ENROL: &str = "
strongroom init --recovery-out /var/lib/kit --yes --pcrs 7
zpool create -o cachefile=/etc/zfs/zpool.cache -O mountpoint=/t/tank tank /dev/vdd
make_root tank/home raw
make_root tank/served hex
make_root tank/volume raw -V 8M
zfs-keyprovider get tank/served | zfs-keyprovider adopt tank/served \
    --keylocation file:///run/zfs-keys/tank/served
for name in home served; do echo precious >/t/tank/$name/file; done
systemctl daemon-reload
systemctl enable strongroom-zfs-load-key strongroom-keyfs
sync
";

const UNLOCKED: &str = r#"
is "$(systemctl list-units --state=failed --plain --no-legend)" ""
is "$(systemctl is-active strongroom-zfs-load-key strongroom-keyfs | sort -u)" active
is $(locked) 0
for name in home served; do is "$(cat /t/tank/$name/file)" precious; done
wait_for test -e /dev/zvol/tank/volume
journalctl -b -u strongroom-zfs-load-key | grep -q '3 loaded'
# In neither of the targets that are for repairs.
is "$(systemctl list-dependencies --plain rescue.target emergency.target | grep -c strongroom)" 0
"#;

const SERVED: &str = r#"
is "$(systemctl is-active strongroom-keyfs)" active
is "$(systemctl is-active strongroom-zfs-load-key)" inactive
# OpenZFS loads nothing by itself at boot, but on demand.
zfs load-key tank/served
zfs mount tank/served
is "$(cat /t/tank/served/file)" precious
journalctl -b -u strongroom-keyfs | grep -q 'the key of tank/served is given to pid .*(zfs)'
systemctl stop strongroom-keyfs
fails mountpoint /run/zfs-keys
systemctl enable strongroom-zfs-load-key
sync
"#;

const LOCKED: &str = r#"
is $(locked) 3
is "$(systemctl is-active multi-user.target)" active
is "$(systemctl show -P ExecMainStatus strongroom-zfs-load-key)" 4
# It was not waited for.
[ "$(systemctl show -P ActiveEnterTimestampMonotonic multi-user.target)" -lt 80000000 ]
journalctl -b -u strongroom-zfs-load-key
"#;

#[test]
#[ignore = "two boots of systemd, and a root that is copied"]
fn an_encrypted_root_pool_boots_through_the_initramfs_hook() {
    let mut machine = Machine::new();
    machine.add_disk(3 << 30);
    let image = machine.add_disk(256 << 20);
    for (place, file) in [
        ("/etc/zfs/initramfs-tools-load-key.d/strongroom", "load-key"),
        ("/etc/initramfs-tools/hooks/strongroom", "hook"),
        (
            "/usr/share/initramfs-tools/conf-hooks.d/strongroom",
            "conf-hook",
        ),
    ] {
        machine.bring(place, ours(&format!("debian-initramfs/{file}")));
    }
    machine.bring(
        "/etc/default/strongroom",
        "STRONGROOM_INITRAMFS_DATASETS=rpool/ROOT\n",
    );
    // What this machine has, rather than what all may have.
    machine.bring(
        "/etc/initramfs-tools/conf.d/small",
        "MODULES=list\nCOMPRESS=gzip\n",
    );
    machine.bring("/etc/initramfs-tools/modules", "virtio_pci\nvirtio_blk\n");
    let systemd = Boot::direct().systemd().timeout(Duration::from_secs(600));
    machine.run(&systemd, MAKE_ROOT_POOL).ok();

    let initrd = image.with_file_name("initrd-of-the-root-pool");
    let mut content = Vec::new();
    fs::File::open(&image)
        .and_then(|mut disk| disk.read_to_end(&mut content))
        .expect("the disk is the test's");
    let (length, content) = content.split_at(16);
    let length = std::str::from_utf8(length).expect("a number");
    let length: usize = length.trim().parse().expect("a number");
    fs::write(&initrd, &content[..length]).expect("write the initrd");

    let root = systemd
        .other_initrd(&initrd)
        .command_line("root=ZFS=rpool/ROOT/debian boot=zfs");
    let script = r#"
        is "$(findmnt -no SOURCE /)" rpool/ROOT/debian
        is "$(key_status rpool/ROOT)" available
        is "$(cat /etc/of-the-root-pool)" yes"#;
    machine.run(&root, script).ok();
}

const MAKE_ROOT_POOL: &str = r#"
strongroom init --recovery-out /var/lib/kit --yes --pcrs 7
zpool create -o cachefile=none -O mountpoint=none -O compression=lz4 -O acltype=posix -O xattr=sa \
    rpool /dev/vdd
make_root rpool/ROOT raw -o mountpoint=none
zfs create -o canmount=noauto -o mountpoint=/ rpool/ROOT/debian
mount -t zfs -o zfsutil rpool/ROOT/debian /mnt
cp -ax / /mnt
echo yes >/mnt/etc/of-the-root-pool
umount /mnt
chmod +x /etc/initramfs-tools/hooks/strongroom
mkinitramfs -o /run/initrd "$(uname -r)"
{ printf '%-16s' "$(stat -c %s /run/initrd)"; cat /run/initrd; } >/dev/vde
lsinitramfs /run/initrd | grep -q '^var/lib/strongroom/objects/datasets/.*json$'
zpool export rpool
"#;

/// A file of this project.
fn ours(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read(root.join(name)).expect("the project has it")
}
