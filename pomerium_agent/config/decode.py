"""Records → layers: decoded once per content, in the order in which they are laid over each other (routes 2.1)."""

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass

from google.protobuf.message import Message

from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.digest import CONFIG, KEY_PAIR, POLICY, ROUTE, SETTINGS, VERSIONED_CONFIG
from pomerium_agent.config.entities import Entities, synthesize
from pomerium_agent.config.route_names import COMPUTED_IN_POLICY, strip_computed
from pomerium_agent.config.snapshot import Fault
from pomerium_agent.config.sourced import Layer, SourcedRoute, SourcedSettings
from pomerium_agent.config.versions import applies
from pomerium_agent.errors import ConfigRejected
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Payload, Record, unpack

_MESSAGES: Mapping[str, type[Message]] = {
    CONFIG: config_pb2.Config,
    VERSIONED_CONFIG: config_pb2.VersionedConfig,
    KEY_PAIR: config_pb2.KeyPair,
    POLICY: config_pb2.Policy,
    ROUTE: config_pb2.Route,
    SETTINGS: config_pb2.Settings,
}
_COMPUTED_IN_SETTINGS = ("created_at", "modified_at")
_COMPUTED_IN_KEY_PAIR = ("created_at", "modified_at", "status", "origin", "certificate_info")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A record's content as last seen. `message` is the last one that could be read; `layer` is what it adds."""

    payload: Payload | None
    readable: bool
    message: Message | None
    layer: Layer | None = None


DecodeMemory = MutableMapping[tuple[str, str], Decoded]


@dataclass(slots=True)
class EntityMemory:
    """The layer of all entities as last put together."""

    token: tuple[object, ...] = ()
    layer: Layer | None = None
    faults: tuple[Fault, ...] = ()


def read_layers(
    records: Iterable[Record],
    *,
    versions: Mapping[str, str],
    entities_ready: bool,
    memory: DecodeMemory,
    entity_memory: EntityMemory,
) -> tuple[tuple[Layer, ...], tuple[Fault, ...]]:
    """Config by id, then VersionedConfig by id where its conditions hold, then the entities (Z-46).

    A record that cannot be decoded stays as it was last read, and a fault names it. Raises ConfigRejected when
    there are records and none of them can be decoded.
    """
    current = sorted((r for r in records if r.type in _MESSAGES and not r.deleted), key=lambda r: (r.type, r.id))
    faults: list[Fault] = []
    for record in current:
        memory[record.type, record.id] = decoded = _decode(record, memory.get((record.type, record.id)))
        if not decoded.readable:
            faults.append(_unreadable(record, decoded))
    for gone in memory.keys() - {(record.type, record.id) for record in current}:
        del memory[gone]
    if current and len(faults) == len(current):
        raise ConfigRejected(
            f"none of {len(current)} configuration records can be read, so nothing changes: {faults[0]}"
        )
    layers = [layer for record in current if record.type == CONFIG and (layer := memory[CONFIG, record.id].layer)]
    for record in current:
        if record.type == VERSIONED_CONFIG:
            layers += _versioned(record, memory[VERSIONED_CONFIG, record.id], versions, faults)
    if entities_ready:
        layers += _entities(current, memory, entity_memory, faults)
    return tuple(layers), tuple(faults)


def _decode(record: Record, known: Decoded | None) -> Decoded:
    if known is not None and known.payload == record.data:
        return known
    message = unpack(record.data, _MESSAGES[record.type])
    if message is None:
        return Decoded(record.data, False, known.message if known else None, known.layer if known else None)
    layer = None
    if isinstance(message, config_pb2.Config):
        layer = _layer(record, message)
    elif isinstance(message, config_pb2.VersionedConfig):
        layer = _layer(record, message.config)
    elif isinstance(message, config_pb2.Route):
        strip_computed(message)
    elif isinstance(message, config_pb2.Settings):
        _clear(message, _COMPUTED_IN_SETTINGS)
    elif isinstance(message, config_pb2.Policy):
        _clear(message, COMPUTED_IN_POLICY)
    elif isinstance(message, config_pb2.KeyPair):
        _clear(message, _COMPUTED_IN_KEY_PAIR)
    return Decoded(record.data, True, message, layer)


def _layer(record: Record, config: config_pb2.Config) -> Layer:
    for route in config.routes:
        strip_computed(route)
    settings = None
    if config.HasField("settings"):
        _clear(config.settings, _COMPUTED_IN_SETTINGS)
        settings = SourcedSettings(record.id, config.settings)
    return Layer(
        name=f"{record.type}/{record.id}",
        token=config,
        settings=settings,
        routes=tuple(SourcedRoute(record.id, route) for route in config.routes),
    )


def _versioned(record: Record, decoded: Decoded, versions: Mapping[str, str], faults: list[Fault]) -> tuple[Layer, ...]:
    if decoded.layer is None or not isinstance(decoded.message, config_pb2.VersionedConfig):
        return ()
    try:
        return (decoded.layer,) if applies(decoded.message.conditions, versions) else ()
    except Unusable as why:
        complaints = Complaints(_name(record), record_id=record.id)
        complaints.refuse("conditions", why.reason, why.remedy)
        faults += complaints.faults
        return ()


def _entities(
    current: Iterable[Record], memory: DecodeMemory, entity_memory: EntityMemory, faults: list[Fault]
) -> tuple[Layer, ...]:
    found: dict[str, dict[str, Message]] = {KEY_PAIR: {}, POLICY: {}, ROUTE: {}, SETTINGS: {}}
    for record in current:
        message = memory[record.type, record.id].message
        if record.type in found and message is not None:
            found[record.type][record.id] = message
    if not any(found.values()):
        return ()
    entities = Entities(
        key_pairs={k: m for k, m in found[KEY_PAIR].items() if isinstance(m, config_pb2.KeyPair)},
        policies={k: m for k, m in found[POLICY].items() if isinstance(m, config_pb2.Policy)},
        routes={k: m for k, m in found[ROUTE].items() if isinstance(m, config_pb2.Route)},
        settings={k: m for k, m in found[SETTINGS].items() if isinstance(m, config_pb2.Settings)},
    )
    if entity_memory.layer is None or entity_memory.token != entities.token:
        entity_memory.layer, entity_memory.faults = synthesize(entities)
        entity_memory.token = entities.token
    faults += entity_memory.faults
    return (entity_memory.layer,)


def _unreadable(record: Record, decoded: Decoded) -> Fault:
    complaints = Complaints(_name(record), record_id=record.id)
    size = len(record.data.value) if record.data else 0
    stays = "its last readable version stays in force" if decoded.message is not None else "it is left out"
    complaints.refuse(
        "data",
        f"its {size} bytes cannot be decoded, so {stays}",
        "publish the configuration again, or delete the record",
    )
    return complaints.faults[0]


def _name(record: Record) -> str:
    return f"{record.type.rpartition('.')[2]} record {shown(record.id)}"


def _clear(message: Message, names: Iterable[str]) -> None:
    for name in names:
        message.ClearField(name)
