"""One request to one of our pages, as it came: the Host header, the raw query, every cookie of a name."""

from dataclasses import dataclass, field
from functools import cached_property

from aiohttp import hdrs, web

from pomerium_agent.authenticate.site import Site
from pomerium_agent.handoff.query import parameters_of, parse_query
from pomerium_agent.sessions.sources import find_cookie, find_handles

MAX_SAME_NAME = 8  # cookies of one name that are looked at; a browser has one, unless somebody plants more
MAX_COOKIE = 8192  # characters of a value that may be one of ours


@dataclass(kw_only=True)
class Visit:
    """`site` is the configuration for the whole of the request, whatever comes meanwhile.

    `retry` and `parting_cookies` are for the page that says what went wrong, once it is known where the visitor may
    be sent to try again, and what their browser should forget.
    """

    request: web.Request = field(repr=False)
    site: Site
    retry: str = ""
    parting_cookies: list[str] = field(default_factory=list)

    @cached_property
    def host(self) -> str:
        """The Host header as it came; signatures are over it (N-3)."""
        return self.request.headers.get(hdrs.HOST, "")

    @cached_property
    def hostname(self) -> str:
        """In lower case, without a port."""
        host = self.host.lower()
        return host.removesuffix(self.port)

    @cached_property
    def port(self) -> str:
        """`:8443` where the Host header names one, else nothing."""
        name, colon, port = self.host.rpartition(":")
        return f":{port}" if name and colon and port.isdigit() else ""

    @property
    def peer(self) -> str:
        """Whom Envoy took the request from, which it adds last (A-3)."""
        return self.request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()

    @cached_property
    def path(self) -> str:
        return self._target[0]

    @cached_property
    def query(self) -> str:
        """As it came: nothing is decoded and encoded again."""
        return self._target[1]

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Of the query alone: a body has no say (N-21). Raises HandoffRejected where one is not text."""
        return parameters_of(self.query)

    @cached_property
    def url(self) -> str:
        """As whoever signed it must have written it: `https`, and the host by which browsers know us (N-3)."""
        return f"https://{self._outer_host}{self.path}" + (f"?{self.query}" if self.query else "")

    @property
    def on_authenticate_host(self) -> bool:
        return _has(self.site.authenticate_hosts, self.host)

    @property
    def request_id(self) -> str:
        return self.request.headers.get("x-request-id", "")

    @property
    def wants_json(self) -> bool:
        return self.request.headers.get(hdrs.ACCEPT, "") == "application/json"

    @property
    def by_script(self) -> bool:
        """Whether a script asks, which cannot follow a redirect to a login."""
        return self.request.headers.get("X-Requested-With", "").lower() == "xmlhttprequest"

    def cookies(self, name: str) -> list[str]:
        """Every value of that name: a neighbour may plant a second one, and must not be able to hide ours."""
        found: list[str] = []
        for line in self.request.headers.getall(hdrs.COOKIE, ()):
            for part in line.split(";"):
                value = find_cookie(part, name)
                if value and len(value) <= MAX_COOKIE and len(found) < MAX_SAME_NAME:
                    found.append(value)
        return found

    @property
    def carried_handles(self) -> list[str]:
        """What may be a handle in headers or in the query, in the order of authorization (authorize 4.1)."""
        headers = [(name.lower(), value) for name, value in self.request.headers.items() if name.lower() != "cookie"]
        found = find_handles(headers, self.query, cookie_name=self.site.cookie_name).candidates
        return [str(each.token) for each in found]

    def words(self, name: str) -> str:
        """A parameter that a person wrote: whatever it holds, it is text, and nobody is refused for it."""
        wanted = name.encode()
        return next((value.decode(errors="replace") for key, value in parse_query(self.query) if key == wanted), "")

    async def form(self) -> dict[str, str]:
        """What was posted as a form. Raises HandoffRejected where a field is not text."""
        return parameters_of((await self.request.read()).decode("ascii", "replace"))

    @cached_property
    def _target(self) -> tuple[str, str]:
        path, _, query = self.request.raw_path.partition("?")
        return path, query.partition("#")[0]

    @cached_property
    def _outer_host(self) -> str:
        """Where replicas call the authenticate host by another name, signatures are over the outer one (3.3)."""
        login = self.site.login
        internal, outer = login.internal_url.partition("//")[2], login.authenticate_url.partition("//")[2]
        return outer if internal != outer and self.host.lower() == internal.lower() else self.host


def _has(hosts: frozenset[str], host: str) -> bool:
    host = host.lower()
    return host in hosts or host.rpartition(":")[0] in hosts
