"""Which addresses `source_ip` lets in (policy 6, P-17)."""

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pomerium_agent.policy.compiling import Compiling, Place
from pomerium_agent.policy.complaints import shown
from pomerium_agent.policy.document import Term
from pomerium_agent.policy.yaml_marks import Marked, Scalar, Sequence

_MAPPED = 0xFFFF  # the upper 96 bits of ::ffff:a.b.c.d
_ENTRY = re.compile(r"[0-9A-Fa-f.:]+(/(0|[1-9][0-9]{0,2}))?", re.ASCII)  # no zone, and no mask in dots

AddressTest = Callable[[IPv4Address | IPv6Address | None], bool]


def address_test(term: Term, ask: Compiling) -> AddressTest | None:
    """A test by prefix lengths, so that a thousand networks cost what a few do; None after a complaint."""
    items: tuple[Marked, ...] = term.data.items if isinstance(term.data, Sequence) else (term.data,)
    tables: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
    complete = True
    for i, item in enumerate(items):
        path = f"{term.path}[{i}]" if isinstance(term.data, Sequence) else term.path
        network = _network(item, Place(item.line or term.line, path), ask)
        if network is None:
            complete = False
            continue
        shift = network.max_prefixlen - network.prefixlen
        tables[network.version].setdefault(shift, set()).add(int(network.network_address) >> shift)
    if not items:
        ask.warn(
            Place(term.line, term.path), "an empty list holds no address", "list addresses, or remove the criterion"
        )
    if not complete:
        return None
    table4, table6 = (tuple((shift, frozenset(known)) for shift, known in tables[v].items()) for v in (4, 6))

    def test(ip: IPv4Address | IPv6Address | None) -> bool:
        if ip is None:
            return False
        number = int(ip)
        if isinstance(ip, IPv4Address):
            table = table4
        elif number >> 32 == _MAPPED:
            number, table = number & 0xFFFFFFFF, table4
        else:
            table = table6
        for shift, known in table:  # noqa: SIM110  # a generator costs more than the work
            if number >> shift in known:
                return True
        return False

    return test


def _network(item: Marked, place: Place, ask: Compiling) -> IPv4Network | IPv6Network | None:
    """An address or a network; host bits are masked, and an IPv4 one in IPv6's clothes is taken out of them."""
    remedy = "write an address such as 192.0.2.7, or a network such as 10.0.0.0/8"
    if not isinstance(item, Scalar) or not isinstance(item.value, str):
        what = shown(item.value) if isinstance(item, Scalar) else "a list or an object"
        ask.refuse(place, f"an address must be a text, not {what}", remedy)
        return None
    try:
        if not _ENTRY.fullmatch(item.value):
            raise ValueError(item.value)
        address, _, length = item.value.partition("/")
        ip = ip_address(address)
        network = ip_network((ip, int(length) if length else ip.max_prefixlen), strict=False)
    except ValueError:
        ask.refuse(place, f"{shown(item.value)} is neither an address nor a network", remedy)
        return None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        start = int(network.network_address)
        if start >> 32 == _MAPPED:
            return IPv4Network((start & 0xFFFFFFFF, network.prefixlen - 96))
    return network
