"""The people and requests of the example tables (policy 14), as facts."""

from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from pomerium_agent.policy.facts import STRANGER, Certificate, DeviceCredential, Facts, Identity, Request

NOON = datetime(2026, 8, 5, 12, 0, tzinfo=UTC)  # a Wednesday
FP = "ab" * 32
X_CERTIFICATE = Certificate(
    fingerprint=FP,
    spki_hash="q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=",
    dns_names=("a.example.com", "b.test"),
    emails=("dev@example.com",),
)
_CLAIMS: Mapping[str, tuple[Any, ...]] = {
    "family_name": ("Jones",),  # the user's own wins over the session's Smith (P-11)
    "dept.name": ("eng",),
    "level": (3,),
    "groups": ("eng", "ops"),
    "x.io/role": ("admin",),
    "single": ("one",),
    "multi": ("a", "b"),
}
CAROL = Identity(
    present=True, session_id="sC", user_id="uC", email="carol@corp.example", groups=("g-eng", "g-ops"), claims={}
)


def alice(*devices: DeviceCredential) -> Identity:
    """`A`, and with devices `V`, `W`, `Y` and `E`."""
    return Identity(
        present=True, session_id="sA", user_id="uA", email="alice@example.com", claims=_CLAIMS, devices=devices
    )


PEOPLE: Mapping[str, Identity] = {
    "anon": STRANGER,
    "A": alice(),
    "B": Identity(present=True, session_id="sB", user_id="uB", email="bob@other.org"),
    "C": CAROL,
    "D": Identity(present=True, session_id="sD", user_id="uD"),
    "I": CAROL,
    "X": STRANGER,  # impersonates a session that is gone (P-8)
    "svc": Identity(present=True, service_account=True, session_id="svc", user_id="svc-ci"),
    "V": alice(DeviceCredential(type_id="any", id="dc1", found=True, enrolled=True)),
    "W": alice(DeviceCredential(type_id="any", id="dc2", found=True, enrolled=True, approved=True)),
    "Y": alice(DeviceCredential(type_id="any", id="dc9")),
    "E": alice(DeviceCredential(type_id="enclave_only", id="dc1", found=True, enrolled=True)),
}


def facts_of(who: str, asked: Mapping[str, Any]) -> Facts:
    """A row's `who` and `request`."""
    certificate = asked.get("certificate", "")
    tool = asked.get("mcp", "")
    request = Request(
        method=asked.get("method", "GET"),
        path=asked.get("path", "/"),
        headers=asked.get("headers", {}),
        ip=ip_address(asked.get("ip", "192.0.2.10")),
        certificate=X_CERTIFICATE if certificate in ("valid", "untrusted") else None,
        certificate_valid=certificate in ("", "valid"),
        ssh_username=asked.get("ssh", ""),
        mcp_method=tool,
        mcp_tool=asked.get("tool", ""),
    )
    return Facts(request, PEOPLE[who], now=NOON)
