"""Where a fetched bootstrap config is kept for the next start: a file, or a Kubernetes secret (zero link 8.4)."""

import asyncio
import base64
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from yarl import URL

from pomerium_agent.errors import Retryable, SettingsError
from pomerium_agent.zero.answers import BootstrapConfig
from pomerium_agent.zero.api import read_at_most
from pomerium_agent.zero.bootstrap_file import BootstrapFile, seal_bootstrap
from pomerium_agent.zero.text import without

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
MAX_ANSWER_BYTES = 64 * 1024
MAX_REASON = 500
SAVED = (200, 201)


class Writeback(Protocol):
    """A place that keeps the newest bootstrap config."""

    async def save(self, bootstrap: BootstrapConfig) -> None:
        """Keep it, if it differs from what is kept. Raises WritebackFailed."""

    def rekey(self, key: bytes) -> None:
        """Seal with another key from now on; what is kept counts as different."""


class WritebackFailed(Retryable):
    """The bootstrap config could not be kept; the next fetch tries again."""


def open_writeback(
    uri: str, key: bytes, *, environ: Mapping[str, str] | None = None, service_account: Path = SERVICE_ACCOUNT
) -> Writeback | None:
    """The writer that a checked URI names; None for an empty one. Reads files; raises SettingsError."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return FileWriteback(BootstrapFile(Path(unquote(parts.path)), key))
    if parts.scheme != "secret":
        return None
    env = os.environ if environ is None else environ
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise SettingsError(
            f"BOOTSTRAP_CONFIG_WRITEBACK_URI: {uri} works only inside a Kubernetes cluster; "
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set"
        )
    name, _, entry = parts.path.removeprefix("/").partition("/")
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    target = SecretTarget(api=f"https://{authority}", namespace=parts.netloc, name=name, key=unquote(entry))
    return SecretWriteback(target, key, service_account)


class FileWriteback:
    """Keeps it in the sealed file."""

    def __init__(self, file: BootstrapFile) -> None:
        self._file = file

    async def save(self, bootstrap: BootstrapConfig) -> None:
        try:
            await self._file.save(bootstrap)
        except OSError as error:
            raise WritebackFailed(f"cannot write {self._file.path}: {error.strerror or error}") from error

    def rekey(self, key: bytes) -> None:
        self._file.rekey(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretTarget:
    """One key of one Kubernetes secret; the key may contain slashes."""

    api: str
    namespace: str
    name: str
    key: str

    @property
    def url(self) -> str:
        """Where a server-side apply of the secret goes."""
        path = f"/api/v1/namespaces/{quote(self.namespace, safe='')}/secrets/{quote(self.name, safe='')}"
        return f"{self.api}{path}?fieldManager=pomerium-zero&force=true"


class SecretWriteback:
    """Keeps it in a Kubernetes secret by server-side apply (Z-27).

    The service account's token is read for each write, and once more after a 401: projected tokens expire (W6).
    """

    def __init__(self, target: SecretTarget, key: bytes, service_account: Path) -> None:
        self._target = target
        self._key = key
        self._token_file = service_account / "token"
        self._saved: BootstrapConfig | None = None
        try:
            self._token_file.read_bytes()
            self._tls = ssl.create_default_context(cafile=service_account / "ca.crt")
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(
                f"BOOTSTRAP_CONFIG_WRITEBACK_URI: the service account in {service_account} cannot be used: {error}"
            ) from error
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2

    async def save(self, bootstrap: BootstrapConfig) -> None:
        if bootstrap == self._saved:
            return
        body = self._body(seal_bootstrap(self._key, bootstrap))
        try:
            status, reason = await self._apply(body)
            if status == 401:
                status, reason = await self._apply(body)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise WritebackFailed(f"{self._name}: {error or type(error).__name__}") from error
        if status not in SAVED:
            raise WritebackFailed(f"{self._name}: Kubernetes answered {status}: {reason}")
        self._saved = bootstrap

    def rekey(self, key: bytes) -> None:
        self._key, self._saved = key, None

    async def _apply(self, body: bytes) -> tuple[int, str]:
        token = (await asyncio.to_thread(self._token_file.read_text)).strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/apply-patch+yaml"}
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.patch(
                URL(self._target.url, encoded=True), data=body, headers=headers, ssl=self._tls, allow_redirects=False
            ) as response,
        ):
            if response.status in SAVED:  # what was written is shown then, with all that the secret holds beside it
                return response.status, ""
            return response.status, without(_reason(await read_at_most(response, MAX_ANSWER_BYTES)), token)

    def _body(self, sealed: bytes) -> bytes:
        """The object to apply; JSON is YAML, and needs no quoting rules of its own."""
        document = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._target.name, "namespace": self._target.namespace},
            "data": {self._target.key: base64.b64encode(sealed).decode()},
        }
        return json.dumps(document).encode()

    @property
    def _name(self) -> str:
        return f"secret {self._target.namespace}/{self._target.name}"


def _reason(body: bytes) -> str:
    """The message of a Kubernetes Status object, or nothing: what else is there may not be fit for a log."""
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        return "without a reason"
    message = document.get("message") if isinstance(document, dict) else None
    return message[:MAX_REASON] if isinstance(message, str) else "without a reason"
