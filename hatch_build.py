"""Writes `pomerium_agent/pb` from `proto/` and from Envoy's own messages, at build time.

Envoy's messages come as descriptors out of the build-only package `xds-protos`. That package must never
be installed beside us at run time: it overwrites files that other wheels own. So its messages are
generated once more, under our own package, and nothing generated is ever committed.
"""

import importlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Every Envoy message that travels inside an `Any` must be named here: nothing else pulls it in.
XDS_ROOTS = (
    "envoy.config.accesslog.v3.accesslog_pb2",
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.listener.v3.quic_config_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.config.trace.v3.opentelemetry_pb2",
    "envoy.extensions.access_loggers.file.v3.file_pb2",
    "envoy.extensions.access_loggers.filters.cel.v3.cel_pb2",
    "envoy.extensions.access_loggers.stream.v3.stream_pb2",
    "envoy.extensions.clusters.dns.v3.dns_cluster_pb2",
    "envoy.extensions.common.matching.v3.extension_matcher_pb2",
    "envoy.extensions.filters.common.matcher.action.v3.skip_action_pb2",
    "envoy.extensions.filters.http.cors.v3.cors_pb2",
    "envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2",
    "envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2",
    "envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2",
    "envoy.extensions.filters.http.lua.v3.lua_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.http.set_metadata.v3.set_metadata_pb2",
    "envoy.extensions.filters.listener.proxy_protocol.v3.proxy_protocol_pb2",
    "envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2",
    "envoy.extensions.formatter.req_without_query.v3.req_without_query_pb2",
    "envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2",
    "envoy.extensions.http.header_formatters.preserve_case.v3.preserve_case_pb2",
    "envoy.extensions.network.dns_resolver.cares.v3.cares_dns_resolver_pb2",
    "envoy.extensions.request_id.uuid.v3.uuid_pb2",
    "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.static_config_resource_detector_pb2",
    "envoy.extensions.transport_sockets.quic.v3.quic_transport_pb2",
    "envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
    "envoy.service.auth.v3.external_auth_pb2",
    "envoy.service.discovery.v3.ads_pb2",
    "envoy.service.discovery.v3.discovery_pb2",
    "envoy.type.matcher.v3.http_inputs_pb2",
)
# The protobuf and googleapis runtime packages bring these themselves.
NOT_OURS = ("google/",)
PACKAGE = "pomerium_agent.pb"


class GenerateProtobuf(BuildHookInterface):  # type: ignore[type-arg]  # the plugin interface takes no useful parameter
    """Runs for wheels, source distributions and editable installs alike."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Replace `pomerium_agent/pb` with freshly generated modules and stubs; raise when protoc refuses."""
        root = Path(self.root)
        target = root / "pomerium_agent" / "pb"
        with tempfile.TemporaryDirectory(dir=root, prefix=".pb-") as scratch:
            generate(root / "proto", Path(scratch))
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(Path(scratch) / "out", target)


def generate(protos: Path, scratch: Path) -> None:
    """Write the package into `scratch/out`."""
    out = scratch / "out"
    out.mkdir()
    xds = scratch / "xds.binpb"
    xds_files = write_xds_descriptors(xds)
    own_files = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    own = scratch / "own.binpb"
    protoc("-I", str(protos), f"--descriptor_set_out={own}", "--include_imports", *own_files)
    for descriptors, files in ((xds, xds_files), (own, own_files)):
        protoc(
            f"--descriptor_set_in={descriptors}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_grpc_out=quiet:{out}",
            *files,
        )
    drop_empty_services(out)
    move_imports_under(out)
    for folder in [out, *(path for path in out.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").touch()


def write_xds_descriptors(target: Path) -> list[str]:
    """Write the closure of `XDS_ROOTS` as a FileDescriptorSet; return the files that we generate ourselves."""
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def visit(descriptor: Any) -> None:
        if descriptor.name in seen:
            return
        seen.add(descriptor.name)
        for dependency in descriptor.dependencies:
            visit(dependency)
        descriptor.CopyToProto(files.file.add())

    for name in XDS_ROOTS:
        visit(importlib.import_module(name).DESCRIPTOR)
    target.write_bytes(files.SerializeToString())
    return [file.name for file in files.file if not file.name.startswith(NOT_OURS)]


def protoc(*arguments: str) -> None:
    """Run the protobuf compiler in this process; the plugin for gRPC stubs is found beside the interpreter."""
    from grpc_tools import protoc as compiler

    include = str(Path(compiler.__file__).parent / "_proto")
    plugin = shutil.which("protoc-gen-mypy_grpc", path=str(Path(sys.executable).parent)) or shutil.which(
        "protoc-gen-mypy_grpc"
    )
    command = ["protoc", *([f"--plugin=protoc-gen-mypy_grpc={plugin}"] if plugin else []), f"-I{include}", *arguments]
    if any(argument.startswith("--descriptor_set_in") for argument in arguments):
        command.remove(f"-I{include}")  # protoc takes either sources or descriptors
    if compiler.main(command) != 0:
        raise RuntimeError("protoc refused: " + " ".join(arguments[:6]))


def drop_empty_services(out: Path) -> None:
    """Remove the gRPC modules of files that define no service."""
    for module in out.rglob("*_pb2_grpc.py"):
        if "Stub" not in module.read_text():
            module.unlink()
            module.with_suffix(".pyi").unlink(missing_ok=True)


def move_imports_under(out: Path) -> None:
    """Make the generated modules import each other from our package."""
    tops = "|".join(sorted(path.name for path in out.iterdir() if path.is_dir() and path.name != "google"))
    statement = re.compile(rf"^(from|import) ({tops})\b", re.MULTILINE)
    qualified = re.compile(rf"(?<![\w.])({tops})\.(?=[\w.]+_pb2\b)")
    for module in python_files(out):
        text = statement.sub(rf"\1 {PACKAGE}.\2", module.read_text())
        if module.suffix == ".pyi":
            text = "\n".join(
                line if line.startswith(("from ", "import ")) else qualified.sub(rf"{PACKAGE}.\1.", line)
                for line in text.split("\n")
            )
        module.write_text(text)


def python_files(out: Path) -> Iterator[Path]:
    """Every module and stub below `out`."""
    yield from out.rglob("*.py")
    yield from out.rglob("*.pyi")
