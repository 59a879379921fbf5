"""Records → the configuration in force, and a fault for everything that is not (architecture 4). Pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter

from pomerium_agent.config.access import PolicyMemory
from pomerium_agent.config.certificates import CertificateMemory, collect_certificates
from pomerium_agent.config.complaints import Complaints, shown
from pomerium_agent.config.decode import DecodeMemory, EntityMemory, read_layers
from pomerium_agent.config.digest import records_digest
from pomerium_agent.config.effective import effective_settings, route_context
from pomerium_agent.config.merge import merge_settings
from pomerium_agent.config.order import SortKey
from pomerium_agent.config.quarantine import duplicate, stand_in
from pomerium_agent.config.routes import CheckedRoute, RouteContext, check_route
from pomerium_agent.config.snapshot import Certificate, ConfigSnapshot, Fault, Route
from pomerium_agent.config.sourced import Layer, SourcedRoute
from pomerium_agent.config.upstream_tls import ReadFile, no_files
from pomerium_agent.config.versions import KNOWN_VERSIONS
from pomerium_agent.records import Record
from pomerium_agent.settings import Local


@dataclass(frozen=True, slots=True)
class _CheckedLayer:
    """The routes of one layer as last checked."""

    token: object
    context: RouteContext
    routes: tuple[CheckedRoute, ...]
    by_digest: Mapping[bytes, CheckedRoute]
    reads_files: bool


@dataclass(slots=True)
class CompileCache:
    """What one compilation leaves for the next, so that only what changed is decoded and checked again (R-31).

    It belongs to one caller, who compiles one snapshot after the other. It holds private keys.
    """

    decoded: DecodeMemory = field(default_factory=dict, repr=False)
    entities: EntityMemory = field(default_factory=EntityMemory, repr=False)
    layers: dict[str, _CheckedLayer] = field(default_factory=dict, repr=False)
    certificates: CertificateMemory = field(default_factory=dict, repr=False)
    policies: PolicyMemory = field(default_factory=PolicyMemory, repr=False)


def compile_snapshot(
    records: Iterable[Record],
    *,
    now: datetime,
    previous: ConfigSnapshot | None = None,
    cache: CompileCache | None = None,
    local: Local | None = None,
    versions: Mapping[str, str] = KNOWN_VERSIONS,
    secret: bytes = b"",
    entities_ready: bool = True,
    read_file: ReadFile | None = no_files,
    base_certificates: Sequence[Certificate] = (),
) -> tuple[ConfigSnapshot, tuple[Fault, ...]]:
    """Turn records into the configuration in force, and name every item left out of it. Pure.

    What cannot be used stands aside by itself: a setting keeps its value of `previous`, a route its last accepted
    version or a 503 in its place, a certificate is skipped. The order of `records` does not matter (R-7).
    Raises ConfigRejected when there are records and none can be read; the last good snapshot stays then.

    `secret` is what the fallback certificate is derived from; `read_file` reads files that routes name (None:
    take them on trust); `base_certificates` are this machine's own, and win (Z-47); `now` must be aware.
    """
    records = tuple(records)
    cache = cache if cache is not None else CompileCache()
    layers, faults = read_layers(
        records,
        versions=versions,
        entities_ready=entities_ready,
        memory=cache.decoded,
        entity_memory=cache.entities,
    )
    merged = merge_settings(layers)
    certificates, certificate_faults = collect_certificates(
        merged.certificates,
        now=now,
        base=base_certificates,
        previous=previous.settings.certificates if previous else (),
        secret=secret,
        memory=cache.certificates,
    )
    settings, setting_faults = effective_settings(
        merged,
        previous=previous.settings if previous else None,
        certificates=certificates,
        local=local or Local(),
        shared_secret=secret,
    )
    cache.policies.turn()
    checked = _check_layers(layers, route_context(merged), read_file, cache)
    routes, route_faults = _place_routes(checked, previous.routes if previous else ())
    snapshot = ConfigSnapshot(settings=settings, routes=routes, digest=records_digest(records))
    return snapshot, (*faults, *certificate_faults, *setting_faults, *route_faults)


def _check_layers(
    layers: Iterable[Layer], context: RouteContext, read_file: ReadFile | None, cache: CompileCache
) -> list[tuple[CheckedRoute, ...]]:
    """All routes of all layers, in their order; what is as it was is not looked at again."""
    kept: dict[str, _CheckedLayer] = {}
    for layer in layers:
        known = cache.layers.get(layer.name)
        if known is not None and known.context != context:
            known = None
        if known is None or known.reads_files or known.token is not layer.token:
            known = _check_layer(layer, known.by_digest if known else {}, context, read_file, cache.policies)
        kept[layer.name] = known
    cache.layers = kept
    return [known.routes for known in kept.values()]


def _check_layer(
    layer: Layer,
    known: Mapping[bytes, CheckedRoute],
    context: RouteContext,
    read_file: ReadFile | None,
    policies: PolicyMemory,
) -> _CheckedLayer:
    routes = []
    by_digest = {}
    for route in layer.routes:
        digest = _digest(route)
        checked = known.get(digest)
        if checked is None or checked.files:
            fresh = check_route(
                route.message,
                record_id=route.record_id,
                context=context,
                read_file=read_file,
                found=route.found,
                policies=policies,
            )
            checked = checked if checked == fresh else fresh
        by_digest[digest] = checked
        routes.append(checked)
    return _CheckedLayer(layer.token, context, tuple(routes), by_digest, any(route.files for route in routes))


def _digest(route: SourcedRoute) -> bytes:
    total = hashlib.sha256(route.message.SerializeToString(deterministic=True))
    for fault in route.found:
        total.update(fault.id.encode())
    total.update(route.record_id.encode())
    return total.digest()


def _place_routes(
    layers: Iterable[Iterable[CheckedRoute]], before: Sequence[Route]
) -> tuple[tuple[Route, ...], tuple[Fault, ...]]:
    """Every route, or what stands for it, at its place; the first of each id wins (routes 2.2, 3.5)."""
    placed: list[tuple[SortKey, Route]] = []
    faults: list[Fault] = []
    first: dict[str, CheckedRoute] = {}
    accepted: dict[str, Route] | None = None
    for layer in layers:
        for checked in layer:
            winner = first.get(checked.id)
            if checked.faults:
                faults += checked.faults
            if winner is not None:
                faults.append(fault := _taken(checked, winner))
                if not fault.warning and (spot := duplicate(checked, fault)) is not None:
                    placed.append(spot)
                continue
            first[checked.id] = checked
            if checked.route is not None and checked.place is not None:
                placed.append((checked.place, checked.route))
            elif (reason := checked.fault) is not None:
                if accepted is None:
                    accepted = {route.id: route for route in before}
                if (spot := stand_in(checked, reason, accepted)) is not None:
                    placed.append(spot)
    placed.sort(key=itemgetter(0))
    return tuple([route for _, route in placed]), tuple(faults)


def _taken(later: CheckedRoute, winner: CheckedRoute) -> Fault:
    """The fault of a route whose id is taken; harmless when both catch the same requests."""
    complaints = Complaints(later.subject, record_id=later.record_id, route_id=later.id)
    reason = f"the id {shown(later.id)} is taken by {winner.subject} in record {shown(winner.record_id)}"
    if (later.source, later.match) == (winner.source, winner.match):
        complaints.warn("id", f"{reason}, which catches the same requests", "remove one of the two")
    else:
        complaints.refuse("id", reason, "give each route an id of its own")
    return complaints.faults[0]
