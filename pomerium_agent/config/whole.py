"""The records of a configuration as one Config message: what a replica was told, before anything is left out. Pure."""

from collections.abc import Iterable, Mapping

from pomerium_agent.config.decode import EntityMemory, read_layers
from pomerium_agent.config.merge import merge_settings
from pomerium_agent.config.versions import KNOWN_VERSIONS
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record


def whole_config(records: Iterable[Record], versions: Mapping[str, str] = KNOWN_VERSIONS) -> config_pb2.Config:
    """Settings merged, routes one after the other, references resolved (Z-46). The first route of each id counts."""
    layers, _ = read_layers(records, versions=versions, entities_ready=True, memory={}, entity_memory=EntityMemory())
    merged = merge_settings(layers)
    config = config_pb2.Config()
    if merged.message.ListFields():
        config.settings.CopyFrom(merged.message)
    del config.settings.certificates[:]
    for certificate in merged.certificates:
        config.settings.certificates.add(cert_bytes=certificate.chain, key_bytes=certificate.key)
    if not config.settings.ListFields():
        config.ClearField("settings")
    taken: set[str] = set()
    for layer in layers:
        for route in layer.routes:
            if not route.message.id or route.message.id not in taken:
                taken.add(route.message.id)
                config.routes.append(route.message)
    return config
