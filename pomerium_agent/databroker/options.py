"""The options that a store gives to Pomerium's own record types each time it is opened."""

from datetime import timedelta

from pomerium_agent.databroker.backend import Options
from pomerium_agent.errors import InvalidRequest
from pomerium_agent.pb.pomerium import events_pb2, oauth21_pb2, session_pb2
from pomerium_agent.records import type_url

# databroker 7, D-18
BUILT_IN_OPTIONS: dict[str, Options] = {
    type_url(session_pb2.SessionBindingRequest): Options(
        capacity=50_000, indexable_fields=("key",), ttl=timedelta(minutes=15)
    ),
    type_url(session_pb2.SessionBinding): Options(indexable_fields=("session_id", "user_id")),
    type_url(session_pb2.IdentityBinding): Options(indexable_fields=("user_id",)),
    type_url(oauth21_pb2.UpstreamMCPToken): Options(indexable_fields=("user_id", "route_id")),
    type_url(oauth21_pb2.PendingUpstreamAuth): Options(indexable_fields=("state_id",), ttl=timedelta(minutes=15)),
    type_url(events_pb2.LastError): Options(capacity=50),
}


def check_options(type: str, options: Options) -> None:
    """Raise InvalidRequest for options that no store could keep."""
    if not type:
        raise InvalidRequest("options belong to a type of records, and the type is empty")
    if options.capacity is not None and options.capacity < 0:
        raise InvalidRequest(f"options of {type}: a capacity of {options.capacity} is less than none")
    if options.ttl is not None and options.ttl < timedelta(0):
        raise InvalidRequest(f"options of {type}: a ttl of {options.ttl} is less than none")
