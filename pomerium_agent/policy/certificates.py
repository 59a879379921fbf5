"""What `client_certificate` asks of the presented leaf, trusted or not (policy 8.2)."""

import base64
import binascii
import re
from collections.abc import Callable

from pomerium_agent.policy.compiling import Compiling, Place
from pomerium_agent.policy.complaints import did_you_mean, shown
from pomerium_agent.policy.document import Term
from pomerium_agent.policy.facts import Certificate
from pomerium_agent.policy.matchers import string_tests
from pomerium_agent.policy.yaml_marks import Mapping, Marked, Scalar, Sequence

CertificateTest = Callable[[Certificate], bool]

_PLAIN = re.compile(r"[0-9a-f]{64}")
_COLONS = re.compile(r"[0-9A-F]{2}(:[0-9A-F]{2}){31}")
_NAMES: dict[str, Callable[[Certificate], tuple[str, ...]]] = {
    "san_dns": lambda leaf: leaf.dns_names,
    "san_email": lambda leaf: leaf.emails,
    "san_uri": lambda leaf: leaf.uris,
}
_KEYS = ("fingerprint", "spki_hash", *_NAMES)


def certificate_test(term: Term, ask: Compiling) -> CertificateTest | None:
    """All keys must hold; `{}` is any certificate. None after a complaint."""
    place = Place(term.line, term.path)
    if not isinstance(term.data, Mapping):
        ask.refuse(
            place,
            "client_certificate needs an object",
            "write, for example, client_certificate: {san_dns: a.example.com}",
        )
        return None
    tests: list[CertificateTest] = []
    complete = True
    for name, data in term.data.items.items():
        here = Place(term.data.lines[name], f"{term.path}.{name}")
        if name in _NAMES:
            test = _name_test(name, data, here, ask)
        elif name in _KEYS:
            test = _hash_test(name, data, here, ask)
        else:
            ask.refuse(
                here,
                f"client_certificate has no key {shown(name)}",
                did_you_mean(name, _KEYS, otherwise=f"use one of {', '.join(_KEYS)}"),
            )
            test = None
        if test is None:
            complete = False
        else:
            tests.append(test)
    conditions = tuple(tests)
    return (lambda leaf: all(test(leaf) for test in conditions)) if complete else None


def _hash_test(name: str, data: Marked, place: Place, ask: Compiling) -> CertificateTest | None:
    items: tuple[Marked, ...] = data.items if isinstance(data, Sequence) else (data,)
    read = _fingerprint if name == "fingerprint" else _spki_hash
    known: set[str] = set()
    for item in items:
        value = item.value if isinstance(item, Scalar) else None
        found = read(value) if isinstance(value, str) else None
        if found is None:
            remedy = "write 64 lower-case hex digits, or 32 upper-case pairs with colons"
            if name == "spki_hash":
                remedy = "write the base64 of the SHA-256 hash of the public key"
            ask.refuse(Place(item.line or place.line, place.path), f"this is no {name}: {shown(value)}", remedy)
            return None
        known.add(found)
    words = frozenset(known)
    return (lambda leaf: leaf.fingerprint in words) if name == "fingerprint" else (lambda leaf: leaf.spki_hash in words)


def _fingerprint(text: str) -> str | None:
    if _PLAIN.fullmatch(text):
        return text
    return text.replace(":", "").lower() if _COLONS.fullmatch(text) else None


def _spki_hash(text: str) -> str | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return base64.b64encode(raw).decode() if len(raw) == 32 else None


def _name_test(name: str, data: Marked, place: Place, ask: Compiling) -> CertificateTest | None:
    """Each operator may be met by another of the names."""
    if isinstance(data, Mapping) and "not_in" in data.items:
        here = Place(data.lines["not_in"], f"{place.path}.not_in")
        ask.refuse(here, f"{name} cannot use not_in", "deny with in instead")  # it does not compile in the reference
        return None
    tests = string_tests(data, place, ask)
    if tests is None:
        return None
    names, conditions = _NAMES[name], tuple(tests)
    return lambda leaf: all(any(map(test, names(leaf))) for test in conditions)
