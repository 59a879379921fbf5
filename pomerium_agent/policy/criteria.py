"""Every criterion by its name (policy 6 and 7): from its data to a function over facts."""

from collections.abc import Callable, Mapping
from functools import cache
from operator import attrgetter
from typing import Any

from pomerium_agent.policy.addresses import address_test
from pomerium_agent.policy.certificates import certificate_test
from pomerium_agent.policy.compiling import Check, Compiling, Criterion, Look, Needs, Place
from pomerium_agent.policy.complaints import shown
from pomerium_agent.policy.devices import device_check
from pomerium_agent.policy.document import Term
from pomerium_agent.policy.facts import Certificate, Facts
from pomerium_agent.policy.matchers import list_matcher, string_matcher, string_tests, together
from pomerium_agent.policy.results import (
    CERTIFICATE_INVALID,
    CERTIFICATE_REQUIRED,
    POLICY_UNSUPPORTED,
    UNAUTHENTICATED,
    Result,
)
from pomerium_agent.policy.ssh import authorized_keys
from pomerium_agent.policy.times import date_test, day_test, time_test

Prepare = Callable[[Term, Compiling], Criterion | None]


@cache  # of some fifty
def _result(value: bool, reason: str) -> Result:
    return Result(value, frozenset({reason}))


@cache
def _reads(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _criterion(term: Term, needs: Needs, reads: str, check: Check, look: Look) -> Criterion:
    return Criterion(
        key=term.key,
        data=term.plain(),
        line=term.line,
        path=term.path,
        needs=needs,
        reads=_reads(reads),
        check=check,
        look=look,
    )


def _place(term: Term) -> Place:
    return Place(term.line, term.path)


def _plain(term: Term, name: str, reads: str, test: Callable[[Any], bool], look: Callable[[Facts], Any]) -> Criterion:
    """A criterion with the reasons ok and unauthorized."""
    yes, no = _result(True, f"{name}-ok"), _result(False, f"{name}-unauthorized")
    return _criterion(term, Needs.REQUEST, reads, lambda facts: yes if test(look(facts)) else no, look)


def _session(term: Term, name: str, reads: str, test: Callable[[Any], bool], look: Callable[[Facts], Any]) -> Criterion:
    """A criterion that says, when it is false, whether it is for want of a session."""
    yes, no, nobody = (
        _result(True, f"{name}-ok"),
        _result(False, f"{name}-unauthorized"),
        _result(False, UNAUTHENTICATED),
    )

    def check(facts: Facts) -> Result:
        if test(look(facts)):
            return yes
        return no if facts.identity.present else nobody

    return _criterion(term, Needs.IDENTITY, f"identity {reads}", check, look)


# What criteria read; also what `explain` shows.


# Always defined; an e-mail address is empty without a session. Getters have no frame of their own.
_method: Callable[[Facts], str] = attrgetter("request.method")
_path: Callable[[Facts], str] = attrgetter("request.path")
_email: Callable[[Facts], str] = attrgetter("identity.email")
_ssh_username: Callable[[Facts], str] = attrgetter("request.ssh_username")
_now: Callable[[Facts], object] = attrgetter("now")
_groups: Callable[[Facts], tuple[str, ...] | None] = attrgetter("identity.groups")
_DEFINED = (_method, _path, _email, _ssh_username)


def _user_id(facts: Facts) -> str | None:
    """Undefined without a session (policy 4.2)."""
    return facts.identity.user_id or None


def _domain(facts: Facts) -> str | None:
    parts = facts.identity.email.split("@", 2)
    return parts[1] if len(parts) > 1 else None


def _claims_at(path: str) -> Callable[[Facts], tuple[Any, ...]]:
    """The values under a claim's path, which is a literal key (P-11).

    The reference's second way, down through objects, has nothing to go down: claims are lists (policy 4.3).
    """
    return lambda facts: facts.identity.claims.get(path, ()) if path else ()


# The criteria.


def _accept(term: Term, ask: Compiling) -> Criterion:
    yes = _result(True, "accept")
    return _criterion(term, Needs.REQUEST, "", lambda facts: yes, lambda facts: None)


def _reject(term: Term, ask: Compiling) -> Criterion:
    no = _result(False, "reject")
    return _criterion(term, Needs.REQUEST, "", lambda facts: no, lambda facts: None)


def _authenticated_user(term: Term, ask: Compiling) -> Criterion:
    return _session(term, "user", "", lambda user_id: user_id is not None, _user_id)


def _string(name: str, look: Callable[[Facts], str | None], *, session: bool, reads: str = "") -> Prepare:
    def prepare(term: Term, ask: Compiling) -> Criterion | None:
        test: Callable[[Any], bool] | None
        if look in _DEFINED:
            tests = string_tests(term.data, _place(term), ask)
            test = None if tests is None else together(tests)
        else:
            test = string_matcher(term.data, _place(term), ask)
        if test is None:
            return None
        if name in ("email", "domain"):
            _warn_of_case(term, ask)
        return (_session if session else _plain)(term, name, reads, test, look)

    return prepare


def _warn_of_case(term: Term, ask: Compiling) -> None:
    """D6: addresses are compared byte by byte, and identity providers give them in lower case."""
    for word in _words(term.plain()):
        if word != word.lower():
            ask.warn(
                _place(term),
                f"{shown(word)} has upper case, and matches only if the identity has it too",
                "use lower case",
            )


def _words(data: object) -> list[str]:
    if isinstance(data, str):
        return [data]
    items = data if isinstance(data, list) else data.values() if isinstance(data, dict) else ()
    return [word for item in items for word in _words(item)]


def _claim(term: Term, ask: Compiling) -> Criterion | None:
    test = list_matcher(term.data, _place(term), ask)
    if not term.sub:
        ask.warn(_place(term), "claim without a name has no values", "name it: claim/groups")
    return None if test is None else _session(term, "claim", "", test, _claims_at(term.sub))


def _groups_criterion(term: Term, ask: Compiling) -> Criterion | None:
    """False for every operator when the directory does not know the user (P-15)."""
    test = list_matcher(term.data, _place(term), ask)
    if test is None:
        return None
    return _session(term, "groups", "", lambda groups: groups is not None and test(groups), _groups)


def _source_ip(term: Term, ask: Compiling) -> Criterion | None:
    test = address_test(term, ask)
    return None if test is None else _plain(term, "source-ip", "ip", test, lambda facts: facts.request.ip)


def _cors_preflight(term: Term, ask: Compiling) -> Criterion:
    """P-18."""
    yes, no = _result(True, "cors-request"), _result(False, "non-cors-request")

    def check(facts: Facts) -> Result:
        request = facts.request
        if request.method != "OPTIONS":
            return no
        headers = request.headers
        return yes if headers.get("access-control-request-method") and headers.get("origin") else no

    def look(facts: Facts) -> object:
        names = ("origin", "access-control-request-method")
        return {"method": facts.request.method} | {name: facts.request.headers.get(name, "") for name in names}

    return _criterion(term, Needs.REQUEST, "method headers", check, look)


def _device(term: Term, ask: Compiling) -> Criterion | None:
    found = device_check(term, ask)
    if found is None:
        return None
    return _criterion(term, Needs.IDENTITY, "identity device", *found)


def _client_certificate(term: Term, ask: Compiling) -> Criterion | None:
    """Says nothing about trust (P-19)."""
    test = certificate_test(term, ask)
    if test is None:
        return None

    def matches(leaf: Certificate | None) -> bool:
        return leaf is not None and test(leaf)

    return _plain(term, "client-certificate", "certificate", matches, lambda facts: facts.request.certificate)


def _invalid_client_certificate(term: Term, ask: Compiling) -> Criterion:
    """True means invalid, with one of two reasons (P-19)."""
    missing, invalid = _result(True, CERTIFICATE_REQUIRED), _result(True, CERTIFICATE_INVALID)
    valid = _result(False, "valid-client-certificate")

    def check(facts: Facts) -> Result:
        if facts.request.certificate_valid:
            return valid
        return missing if facts.request.certificate is None else invalid

    def look(facts: Facts) -> object:
        if facts.request.certificate_valid:
            return "valid"
        return "none" if facts.request.certificate is None else "invalid"

    return _criterion(term, Needs.REQUEST, "certificate", check, look)


def _mcp_tool(term: Term, ask: Compiling) -> Criterion | None:
    """P-22."""
    test = string_matcher(term.data, _place(term), ask)
    if test is None:
        return None
    yes, no = _result(True, "mcp-tool-match"), _result(False, "mcp-tool-no-match")
    other = _result(False, "mcp-not-a-tool-call")

    def check(facts: Facts) -> Result:
        if facts.request.mcp_method != "tools/call":
            return other
        return yes if test(facts.request.mcp_tool) else no

    def look(facts: Facts) -> object:
        return {"method": facts.request.mcp_method, "tool": facts.request.mcp_tool}

    return _criterion(term, Needs.REQUEST, "mcp", check, look)


def _ssh_username_matches_email(term: Term, ask: Compiling) -> Criterion:
    def look(facts: Facts) -> Any:
        return [facts.request.ssh_username, facts.identity.email]

    def matches(names: list[str]) -> bool:
        local, at, _ = names[1].partition("@")
        return bool(at) and local == names[0]

    return _session(term, "ssh-username", "ssh", matches, look)


def _ssh_username_matches_claim(term: Term, ask: Compiling) -> Criterion | None:
    path = term.plain()
    if not isinstance(path, str):
        ask.refuse(
            _place(term), f"a claim's name must be a text, not {shown(path)}", "write, for example, preferred_username"
        )
        return None
    claims = _claims_at(path)

    def look(facts: Facts) -> Any:
        return [facts.request.ssh_username, list(claims(facts))]

    return _session(term, "ssh-username", "ssh", lambda names: names[0] in names[1], look)


def _ssh_publickey(term: Term, ask: Compiling) -> Criterion | None:
    keys = authorized_keys(term, ask)
    if keys is None:
        return None
    return _plain(term, "ssh-publickey", "ssh", lambda key: key in keys, lambda facts: facts.request.ssh_publickey)


def _ssh_ca(term: Term, ask: Compiling) -> Criterion | None:
    """False when no key was offered. One that was offered cannot be checked yet, so nobody gets in by it."""
    if authorized_keys(term, ask) is None:
        return None
    no, closed = _result(False, "ssh-publickey-unauthorized"), _result(ask.closing, POLICY_UNSUPPORTED)
    look: Look = lambda facts: facts.request.ssh_publickey  # noqa: E731
    return _criterion(term, Needs.REQUEST, "ssh", lambda facts: closed if facts.request.ssh_publickey else no, look)


def _time(name: str, test_of: Callable[[Term, Compiling], Callable[[Any], bool] | None]) -> Prepare:
    def prepare(term: Term, ask: Compiling) -> Criterion | None:
        test = test_of(term, ask)
        return None if test is None else _plain(term, name, "time", test, _now)

    return prepare


def _record(term: Term, ask: Compiling) -> None:
    """Needs data that we do not have: the whole route is closed (policy 7, P-25)."""
    ask.unsupported = True
    ask.refuse(_place(term), "record criteria cannot be evaluated here", "use groups or claims instead")


def _pomerium_routes(term: Term, ask: Compiling) -> Criterion:
    """Requests of /.pomerium never get to a policy, so this is always false."""
    no = _result(False, "non-pomerium-route")
    return _criterion(term, Needs.REQUEST, "", lambda facts: no, lambda facts: None)


CRITERIA: Mapping[str, Prepare] = {
    "accept": _accept,
    "reject": _reject,
    "authenticated_user": _authenticated_user,
    "user": _string("user", _user_id, session=True),
    "email": _string("email", _email, session=True),
    "domain": _string("domain", _domain, session=True),
    "claim": _claim,
    "groups": _groups_criterion,
    "http_method": _string("http-method", _method, session=False, reads="method"),
    "http_path": _string("http-path", _path, session=False, reads="path"),
    "source_ip": _source_ip,
    "cors_preflight": _cors_preflight,
    "device": _device,
    "client_certificate": _client_certificate,
    "invalid_client_certificate": _invalid_client_certificate,
    "mcp_tool": _mcp_tool,
    "ssh_username": _string("ssh-username", _ssh_username, session=False, reads="ssh"),
    "ssh_username_matches_email": _ssh_username_matches_email,
    "ssh_username_matches_claim": _ssh_username_matches_claim,
    "ssh_publickey": _ssh_publickey,
    "ssh_ca": _ssh_ca,
    "date": _time("date", date_test),
    "day_of_week": _time("day-of-week", day_test),
    "time_of_day": _time("time-of-day", time_test),
    "record": _record,
    "pomerium_routes": _pomerium_routes,
}
