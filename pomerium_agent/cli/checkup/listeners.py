"""Whether the addresses that visitors come to can be had."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pomerium_agent.cli.checkup.finding import Finding, failed, note, ok, skipped
from pomerium_agent.cli.checkup.running import Replica
from pomerium_agent.config.addresses import parse_address
from pomerium_agent.config.complaints import Unusable
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.settings import Local

HTTP3 = "HTTP/3"
WAITS = {"tcp": "0A", "udp": "07"}  # the state of a socket that waits for visitors, as /proc/net has it
DEFAULT = ":443"  # unless the configuration says otherwise, which only a replica that runs knows


def check(local: Local, replica: Replica | None) -> Iterator[Finding]:
    """Each address that is said here, and the usual one for visitors where none is."""
    ours = _inodes(replica["pids"].values()) if replica else frozenset[str]()
    for name, address in (
        ("ADDRESS", local.address),
        ("HTTP_REDIRECT_ADDR", local.http_redirect_addr),
        ("GRPC_ADDRESS", local.grpc_address),
        ("HEALTH_CHECK_ADDR", local.health_check_addr),
        ("METRICS_ADDRESS", local.metrics_address),
    ):
        if address:
            yield _bind(name, address, ours)
    if not local.address and replica is None:
        found = _bind("ADDRESS", DEFAULT, ours)
        if found.remedy:  # the configuration may say another address
            found = note(found.check, found.found, found.remedy)
        yield found


def check_http3(local: Local, replica: Replica | None, config: config_pb2.Config | None) -> Finding:
    """The same port over UDP, where the configuration that this machine knows of asks for HTTP/3 (routes 7.6)."""
    if config is None:
        return skipped(HTTP3, "this machine has not been told yet whether to serve it")
    said = config.settings
    if said.codec_type != config_pb2.CODEC_TYPE_HTTP3 or said.insecure_server:
        return ok(HTTP3, "is not asked for")
    try:
        address = parse_address(local.address or said.address, default_port=443)
    except Unusable as error:
        return failed(HTTP3, f"address: {error.reason}", error.remedy)
    ours = _inodes(replica["pids"].values()) if replica else frozenset[str]()
    try:
        with socket.socket(_family(address.host), socket.SOCK_DGRAM) as probe:
            probe.bind((address.host, address.port))
    except OSError as error:
        return _no_datagrams(address.port, error, ours)
    return ok(HTTP3, f"UDP port {address.port} is free")


def _no_datagrams(port: int, error: OSError, ours: frozenset[str]) -> Finding:
    if error.errno != errno.EADDRINUSE:
        reason = f"cannot be had over UDP: {error.strerror}"
        return failed(HTTP3, f"port {port} {reason}", "mend what is said of ADDRESS, or set codec_type to auto")
    if ours & _bound(port, "udp"):
        return ok(HTTP3, f"UDP port {port} is what the replica here listens on")
    return failed(
        HTTP3,
        f"UDP port {port} is in use by another program, so HTTP/3 will not be served",
        f"stop it (`ss -lunp 'sport = :{port}'` names it), or choose another port with ADDRESS",
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bind(name: str, address: str, ours: frozenset[str]) -> Finding:
    host, _, text = address.rpartition(":")
    host, port = host.strip("[]"), int(text)
    try:
        with socket.socket(_family(host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)  # an address that many share may be bound by us, and listened on by one
    except socket.gaierror:
        return failed(name, f"{host} is no address and cannot be resolved", f"write {name} as IP address and port")
    except OSError as error:
        return _refused(name, address, port, error, ours)
    return ok(name, f"{address} is free")


def _refused(name: str, address: str, port: int, error: OSError, ours: frozenset[str]) -> Finding:
    match error.errno:
        case errno.EADDRINUSE if ours & _bound(port, "tcp"):
            return ok(name, f"{address} is what the replica here listens on")
        case errno.EADDRINUSE:
            return failed(
                name,
                f"{address} is in use by another program",
                f"stop it (`ss -ltnp 'sport = :{port}'` names it), or choose another address with {name}",
            )
        case errno.EACCES:
            return failed(
                name,
                f"this user may not listen on {address}",
                "give the service CAP_NET_BIND_SERVICE, or choose a port above 1023 with " + name,
            )
        case errno.EADDRNOTAVAIL:
            return failed(
                name, f"this machine has no address {address}", f"choose one of `ip address`, or :{port}, with {name}"
            )
    return failed(name, f"cannot listen on {address}: {error.strerror}", f"choose another address with {name}")


def _bound(port: int, protocol: str) -> frozenset[str]:
    """The inodes of the sockets that wait for visitors on `port`: by TCP they listen, by UDP they have no peer."""
    found = set()
    for table in (protocol, f"{protocol}6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                field = line.split()
                if field[3] == WAITS[protocol] and int(field[1].rpartition(":")[2], 16) == port:
                    found.add(field[9])
    return frozenset(found)


def _inodes(pids: object) -> frozenset[str]:
    """The inodes of the sockets that these processes have open, as far as we may look."""
    found = set()
    for pid in pids if hasattr(pids, "__iter__") else ():
        with suppress(OSError):
            for each in os.scandir(f"/proc/{int(pid)}/fd"):
                with suppress(OSError):
                    found.add(str(Path(each).readlink()).removeprefix("socket:[").rstrip("]"))
    return frozenset(found)
