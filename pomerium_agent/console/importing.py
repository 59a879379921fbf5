"""A configuration that comes over the cluster API: read, checked, and made the cluster's own (zero link 17)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import zstandard
from google.protobuf.message import DecodeError

from pomerium_agent.config.compile import compile_snapshot
from pomerium_agent.console.bundle import build_records
from pomerium_agent.console.clusters import publish
from pomerium_agent.console.core_config import match_hash
from pomerium_agent.console.core_export import FILE_FIELDS, REFERENCES
from pomerium_agent.console.core_keys import LEFT_OUT, SETTINGS_COMPUTED
from pomerium_agent.console.diff import route_label
from pomerium_agent.console.store import Cluster, Conflict, Store
from pomerium_agent.errors import ConfigRejected
from pomerium_agent.pb.pomerium import config_pb2

MAX_PLAIN_BYTES = 64 * 1024 * 1024  # of a configuration once it is decompressed
MAX_WINDOW_BYTES = 128 * 1024 * 1024
PIECE_BYTES = 1024
MOST_WARNINGS = 200
MOST_REASONS = 20
MAX_HINT = 64  # characters of a hint that are kept
HINTS = ("systemType", "hostname", "kubernetesNamespace", "argv0", "configArg")
# What another control plane computed.
_COMPUTED = ("namespace_id", "namespace_name", "originator_id", "created_at", "modified_at")
_COMPUTED_TOO = ("enforced_policies", "assigned_policies")
_SETTINGS_REFERENCES = tuple(name for name in SETTINGS_COMPUTED if "key_pair_id" in name)


@dataclass(frozen=True, slots=True)
class ImportRefused(Exception):
    """Nothing was changed. `status` is what the protocol says of it: 400, 403 or 413."""

    status: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of an import, for whoever sent it (zero link 4.2)."""

    version: int
    messages: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return {"messages": list(self.messages), "warnings": list(self.warnings)}


def import_config(store: Store, cluster: Cluster, body: bytes, hints: Mapping[str, str], now: datetime) -> Imported:
    """Replace the whole configuration of a cluster that no replica has ever fetched. ImportRefused changes nothing.

    Items that replicas will put into quarantine are stored, and named in the warnings: they are closed there.
    """
    if store.sightings.ever_connected(cluster.id):
        raise ImportRefused(
            403,
            "a replica of this cluster has connected before, so its configuration is not replaced from afar; run "
            f"`console apply -f FILE --cluster {cluster.name}` beside the console",
        )
    config, warnings = read_import(body)
    records = build_records(config, store.certificate(cluster.id), store.logins.offer())
    try:
        _, faults = compile_snapshot(records, now=now)
    except ConfigRejected as error:
        raise ImportRefused(400, str(error)) from error
    warnings += [f"{'note' if fault.warning else 'left out by replicas'}: {fault}" for fault in faults]
    before = store.config(cluster.id).config if cluster.version else config_pb2.Config()
    source = " ".join(hints[name] for name in ("systemType", "hostname") if name in hints)
    try:
        version = publish(store, cluster, config, reason=f"imported from {source or 'elsewhere'}", now=now)
    except Conflict:
        raise ImportRefused(403, "the configuration of this cluster is being changed just now; try again") from None
    return Imported(
        version=version,
        messages=(
            f"cluster {cluster.name} is now at version {version}",
            f"{_routes(len(config.routes))} took the place of {_routes(len(before.routes))}",
        ),
        warnings=tuple(warnings[:MOST_WARNINGS]),
    )


def read_hints(header: str) -> dict[str, str]:
    """`X-Import-Hints`, as far as anybody knows them: they are another machine's words (zero link 17)."""
    pairs = (part.partition("=") for part in header.split(","))
    words = {key.strip(): re.sub(r"[^\x20-\x7e]", "", value).strip()[:MAX_HINT] for key, _, value in pairs}
    return {key: words[key] for key in HINTS if words.get(key)}


def read_import(body: bytes) -> tuple[config_pb2.Config, list[str]]:
    """The configuration in a request's body, made fit for this console, and what was lost on the way. Pure."""
    config = config_pb2.Config()
    try:
        config.ParseFromString(_decompressed(body))
    except DecodeError as error:
        raise ImportRefused(400, "the body is not a pomerium.config.Config") from error
    refused = list(_refusals(config))
    if refused:
        more = f"; and {len(refused) - MOST_REASONS} more" if len(refused) > MOST_REASONS else ""
        raise ImportRefused(400, "; ".join(refused[:MOST_REASONS]) + more)
    warnings = list(_strip(config))
    warnings += _name(config)
    return config, warnings


def _decompressed(body: bytes) -> bytes:
    """What the body holds: one whole frame of zstd. How large it grows is watched, and not believed."""
    frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
    plain = bytearray()
    try:
        # In small pieces: a piece of 1 KiB can become 45 MB at the very most.
        for start in range(0, len(body), PIECE_BYTES):
            plain += frame.decompress(body[start : start + PIECE_BYTES])
            if len(plain) > MAX_PLAIN_BYTES:
                raise ImportRefused(413, f"the configuration is larger than {MAX_PLAIN_BYTES} bytes")
            if frame.eof:
                if frame.unused_data or start + PIECE_BYTES < len(body):
                    raise ImportRefused(400, "there is something behind the compressed configuration")
                return bytes(plain)
    except zstandard.ZstdError as error:
        raise ImportRefused(400, "the body is not compressed with zstd") from error
    raise ImportRefused(400, "the body is not compressed with zstd, or its end is missing")


def _refusals(config: config_pb2.Config) -> Iterator[str]:
    """What a route would be without, and more open for it: nothing of that is dropped with a mere warning."""
    for route in config.routes:
        names = [each.name for each, _ in route.ListFields()]
        for name in names:
            if name in FILE_FIELDS:
                yield f"route {route_label(route)}: {name} names a file of your machine; send what is in it"
            elif name in REFERENCES:
                yield f"route {route_label(route)}: {name} refers to what another control plane keeps"
    for each, _ in config.settings.ListFields():
        if each.name in _SETTINGS_REFERENCES:
            yield f"settings: {each.name} refers to what another control plane keeps"


def _strip(config: config_pb2.Config) -> Iterator[str]:
    """Take away what a cluster or its console decides."""
    size = config.ByteSize()
    config.DiscardUnknownFields()
    if config.ByteSize() != size:
        yield "the configuration has fields that this console does not know; they are left out"
    for name in LEFT_OUT:
        if name in config.settings.DESCRIPTOR.fields_by_name and _is_set(config.settings, name):
            reason, _ = LEFT_OUT[name]
            config.settings.ClearField(name)
            yield f"settings: {name} is left out: {reason}"
    for name in (*SETTINGS_COMPUTED, "console_login_keys"):
        config.settings.ClearField(name)
    for route in config.routes:
        for name in (*_COMPUTED, *_COMPUTED_TOO):
            route.ClearField(name)
    config.ClearField("name")
    if not config.settings.ListFields():
        config.ClearField("settings")


def _is_set(settings: config_pb2.Settings, name: str) -> bool:
    return any(each.name == name and value not in ("", False) for each, value in settings.ListFields())


def _name(config: config_pb2.Config) -> list[str]:
    """Give every route the id it would have in a file; the same route twice is kept once. What was left out."""
    warnings: list[str] = []
    taken: set[str] = set()
    kept: list[tuple[int, config_pb2.Route]] = []
    copies = [config_pb2.Route.FromString(route.SerializeToString()) for route in config.routes]
    numbered = [(number, route, match_hash(route, target=True)) for number, route in enumerate(copies)]
    # Explicit ids first: they are not ours to change.
    for number, route, whole in sorted(numbered, key=lambda each: (not each[1].id, each[2])):
        given = route.id
        free = next((each for each in ((given,) if given else (match_hash(route), whole)) if each not in taken), None)
        if free is None:
            reason = "its id is taken" if given else "the same route is there already"
            warnings.append(f"route {route_label(route)} is left out: {reason}")
            continue
        route.id = free
        taken.add(free)
        kept.append((number, route))
    del config.routes[:]
    config.routes.extend(route for _, route in sorted(kept, key=lambda each: each[0]))
    return warnings


def _routes(count: int) -> str:
    return f"{count} route" if count == 1 else f"{count} routes"
