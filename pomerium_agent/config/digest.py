"""One short name for a set of configuration records, the same at a replica and at its control plane."""

import hashlib
from collections.abc import Iterable

from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record, type_url

CONFIG = type_url(config_pb2.Config)
VERSIONED_CONFIG = type_url(config_pb2.VersionedConfig)
KEY_PAIR = type_url(config_pb2.KeyPair)
POLICY = type_url(config_pb2.Policy)
ROUTE = type_url(config_pb2.Route)
SETTINGS = type_url(config_pb2.Settings)
# The six record types that make the configuration of a replica (Z-45).
CONFIG_TYPES = (CONFIG, VERSIONED_CONFIG, KEY_PAIR, POLICY, ROUTE, SETTINGS)


def records_digest(records: Iterable[Record]) -> str:
    """Sixteen hex digits over type, id and bytes of the records that make the configuration; order does not matter."""
    total = hashlib.sha256()
    for record in sorted((r for r in records if r.type in CONFIG_TYPES), key=lambda r: (r.type, r.id)):
        for part in (record.type.encode(), record.id.encode(), record.data.value if record.data else b""):
            total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()[:16]
