"""Sending a whole configuration to the control plane, and saying where it comes from (zero link 17)."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import zstandard

from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.settings import Settings
from pomerium_agent.zero.answers import Imported
from pomerium_agent.zero.api import ClusterApi
from pomerium_agent.zero.egress import tls_context, trusted_roots
from pomerium_agent.zero.identity import read_identity

LEVEL = 19  # the highest ratio that needs no special window at the other side
CONTAINERS = ("kubernetes", "docker")
MAX_HINT = 256
PRODUCT = "pomerium"  # the name of the process whose arguments are of interest


async def send_config(settings: Settings, content: bytes, hints: Mapping[str, str]) -> Imported:
    """Make a serialized `pomerium.config.Config` the configuration of the token's cluster (Z-67).

    Refused or ControlPlaneUnavailable says why not. It is sent once: whether to try again is a person's decision.
    """
    compressed = await asyncio.to_thread(zstandard.ZstdCompressor(level=LEVEL).compress, content)
    roots = await asyncio.to_thread(trusted_roots)
    identity = await asyncio.to_thread(read_identity, "import")
    async with (
        aiohttp.TCPConnector(ssl=tls_context(roots)) as connector,
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        api = ClusterApi(session, settings.cluster_api, settings.token, identity, clock=SystemClock())
        return await api.import_config(compressed, format_hints(hints))


def format_hints(hints: Mapping[str, str]) -> str:
    """`key=value` pairs behind commas. The header has no escapes, so what would need one is left out."""
    return ",".join(f"{key}={value}" for key, value in hints.items() if value and _fits(value))


def _fits(value: str) -> bool:
    return len(value) <= MAX_HINT and value.isascii() and value.isprintable() and "," not in value


def read_hints(environ: Mapping[str, str], argv0: str, hostname: str, root: Path = Path("/")) -> dict[str, str]:
    """What kind of machine this is. In a container, the process that runs there says how it was started."""
    kind = _system_type(environ, root)
    found = {"systemType": kind, "argv0": argv0}
    if kind in CONTAINERS:
        found["hostname"] = hostname
        found |= _running(root)
    if kind == "kubernetes":
        found["kubernetesNamespace"] = environ.get("POMERIUM_NAMESPACE") or environ.get("POD_NAMESPACE", "")
    return {key: value for key, value in found.items() if value}


def _system_type(environ: Mapping[str, str], root: Path) -> str:
    if environ.get("KUBERNETES_SERVICE_HOST") and environ.get("KUBERNETES_SERVICE_PORT"):
        return "kubernetes"
    return "docker" if (root / ".dockerenv").exists() else "linux"


def _running(root: Path) -> dict[str, str]:
    """The command line of process 1, when it is the proxy."""
    try:
        words = (root / "proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    if PRODUCT not in Path(words[0]).name:
        return {}
    found = {"argv0": words[0]}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, _, value = word.partition("=")
        if flag in ("-config", "--config"):
            found["configArg"] = value or following
    return found
