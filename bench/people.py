"""Who asks in the benchmarks of authorization, and which routes they ask for; the same in every process of a run."""

from collections.abc import Iterator

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from bench.decide import GROUP, policy_of
from pomerium_agent.config import Compiled, compile_snapshot
from pomerium_agent.config.digest import CONFIG
from pomerium_agent.pb.pomerium import config_pb2, session_pb2, user_pb2
from pomerium_agent.records import Record, pack
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.sessions import entries
from pomerium_agent.sessions.handle import Handle, sign_handle

SHARED_KEY = bytes(range(32))
PUBLIC, PRIVATE, FORBIDDEN = "public.bench.test", "private.bench.test", "forbidden.bench.test"
CRITERIA = 10
NOBODY_HAS = "allow: {and: [{groups: {has: board}}]}"


def compiled(port: int, upstream: int) -> Compiled:
    """Three routes: for everybody, for the visitors by a policy of ten criteria, and for nobody."""
    message = config_pb2.Config(name="bench")
    message.settings.address = f"127.0.0.1:{port}"
    message.settings.insecure_server = True
    message.settings.jwt_claims_headers["X-Pomerium-Claim-Email"] = "email"
    for host in (PUBLIC, PRIVATE, FORBIDDEN):
        route = message.routes.add(id=host, to=[f"http://127.0.0.1:{upstream}"], pass_identity_headers=host == PRIVATE)
        setattr(route, "from", f"http://{host}")  # a keyword in Python
        if host == PUBLIC:
            route.allow_public_unauthenticated_access = True
        else:
            route.policies.add(id=host, source_ppl=policy_of(CRITERIA) if host == PRIVATE else NOBODY_HAS)
    snapshot, faults = compile_snapshot([Record(type=CONFIG, id="bench", data=pack(message))], now=SystemClock().now())
    if faults:
        raise ValueError(f"the configuration of the bench has faults: {[str(fault) for fault in faults]}")
    return Compiled(snapshot, faults)


def route_id(port: int, upstream: int) -> str:
    """What Envoy calls the route that takes a session."""
    return next(route.id for route in compiled(port, upstream).snapshot.routes if PRIVATE in route.source.url)


def records(count: int) -> Iterator[Record]:
    """Visitors 0 to `count`: a session, a user and a directory user each."""
    for number in range(count):
        session, user = f"s{number}", f"u{number}"
        message = session_pb2.Session(id=session, user_id=user)
        message.claims["department"].append("research")
        directory = Struct()
        directory.update({"id": user, "group_ids": ["everybody", GROUP]})
        yield _record(entries.USER, user, user_pb2.User(id=user, email=f"{user}@bench.test", name=f"User {number}"))
        yield _record(entries.DIRECTORY_USER, user, directory)
        yield _record(entries.SESSION, session, message)


def handle(number: int) -> str:
    """What visitor `number` carries in the cookie."""
    return sign_handle(Handle(id=f"s{number}", user_id=f"u{number}"), SHARED_KEY)


def gone(number: int) -> Record:
    """What signs visitor `number` out."""
    return Record(type=entries.SESSION, id=f"s{number}").as_deleted(SystemClock().now())


def _record(type: str, id: str, message: Message) -> Record:
    return Record(type=type, id=id, data=pack(message))
