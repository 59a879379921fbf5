"""A cluster's configuration as the bundle its replicas download: records, cut so that a small change stays small.

Pure, and deterministic: the same configuration and certificate make the same bytes, everywhere.
"""

import gzip
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from pomerium_agent.config.digest import CONFIG, records_digest
from pomerium_agent.console.accounts import ServiceAccount
from pomerium_agent.console.login.offer import Offer, add_offer
from pomerium_agent.console.store import KeyedCertificate
from pomerium_agent.pb.pomerium import config_pb2, user_pb2
from pomerium_agent.records import Record, pack, record_to_message, type_url

BUNDLE_ID = "config"
# Never users in here: a bundle owns every record of the types it holds (zero link 12.2), and people log in.
SERVICE_ACCOUNT = type_url(user_pb2.ServiceAccount)
SETTINGS_RECORD = "config-000"
ROUTES_PER_RECORD = 256  # on average; a route of 1 KiB makes records of a quarter MiB
RECORD_BYTES = 512 * 1024  # no record of routes is larger, unless one route alone is (Z-39 puts 1 MiB at a time)
MAX_RECORDS = 4_096
CAPTURED_HEADERS = ("X-Bundle-Version", "X-Bundle-Digest")  # replicas report these back (zero link 11.3)


@dataclass(frozen=True)
class Bundle:
    """One downloadable bundle. Bytes are made once."""

    version: int
    records: tuple[Record, ...] = field(repr=False)
    modified_at: datetime
    accounts_version: int = 0

    @cached_property
    def content(self) -> bytes:
        """The records, each behind its length as a varint (zero link 11.5)."""
        return b"".join(
            _delimited(record_to_message(record).SerializeToString(deterministic=True)) for record in self.records
        )

    @cached_property
    def gzipped(self) -> bytes:
        return gzip.compress(self.content, compresslevel=6, mtime=0)

    @cached_property
    def etag(self) -> str:
        """Names the content: equal bytes, equal tag."""
        return f'"{hashlib.sha256(self.content).hexdigest()}"'

    @cached_property
    def digest(self) -> str:
        """What a replica calls this configuration once it is in force. Service accounts are no part of it."""
        return records_digest(self.records)


def build_bundle(
    config: config_pb2.Config,
    starter: KeyedCertificate | None,
    *,
    version: int,
    modified_at: datetime,
    accounts: Iterable[ServiceAccount] = (),
    accounts_version: int = 0,
    login: Offer | None = None,
) -> Bundle:
    """One version of a configuration, with the starter certificate behind the operator's own, and who may call."""
    return Bundle(
        version=version,
        records=(*build_records(config, starter, login), *build_accounts(accounts)),
        modified_at=modified_at,
        accounts_version=accounts_version,
    )


def build_accounts(accounts: Iterable[ServiceAccount]) -> tuple[Record, ...]:
    """A `user.ServiceAccount` each (databroker 13), by id; the expired ones too, so that time changes no bytes."""
    return tuple(_account(account) for account in sorted(accounts, key=lambda account: account.id))


def build_records(
    config: config_pb2.Config, starter: KeyedCertificate | None, login: Offer | None = None
) -> tuple[Record, ...]:
    """Settings and certificates in the record that sorts first, routes by the hash of their id in the others.

    `login` is taken where the configuration leaves it open who logs people in.
    The number of route records is a power of two, so it changes rarely, and a changed route stays in its record.
    """
    settings = config_pb2.Config(name=SETTINGS_RECORD, settings=config.settings)
    if starter is not None:
        settings.settings.certificates.add(cert_bytes=starter.chain.encode(), key_bytes=starter.key.encode())
    add_offer(settings.settings, login)
    records = [_record(settings)]
    records.extend(_record(part) for part in _split(config.routes))
    return tuple(records)


def _split(routes: Iterable[config_pb2.Route]) -> Iterator[config_pb2.Config]:
    ordered = sorted(routes, key=lambda route: route.id)
    if not ordered:
        return
    count = 1
    while count * ROUTES_PER_RECORD < len(ordered):
        count *= 2
    places = [int.from_bytes(hashlib.sha256(route.id.encode()).digest()[:8], "big") for route in ordered]
    sizes = [route.ByteSize() for route in ordered]
    while count < MAX_RECORDS and _largest(places, sizes, count) > RECORD_BYTES:
        count *= 2
    parts = [config_pb2.Config() for _ in range(count)]
    for route, place in zip(ordered, places, strict=True):
        parts[place % count].routes.append(route)
    for number, part in enumerate(parts, start=1):
        if part.routes:
            part.name = f"config-{number:03}"
            yield part


def _largest(places: list[int], sizes: list[int], count: int) -> int:
    """The size of the largest record that holds more than one route."""
    total, members = [0] * count, [0] * count
    for place, size in zip(places, sizes, strict=True):
        total[place % count] += size
        members[place % count] += 1
    return max((size for size, several in zip(total, members, strict=True) if several > 1), default=0)


def _record(config: config_pb2.Config) -> Record:
    return Record(type=CONFIG, id=config.name, data=pack(config))


def _account(account: ServiceAccount) -> Record:
    message = user_pb2.ServiceAccount(id=account.id, user_id=account.user_id)
    if account.description:
        message.description = account.description
    message.issued_at.FromDatetime(account.created_at)
    if account.expires_at is not None:
        message.expires_at.FromDatetime(account.expires_at)
    return Record(type=SERVICE_ACCOUNT, id=account.id, data=pack(message))


def _delimited(message: bytes) -> bytes:
    length, prefix = len(message), bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + message
