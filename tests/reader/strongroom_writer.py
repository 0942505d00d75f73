#!/usr/bin/python3
"""Writes into a Strongroom vault with the recovery kit, from docs/format.md alone.

For tests: what a stranger writes by the document must open, whatever it holds that no command of
Strongroom's would put there; and what is authentic and yet wrong must be refused.

    strongroom_writer.py --recovery KIT VAULT seal          an object, read from standard input as
                                                            {"metadata": ..., "payload": base64}
    strongroom_writer.py --recovery KIT VAULT sign < FILE   the same JSON with its MACs made anew
"""

import argparse
import base64
import fcntl
import json
import os
import subprocess
import sys
import uuid

from strongroom_reader import AESGCM, FORMAT, Kit, Vault, canonical, mac, payload_keys


def base64_text(data):
    return base64.b64encode(data).decode()


def encrypt(recipient, secret):
    done = subprocess.run(
        ["age", "--encrypt", "--recipient", recipient],
        input=secret,
        capture_output=True,
        check=True,
    )
    return done.stdout


def seal(vault, wanted):
    """An object with a recovery slot alone; `strongroom recover` gives it one for the TPM."""
    metadata = {"format": FORMAT, "id": str(uuid.uuid4()), "generation": 1, **wanted["metadata"]}
    dek = os.urandom(32)
    slot = base64_text(encrypt(vault.manifest["recovery-recipient"], dek))
    found = {"metadata": metadata, "slots": [{"type": "recovery", "age": slot}]}
    if "payload" in wanted:
        key, commitment = payload_keys(dek, vault.k_vault, metadata)
        nonce = os.urandom(12)
        ciphertext = AESGCM(key).encrypt(nonce, base64.b64decode(wanted["payload"]), None)
        found["payload"] = {
            "nonce": base64_text(nonce),
            "ciphertext": base64_text(ciphertext),
            "commitment": base64_text(commitment),
        }
    found["mac"] = base64_text(mac(vault.k_vault, b"object", found))
    write(vault, metadata, canonical(found))
    return metadata["id"]


def write(vault, metadata, data):
    """An object's file: wholly or not at all, and while nobody else writes."""
    folder = os.path.join(vault.folder, "objects", metadata["token"])
    name = metadata["id"] + ".json"
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4()}")

    def private(path, flags):
        return os.open(path, flags | os.O_NOFOLLOW, mode=0o600)

    with open(os.path.join(vault.folder, ".lock"), "ab", opener=private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(temporary, "xb", opener=private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, os.path.join(folder, name))
        directory = os.open(folder, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)


def sign(vault, value):
    """MACs of an object, a manifest or a backup, from the inside out."""
    if "metadata" in value:
        purpose = b"object"
    elif "manifest" in value:
        purpose = b"backup"
        for inner in [value["manifest"], *value["objects"]]:
            sign(vault, inner)
    else:
        purpose = b"manifest"
    value["mac"] = base64_text(mac(vault.k_vault, purpose, value))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recovery", required=True, metavar="KIT")
    parser.add_argument("vault", metavar="VAULT")
    parser.add_argument("command", choices=["seal", "sign"])
    arguments = parser.parse_args()
    vault = Vault(arguments.vault, Kit(arguments.recovery))
    value = json.load(sys.stdin)
    if arguments.command == "seal":
        print(seal(vault, value))
    else:
        sign(vault, value)
        json.dump(value, sys.stdout)


if __name__ == "__main__":
    main()
