"""Whether a VersionedConfig applies here: its conditions, against the versions this replica stands for (Z-50)."""

import re
from collections.abc import Iterable, Mapping

from pomerium_agent.config.complaints import Unusable, shown
from pomerium_agent.pb.pomerium import config_pb2

# Feature names of zero link 13.3; "" is the product, and stands for the Pomerium release whose configuration
# this replica reads, not for the version of this program.
KNOWN_VERSIONS: Mapping[str, str] = {
    "": "0.37.0",
    "envoy": "1.40.0",
    "config": "0.37.0",
    "hosted-authenticate-oidc": "0.1.0",
    "mcp": "0.32.0",
    "ssh": "0.20.0",
}
_NUMBER = r"([0-9]{1,18})"  # Python takes a long time over a number without end, and refuses it
_SEMVER = re.compile(rf"v?{_NUMBER}(?:\.{_NUMBER})?(?:\.{_NUMBER})?(?:-([0-9A-Za-z.-]{{1,64}}))?(?:\+[0-9A-Za-z.-]+)?")

# Numbers, then: a release is above its pre-releases, then the parts of the pre-release (numbers below words).
Version = tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]


def applies(conditions: Iterable[config_pb2.VersionedConfig.Condition], versions: Mapping[str, str]) -> bool:
    """Whether every condition holds; none at all means yes.

    `at_least` needs a known feature, `less_than` is satisfied by an unknown one. Raises Unusable when a
    requirement cannot be read, since then nobody can say what was meant.
    """
    # A list, not a generator: every requirement is read, so that a typo is found whatever the others say.
    return all([_holds(condition, versions) for condition in conditions])


def _holds(condition: config_pb2.VersionedConfig.Condition, versions: Mapping[str, str]) -> bool:
    at_least = _parse(condition.at_least) if condition.at_least else None
    less_than = _parse(condition.less_than) if condition.less_than else None
    running = versions.get(condition.feature)
    ours = _running(running) if running is not None else None
    if at_least is not None and (ours is None or ours < at_least):
        return False
    return less_than is None or ours is None or ours < less_than


def _running(text: str) -> Version:
    """Our own version without its pre-release part; one that is none at all counts as 0.0.0 (routes 1.1)."""
    try:
        return (_parse(text)[0], True, ())
    except Unusable:
        return ((0, 0, 0), True, ())


def _parse(text: str) -> Version:
    found = _SEMVER.fullmatch(text.strip())
    if found is None:
        raise Unusable(f"{shown(text)} is not a version", "write it as 1.2.3")
    major, minor, patch, prerelease = found.groups()
    parts = tuple(
        (False, int(part), "") if part.isdigit() else (True, 0, part) for part in (prerelease or "").split(".") if part
    )
    return ((int(major), int(minor or 0), int(patch or 0)), not prerelease, parts)
