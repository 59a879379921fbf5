"""What Envoy should have, what it refused, and what it last accepted: the memory behind every ADS stream."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pomerium_agent.envoyconfig.resources import TYPE_URLS, EnvoyResources, Resource


@dataclass(frozen=True, slots=True)
class Rejection:
    """Envoy would not take this version of this resource, and why, in its own words."""

    type_url: str
    name: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """How far the newest offer has come. `settled` means: Envoy has everything of it but the rejections."""

    label: str = ""
    settled: bool = False
    rejections: tuple[Rejection, ...] = ()


@dataclass(slots=True)
class AdsState:
    """Owned by the ADS server, outlives streams: a restarted Envoy is fed from here.

    A version that was rejected is never offered again; the last accepted one stands in for it, so that even
    a fresh Envoy, which has nothing to keep, ends up with what the old one was serving (R-20, R-21).
    """

    label: str = ""
    wanted: EnvoyResources | None = None
    resumed: bool = False  # Envoy came with listeners that an agent before us gave it
    _rejected: dict[tuple[str, str], Rejection] = field(default_factory=dict)
    _accepted: dict[tuple[str, str], Resource] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)

    def offer(self, resources: EnvoyResources, label: str) -> None:
        """Replace what Envoy should have."""
        self.wanted, self.label = resources, label
        for type_url, name in list(self._rejected):
            wanted = resources.of(type_url).get(name)
            if wanted is None or wanted.version != self._rejected[type_url, name].version:
                del self._rejected[type_url, name]
        for type_url, name in list(self._accepted):
            if name not in resources.of(type_url):
                del self._accepted[type_url, name]

    def view(self, type_url: str) -> Mapping[str, Resource] | None:
        """What to serve of one type: the wanted resources, rejected versions replaced. None before the first offer."""
        if self.wanted is None:
            return None
        wanted = self.wanted.of(type_url)
        refused = [name for (kind, name) in self._rejected if kind == type_url and name in wanted]
        if not refused:
            return wanted
        view = dict(wanted)
        for name in refused:
            instead = self._accepted.get((type_url, name))
            if instead is None:
                del view[name]
            else:
                view[name] = instead
        return MappingProxyType(view)

    def accepted(self, type_url: str, item: Resource) -> None:
        """Envoy has this resource in force."""
        self._accepted[type_url, item.name] = item

    def rejected(self, type_url: str, item: Resource, reason: str) -> None:
        """Envoy refused this version of this resource."""
        wanted = self.wanted.of(type_url).get(item.name) if self.wanted else None
        if wanted is not None and wanted.version == item.version:
            self._rejected[type_url, item.name] = Rejection(type_url, item.name, item.version, reason)

    def refuses(self, type_url: str) -> bool:
        """Whether Envoy keeps something else of this type than what is wanted."""
        return any(kind == type_url for kind, _ in self._rejected)

    def forget_bind_failures(self) -> bool:
        """Let listeners that could not bind be offered again: the port may be free by now (routes 13)."""
        failed = [key for key, rejection in self._rejected.items() if "cannot bind" in rejection.reason]
        for key in failed:
            del self._rejected[key]
        return bool(failed)

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """What Envoy refuses of the present offer, in a stable order."""
        order = {url: number for number, url in enumerate(TYPE_URLS)}
        return tuple(sorted(self._rejected.values(), key=lambda r: (order.get(r.type_url, 99), r.name)))
