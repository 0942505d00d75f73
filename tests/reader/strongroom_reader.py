#!/usr/bin/python3
"""Reads a Strongroom vault or backup with the recovery kit, and nothing else.

Written from docs/format.md alone, to show that a stranger could. It shares no code with
Strongroom. Needs Debian's python3-cryptography and age.

    strongroom_reader.py --recovery KIT PATH list          the objects, as JSON
    strongroom_reader.py --recovery KIT PATH show --id ID  one object's payload
    strongroom_reader.py --recovery KIT PATH digests       SHA-256 of every payload, by id
    strongroom_reader.py --recovery KIT PATH trace --id ID every step to one payload
    strongroom_reader.py --recovery KIT PATH policy        every step of the TPM's policies
    strongroom_reader.py --recovery KIT PATH pin --token TOKEN --role ROLE
                                                           what a PIN, read from standard input, is
                                                           to the TPM

PATH is a vault's folder, a backup file, or a file with a recovery copy. Exit codes: 0 done; 1 some objects are unusable, the
rest is done; 5 refused; 6 no such object.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import stat
import subprocess
import sys
import unicodedata

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_der_public_key

# The newest formats: of backups and recovery copies, of objects, of manifests, and of lists of boots.
FORMAT = 1
OBJECT_FORMAT = 2
MANIFEST_FORMAT = 4
POLICY_FORMAT = 2
MAX_FILE = 2 << 20
MAX_BACKUP = 4 << 30
MAX_KIT = 64 << 10
# The first and the last line of an age file in letters.
ARMOR = ("-----BEGIN AGE ENCRYPTED FILE-----", "-----END AGE ENCRYPTED FILE-----")
MAX_INTEGER = (1 << 53) - 1
# The member of a slot beside its type, and beside `peer` where it may have that.
SLOTS = {
    "tpm": "key-file",
    "tpm-duplicate": "duplicate",
    "tpm-key": "key-file",
    "recovery": "age",
}
SLOTS_OF_PEERS = ("tpm", "tpm-duplicate")
# The attributes that say what a private key is.
KEY_ATTRIBUTES = ("public-key", "algorithm", "residence", "local")
KINDS = ("dataset-key", "credential", "secret-key", "private-key", "certificate")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TOKEN = re.compile(r"[a-z0-9-]{1,32}")
# What a token may have in a manifest of format 2, and must have in some token there.
FORMAT_2 = ("label", "write-protected", "pins")
# The same of format 3.
FORMAT_3 = ("fence",)
FENCES = (8, 9, 11, 12, 13, 14, 15)
# Whose PIN it is: the index's member in the manifest, its name here, and the byte that stands for it.
ROLES = {"security-officer": ("the security officer's", 1), "user": ("the user's", 0)}
ATTRIBUTE = re.compile(r"[a-z0-9.-]{1,64}")
PCRS = [pcr for pcr in range(24) if pcr not in (10, 16, 23)]


class Refused(Exception):
    """The file is not what the document says that it must be."""


class NoSuchObject(Exception):
    """No object of the vault has this id."""


class NothingToOpen(Refused):
    """The object is whole, and has no secret that the kit could give."""


# --- Encodings -----------------------------------------------------------------------------------


def parse(data, where):
    """JSON, without what the document refuses."""

    def members(pairs):
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Refused(f"{where} is damaged: a member is there twice")
        return found

    def no_number(text):
        raise Refused(f"{where} is damaged: {text} is not an integer")

    def integer(text):
        if text.startswith("-") or not 0 <= int(text) <= MAX_INTEGER:
            no_number(text)
        return int(text)

    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=members,
            parse_float=no_number,
            parse_int=integer,
            parse_constant=no_number,
        )
        canonical(value)  # Refuses lone surrogates, which are not Unicode text.
    except (UnicodeError, ValueError, RecursionError) as error:
        raise Refused(f"{where} is damaged: {error}") from error
    return value


def canonical(value):
    """RFC 8785, as far as it is needed here."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8")


def check_format(value, where, newest=FORMAT):
    """The format version, which comes before everything else in a file."""
    number = value.get("format") if isinstance(value, dict) else None
    if not is_integer(number) or number == 0:
        raise Refused(f"{where} is damaged: it says no format version")
    if number > newest:
        raise Refused(f"{where} is newer: it has format {number}, and this reader knows {newest}")


def members(value, where, required, optional=()):
    """The members of an object, each there once and none unknown."""
    if not isinstance(value, dict):
        raise Refused(f"{where} is damaged: it is not an object")
    unknown = value.keys() - set(required) - set(optional)
    missing = set(required) - value.keys()
    if unknown or missing:
        raise Refused(f"{where} is damaged: unknown {sorted(unknown)}, missing {sorted(missing)}")
    return value


def is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def string(value, where, pattern=None):
    if not isinstance(value, str) or (pattern and not pattern.fullmatch(value)):
        raise Refused(f"{where} is damaged: {value!r}")
    return value


def integer(value, where, least, most=MAX_INTEGER):
    if not is_integer(value) or not least <= value <= most:
        raise Refused(f"{where} is damaged: {value!r}")
    return value


def unbase64(value, where, length=None):
    try:
        data = base64.b64decode(string(value, where), validate=True)
    except ValueError as error:
        raise Refused(f"{where} is damaged: {error}") from error
    if base64.b64encode(data).decode() != value or length not in (None, len(data)):
        raise Refused(f"{where} is damaged: its base64 or its length is wrong")
    return data


def read(path, limit):
    # A pipe in a file's place is refused rather than waited for.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Refused(f"{path} is damaged: it is not a file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Refused(f"{path} is damaged: it is longer than {limit} bytes")
    return data


# --- Keys and MACs -------------------------------------------------------------------------------


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def hkdf(key, info, length):
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(key)


def mac_key(k_vault, purpose):
    return hkdf(k_vault, b"strongroom v1 " + purpose, 32)


def mac_input(value):
    return canonical({name: member for name, member in value.items() if name != "mac"})


def mac(k_vault, purpose, value):
    return hmac.new(mac_key(k_vault, purpose), mac_input(value), hashlib.sha256).digest()


def check_mac(k_vault, purpose, value, where):
    found = unbase64(value["mac"], f"{where}: mac", 32)
    if not hmac.compare_digest(found, mac(k_vault, purpose, value)):
        raise Refused(f"{where} is forged: its MAC does not fit its content")


# --- The recovery kit ----------------------------------------------------------------------------


class Kit:
    """The recovery kit; the identity stays in its file, or in one in memory, for age."""

    def __init__(self, path):
        self.path = path
        # What age is to find open.
        self.open_files = ()
        try:
            lines = [line.strip() for line in read(path, MAX_KIT).decode("utf-8").split("\n")]
        except UnicodeError as error:
            raise Refused(f"{path} is no recovery kit: {error}") from error

        def find(prefix):
            for line in lines:
                if line.startswith(prefix):
                    return line[len(prefix) :].strip()
            raise Refused(f"{path} is no recovery kit: it has no line {prefix!r}")

        self.vault = find("# vault: ")
        digits = find("# vault key SHA-256: ")
        if not re.fullmatch("[0-9A-Fa-f]{64}", digits):
            raise Refused(f"{path} is no recovery kit: {digits!r} is no SHA-256")
        self.fingerprint = bytes.fromhex(digits)
        identities = [line for line in lines if line and not line.startswith("#")]
        self.identity = path
        if identities and identities[0] == ARMOR[0]:
            self.identity = self.unprotect(identities)
        elif not identities or not identities[0].startswith("AGE-SECRET-KEY-1"):
            raise Refused(f"{path} is no recovery kit: it has no identity")

    def unprotect(self, lines):
        """A file, in memory alone, with the identity; age asks for the passphrase at the terminal."""
        if ARMOR[1] not in lines:
            raise Refused(f"{self.path} is no recovery kit: its identity is cut short")
        block = "\n".join(lines[: lines.index(ARMOR[1]) + 1]) + "\n"
        done = subprocess.run(
            ["age", "--decrypt"], input=block.encode(), stdout=subprocess.PIPE, check=False
        )
        if done.returncode != 0:
            raise Refused(f"{self.path} does not open")
        file = os.memfd_create("identity")
        os.write(file, done.stdout)
        self.open_files = (file,)
        return f"/dev/fd/{file}"

    def decrypt(self, slot, where):
        """32 bytes out of a slot."""
        done = subprocess.run(
            ["age", "--decrypt", "--identity", self.identity],
            pass_fds=self.open_files,
            input=slot,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise Refused(f"{where} does not open: {done.stderr.decode().strip()}")
        if len(done.stdout) != 32:
            raise Refused(f"{where} does not hold 32 bytes")
        return done.stdout


# --- The manifest --------------------------------------------------------------------------------


def check_manifest(manifest, where):
    """The format and the shape of a manifest."""
    check_format(manifest, where, MANIFEST_FORMAT)
    members(
        manifest,
        where,
        ["format", "id", "recovery-recipient", "pcrs", "root-key", "index", "writers"]
        + ["storage-key", "vault-key", "tokens", "mac"],
        ["peers"],
    )
    string(manifest["id"], f"{where}: id", UUID)
    string(manifest["recovery-recipient"], f"{where}: recipient", re.compile("age1[0-9a-z]{58}"))
    check_machine(manifest, where)
    vault_key = members(manifest["vault-key"], f"{where}: vault-key", ["tpm", "recovery"])
    unbase64(vault_key["tpm"], f"{where}: vault-key")
    unbase64(vault_key["recovery"], f"{where}: vault-key")
    if not isinstance(manifest["tokens"], dict):
        raise Refused(f"{where} is damaged: tokens")
    for name, token in manifest["tokens"].items():
        string(name, f"{where}: token", TOKEN)
        check_token(name, token, f"{where}: token {name}")
    if "peers" in manifest:
        if not isinstance(manifest["peers"], dict) or not manifest["peers"]:
            raise Refused(f"{where} is damaged: peers")
        for peer, record in manifest["peers"].items():
            check_peer(string(peer, f"{where}: peers", UUID), record, f"{where}: peer {peer}")
    there = {name for token in manifest["tokens"].values() for name in token}
    least = 3 if there & set(FORMAT_3) else 2 if there & set(FORMAT_2) else 1
    if "peers" in manifest:
        least = 4
    if manifest["format"] != least:
        raise Refused(f"{where} is damaged: its format is not the oldest that has all of it")
    unbase64(manifest["mac"], f"{where}: mac", 32)


def check_machine(record, where):
    """What is of one machine, the vault's own or a second one."""
    pcrs = string(record["pcrs"], f"{where}: pcrs")
    if not pcrs or pcrs != ",".join(str(pcr) for pcr in PCRS if str(pcr) in pcrs.split(",")):
        raise Refused(f"{where} is damaged: pcrs {pcrs!r}")
    root = members(record["root-key"], f"{where}: root-key", ["handle", "template", "public"])
    integer(root["handle"], f"{where}: handle", 0x81000001, 0x8100000F)
    unbase64(root["template"], f"{where}: template", 90)
    unbase64(root["public"], f"{where}: public")
    integer(record["index"], f"{where}: index", 0x01800000, 0x01BFFFFF)
    writers = members(
        record["writers"], f"{where}: writers", ["x", "k-x", "k-x-signature", "k-rec"]
    )
    unbase64(writers["x"], f"{where}: x")
    unbase64(writers["k-x"], f"{where}: k-x", 65)
    unbase64(writers["k-x-signature"], f"{where}: k-x-signature", 64)
    k_rec = members(writers["k-rec"], f"{where}: k-rec", ["public", "private"])
    unbase64(k_rec["public"], f"{where}: k-rec", 65)
    unbase64(k_rec["private"], f"{where}: k-rec")
    unbase64(record["storage-key"], f"{where}: storage-key")


def check_peer(peer, record, where):
    """What the manifest has of a second machine."""
    members(
        record,
        where,
        ["pcrs", "root-key", "index", "writers", "storage-key", "vault-key", "tokens"],
    )
    check_machine(record, where)
    check_duplicate(record["vault-key"], f"{where}: vault-key")
    if not isinstance(record["tokens"], dict):
        raise Refused(f"{where} is damaged: tokens")
    for name, token in record["tokens"].items():
        string(name, f"{where}: token", TOKEN)
        unbase64(members(token, where, ["storage-key"])["storage-key"], f"{where}: token {name}")


def check_duplicate(duplicate, where):
    """32 bytes on their way into a TPM: all but what its storage key alone opens."""
    members(duplicate, where, ["public", "private", "seed"])
    public = unbase64(duplicate["public"], where, 46)
    if public[:14] != bytes.fromhex("0008 000b 00000444 0000 0010 0020"):
        raise Refused(f"{where} is damaged: its public area")
    # An HMAC, and encrypted: the type, no auth, a seed of 32 bytes and as many of data.
    private = unbase64(duplicate["private"], where, 34 + 2 + 2 + 2 + 34 + 34)
    seed = unbase64(duplicate["seed"], where, 68)
    if private[:2] != b"\x00\x20" or seed[:2] != b"\x00\x20" or seed[34:36] != b"\x00\x20":
        raise Refused(f"{where} is damaged: its lengths")


def check_token(name, token, where):
    """What a token is made of."""
    members(token, where, ["storage-key"], FORMAT_2 + FORMAT_3)
    unbase64(token["storage-key"], where)
    if "label" in token:
        label = string(token["label"], f"{where}: label")
        control = any(unicodedata.category(character) == "Cc" for character in label)
        if not 1 <= len(label.encode()) <= 32 or control or label != label.strip() or label == name:
            raise Refused(f"{where} is damaged: label {label!r}")
    if "write-protected" in token and not isinstance(token["write-protected"], bool):
        raise Refused(f"{where} is damaged: write-protected")
    if "fence" in token and (isinstance(token["fence"], bool) or token["fence"] not in FENCES):
        raise Refused(f"{where} is damaged: fence")
    if "pins" in token:
        pins = members(token["pins"], f"{where}: pins", ["storage-key", "indices"])
        unbase64(pins["storage-key"], f"{where}: pins")
        members(pins["indices"], f"{where}: indices", ROLES)
        for role, index in pins["indices"].items():
            record = ["handle", "first-writer", "changer", "changer-signature"]
            members(index, f"{where}: {role}", record)
            integer(index["handle"], f"{where}: {role}", 0x01800000, 0x01BFFFFF)
            unbase64(index["first-writer"], f"{where}: {role}", 65)
            unbase64(index["changer"], f"{where}: {role}", 65)
            unbase64(index["changer-signature"], f"{where}: {role}", 64)


def open_vault_key(manifest, kit, where):
    """K_vault, compared with the kit before any use, and the manifest's MAC under it."""
    if kit.vault != manifest["id"]:
        raise Refused(f"{kit.path} is of vault {kit.vault}, and {where} is vault {manifest['id']}")
    slot = unbase64(manifest["vault-key"]["recovery"], where)
    k_vault = kit.decrypt(slot, f"{where}: vault-key.recovery")
    if not hmac.compare_digest(sha256(k_vault), kit.fingerprint):
        raise Refused(f"{where} is forged: its vault key is not the one that the kit names")
    check_mac(k_vault, b"manifest", manifest, where)
    return k_vault


# --- Objects -------------------------------------------------------------------------------------


def check_object(found, where):
    """The format and the shape of an object."""
    if not isinstance(found, dict):
        raise Refused(f"{where} is damaged: it is not an object")
    check_format(found.get("metadata"), where, OBJECT_FORMAT)
    members(found, where, ["metadata", "slots", "mac"], ["payload"])
    check_metadata(found["metadata"], where)
    if "payload" in found:
        check_payload(found["payload"], found["metadata"], where)
    if not isinstance(found["slots"], list):
        raise Refused(f"{where} is damaged: slots")
    for slot in found["slots"]:
        kind = slot.get("type") if isinstance(slot, dict) else None
        member = SLOTS.get(kind) if isinstance(kind, str) else None
        if member is None:
            raise Refused(f"{where} is damaged: a slot of unknown type")
        members(slot, f"{where}: slot", ["type", member], ["peer"] * (kind in SLOTS_OF_PEERS))
        if "peer" in slot:
            string(slot["peer"], f"{where}: slot", UUID)
        if kind == "tpm-duplicate":
            check_duplicate(slot[member], f"{where}: slot")
        else:
            unbase64(slot[member], f"{where}: slot")
    newer = [slot for slot in found["slots"] if slot["type"] == "tpm-duplicate" or "peer" in slot]
    if found["metadata"]["format"] != (2 if newer else 1):
        raise Refused(f"{where} is damaged: its format is not the oldest that has all of it")
    unbase64(found["mac"], f"{where}: mac", 32)


def check_payload(payload, metadata, where):
    members(payload, where, ["nonce", "ciphertext", "commitment"], ["encrypted-as"])
    unbase64(payload["nonce"], f"{where}: nonce", 12)
    if len(unbase64(payload["ciphertext"], f"{where}: ciphertext")) < 16:
        raise Refused(f"{where} is damaged: its ciphertext has no tag")
    unbase64(payload["commitment"], f"{where}: commitment", 32)
    if "encrypted-as" not in payload:
        return
    before = payload["encrypted-as"]
    check_metadata(before, f"{where}: encrypted-as")
    same = [before[name] == metadata[name] for name in ("format", "id", "token", "kind")]
    old, new = (data.get("attributes", {}) for data in (before, metadata))
    same.append(old.get("pin") == new.get("pin"))
    if metadata["kind"] == "private-key":
        same += [old.get(name) == new.get(name) for name in KEY_ATTRIBUTES]
    if not all(same):
        raise Refused(f"{where} is damaged: encrypted-as is another object's")


def check_metadata(metadata, where):
    """The members of an object's metadata, and of what its payload was encrypted as."""
    members(
        metadata,
        where,
        ["format", "id", "token", "kind", "label", "generation"],
        ["attributes", "pool-guid", "dataset-guid"],
    )
    string(metadata["id"], f"{where}: id", UUID)
    string(metadata["token"], f"{where}: token", TOKEN)
    if metadata["kind"] not in KINDS:
        raise Refused(f"{where} is damaged: kind {metadata['kind']!r}")
    label = string(metadata["label"], f"{where}: label")
    control = any(unicodedata.category(character) == "Cc" for character in label)
    if not 1 <= len(label.encode()) <= 1024 or control:
        raise Refused(f"{where} is damaged: label {label!r}")
    if "attributes" in metadata:
        if not isinstance(metadata["attributes"], dict) or not metadata["attributes"]:
            raise Refused(f"{where} is damaged: attributes")
        for key, value in metadata["attributes"].items():
            string(key, f"{where}: attribute", ATTRIBUTE)
            string(value, f"{where}: attribute {key}")
    for name in ("pool-guid", "dataset-guid"):
        if name in metadata:
            guid = string(metadata[name], f"{where}: {name}", re.compile("0|[1-9][0-9]{0,19}"))
            if int(guid) >= 1 << 64:
                raise Refused(f"{where} is damaged: {name}")
    integer(metadata["generation"], f"{where}: generation", 1)


def open_dek(found, kit, where):
    for slot in found["slots"]:
        if slot["type"] == "recovery":
            return kit.decrypt(unbase64(slot["age"], where), f"{where}: recovery slot")
    raise Refused(f"{where} has no recovery slot")


def encrypted_as(found):
    """The metadata that the payload's key is derived from."""
    return found["payload"].get("encrypted-as", found["metadata"])


def of_format_1(metadata):
    """The metadata that keys are derived from: slots of other machines change nothing of it."""
    return {**metadata, "format": 1}


def payload_keys(dek, k_vault, metadata):
    """The key of the payload, and its commitment."""
    info = b"strongroom v1 payload" + sha256(canonical(of_format_1(metadata)))
    okm = hkdf(dek + k_vault, info, 64)
    return okm[:32], okm[32:]


class Vault:
    """A vault or a backup, opened with the kit: manifest and K_vault are checked."""

    def __init__(self, path, kit):
        self.kit = kit
        self.unusable = []  # What is wrong with objects that cost themselves alone.
        self.folder = path if os.path.isdir(path) else None
        if self.folder:
            where = os.path.join(path, "vault.json")
            self.manifest = parse(read(where, MAX_FILE), where)
            check_manifest(self.manifest, where)
            self.k_vault = open_vault_key(self.manifest, kit, where)
            self.objects = self.read_folders()
        else:
            value = parse(read(path, MAX_BACKUP), path)
            is_copy = isinstance(value, dict) and "vault-key" in value
            self.objects = (self.read_copy if is_copy else self.read_backup)(value, path)

    def read_folders(self):
        objects = {}
        for token in sorted(self.manifest["tokens"]):
            folder = os.path.join(self.folder, "objects", token)
            names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
            for name in names:
                if not name.endswith(".json"):
                    continue
                where = os.path.join(folder, name)
                try:
                    found = parse(read(where, MAX_FILE), where)
                    check_object(found, where)
                    metadata = found["metadata"]
                    if metadata["token"] != token or metadata["id"] + ".json" != name:
                        raise Refused(f"{where} is damaged: it is another object's place")
                    check_mac(self.k_vault, b"object", found, where)
                except (Refused, OSError) as error:
                    self.unusable.append(str(error))
                    continue
                objects[metadata["id"]] = found
        return objects

    def read_copy(self, copy, where):
        """A recovery copy: objects with their recovery slots, under K_vault like a backup."""
        check_format(copy, where)
        members(copy, where, ["format", "vault", "vault-key", "objects", "mac"])
        string(copy["vault"], f"{where}: vault", UUID)
        if not isinstance(copy["objects"], list):
            raise Refused(f"{where} is damaged: objects")
        if self.kit.vault != copy["vault"]:
            raise Refused(f"{self.kit.path} is of vault {self.kit.vault}, not {copy['vault']}")
        slot = unbase64(copy["vault-key"], where)
        self.k_vault = self.kit.decrypt(slot, f"{where}: vault-key")
        if not hmac.compare_digest(sha256(self.k_vault), self.kit.fingerprint):
            raise Refused(f"{where} is forged: its vault key is not the one that the kit names")
        check_mac(self.k_vault, b"recovery copy", copy, where)
        objects = {}
        for found in copy["objects"]:
            members(found, where, ["metadata", "payload", "recovery"])
            check_format(found["metadata"], where)
            check_metadata(found["metadata"], where)
            check_payload(found["payload"], found["metadata"], where)
            slots = [{"type": "recovery", "age": found["recovery"]}]
            found = {"metadata": found["metadata"], "payload": found["payload"], "slots": slots}
            objects[found["metadata"]["id"]] = found
        return objects

    def read_backup(self, backup, where):
        # All formats first, and leniently: of what is newer, nothing else is known.
        check_format(backup, where)
        check_format(backup.get("manifest"), f"{where}: manifest", MANIFEST_FORMAT)
        inner = backup.get("objects")
        if not isinstance(inner, list):
            raise Refused(f"{where} is damaged: objects")
        for place, found in enumerate(inner):
            metadata = found.get("metadata") if isinstance(found, dict) else None
            check_format(metadata, f"{where}: object {place}", OBJECT_FORMAT)
        members(backup, where, ["format", "manifest", "objects", "mac"])
        self.manifest = backup["manifest"]
        check_manifest(self.manifest, f"{where}: manifest")
        objects = {}
        for place, found in enumerate(inner):
            check_object(found, f"{where}: object {place}")
            metadata = found["metadata"]
            if metadata["id"] in objects or metadata["token"] not in self.manifest["tokens"]:
                raise Refused(f"{where} is damaged: object {metadata['id']} has no place")
            objects[metadata["id"]] = found
        self.k_vault = open_vault_key(self.manifest, self.kit, where)
        check_mac(self.k_vault, b"backup", backup, where)
        for which, found in objects.items():
            check_mac(self.k_vault, b"object", found, f"{where}: object {which}")
        return objects

    def find(self, which):
        if which not in self.objects:
            for reason in self.unusable:
                if which in reason:
                    raise Refused(reason)
            raise NoSuchObject(f"no object {which}")
        return self.objects[which]

    def open(self, which):
        """An object's payload; nothing where it has none, and yet a way to it."""
        found = self.find(which)
        if "payload" not in found:
            if any(slot["type"] == "tpm-key" for slot in found["slots"]):
                raise NothingToOpen(f"{which} does not open: its private key is in its TPM alone")
            if not found["slots"]:
                raise NothingToOpen(f"{which} does not open: it has no secret, only metadata")
        dek = open_dek(found, self.kit, which)
        if "payload" not in found:
            return b""
        key, commitment = payload_keys(dek, self.k_vault, encrypted_as(found))
        payload = found["payload"]
        if not hmac.compare_digest(unbase64(payload["commitment"], which), commitment):
            raise Refused(f"{which} does not open: its commitment is another key's")
        nonce, ciphertext = (unbase64(payload[name], which) for name in ("nonce", "ciphertext"))
        try:
            return AESGCM(key).decrypt(nonce, ciphertext, None)
        except InvalidTag as error:
            raise Refused(f"{which} does not open: its tag does not fit") from error


# --- The TPM's part ------------------------------------------------------------------------------

ZERO = bytes(32)
RH_NULL = 0x40000007
NV_WRITE = bytes.fromhex("00000137")
NV_CHANGE_AUTH = bytes.fromhex("0000013b")


def code(number):
    return number.to_bytes(4, "big")


def policy_secret(digest, name):
    return sha256(sha256(digest, code(0x151), name))


def policy_signed(digest, name, ref):
    return sha256(sha256(digest, code(0x160), name), ref)


def policy_authorize(name):
    return sha256(sha256(ZERO, code(0x16A), name))


def policy_password(digest):
    return sha256(digest, code(0x16B))


def policy_command_code(digest, command):
    return sha256(digest, code(0x16C), command)


def policy_or(digests):
    return sha256(ZERO, code(0x171), *digests)


def policy_pcr(pcrs, before=ZERO):
    numbers = sorted(int(number) for number in pcrs)
    octets = bytearray(3)
    for number in numbers:
        octets[number // 8] |= 1 << (number % 8)
    selection = bytes.fromhex("00000001000b03") + octets
    values = [bytes.fromhex(pcrs[str(number)]) for number in numbers]
    return sha256(before, code(0x17F), selection, sha256(*values))


def policy_counter_timer(digest, operand, offset, operation):
    arguments = sha256(operand, offset.to_bytes(2, "big"), operation.to_bytes(2, "big"))
    return sha256(digest, code(0x16D), arguments)


def policy_branch(branch):
    digest = policy_pcr(branch["pcrs"])
    if "suspended" in branch:
        last = branch["suspended"]["resets"].to_bytes(4, "big")
        digest = policy_counter_timer(digest, last, 16, 0x0009)
        digest = policy_counter_timer(digest, bytes(4), 20, 0x0000)
    return digest


def policy_authorize_nv(name):
    return sha256(ZERO, code(0x192), name)


def name_of(area):
    return bytes.fromhex("000b") + sha256(area)


def verifying_key(point, where):
    """TPMT_PUBLIC of K_x and K_rec."""
    if point[0] != 4:
        raise Refused(f"{where} is damaged: it is not an uncompressed point")
    x, y = point[1:33], point[33:]
    head = bytes.fromhex("0023 000b 00040040 0000 0010 0018000b 0003 0010")
    return head + b"\x00\x20" + x + b"\x00\x20" + y


def der_element(data, tag, where):
    """One DER element at the start of `data`, and what follows it."""
    if len(data) < 2 or data[0] != tag:
        raise Refused(f"{where} is damaged: it is not a TSS2 key file")
    length, start = data[1], 2
    if length >= 0x80:
        count = length - 0x80
        length, start = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
        shortest = 1 if length < 0x100 else 2
        if length < 0x80 or count != shortest:
            raise Refused(f"{where} is damaged: it is not DER")
    if len(data) < start + length:
        raise Refused(f"{where} is damaged: it is cut short")
    return data[start : start + length], data[start + length :]


def key_file(text, parent_handle, where):
    """The TPMT_PUBLIC of a TSS2 key file, which names this parent."""
    body, rest = der_element(unbase64(text, where), 0x30, where)
    kind, body = der_element(body, 0x06, where)
    empty_auth, body = der_element(body, 0xA0, where)
    parent, body = der_element(body, 0x02, where)
    public, body = der_element(body, 0x04, where)
    private, body = der_element(body, 0x04, where)
    oids = {
        bytes.fromhex("6781050a0103"): (b"\x00\x23", b"\x00\x01"),
        bytes.fromhex("6781050a0105"): (b"\x00\x08",),
    }
    fits = (
        not rest
        and not body
        and empty_auth == bytes.fromhex("0101ff")
        and parent == parent_handle.to_bytes(parent_handle.bit_length() // 8 + 1, "big")
        and all(int.from_bytes(area[:2], "big") == len(area) - 2 for area in (public, private))
        and public[2:4] in oids.get(kind, ())
    )
    if not fits:
        raise Refused(f"{where} is damaged: it is not a TSS2 key file as they are here")
    return public[2:]


def attributes_and_policy(area):
    length = int.from_bytes(area[8:10], "big")
    return area[4:8].hex(), area[10 : 10 + length]


def check_public(area, attributes, policy, where):
    if attributes_and_policy(area) != (attributes, policy):
        raise Refused(f"{where}: its public area is not as the document says")


def tpm_integer(number):
    """An integer without its leading zeros, as a TPM2B."""
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return len(data).to_bytes(2, "big") + data


def without_zeros(area):
    """The unique field of an ECC area, which a TPM may write with leading zeros."""
    x_end = 2 + int.from_bytes(area[:2], "big")
    y_end = x_end + 2 + int.from_bytes(area[x_end : x_end + 2], "big")
    x, y = (int.from_bytes(half, "big") for half in (area[2:x_end], area[x_end + 2 : y_end]))
    return tpm_integer(x) + tpm_integer(y) + area[y_end:]


def check_private_key(area, found, where):
    """The public area in a tpm-key slot: that of the key which the attributes tell of."""
    attributes = found["metadata"].get("attributes", {})
    if found["metadata"]["kind"] != "private-key" or attributes.get("residence") != "tpm":
        raise Refused(f"{where}: a slot with a TPM's key, and it is none")
    bits = {"true": "00060476", "false": "00060444"}.get(attributes.get("local"))
    check_public(area, bits, b"", where)
    if (attributes["local"] == "true") != ("payload" not in found):
        raise Refused(f"{where}: an imported key has a copy for the kit, and no other key has")
    key = load_der_public_key(unbase64(attributes.get("public-key"), where))
    head, unique = area[10:20], area[20:]
    if isinstance(key, rsa.RSAPublicKey):
        numbers, algorithm = key.public_numbers(), f"rsa-{key.key_size}"
        kind = "0001"
        expected = bytes.fromhex("00100010") + key.key_size.to_bytes(2, "big") + bytes(4)
        fits = numbers.e == 65537 and unique == tpm_integer(numbers.n)
    else:
        numbers = key.public_numbers()
        algorithm, curve = {
            "secp256r1": ("ec-p256", "0003"),
            "secp384r1": ("ec-p384", "0004"),
        }[key.curve.name]
        kind, (head, unique) = "0023", (area[10:18], area[18:])
        expected = bytes.fromhex(f"00100010{curve}0010")
        fits = without_zeros(unique) == tpm_integer(numbers.x) + tpm_integer(numbers.y)
    fits = fits and area[:4] == bytes.fromhex(kind + "000b") and head == expected
    if not fits or attributes.get("algorithm") != algorithm:
        raise Refused(f"{where}: its TPM's key is not the private key of its public key")


PHASES = ("initrd", "start", "sysinit", "ready")


def check_label(label, where):
    """What a boot is called: nothing rests on it."""
    where = f"{where}: label"
    if not members(label, where, [], ["prepared", "phase"]):
        raise Refused(f"{where} is damaged: it is empty")
    if "prepared" in label:
        name = string(label["prepared"], where)
        control = any(unicodedata.category(it) == "Cc" for it in name)
        if not 1 <= len(name.encode()) <= 1024 or control:
            raise Refused(f"{where} is damaged: it is no name of a boot")
    if "phase" in label and label["phase"] not in PHASES:
        raise Refused(f"{where} is damaged: there is no such phase")


def check_list(branches, where, format):
    if not isinstance(branches, list) or not 1 <= len(branches) <= 8:
        raise Refused(f"{where} is damaged: it must have 1 to 8 branches")
    for branch in branches:
        optional = ["label", "suspended"] if format == 2 else []
        pcrs = members(branch, where, ["pcrs"], optional)["pcrs"]
        if "suspended" in branch:
            last = members(branch["suspended"], f"{where}: suspended", ["resets"])["resets"]
            integer(last, f"{where}: resets", 0, 0xFFFFFFFF)
        if "label" in branch:
            check_label(branch["label"], where)
        if not isinstance(pcrs, dict) or not pcrs:
            raise Refused(f"{where} is damaged: a branch over no PCR holds in every boot")
        for number, value in pcrs.items():
            if number not in map(str, PCRS):
                raise Refused(f"{where} is damaged: PCR {number}")
            string(value, f"{where}: PCR {number}", re.compile("[0-9a-f]{64}"))


def list_digest(branches):
    digests = [policy_branch(branch) for branch in branches]
    return digests[0] if len(digests) == 1 else policy_or(digests)


def check_policies(vault):
    """Every digest and Name of the TPM's part, checked wherever the vault holds it too."""
    manifest = vault.manifest
    steps = check_machine_policies(manifest, manifest)
    sealed = [("vault-key", manifest["vault-key"]["tpm"])]
    for which, found in vault.objects.items():
        metadata = found["metadata"]
        needs_pin = metadata.get("attributes", {}).get("pin") == "true"
        if needs_pin and "pins" not in manifest["tokens"][metadata["token"]]:
            raise Refused(f"object {which}: it asks for a PIN, and its token has none")
        slots = [slot for slot in found["slots"] if slot["type"] == "tpm"]
        sealed += [(f"object {which}", slot["key-file"]) for slot in slots]
    for where, text in sealed:
        check_public(key_file(text, RH_NULL, where), "00000456", b"", where)
    for which, found in vault.objects.items():
        for slot in found["slots"]:
            if slot["type"] == "tpm-key":
                where = f"object {which}"
                check_private_key(key_file(slot["key-file"], RH_NULL, where), found, where)
    for peer, record in manifest.get("peers", {}).items():
        of_peer = check_machine_policies(record, manifest)
        steps.update({f"{name}, of {peer}": value for name, value in of_peer.items()})
    if vault.folder:
        steps.update(check_policy_file(os.path.join(vault.folder, "policy.json")))
        for peer in manifest.get("peers", {}):
            # On that machine alone.
            where = os.path.join(vault.folder, f"policy-{peer}.json")
            if os.path.exists(where):
                of_peer = check_policy_file(where)
                steps.update({f"{name}, of {peer}": value for name, value in of_peer.items()})
            where = os.path.join(vault.folder, f"vault-key-{peer}.json")
            if os.path.exists(where):
                own = parse(read(where, MAX_FILE), where)
                check_format(own, where)
                members(own, where, ["format", "vault-key"])
                check_public(key_file(own["vault-key"], RH_NULL, where), "00000456", b"", where)
    return steps


def check_machine_policies(record, manifest):
    """The same of one machine: the manifest itself has what is of the vault's own."""
    steps, is_own = {}, record is manifest
    writers = record["writers"]
    points = {
        "K_x": unbase64(writers["k-x"], "k-x"),
        "K_rec": unbase64(writers["k-rec"]["public"], "k-rec"),
    }
    names = {}
    for key, point in points.items():
        names[key] = name_of(verifying_key(point, key))
        steps[f"Name of {key}"] = names[key]
    steps["PolicyAuthorize(K_x)"] = policy_authorize(names["K_x"])
    x_policy = policy_password(steps["PolicyAuthorize(K_x)"])
    steps["policy of X"] = x_policy
    root_handle = record["root-key"]["handle"]
    x = key_file(writers["x"], root_handle, "x")
    check_public(x, "00000492", x_policy, "x")
    steps["Name of X"] = name_of(x)
    steps["PolicySecret(X)"] = policy_secret(ZERO, name_of(x))
    steps["A"] = policy_command_code(steps["PolicySecret(X)"], NV_WRITE)
    ref = manifest["id"].encode()
    steps["PolicySigned(K_rec)"] = policy_signed(ZERO, names["K_rec"], ref)
    steps["B"] = policy_command_code(steps["PolicySigned(K_rec)"], NV_WRITE)
    steps["write policy of N"] = policy_or([steps["A"], steps["B"]])

    def index_area(attributes):
        head = code(record["index"]) + bytes.fromhex("000b" + attributes + "0020")
        return head + steps["write policy of N"] + bytes.fromhex("0022")

    steps["Name of N before its first write"] = name_of(index_area("02040008"))
    steps["TPMS_NV_PUBLIC of N"] = index_area("22040008")
    steps["Name of N"] = name_of(index_area("22040008"))
    steps["policy of P"] = policy_authorize_nv(steps["Name of N"])
    storage_keys = {"storage-key": (record["storage-key"], steps["policy of P"])}
    for token, its in record["tokens"].items():
        policy = steps["policy of P"]
        # A token that was removed may have left a storage key with a second machine.
        fence = manifest["tokens"].get(token, {}).get("fence")
        if fence is not None:
            policy = policy_pcr({str(fence): ZERO.hex()}, policy)
            steps[f"policy of P of {token}, behind its fence"] = policy
        if token in manifest["tokens"]:
            storage_keys[f"token {token}"] = (its["storage-key"], policy)
        if is_own and "pins" in its:
            steps.update(check_pins(manifest, token, names["K_rec"], policy))
    for where, (text, policy) in storage_keys.items():
        check_public(key_file(text, root_handle, where), "000304b2", policy, where)
    root = unbase64(record["root-key"]["public"], "root-key")
    template = unbase64(record["root-key"]["template"], "root-key")
    check_public(root, "00030472", b"", "root-key")
    if template != root[:22] + (b"\x00\x20" + ZERO) * 2:
        raise Refused("root-key: its template is not as the document says")
    steps["Name of the root key"] = name_of(root)
    a_hash = sha256(steps["policy of P"])
    steps["what K_x signed"] = a_hash
    signature = unbase64(writers["k-x-signature"], "k-x")
    check_signature(points["K_x"], signature, a_hash, "k-x-signature")
    return steps


def check_pins(manifest, token, k_rec, boot):
    """Every digest and Name of a token's PINs, and the storage key that asks for the user's."""
    pins, steps = manifest["tokens"][token]["pins"], {}
    recovery = policy_signed(ZERO, k_rec, manifest["id"].encode())
    officer = []
    # The security officer's first: its Name is in the policy of the user's.
    for role, (whose, _) in ROLES.items():
        record, index = pins["indices"][role], f"{whose} index of {token}"
        points = {
            "K_first": unbase64(record["first-writer"], index),
            "K_change": unbase64(record["changer"], index),
        }
        names = {key: name_of(verifying_key(point, index)) for key, point in points.items()}
        steps.update({f"Name of {key} of {index}": name for key, name in names.items()})
        branches = [
            policy_command_code(recovery, NV_WRITE),
            policy_command_code(policy_authorize(names["K_change"]), NV_CHANGE_AUTH),
            policy_command_code(recovery, NV_CHANGE_AUTH),
            policy_command_code(policy_signed(ZERO, names["K_first"], b""), NV_WRITE),
            *officer,
        ]
        for place, branch in enumerate(branches, start=1):
            steps[f"branch {place} of {index}"] = branch
        policy = policy_or(branches)
        steps[f"policy of {index}"] = policy
        for state, attributes in (("before its first write", "02060088"), ("", "22060088")):
            head = code(record["handle"]) + bytes.fromhex("000b" + attributes + "0020")
            area = head + policy + bytes.fromhex("0008")
            steps[f"Name of {index} {state}".strip()] = name_of(area)
        steps[f"TPMS_NV_PUBLIC of {index}"] = area
        secret = policy_secret(ZERO, name_of(area))
        steps[f"PolicySecret of {index}"] = secret
        a_hash = sha256(secret)
        steps[f"what K_change signed of {index}"] = a_hash
        signature = unbase64(record["changer-signature"], index)
        check_signature(points["K_change"], signature, a_hash, f"{index}: changer-signature")
        officer = [policy_command_code(secret, command) for command in (NV_WRITE, NV_CHANGE_AUTH)]
    policy = policy_secret(boot, steps[f"Name of the user's index of {token}"])
    steps[f"policy of P behind the PIN of {token}"] = policy
    where = f"token {token}: pins"
    area = key_file(pins["storage-key"], manifest["root-key"]["handle"], where)
    check_public(area, "000304b2", policy, where)
    return steps


def pin_auth(manifest, token, role, pin):
    """The authorisation value that a PIN is to a TPM."""
    if "pins" not in manifest["tokens"].get(token, {}):
        raise Refused(f"token {token} has no PINs")
    head = b"strongroom v1 PIN\0" + manifest["id"].encode() + b"\0" + token.encode() + b"\0"
    return sha256(head, bytes([ROLES[role][1]]), pin)[:16].hex()


def check_policy_file(where):
    policy = parse(read(where, MAX_FILE), where)
    check_format(policy, where, POLICY_FORMAT)
    members(policy, where, ["format", "current"], ["next"])
    steps = {}
    for which in ("current", "next"):
        if which in policy:
            check_list(policy[which], f"{where}: {which}", policy["format"])
            for place, branch in enumerate(policy[which]):
                steps[f"digest of {which}[{place}]"] = policy_branch(branch)
            digest = list_digest(policy[which])
            steps[f"content of N for {which}"] = bytes.fromhex("000b") + digest
    lists = policy["current"] + policy.get("next", [])
    if policy["format"] == 2 and not any(len(branch) > 1 for branch in lists):
        raise Refused(f"{where} is damaged: it has format 2 and nothing of it")
    return steps


def check_signature(point, signature, digest, where):
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        key.verify(
            utils.encode_dss_signature(r, s), digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        )
    except InvalidSignature as error:
        raise Refused(f"{where} is not its key's over the policy that it approves") from error


# --- The commands --------------------------------------------------------------------------------


def trace(vault, which):
    """Every value on the way to an object's payload, in order."""
    found, k_vault = vault.find(which), vault.k_vault
    if "payload" not in found:
        raise NothingToOpen(f"{which} has no payload")
    metadata, payload = of_format_1(encrypted_as(found)), found["payload"]
    dek = open_dek(found, vault.kit, which)
    metadata_digest = sha256(canonical(metadata))
    info = b"strongroom v1 payload" + metadata_digest
    okm = hkdf(dek + k_vault, info, 64)
    ciphertext = unbase64(payload["ciphertext"], which)
    return {
        "K_vault": k_vault,
        "SHA-256(K_vault)": sha256(k_vault),
        "object MAC key": mac_key(k_vault, b"object"),
        "length of the MAC's input": str(len(mac_input(found))),
        "SHA-256 of the MAC's input": sha256(mac_input(found)),
        "mac": mac(k_vault, b"object", found),
        "DEK": dek,
        "canonical metadata": canonical(metadata).decode(),
        "SHA-256(canonical metadata)": metadata_digest,
        "info": info,
        "IKM": dek + k_vault,
        "PRK": hmac.new(ZERO, dek + k_vault, hashlib.sha256).digest(),
        "OKM": okm,
        "key": okm[:32],
        "commitment": okm[32:],
        "nonce": unbase64(payload["nonce"], which),
        "ciphertext": ciphertext[:-16],
        "tag": ciphertext[-16:],
        "payload": vault.open(which),
    }


def as_json(values):
    """Bytes as hexadecimal digits."""
    shown = {name: v.hex() if isinstance(v, bytes) else v for name, v in values.items()}
    return json.dumps(shown, ensure_ascii=False, indent=2)


def run(arguments):
    vault = Vault(arguments.path, Kit(arguments.recovery))
    if arguments.command == "list":
        print(json.dumps([found["metadata"] for found in vault.objects.values()], indent=2))
    elif arguments.command == "show":
        sys.stdout.buffer.write(vault.open(arguments.id))
        return 0
    elif arguments.command == "digests":
        digests = {}
        for which in vault.objects:
            try:
                digests[which] = sha256(vault.open(which))
            except NothingToOpen:
                pass
            except Refused as error:
                vault.unusable.append(str(error))
        print(as_json(digests))
    elif arguments.command == "pin":
        pin = sys.stdin.buffer.read()
        print(pin_auth(vault.manifest, arguments.token, arguments.role, pin))
        return 0
    elif arguments.command == "trace":
        print(as_json(trace(vault, arguments.id)))
        return 0
    else:
        print(as_json(check_policies(vault)))
    for reason in vault.unusable:
        print(f"strongroom_reader: {reason}", file=sys.stderr)
    return 1 if vault.unusable else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recovery", required=True, metavar="KIT")
    parser.add_argument("path", metavar="PATH")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("list", "digests", "policy"):
        commands.add_parser(name)
    for name in ("show", "trace"):
        commands.add_parser(name).add_argument("--id", required=True)
    pin = commands.add_parser("pin")
    pin.add_argument("--token", required=True)
    pin.add_argument("--role", required=True, choices=ROLES)
    try:
        return run(parser.parse_args())
    except (Refused, OSError) as error:
        print(f"strongroom_reader: {error}", file=sys.stderr)
        return 5
    except NoSuchObject as error:
        print(f"strongroom_reader: {error}", file=sys.stderr)
        return 6


if __name__ == "__main__":
    sys.exit(main())
