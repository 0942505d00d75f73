//! An installed box under a real systemd: `install` on a running system, units that hand the middleware its
//! keys before it unlocks, that enrol what it writes, that put the launcher in restic's place; and
//! `uninstall`, after which the box is as it was. ZFS, systemd and the TPM's device are real; the middleware
//! and restic are stood in for.

use std::fs;
use std::time::Duration;

use strongroom_tests::truenas_fixture::{Fixture, Generation};
use strongroom_tests::{Boot, Machine};

const KEY: [u8; 32] = [0x1e; 32];
const LATER: [u8; 32] = [0x2f; 32];

#[test]
#[ignore = "two boots of systemd"]
fn an_installed_box_boots_enrols_backs_up_and_is_given_back() {
    let mut machine = Machine::new();
    machine.add_disk(256 << 20);
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = Fixture::build(folder.path(), Generation::V25_10, 1, 0);
    let encrypted = |key: [u8; 32], nonce| fixture.encrypt(&hex::encode(key), true, nonce);
    let database = fixture.connect();
    database
        .execute("DELETE FROM storage_encrypteddataset", ())
        .and_then(|_| {
            database.execute(
                "INSERT INTO storage_encrypteddataset (name, encryption_key) VALUES ('tank/home', ?1)",
                [encrypted(KEY, [7; 8])],
            )
        })
        .expect("the table takes a row");
    drop(database);
    let mut bring = |path: &str, content: &[u8]| machine.bring(path, content);
    let read = |path: &std::path::Path| fs::read(path).expect("just made");
    bring("/run/machine/data/freenas-v1.db", &read(&fixture.database));
    bring(
        "/run/machine/data/pwenc_secret",
        &read(&fixture.pwenc_secret),
    );
    bring(
        "/run/machine/truenas-box",
        &read(env!("CARGO_BIN_EXE_truenas-box").as_ref()),
    );
    bring("/run/machine/restic", RESTIC.as_bytes());
    bring("/run/machine/key", hex::encode(KEY).as_bytes());
    bring("/run/machine/later", hex::encode(LATER).as_bytes());
    bring(
        "/run/machine/later.column",
        encrypted(LATER, [8; 8]).as_bytes(),
    );
    for (name, text) in [("middlewared", MIDDLEWARED), ("ix-zfs", IX_ZFS)] {
        let file = format!("/etc/systemd/system/{name}.service");
        bring(&file, text.as_bytes());
    }
    let boot = Boot::direct().systemd().timeout(Duration::from_secs(600));
    machine.run(&boot, INSTALL).ok();
    let booted = machine.run(&boot, BOOTED).ok();
    let seconds: u64 = (booted.text().trim().parse()).expect("how long the new key was there");
    println!("a new key was in plaintext for {seconds} s");
    assert!(seconds <= 60);
}

/// Root's, like the real one, and says what it is given.
const RESTIC: &str = r#"#!/bin/sh
echo "restic $* with $RESTIC_PASSWORD"
cat
exit 7
"#;

const MIDDLEWARED: &str = "\
[Unit]
Description=A stand-in for TrueNAS's middleware
[Service]
ExecStart=/usr/bin/truenas-box serve /var/run/middleware/middlewared.sock /run/middleware/state
RuntimeDirectory=middleware
[Install]
WantedBy=multi-user.target
";

const IX_ZFS: &str = "\
[Unit]
Description=A stand-in for what imports and unlocks TrueNAS's pools
DefaultDependencies=no
After=middlewared.service
Requires=middlewared.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/sbin/zpool import -N tank
ExecStart=/usr/bin/truenas-box unlock /run/middleware/state
[Install]
WantedBy=multi-user.target
";

const INSTALL: &str = r#"
mkdir /data
cp /run/machine/data/* /data
install -m 755 /run/machine/truenas-box /run/machine/restic /usr/bin/
zpool create -O mountpoint=none tank /dev/vdd
zfs create -o encryption=on -o keyformat=hex -o keylocation=prompt tank/home </run/machine/key
systemctl daemon-reload
systemctl enable middlewared ix-zfs
systemctl start middlewared

# What restic is, before and after.
restic() { env -i RESTIC_PASSWORD="$1" /usr/bin/restic snapshots "two words" <<<"its input"; }
before=$(restic plain) && exit 94
strongroom install --from /usr/local/bin
is "$(systemctl list-units --state=failed --plain --no-legend)" ""
mountpoint -q /usr/bin/restic
after=$(restic plain) && exit 95
is "$after" "$before"

cd /root/strongroom
./strongroom init --recovery-out /var/lib/kit --yes --pcrs 7
./strongroom migrate --yes --only datasets --while-in-use --backup /var/lib/backup \
    --database /data/freenas-v1.db --pwenc-secret /data/pwenc_secret
is "$(truenas-box sql /data/freenas-v1.db 'SELECT encryption_key FROM storage_encrypteddataset')" NULL

# A placeholder reaches restic as what it stands for, and nothing else changes.
id=$(printf '{"password": "sesame"}' | ./strongroom seal --token credentials --label backup --kind credential --json |
    tr -d ' \n' | sed 's/.*"id":"\([^"]*\)".*/\1/')
echo "$id" >/var/lib/id
sync
"#;

const BOOTED: &str = r#"
restic() { env -i RESTIC_PASSWORD="$1" /usr/bin/restic snapshots "two words" <<<"its input"; }
sql() { truenas-box sql /data/freenas-v1.db "$1"; }
is "$(systemctl list-units --state=failed --plain --no-legend)" ""
# The middleware's own unlock, with the key that it was handed before.
is "$(key_status tank/home)" available
grep -q "^key tank/home $(cat /run/machine/key)$" /run/middleware/state
/root/strongroom/strongroom status >&2
said=$(restic "strongroom:v1:$(cat /var/lib/id)") && exit 96
is "$said" $'restic snapshots two words with sesame\nits input'

# A key that the middleware writes is enrolled by the units.
begun=$SECONDS
sql "INSERT INTO storage_encrypteddataset (name, encryption_key)
    VALUES ('tank/later', '$(cat /run/machine/later.column)')"
until [ "$(sql "SELECT encryption_key FROM storage_encrypteddataset WHERE name = 'tank/later'")" = NULL ]; do
    [ $((SECONDS - begun)) -lt 120 ] || { journalctl -b -u strongroom-enrol >&2; exit 97; }
    sleep 0.5
done
echo $((SECONDS - begun))
grep -q "^key tank/later $(cat /run/machine/later)$" /run/middleware/state

# A middleware that was started anew has forgotten all, and is told again.
systemctl restart middlewared
wait_for grep -q "^key tank/later" /run/middleware/state
wait_for grep -q "^key tank/home" /run/middleware/state

systemctl stop middlewared
/root/strongroom/strongroom uninstall --yes >&2
is "$(sql 'SELECT count(*) FROM storage_encrypteddataset WHERE encryption_key IS NULL')" 0
fails mountpoint -q /usr/bin/restic
is "$(readlink -f /usr/bin/restic)" /usr/bin/restic
said=$(restic plain) && exit 98
is "$said" $'restic snapshots two words with plain\nits input'
is "$(systemctl list-unit-files --plain --no-legend | grep -c strongroom)" 0
is "$(ls /root/strongroom 2>/dev/null)" ""
"#;
