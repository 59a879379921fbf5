"""Connection strings of PostgreSQL: what libpq and the reference's driver take, read without showing a password.

    postgres://user:password@db1:5432,db2:5432/pomerium?sslmode=verify-full&sslrootcert=/etc/ca.pem
    host=db1,db2 port=5432 user=pomerium dbname=pomerium sslmode=require passfile=/run/secrets/pgpass

Databroker 11.1, D-35. No error quotes a value, since any of them may be a password in the wrong place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from pomerium_agent.errors import SettingsError
from pomerium_agent.settings import Secret

URL_SCHEMES = ("postgres://", "postgresql://")
DEFAULT_PORT = 5432
DEFAULT_CONNECTIONS = 8
MAX_CONNECTIONS = 200
CONNECT_SECONDS = 5.0  # for each host, so that one that does not answer leaves time for the next
TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
TLS_KEYS = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
WRITABLE = ("any", "read-write", "primary")
NOT_WRITABLE = ("read-only", "standby", "prefer-standby")
# Of libpq and of the reference's driver: they mean nothing to ours, or what they ask for is done anyway.
IGNORED = frozenset(
    {
        "channel_binding",
        "client_encoding",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "gsslib",
        "krbsrvname",
        "krbspn",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "tcp_user_timeout",
        "sslcompression",
        "sslcertmode",
        "sslsni",
        "default_query_exec_mode",
        "description_cache_capacity",
        "statement_cache_capacity",
        "statement_cache_mode",
        "min_read_buffer_size",
        "pool_max_conn_lifetime",
        "pool_max_conn_lifetime_jitter",
        "pool_max_conn_idle_time",
        "pool_min_conns",
        "pool_min_idle_conns",
        "pool_health_check_period",
        "pool_ping_timeout",
    }
)
REFUSED = frozenset({"service", "servicefile", "replication", "require_auth", "requirepeer", "requiressl"})
_PAIR = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionString:
    """How to reach the database: the hosts in the order in which they are tried."""

    hosts: tuple[tuple[str, int], ...] = ()  # none: the sockets and the host that libpq looks at
    user: str | None = None
    password: Secret | None = None
    database: str | None = None
    passfile: str | None = None
    tls: Mapping[str, str] = field(default_factory=dict, repr=False)
    target: str = "read-write"
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    connect_seconds: float = CONNECT_SECONDS
    max_connections: int = DEFAULT_CONNECTIONS


def parse_connection(text: str) -> ConnectionString:
    """Read a connection string. Pure; raises SettingsError that names what is wrong and shows no value."""
    if text.startswith(URL_SCHEMES):
        return _built(_from_url(text))
    if "=" in text:
        return _built(_from_pairs(text))
    raise _wrong("it must be postgres://user:password@host/database, or host=… user=… dbname=…")


def _wrong(what: str) -> SettingsError:
    return SettingsError(f"databroker storage: the PostgreSQL connection string cannot be used: {what}")


def _from_url(text: str) -> dict[str, str]:
    try:
        parts = urlsplit(text)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise _wrong("it is no valid URL; special characters must be percent-encoded") from None
    if parts.fragment or "#" in text:
        raise _wrong("it contains a '#'; inside a password write it as %23")
    login, _, places = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    hosts, ports = _places(places)
    found = {
        "user": unquote(user),
        "dbname": unquote(parts.path.removeprefix("/")),
        "host": ",".join(hosts),
        "port": ",".join(ports),
    }
    found = {key: value for key, value in found.items() if value.strip(",")}
    if colon and password:
        found["password"] = unquote(password)
    return found | {("dbname" if key == "database" else key): value for key, value in pairs}


def _places(text: str) -> tuple[list[str], list[str]]:
    """The hosts of a URL and their ports; a port that is missing is the usual one."""
    hosts: list[str] = []
    ports: list[str] = []
    for place in text.split(",") if text else ():
        if place.startswith("["):
            host, closed, rest = place[1:].partition("]")
            if not closed or (rest and not rest.startswith(":")):
                raise _wrong("an IPv6 address must stand in brackets")
            port = rest[1:]
        else:
            host, _, port = place.partition(":")
        hosts.append(unquote(host))
        ports.append(port or str(DEFAULT_PORT))
    return hosts, ports


def _from_pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    place = 0
    while text[place:].strip():
        pair = _PAIR.match(text, place)
        if pair is None:
            raise _wrong("after its beginning, what should be name=value is not; quote values with spaces: name='…'")
        name, quoted, plain = pair.groups()
        found[name] = re.sub(r"\\(.)", r"\1", quoted if quoted is not None else plain)
        place = pair.end()
    return found


def _built(given: dict[str, str]) -> ConnectionString:
    refused = sorted(REFUSED & given.keys())
    if refused:
        raise _wrong(f"{refused[0]} is not supported here; leave it out")
    rest = {key: value for key, value in given.items() if key not in IGNORED}
    tls = {key: rest.pop(key) for key in TLS_KEYS if rest.get(key)}
    _check_tls(tls)
    target = rest.pop("target_session_attrs", "read-write")
    if target in NOT_WRITABLE:
        raise _wrong("target_session_attrs asks for a server that cannot be written to; use read-write")
    if target not in WRITABLE:
        raise _wrong(f"target_session_attrs must be one of {', '.join(WRITABLE)}")
    password = rest.pop("password", None)
    return ConnectionString(
        hosts=_hosts(rest),
        user=rest.pop("user", None) or None,
        password=Secret(password) if password else None,
        database=rest.pop("dbname", None) or None,
        passfile=rest.pop("passfile", None) or None,
        tls=tls,
        target=target,
        connect_seconds=float(_number(rest, "connect_timeout", int(CONNECT_SECONDS), 0, 60)) or CONNECT_SECONDS,
        max_connections=_number(rest, "pool_max_conns", DEFAULT_CONNECTIONS, 2, MAX_CONNECTIONS),
        settings={"application_name": "pomerium-agent"} | rest,
    )


def _check_tls(tls: Mapping[str, str]) -> None:
    mode = tls.get("sslmode", "prefer")
    if mode not in TLS_MODES:
        raise _wrong(f"sslmode must be one of {', '.join(TLS_MODES)}")
    if tls.get("sslrootcert") == "system" and mode != "verify-full":
        raise _wrong("sslrootcert=system needs sslmode=verify-full")


def _hosts(rest: dict[str, str]) -> tuple[tuple[str, int], ...]:
    """Hosts with their ports; one port serves all hosts, as with libpq."""
    address = rest.pop("hostaddr", "")
    hosts = [host.strip() for host in (rest.pop("host", "") or address).split(",") if host.strip()]
    ports = rest.pop("port", "").split(",")
    if len(ports) == 1:
        ports *= max(1, len(hosts))
    if hosts and len(ports) != len(hosts):
        raise _wrong(f"{len(hosts)} hosts and {len(ports)} ports; give one port, or one for each host")
    if not hosts and ports[0]:
        hosts, ports = ["localhost"], ports[:1]
    return tuple((host, _port(port)) for host, port in zip(hosts, ports, strict=False))


def _port(text: str) -> int:
    text = text.strip() or str(DEFAULT_PORT)
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536):
        raise _wrong("a port is no number from 1 to 65535")
    return int(text)


def _number(rest: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = rest.pop(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _wrong(f"{name} is no number")
    return min(most, max(least, int(text)))
