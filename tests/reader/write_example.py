#!/usr/bin/python3
"""Writes the worked example of docs/format.md from two frozen vaults, of which the second has PINs:
write_example.py FIXTURE FIXTURE DOC.

The values come from strongroom_reader.py; tests/tests/format.rs checks them in the document.
"""

import json
import os
import sys

from strongroom_reader import Kit, Vault, check_policies, check_policy_file, pin_auth, trace

BEGIN = "<!-- worked-example:"
END = "<!-- end of worked-example -->"

TEXT = """\
The vault of this example is the one in `{fixture}`: `backup` is its backup, `recovery-kit` its kit.
All values are hexadecimal digits unless they are evidently text.

### The kit

```text
{kit}```

### An object

It is object {id} of the backup, as its file holds it.

```json
{object}
```

The kit gives K_vault, out of `vault-key.recovery` of the manifest. That also gives the MAC's key.

```values
{mac}
```

The recovery slot gives the DEK. The canonical encoding of the metadata, here with its non-ASCII characters as they are, goes
into the payload's keys. PRK is HKDF's value between its two steps.

```values
{keys}
```

`commitment` is the object's. AES-256-GCM under `key` turns the payload's ciphertext and tag into the secret, which is
`{secret}`.

```values
{payload}
```

### The policies

From the backup's manifest:

```values
{policies}
```

`policy of X` is in the public area of `writers.x`, and `policy of P` in those of all four storage keys. When the vault was made, its
`policy.json` was

```json
{policy_file}
```

so that N held

```values
{content}
```

### PINs

The vault of this part is the one in `{pins_fixture}`, whose token `{token}` has PINs: its user's is `{user}`, and its
security officer's `{officer}`. The user's index has its branches 5 and 6 from the Name of the security officer's.

```pin-values
{pins}
```

The policy of P behind the PIN is in the public area of `tokens.{token}.pins.storage-key`.
"""

MAC = ["K_vault", "SHA-256(K_vault)", "object MAC key", "length of the MAC's input"]
MAC += ["SHA-256 of the MAC's input", "mac"]
PAYLOAD = ["nonce", "ciphertext", "tag", "payload"]


def lines(values):
    width = max(len(name) for name in values)
    shown = {name: v.hex() if isinstance(v, bytes) else v for name, v in values.items()}
    return "\n".join(f"{name:{width}} = {value}" for name, value in shown.items())


def pins_of(fixture):
    """What the example says of a vault with PINs."""
    with open(os.path.join(fixture, "expected.json"), encoding="utf-8") as file:
        pins = json.load(file)["pins"]
    vault = Vault(os.path.join(fixture, "backup"), Kit(os.path.join(fixture, "recovery-kit")))
    token = pins["token"]
    values = {"id": vault.manifest["id"]}
    for role in ("user", "security-officer"):
        auth = pin_auth(vault.manifest, token, role, pins[role].encode())
        values[f"authorisation value, {role}"] = auth
    steps = check_policies(vault)
    for name in ("Name of K_rec", "policy of P"):
        values[name] = steps[name]
    values.update({name: step for name, step in steps.items() if f" of {token}" in name})
    return {
        "pins_fixture": "tests/fixtures/" + os.path.basename(os.path.normpath(fixture)),
        "token": token,
        "user": pins["user"],
        "officer": pins["security-officer"],
        "pins": lines(values),
    }


def main():
    fixture, pins_fixture, document = sys.argv[1:]
    kit_file = os.path.join(fixture, "recovery-kit")
    with open(kit_file, encoding="utf-8") as file:
        kit = file.read()
    with open(os.path.join(fixture, "expected.json"), encoding="utf-8") as file:
        which = json.load(file)["worked-example"]
    vault = Vault(os.path.join(fixture, "backup"), Kit(kit_file))
    values = trace(vault, which)
    policy_file = os.path.join(fixture, "policy.json")
    with open(policy_file, encoding="utf-8") as file:
        policy = file.read().strip()
    example = TEXT.format(
        fixture="tests/fixtures/" + os.path.basename(os.path.normpath(fixture)),
        kit=kit,
        id=which,
        object=json.dumps(vault.find(which), ensure_ascii=False, indent=2),
        mac=lines({name: values[name] for name in MAC}),
        keys=lines({name: v for name, v in values.items() if name not in MAC + PAYLOAD}),
        payload=lines({name: values[name] for name in PAYLOAD}),
        secret=values["payload"].decode(),
        policies=lines(check_policies(vault)),
        policy_file=policy,
        content=lines(check_policy_file(policy_file)),
        **pins_of(pins_fixture),
    )
    with open(document, encoding="utf-8") as file:
        text = file.read()
    before, rest = text.split(BEGIN, 1)
    comment, rest = rest.split("\n", 1)
    after = rest.split(END, 1)[1]
    with open(document, "w", encoding="utf-8") as file:
        file.write(f"{before}{BEGIN}{comment}\n\n{example}\n{END}{after}")


if __name__ == "__main__":
    main()
