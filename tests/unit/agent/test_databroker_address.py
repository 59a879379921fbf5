"""Where clients outside reach the databroker, and whether the way there is encrypted."""

import pytest

from pomerium_agent.agent.databroker_address import listener_of
from pomerium_agent.config.snapshot import Address, Certificate, Settings
from pomerium_agent.databroker.service import Listener

CERTIFICATE = Certificate(id="c", chain="chain", key="key")
PAIRS = (("chain", "key"),)


@pytest.mark.parametrize(
    ("host", "insecure", "certificates"),
    [
        ("127.0.0.1", None, ()),
        ("::1", None, ()),
        ("10.0.0.1", None, PAIRS),
        ("0.0.0.0", None, PAIRS),
        ("", None, PAIRS),
        ("127.0.0.1", False, PAIRS),
        ("", True, ()),
        ("10.0.0.1", True, ()),
    ],
)
def test_what_other_machines_reach_is_encrypted_unless_somebody_insists(
    host: str, insecure: bool | None, certificates: tuple[tuple[str, str], ...]
) -> None:
    settings = Settings(grpc_address=Address(host=host, port=5443), grpc_insecure=insecure, certificates=(CERTIFICATE,))

    assert listener_of(settings) == Listener(host=host, port=5443, certificates=certificates)


def test_without_an_address_there_is_no_listener() -> None:
    assert listener_of(Settings(certificates=(CERTIFICATE,))) is None


@pytest.mark.parametrize(
    ("host", "authority"), [("", "[::]:5443"), ("127.0.0.1", "127.0.0.1:5443"), ("::1", "[::1]:5443")]
)
def test_an_address_is_written_as_grpc_reads_it(host: str, authority: str) -> None:
    assert Listener(host=host, port=5443).authority == authority
