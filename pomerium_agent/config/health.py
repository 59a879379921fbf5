"""Health checks and outlier detection of a route, converted to Envoy's messages and checked (routes 1.4, 4.4)."""

import binascii
from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError, Message

from pomerium_agent.config.action import Endpoint, Transport
from pomerium_agent.config.complaints import Complaints
from pomerium_agent.config.pgv import violations
from pomerium_agent.pb.envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from pomerium_agent.pb.envoy.config.core.v3.health_check_pb2 import HealthCheck
from pomerium_agent.pb.envoy.type.v3.http_pb2 import HTTP3
from pomerium_agent.pb.envoy.type.v3.range_pb2 import Int64Range
from pomerium_agent.pb.pomerium import config_pb2

REMEDY = "correct it; Envoy would refuse every upstream of the same update"
DEFAULT_BASE_EJECTION_SECONDS = 30
# Field 27, `name`, of Envoy 1.40's HealthCheck: newer than the messages we generate, and demanded of each check
# as soon as a cluster has more than one.
_NAME_TAG = b"\xda\x01"


def parse_health_checks(
    checks: Iterable[config_pb2.HealthCheck], endpoints: Iterable[Endpoint], http1_only: bool, complaints: Complaints
) -> tuple[bytes, ...]:
    """`health_checks` as serialised envoy.config.core.v3.HealthCheck."""
    http2 = speaks_http2(tuple(endpoints), http1_only)
    parsed = []
    for index, check in enumerate(checks):
        field = f"health_checks[{index}]"
        converted = HealthCheck()
        if not _convert(check, converted, field, complaints):
            continue
        for name, reason in (*violations(converted), *_beyond_rules(converted)):
            complaints.refuse(f"{field}.{name}", reason, REMEDY)
        if converted.HasField("grpc_health_check") and not http2:
            complaints.refuse(
                f"{field}.grpc_health_check",
                "gRPC health checks need an upstream that speaks HTTP/2",
                "use h2c:// or https:// without websockets, or an http_health_check",
            )
        parsed.append(converted.SerializeToString(deterministic=True))
    return tuple(parsed) if len(parsed) < 2 else tuple(_named(check, n) for n, check in enumerate(parsed))


def _named(check: bytes, number: int) -> bytes:
    name = f"check-{number}".encode()
    return check + _NAME_TAG + bytes([len(name)]) + name


def parse_outlier_detection(detection: config_pb2.OutlierDetection, complaints: Complaints) -> bytes:
    """`outlier_detection` as serialised envoy.config.cluster.v3.OutlierDetection."""
    converted = OutlierDetection()
    if not _convert(detection, converted, "outlier_detection", complaints):
        return b""
    for name, reason in violations(converted, "outlier_detection"):
        complaints.refuse(name, reason, REMEDY)
    base = DEFAULT_BASE_EJECTION_SECONDS * 1000
    if converted.HasField("base_ejection_time"):
        base = converted.base_ejection_time.ToMilliseconds()
    if converted.HasField("max_ejection_time") and converted.max_ejection_time.ToMilliseconds() < base:
        complaints.refuse(
            "outlier_detection.max_ejection_time",
            "it is shorter than base_ejection_time",
            "raise it, or lower the other",
        )
    return converted.SerializeToString(deterministic=True)


def speaks_http2(endpoints: tuple[Endpoint, ...], http1_only: bool) -> bool:
    """Whether Envoy may use HTTP/2 towards these endpoints (routes 9.2)."""
    transports = {endpoint.transport for endpoint in endpoints}
    return transports == {Transport.H2C} or (transports == {Transport.HTTPS} and not http1_only)


def _convert(ours: Message, theirs: Message, field: str, complaints: Complaints) -> bool:
    """Both messages have the same numbers and types, so bytes of one are bytes of the other."""
    try:
        theirs.ParseFromString(ours.SerializeToString(deterministic=True))
    except DecodeError:
        complaints.refuse(field, "it cannot be read as Envoy's message", "correct it")
        return False
    return True


def _beyond_rules(check: HealthCheck) -> Iterator[tuple[str, str]]:
    """What Envoy checks in code rather than by rules."""
    if check.alt_port.value > 65535:
        yield "alt_port", f"{check.alt_port.value} is not a port"
    kind = check.WhichOneof("health_checker")
    if kind == "http_health_check":
        http = check.http_health_check
        yield from _ranges("http_health_check.expected_statuses", http.expected_statuses)
        yield from _ranges("http_health_check.retriable_statuses", http.retriable_statuses)
        if http.codec_client_type == HTTP3:
            yield "http_health_check.codec_client_type", "HTTP3 needs an upstream over QUIC, which routes do not have"
        payloads = [("http_health_check.send", http.send)] if http.HasField("send") else []
        payloads += [(f"http_health_check.receive[{i}]", item) for i, item in enumerate(http.receive)]
    elif kind == "tcp_health_check":
        tcp = check.tcp_health_check
        payloads = [("tcp_health_check.send", tcp.send)] if tcp.HasField("send") else []
        payloads += [(f"tcp_health_check.receive[{i}]", item) for i, item in enumerate(tcp.receive)]
    else:
        payloads = []
    for name, payload in payloads:
        if payload.WhichOneof("payload") == "text":
            try:
                binascii.unhexlify(payload.text)
            except (binascii.Error, ValueError):
                yield f"{name}.text", "it is not hexadecimal"


def _ranges(field: str, ranges: Iterable[Int64Range]) -> Iterator[tuple[str, str]]:
    for index, item in enumerate(ranges):
        if not 100 <= item.start < item.end <= 600:
            yield (
                f"{field}[{index}]",
                f"from {item.start} up to but not including {item.end} is not a range of HTTP statuses",
            )
