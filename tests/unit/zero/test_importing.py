"""Sending a configuration to the control plane (zero link 17)."""

from pathlib import Path

import pytest
import zstandard

from pomerium_agent.errors import ControlPlaneUnavailable, Refused
from pomerium_agent.settings import Settings, read_settings
from pomerium_agent.zero.answers import Imported
from pomerium_agent.zero.importing import format_hints, read_hints, send_config
from tests.fakes.control_plane import TOKEN, FakeControlPlane, Say, say, serve_control_plane

HINTS = {"systemType": "linux", "argv0": "/usr/bin/pomerium"}


def settings(plane: FakeControlPlane) -> Settings:
    return read_settings({"POMERIUM_ZERO_TOKEN": str(TOKEN), "CLUSTER_API_ENDPOINT": f"{plane.http_url}/v1"})


async def test_a_configuration_travels_as_zstd_with_its_hints() -> None:
    """Z-67, Z-9."""
    async with serve_control_plane() as plane:
        plane.script("import", say({"messages": ["done"], "warnings": ["one thing"]}))

        done = await send_config(settings(plane), b"a configuration", HINTS)

    assert done == Imported(("done",), ("one thing",))
    sent = plane.seen[-1]
    assert (sent.method, sent.path) == ("PUT", "/v1/config/import")
    assert sent.headers["content-type"] == "application/octet-stream"
    assert sent.headers["x-import-hints"] == "systemType=linux,argv0=/usr/bin/pomerium"
    assert sent.headers["authorization"] == "Bearer bearer-1"
    assert zstandard.ZstdDecompressor().decompress(sent.body) == b"a configuration"


async def test_an_answer_may_have_nothing_to_say() -> None:
    """Zero link 4.2: both lists are optional."""
    async with serve_control_plane() as plane:
        plane.script("import", say({"messages": None}))

        assert await send_config(settings(plane), b"", {}) == Imported((), ())

    assert "x-import-hints" not in plane.seen[-1].headers


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (say({"error": "a replica has connected"}, status=403), ControlPlaneUnavailable, "a replica has connected"),
        (say({"error": "it is too large"}, status=413), ControlPlaneUnavailable, "it is too large"),
        (say({"error": "no such field"}, status=400), Refused, "bad request: no such field"),
        (say({"error": "oh no"}, status=500), ControlPlaneUnavailable, "internal server error: oh no"),
    ],
)
async def test_a_refusal_is_told_as_it_is(answer: Say, kind: type[Exception], words: str) -> None:
    """Zero link 4.3, 17."""
    async with serve_control_plane() as plane:
        plane.script("import", answer)

        with pytest.raises(kind, match=words):
            await send_config(settings(plane), b"secret", HINTS)


def test_what_the_header_cannot_hold_is_left_out() -> None:
    """Zero link 17: the pairs are not escaped."""
    hints = {"a": "1", "b": "x,y", "c": "x\r\ny", "d": "\u00e9", "e": "", "f": "x" * 1000, "g": "2"}

    assert format_hints(hints) == "a=1,g=2"


def machine(root: Path, *, docker: bool = False, command: bytes = b"") -> Path:
    (root / "proc" / "1").mkdir(parents=True)
    (root / "proc" / "1" / "cmdline").write_bytes(command)
    if docker:
        (root / ".dockerenv").touch()
    return root


def test_a_plain_machine_says_how_it_was_called(tmp_path: Path) -> None:
    root = machine(tmp_path, command=b"/bin/pomerium\0-config\0/etc/c.yaml\0")

    assert read_hints({"KUBERNETES_SERVICE_HOST": "h"}, "pa", "box", root) == {"systemType": "linux", "argv0": "pa"}


@pytest.mark.parametrize("command", [b"/bin/pomerium\0-config\0/c.yaml\0", b"/bin/pomerium\0--config=/c.yaml\0"])
def test_in_a_container_the_process_there_says_how_it_was_started(tmp_path: Path, command: bytes) -> None:
    root = machine(tmp_path, docker=True, command=command)

    assert read_hints({}, "pa", "box", root) == {
        "systemType": "docker",
        "argv0": "/bin/pomerium",
        "hostname": "box",
        "configArg": "/c.yaml",
    }


def test_a_pod_says_its_namespace(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "443", "POD_NAMESPACE": "team"}
    root = machine(tmp_path, docker=True, command=b"sh\0")

    assert read_hints(environ, "pa", "box", root) == {
        "systemType": "kubernetes",
        "argv0": "pa",
        "hostname": "box",
        "kubernetesNamespace": "team",
    }
    assert read_hints(environ | {"POMERIUM_NAMESPACE": "own"}, "pa", "box", root)["kubernetesNamespace"] == "own"
