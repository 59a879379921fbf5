"""The JSON that the cluster API answers with, parsed into values (zero link 4.2)."""

import base64
import binascii
import json
from dataclasses import dataclass, field
from datetime import timedelta

from pomerium_agent.errors import ConfigRejected
from pomerium_agent.settings import Secret
from pomerium_agent.zero.text import clean_text
from pomerium_agent.zero.token import Bearer

SHARED_SECRET_BYTES = 32
LONGEST = timedelta(days=365)  # an expiry beyond this is a mistake, and would overflow what it is added to


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapConfig:
    """Who we are and where records live (zero link 4.2). Replaced whole.

    What `storage_connection` means is the databroker's to say: `databroker.kinds.storage_kind` (Z-23).
    """

    cluster_id: str
    organization_id: str
    shared_secret: bytes = field(repr=False)
    pseudonymization_key: bytes = field(default=b"", repr=False)
    storage_connection: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadTicket:
    """Where one bundle can be fetched, for how long, and which response headers to report back."""

    url: Secret  # its signature opens the bundle to anyone
    expires_in: timedelta
    capture_headers: tuple[str, ...] = ()


def parse_bearer(document: object) -> Bearer:
    """ExchangeTokenResponse."""
    fields = _Fields("exchangeToken", document)
    token = fields.text("idToken")
    if not (token.isascii() and token.isprintable()):
        raise ConfigRejected("exchangeToken: idToken cannot travel in a header")
    return Bearer(Secret(token), fields.seconds("expiresInSeconds"))


def parse_bundle_ids(document: object) -> tuple[str, ...]:
    """GetBundlesResponse: the ids in list order, each once."""
    fields = _Fields("bundles", document)
    ids = [_Fields("bundles", item).text("id") for item in fields.items("bundles")]
    return tuple(dict.fromkeys(ids))


def parse_ticket(document: object) -> DownloadTicket:
    """DownloadBundleResponse."""
    fields = _Fields("download", document)
    headers = fields.items("captureMetadataHeaders", required=False)
    return DownloadTicket(
        url=Secret(fields.text("url")),
        expires_in=fields.seconds("expiresInSeconds"),
        capture_headers=tuple(name for name in headers if isinstance(name, str)),
    )


@dataclass(frozen=True, slots=True)
class Imported:
    """What the control plane says of an imported configuration (zero link 4.2)."""

    messages: tuple[str, ...]
    warnings: tuple[str, ...]


def parse_imported(document: object) -> Imported:
    """ImportResponse; both lists may be missing."""
    fields = _Fields("import", document)
    messages, warnings = (fields.items(key, required=False) for key in ("messages", "warnings"))
    return Imported(
        messages=tuple(clean_text(each) for each in messages if isinstance(each, str)),
        warnings=tuple(clean_text(each) for each in warnings if isinstance(each, str)),
    )


def parse_bootstrap(document: object) -> BootstrapConfig:
    """BootstrapConfig, from the API or from the file. Raises ConfigRejected naming the field that is wrong."""
    fields = _Fields("bootstrap", document)
    secret = fields.octets("sharedSecret")
    if len(secret) != SHARED_SECRET_BYTES:
        raise ConfigRejected(f"bootstrap: sharedSecret must be {SHARED_SECRET_BYTES} bytes, not {len(secret)}")
    return BootstrapConfig(
        cluster_id=fields.text("clusterId"),
        organization_id=fields.text("organizationId"),
        shared_secret=secret,
        pseudonymization_key=fields.octets("pseudonymizationKey"),
        storage_connection=fields.optional_text("databrokerStorageConnection"),
    )


def dump_bootstrap(bootstrap: BootstrapConfig) -> bytes:
    """The JSON of a bootstrap config, as the reference writes it; the storage connection is left out when absent."""
    document = {
        "clusterId": bootstrap.cluster_id,
        "organizationId": bootstrap.organization_id,
        "pseudonymizationKey": base64.b64encode(bootstrap.pseudonymization_key).decode(),
        "sharedSecret": base64.b64encode(bootstrap.shared_secret).decode(),
    }
    if bootstrap.storage_connection is not None:
        document["databrokerStorageConnection"] = bootstrap.storage_connection
    return json.dumps(document, separators=(",", ":")).encode()


class _Fields:
    """The fields of one JSON object; every complaint names the object and the field, never the value."""

    def __init__(self, name: str, document: object) -> None:
        if not isinstance(document, dict):
            raise ConfigRejected(f"{name}: expected a JSON object")
        self._name = name
        self._document = document

    def text(self, key: str) -> str:
        value = self._document.get(key)
        if not isinstance(value, str) or not value:
            raise ConfigRejected(f"{self._name}: {key} is missing or not a text")
        return self._encodable(key, value)

    def optional_text(self, key: str) -> str | None:
        value = self._document.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise ConfigRejected(f"{self._name}: {key} is not a text")
        return self._encodable(key, value)

    def _encodable(self, key: str, value: str) -> str:
        """The value, unless it holds half of a character, which JSON can say and nothing that we send it to can."""
        if clean_text(value) != value:
            raise ConfigRejected(f"{self._name}: {key} is not a text")
        return value

    def items(self, key: str, *, required: bool = True) -> list[object]:
        value = self._document.get(key, None if required else [])
        if value is None and key in self._document:
            return []  # how Go writes a list without elements
        if not isinstance(value, list):
            raise ConfigRejected(f"{self._name}: {key} is missing or not a list")
        return value

    def octets(self, key: str) -> bytes:
        value = self._document.get(key)
        if value is None:
            return b""
        try:
            return base64.b64decode(value, validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise ConfigRejected(f"{self._name}: {key} is not base64") from error

    def seconds(self, key: str) -> timedelta:
        """A duration that travels as a decimal text (Z-9); a number is taken too."""
        value = self._document.get(key)
        if isinstance(value, str) and value.removeprefix("-").isascii() and value.removeprefix("-").isdigit():
            value = int(value[:20])
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigRejected(f"{self._name}: {key} is missing or not a number of seconds")
        return timedelta(seconds=max(0, min(value, int(LONGEST.total_seconds()))))
