"""Regular expressions as Envoy reads them: RE2, within the program size that our bootstrap allows (routes 4.4)."""

from collections.abc import Callable

import re2

from pomerium_agent.config.complaints import Unusable, shown

# `re2.max_program_size.error_level` of the bootstrap; Envoy refuses everything above it.
MAX_PROGRAM_SIZE = 1_048_576
_LINE_BREAKS = ("\r", "\n", "\0")


def parse_regex(pattern: str) -> str:
    """The pattern itself, once RE2 has accepted it. Raises Unusable."""
    _compile(pattern)
    return pattern


def whole_match(pattern: str) -> Callable[[str], bool]:
    """Whether the pattern, which was parsed before, matches all of a text and not only a part of it."""
    matches = _compile(pattern).fullmatch
    return lambda text: matches(text) is not None


def parse_rewrite(pattern: str, substitution: str) -> tuple[str, str]:
    """A pattern and what replaces its match; Envoy itself does not notice a group that is not there (routes 1.2)."""
    groups = _compile(pattern).groups
    if any(character in substitution for character in _LINE_BREAKS):
        raise Unusable("the substitution holds a line break or NUL", "remove it")
    rest = iter(substitution)
    for character in rest:
        if character != "\\":
            continue
        escaped = next(rest, "")
        if escaped == "\\":
            continue
        if not (escaped.isascii() and escaped.isdigit()):
            raise Unusable(
                f"the substitution {shown(substitution)} has a backslash that is followed by neither a digit nor "
                "a backslash",
                r"write \1 for the first group, \\ for a backslash",
            )
        if int(escaped) > groups:
            raise Unusable(
                f"the substitution refers to group \\{escaped}, but the pattern {shown(pattern)} has {groups}",
                "add the group to the pattern, or use a lower number",
            )
    return pattern, substitution


def _compile(pattern: str) -> "re2._Regexp":
    options = re2.Options()
    options.log_errors = False  # the reason goes into the fault, not to standard error
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise Unusable(
            f"RE2 refuses {shown(pattern)}: {_reason(error)}",
            "use RE2 syntax, which has no look-around and no back-references",
        ) from None
    except UnicodeEncodeError:
        raise Unusable("the pattern is not valid text", "write it in UTF-8") from None
    if compiled.programsize > MAX_PROGRAM_SIZE:
        raise Unusable(
            f"the pattern {shown(pattern)} compiles to {compiled.programsize} steps, above Envoy's {MAX_PROGRAM_SIZE}",
            "lower its repetition counts, or split the route",
        )
    return compiled


def _reason(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
