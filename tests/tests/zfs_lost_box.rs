//! What is left of a box when its TPM or its boot disk is gone: the pool and the recovery kit give
//! every key.

use std::fs;
use std::path::Path;

use strongroom_tests::{Boot, Machine};

/// The disk with the pools, in bytes.
const DISK: u64 = 512 << 20;

/// A vault and twenty encryption roots. The kit goes home with the owner, and the vault's folder onto
/// the second disk.
const ENROL: &str = "
make_disk
strongroom init --recovery-out /run/kit --yes --pcrs 7
make_twenty_roots
export_pools
tar --create --file /dev/vde --directory / run/kit var/lib/strongroom
";

#[test]
#[ignore = "five boots"]
fn pool_and_kit_give_every_key_where_the_boot_disk_or_the_tpm_is_gone() {
    let mut lost = Machine::new();
    let (pools, usb) = (lost.add_disk(DISK), lost.add_disk(64 << 20));
    lost.run(&Boot::direct(), ENROL).ok();

    // No vault, and a TPM that knows nothing: what the encryption roots carry, and the kit.
    let mut host = with_disks(&pools, &usb);
    host.run(
        &Boot::direct(),
        r#"
        tar --extract --file /dev/vde --directory / run/kit
        import_pools
        must 5 "there is no vault" zfs-keyprovider load -a
        zfs get -H -t filesystem,volume -o name,value encryptionroot | awk -F '\t' '$1 == $2 { print $1 }' |
            while read -r root; do
                zfs-keyprovider get --recovery /run/kit "$root" | zfs load-key "$root"
            done
        zfs mount -a
        read_back
        # Another kit opens nothing.
        strongroom init --recovery-out /run/other-kit --yes --pcrs 7
        fails zfs-keyprovider get --recovery /run/other-kit tank/raw1
        "#,
    )
    .ok();

    // The vault on another mainboard: locked, until the kit has moved it there.
    let mut moved = with_disks(&pools, &usb);
    moved
        .run(
            &Boot::direct(),
            r#"
            tar --extract --file /dev/vde --directory /
            import_pools
            must 4 "TPM" zfs-keyprovider load -a
            is $(locked) 20
            serve
            fails zfs load-key -L file:///run/zfs-keys/.flat/tank%2Fraw2 tank/raw2
            kill $server
            strongroom recover --recovery /run/kit --yes
            zfs-keyprovider load -a
            zfs mount -a
            read_back
            export_pools
            "#,
        )
        .ok();
    moved
        .run(
            &Boot::direct(),
            "import_pools; zfs-keyprovider load -a; zfs mount -a; read_back; export_pools",
        )
        .ok();
}

/// A machine of another TPM and another root, with copies of these disks.
fn with_disks(pools: &Path, usb: &Path) -> Machine {
    let mut machine = Machine::new();
    for disk in [pools, usb] {
        let copy = machine.add_disk(0);
        fs::copy(disk, copy).expect("copy a disk");
    }
    machine
}
