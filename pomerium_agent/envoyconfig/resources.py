"""What Envoy is offered: named resources, each with the hash of its bytes as its version."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from google.protobuf.message import Message

from pomerium_agent.records import TYPE_URL_PREFIX

CLUSTER = TYPE_URL_PREFIX + "envoy.config.cluster.v3.Cluster"
LISTENER = TYPE_URL_PREFIX + "envoy.config.listener.v3.Listener"
ROUTES = TYPE_URL_PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRET = TYPE_URL_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
TYPE_URLS = (CLUSTER, LISTENER, ROUTES, SECRET)


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource, ready to send. `body` is the serialised message; `version` is the hash of the body."""

    name: str
    version: str
    body: bytes = field(repr=False)  # a secret's body holds a private key


@dataclass(frozen=True, slots=True)
class EnvoyResources:
    """A consistent set: type URL → name → resource. Every reference in it has its target in it."""

    by_type: Mapping[str, Mapping[str, Resource]]

    def of(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of one type."""
        return self.by_type.get(type_url, MappingProxyType({}))


def resource(name: str, message: Message) -> Resource:
    """A message as a resource; deterministic, so that equal messages have equal versions in every process."""
    return resource_from_bytes(name, message.SerializeToString(deterministic=True))


def resource_from_bytes(name: str, body: bytes) -> Resource:
    """Already serialised bytes as a resource."""
    return Resource(name, hashlib.sha256(body).hexdigest()[:32], body)


def by_name(resources: Iterable[Resource]) -> Mapping[str, Resource]:
    """Resources as a read-only mapping; raises ValueError when two have one name, which would stop every update."""
    found: dict[str, Resource] = {}
    for item in resources:
        if item.name in found:
            raise ValueError(f"two resources are called {item.name}")
        found[item.name] = item
    return MappingProxyType(found)
