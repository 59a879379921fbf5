"""The settings of the metrics listener: what guards it and cannot be read closes it (routes 1.7, rows 40, 64 to 66)."""

import base64
import binascii
from collections.abc import Callable, Collection
from typing import TypeVar

from pomerium_agent.config.certificates import check_certificate
from pomerium_agent.config.client_certificates import parse_client_ca
from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.snapshot import Address, MetricsListener
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.settings import Secret

T = TypeVar("T")
V = TypeVar("V")
METRICS_PORT = 9902  # of the address, when it names none (routes 7)
_CLOSED = "until then there is no metrics listener"
_KEEP = "until then the value from before stays in force"


def read_metrics(
    message: config_pb2.Settings,
    address: Address | None,
    kept: MetricsListener | None,
    taken: Collection[int],
    complaints_of: Callable[[str], Complaints],
) -> MetricsListener | None:
    """The listener at `address`, or None when there is to be none, or nobody could be kept out of it.

    What cannot be read keeps its value from before (`kept`). Where there was none, its absence would open what
    somebody wanted closed, so there is no listener. `taken` are the ports of others.
    """
    guards = _Guards(complaints_of)
    basic_auth = guards.read(
        "metrics_basic_auth", message.metrics_basic_auth, parse_basic_auth, kept.basic_auth if kept else None
    )
    certificate = guards.read(
        "metrics_certificate",
        message.metrics_certificate if message.metrics_certificate.ListFields() else None,
        lambda pair: check_certificate(pair.cert_bytes, pair.key_bytes),
        kept.certificate if kept else None,
    )
    client_ca = guards.read(
        "metrics_client_ca", message.metrics_client_ca, parse_client_ca, kept.client_ca if kept else None
    )
    if address is None:
        return None
    missing = message.metrics_client_ca_key_pair_id
    if missing and client_ca is None:
        guards.close(
            "metrics_client_ca_key_pair_id", f"there is no key pair {shown(missing)} with a certificate", "create it"
        )
    if client_ca is not None and certificate is None:
        guards.close(
            "metrics_client_ca",
            "client certificates can be asked for only where there is TLS",
            "set metrics_certificate as well",
        )
    if address.port in taken:
        complaints_of("metrics_address").warn(
            "metrics_address",
            f"port {address.port} is where something else is served, so metrics are not",
            f"choose another port, for example {METRICS_PORT}",
        )
        return None
    if guards.closed:
        return None
    return MetricsListener(address=address, basic_auth=basic_auth, certificate=certificate, client_ca=client_ca)


def parse_basic_auth(text: str) -> Secret:
    """`user:password` out of its base64. Raises Unusable, without the text."""
    try:
        plain = base64.b64decode(text.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Unusable("it is not base64 of user:password", "write what `printf user:password | base64` says") from None
    user, colon, password = plain.partition(":")
    if not (user and colon and password):
        raise Unusable(
            "it does not hold a user, a colon and a password", "write what `printf user:password | base64` says"
        )
    return Secret(plain)


class _Guards:
    """Reads what keeps people out; `closed` once something of it is missing."""

    def __init__(self, complaints_of: Callable[[str], Complaints]) -> None:
        self._complaints_of = complaints_of
        self.closed = False

    def read(self, field: str, value: V | None, parse: Callable[[V], T], kept: T | None) -> T | None:
        """None where nothing is asked for."""
        if not value:
            return None
        try:
            return parse(value)
        except Unusable as why:
            if kept is None:
                self.close(field, why.reason, why.remedy)
            else:
                self._complaints_of(field).refuse(field, why.reason, f"{why.remedy}; {_KEEP}")
            return kept

    def close(self, field: str, reason: str, remedy: str) -> None:
        self._complaints_of(field).refuse(field, reason, f"{remedy}; {_CLOSED}")
        self.closed = True
