"""The record that says which bundle a data set holds, and which types of records that bundle owns (zero link 12.1)."""

from dataclasses import dataclass

from google.protobuf import struct_pb2

from pomerium_agent.records import Record, pack, unpack

CACHE_ENTRY_TYPE = "pomerium.io/BundleCacheEntry"
BUNDLE_LEASE = "zero-ctrl"  # who has it brings bundles in (databroker 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """What we have of a bundle: its version, and the types of its records."""

    etag: str
    last_modified: str = ""
    record_types: tuple[str, ...] = ()


def entry_to_record(bundle_id: str, entry: CacheEntry) -> Record:
    """The cache entry as the reference stores it (Z-40)."""
    fields = struct_pb2.Struct()
    fields["etag"] = entry.etag
    fields["last_modified"] = entry.last_modified
    fields.get_or_create_list("record_types").extend(entry.record_types)
    return Record(type=CACHE_ENTRY_TYPE, id=bundle_id, data=pack(fields))


def entry_from_record(record: Record) -> CacheEntry | None:
    """The cache entry in a record, ours or the reference's (Z-41); None when it is not valid."""
    fields = unpack(record.data, struct_pb2.Struct)
    if fields is None:
        return None
    etag = fields.fields["etag"].string_value
    types = tuple(value.string_value for value in fields.fields["record_types"].list_value.values if value.string_value)
    if not etag or not types:
        return None
    return CacheEntry(etag=etag, last_modified=fields.fields["last_modified"].string_value, record_types=types)
