"""The public Core configuration format (YAML or JSON) as a Config message, with the line of everything in it."""

import hashlib
from collections.abc import Mapping as MappingView
from dataclasses import dataclass
from pathlib import Path

from pomerium_agent.console.convert import Converter
from pomerium_agent.console.core_keys import pairs, specials
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.policy.complaints import Complaint
from pomerium_agent.policy.yaml_marks import Mapping, Marked, Scalar, read_yaml

ID_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item stands in the file, and the line of each of its keys, nested ones by their dotted path."""

    line: int
    path: str
    lines: MappingView[str, int]

    def line_of(self, field: str) -> int:
        """The line of a field, or of what it is in."""
        while field:
            if field in self.lines:
                return self.lines[field]
            field = field[: max(field.rfind("."), field.rfind("["), 0)]
        return self.line


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """What a file says. When one of the complaints is no warning, `config` holds only what could be read."""

    file: str
    config: config_pb2.Config
    complaints: tuple[Complaint, ...]
    settings: Place
    routes: MappingView[str, Place]  # by route id

    @property
    def refused(self) -> bool:
        return any(not complaint.warning for complaint in self.complaints)


def read_core_config(file: Path) -> CoreConfig:
    """Read a file; relative names in it start at its own folder."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        complaint = Complaint(1, "", f"the file cannot be read: {reason}", "name a UTF-8 text file", str(file))
        return CoreConfig(str(file), config_pb2.Config(), (complaint,), Place(1, "", {}), {})
    return parse_core_config(text, str(file), file.parent)


def parse_core_config(text: str, file: str, base: Path) -> CoreConfig:
    """Parse a text. Everything that is wrong with it is found at once."""
    found, complaints = read_yaml(text, file)
    convert = Converter(file, specials(base), complaints)
    config, places = config_pb2.Config(), dict[str, Place]()
    top = Place(1, "", {})
    if found is not None:
        mapping = convert.mapping(found, "")
        if mapping is not None:
            top = _place(mapping, "")
            convert.fill(config.settings, mapping, "")
            pairs(convert, config.settings, mapping, base)
            _routes(convert, config, mapping, places)
    return CoreConfig(file, config, tuple(sorted(complaints)), top, places)


def _routes(convert: Converter, config: config_pb2.Config, mapping: Mapping, places: dict[str, Place]) -> None:
    """The routes, under `routes` or its old name `policy`."""
    if "routes" in mapping.items and "policy" in mapping.items:
        convert.complain(mapping.lines["policy"], "policy", "routes are given under `routes` too", "move them there")
        return
    name = "policy" if "policy" in mapping.items else "routes"
    marked = mapping.items.get(name)
    if marked is None or (isinstance(marked, Scalar) and marked.value is None):
        return
    if isinstance(marked, Mapping | Scalar):
        convert.complain(marked.line, name, "routes are a list", "begin each route with `- from:`")
        return
    if name == "policy":
        convert.complain(mapping.lines[name], name, "this is an old name of `routes`", "write `routes:`", warning=True)
    read: list[tuple[config_pb2.Route, Place]] = []
    for item, path in convert.items(marked, name):
        fields = convert.mapping(item, path)
        if fields is not None:
            route = config_pb2.Route()
            convert.fill(route, fields, path)
            read.append((route, _place(fields, path)))
    config.routes.extend(_named(convert, read, places))


def _named(
    convert: Converter, routes: list[tuple[config_pb2.Route, Place]], places: dict[str, Place]
) -> list[config_pb2.Route]:
    """Every route with its id: its own, else a hash of what it matches, so that no other edit changes it.

    Where several routes match the same, all but one have their target in the id as well. Which one does not
    depend on their order in the file.
    """
    kept: list[tuple[int, config_pb2.Route]] = []
    twins: dict[str, Place] = {}
    numbered = [(number, route, place, match_hash(route, target=True)) for number, (route, place) in enumerate(routes)]
    # Explicit ids first: they are not ours to change.
    for number, route, place, whole in sorted(numbered, key=lambda each: (not each[1].id, each[3])):
        given = bool(route.id)
        plain = route.id if given else match_hash(route)
        route_id = whole if plain in places and not given else plain
        first = places.get(route_id) or (None if given else twins.get(whole))
        if first is not None:
            what = f"the id {route_id} is taken" if given else "the same route is there already"
            reason = f"{what}, by {first.path} in line {first.line}"
            convert.complain(place.line_of("id"), place.path, reason, "remove one of the two")
            continue
        route.id = route_id
        places[route_id] = twins[whole] = place
        kept.append((number, route))
    return [route for _, route in sorted(kept, key=lambda each: each[0])]


def match_hash(route: config_pb2.Route, *, target: bool = False) -> str:
    """The id of a route that has none: what it matches and, if asked for, where it leads."""
    parts = [getattr(route, "from"), route.prefix, route.path, route.regex]
    if target:
        parts.extend(sorted(route.to))
        parts.append(route.redirect.SerializeToString(deterministic=True).hex())
        parts.append(route.response.SerializeToString(deterministic=True).hex())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:ID_DIGITS]


def _place(mapping: Mapping, path: str) -> Place:
    lines: dict[str, int] = {}
    _lines(mapping, "", lines, top=not path)
    return Place(mapping.line, path, lines)


def _lines(marked: Marked, path: str, lines: dict[str, int], *, top: bool) -> None:
    """The line of every key below; of a whole file, not those of its routes, which have places of their own."""
    if isinstance(marked, Mapping):
        for key, item in marked.items.items():
            here = f"{path}.{key}" if path else key
            lines[here] = marked.lines[key]
            if not (top and key in ("routes", "policy")):
                _lines(item, here, lines, top=False)
    elif not isinstance(marked, Scalar):
        for number, item in enumerate(marked.items):
            lines[f"{path}[{number}]"] = item.line
            _lines(item, f"{path}[{number}]", lines, top=False)
