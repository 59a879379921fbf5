"""Samples of the reference as what they stand for: messages of the wire, with real certificates and files."""

import base64
import re
from functools import cache
from typing import Any

from google.protobuf.json_format import ParseDict

from pomerium_agent.config.digest import CONFIG
from pomerium_agent.console.convert import parse_duration
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record, pack
from tests.fakes.config_records import issue

FILES = {
    "/etc/pomerium/ca.pem": "${chain:ca.example.com}",
    "/etc/pomerium/client.pem": "${chain:client}",
    "/etc/pomerium/client-key.pem": "${key:client}",
    "/etc/pomerium/token": "dG9rZW4=",
}
_STANDS_FOR = re.compile(r"\$\{(chain|key|pem):([^}]+)\}")


def record(*routes: config_pb2.Route, settings: config_pb2.Settings | None = None) -> Record:
    """One Config record."""
    return Record(type=CONFIG, id="c", data=pack(config_pb2.Config(name="c", routes=routes, settings=settings)))


def route_of(fields: dict[str, Any]) -> config_pb2.Route:
    """A route with these fields, and whatever else a route has to have."""
    whole = {"from": "https://app.example.com", "id": "sample", **fields}
    if not fields.keys() & {"to", "redirect", "response"}:
        whole["to"] = ["http://app.internal:8080"]
    return ParseDict(_on_the_wire(whole, config_pb2.Route), config_pb2.Route())


def settings_of(fields: dict[str, Any]) -> config_pb2.Settings:
    return ParseDict(_on_the_wire(fields, config_pb2.Settings), config_pb2.Settings())


def read_file(path: str) -> bytes:
    """The files of the samples, and no others."""
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return base64.b64decode(_filled(FILES[path]))


def _on_the_wire(fields: dict[str, Any], message: Any) -> dict[str, Any]:
    """There a list that may be present and empty is a message of its own, and a duration is in seconds."""
    wire = {name: _filled(value) for name, value in fields.items()}
    for name, value in wire.items():
        kind = message.DESCRIPTOR.fields_by_name[name].message_type
        if kind is not None and kind.name == "StringList":
            wire[name] = {"values": value}
        elif kind is not None and kind.name == "Duration":
            wire[name] = f"{(parse_duration(value) or 0) / 10**9:.9f}s"
    return wire


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each) for each in value]
    return _STANDS_FOR.sub(lambda found: _material(found[1], found[2]), value) if isinstance(value, str) else value


@cache
def _material(kind: str, name: str) -> str:
    if kind == "pem":  # of an RSA key, inside of JSON
        return issue(name, rsa_bits=2048)[1].decode().replace("\n", "\\n")
    return base64.b64encode(issue(name)[0 if kind == "chain" else 1]).decode()
