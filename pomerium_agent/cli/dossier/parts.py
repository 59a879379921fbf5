"""The parts of a bundle: each a file, a sentence, and what makes its content of the evidence. Pure."""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict

from pomerium_agent.cli.dossier.evidence import Evidence, Missing, Said
from pomerium_agent.cli.dossier.redaction import Redaction
from pomerium_agent.config.redact import redacted

Content = str | Missing


class Part(NamedTuple):
    """`make` has its content go through the redaction, and says why there is none."""

    name: str
    sentence: str
    make: Callable[[Evidence, Redaction], Content]


def _said(pick: Callable[[Evidence], Said]) -> Callable[[Evidence, Redaction], Content]:
    def make(evidence: Evidence, redaction: Redaction) -> Content:
        said = pick(evidence)
        return said if isinstance(said, Missing) else redaction.json(said)

    return make


def _doctor(evidence: Evidence, redaction: Redaction) -> Content:
    return redaction.json([finding._asdict() for finding in evidence.findings])


def _faults(evidence: Evidence) -> Said:
    """In a file of their own, since most reports are about one."""
    if isinstance(evidence.status, Missing):
        return evidence.status
    config = evidence.status.get("config")
    return {"faults": config.get("faults", []) if isinstance(config, dict) else []}


def _config(evidence: Evidence, redaction: Redaction) -> Content:
    if isinstance(evidence.config, Missing):
        return evidence.config
    shown = MessageToDict(redacted(evidence.config, for_strangers=True), preserving_proto_field_name=True)
    for route in shown.get("routes", ()):
        for policy in route.get("ppl_policies", ()):
            policy["raw"] = _readable(str(policy.get("raw", "")))
        for policy in route.get("policies", ()):
            if "source_ppl" in policy:
                policy["source_ppl"] = _structured(policy["source_ppl"])
    return redaction.json({"from": evidence.config_from, **shown})


def _readable(encoded: str) -> Any:
    try:
        return _structured(base64.b64decode(encoded).decode())
    except (binascii.Error, ValueError):
        return "not a text"


def _structured(text: str) -> Any:
    """JSON as such, so that it is redacted by names, too."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _telemetry(evidence: Evidence) -> Said:
    """Without its list of users, whose pseudonyms nobody else needs."""
    said = evidence.telemetry
    if isinstance(said, Missing):
        return said
    usage = said.get("usage")
    return {**said, "usage": {**usage, "users": []} if isinstance(usage, Mapping) else usage}


def _envoy(name: str) -> Callable[[Evidence, Redaction], Content]:
    def make(evidence: Evidence, redaction: Redaction) -> Content:
        found = evidence.envoy.get(name, Missing("not asked for"))
        if isinstance(found, Missing):
            return found
        return redaction.json_text(found) if name.endswith(".json") else redaction.text(found)

    return make


def _log(evidence: Evidence, redaction: Redaction) -> Content:
    return evidence.log if isinstance(evidence.log, Missing) else redaction.lines(evidence.log)


PARTS = (
    Part("versions.json", "versions of agent, Envoy, Python, system and kernel", _said(lambda e: e.versions)),
    Part("settings.json", "what this machine says: addresses, directories, endpoints", _said(lambda e: e.settings)),
    Part("status.json", "what `status --json` says: checks, digests, names of certificates", _said(lambda e: e.status)),
    Part("doctor.json", "what `doctor` found on this machine", _doctor),
    Part("faults.json", "what was left out of the configuration, and why", _said(_faults)),
    Part("config.json", "routes, policies and settings in force, with header values and secrets blanked", _config),
    Part("telemetry.json", "the health reports and metrics that were sent last", _said(_telemetry)),
    Part("denials.json", "requests that were denied lately, without queries", _said(lambda e: e.denials)),
    Part("envoy/config_dump.json", "what Envoy was given, with header values blanked", _envoy("config_dump.json")),
    Part("envoy/stats.txt", "what Envoy counts; names of clusters", _envoy("stats.txt")),
    Part("envoy/clusters.txt", "upstreams and their addresses", _envoy("clusters.txt")),
    Part("envoy/listeners.txt", "the addresses that Envoy listens on", _envoy("listeners.txt")),
    Part("envoy/server_info.json", "the version, age and arguments of Envoy", _envoy("server_info.json")),
    Part("log.jsonl", "the last lines of the log: hosts and paths that were asked for", _log),
)
