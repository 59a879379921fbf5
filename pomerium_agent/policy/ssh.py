"""SSH public keys in authorized_keys format, as `ssh_publickey` and `ssh_ca` have them (policy 6)."""

import base64
import binascii
import struct
from itertools import pairwise

from pomerium_agent.policy.compiling import Compiling, Place
from pomerium_agent.policy.document import Term
from pomerium_agent.policy.yaml_marks import Marked, Scalar, Sequence


def authorized_keys(term: Term, ask: Compiling) -> frozenset[bytes] | None:
    """The keys in wire format; None after a complaint."""
    items: tuple[Marked, ...] = term.data.items if isinstance(term.data, Sequence) else (term.data,)
    keys: set[bytes] = set()
    complete = True
    for i, item in enumerate(items):
        path = f"{term.path}[{i}]" if isinstance(term.data, Sequence) else term.path
        key = _key(item.value) if isinstance(item, Scalar) and isinstance(item.value, str) else None
        if key is None:
            ask.refuse(
                Place(item.line or term.line, path),
                "this is no public key",
                "write it as in authorized_keys: ssh-ed25519 AAAA…",
            )
            complete = False
        else:
            keys.add(key)
    return frozenset(keys) if complete else None


def _key(text: str) -> bytes | None:
    """One key: options, if any, then its type and its bytes, which say the same type."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) != 1:
        return None
    words = lines[0].split()
    for kind, encoded in pairwise(words):
        try:
            blob = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            continue
        name = kind.encode(errors="replace")
        if len(blob) > 4 + len(name) and blob.startswith(struct.pack(">I", len(name)) + name):
            return blob
    return None
