"""What we generate for Envoy is what the Envoy that we ship understands (dependencies 1)."""

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

import pomerium_agent.pb.envoy
from pomerium_agent.envoy.binary import envoy_binary
from tests.fakes.envoy_descriptors import embedded_descriptors

pytestmark = pytest.mark.e2e
# Single in our copy and repeated in the binary; a message of the xdstp naming scheme, which we do not speak.
UNUSED = {"envoy.config.endpoint.v3.LbEndpointCollection.entries"}


def generated() -> Iterator[FileDescriptorProto]:
    """Every Envoy file of ours."""
    for module in pkgutil.walk_packages(pomerium_agent.pb.envoy.__path__, "pomerium_agent.pb.envoy."):
        if module.name.endswith("_pb2"):
            file = FileDescriptorProto()
            importlib.import_module(module.name).DESCRIPTOR.CopyToProto(file)
            yield file


def fields(messages: list[DescriptorProto], prefix: str) -> Iterator[tuple[str, int, int, int, str]]:
    """Name, number, type, label and type name of every field of the messages and of those inside them."""
    for message in messages:
        for field in message.field:
            yield f"{prefix}.{message.name}.{field.name}", field.number, field.type, field.label, field.type_name
        yield from fields(list(message.nested_type), f"{prefix}.{message.name}")


def test_every_field_we_generate_is_in_the_binary_with_its_number_and_type() -> None:
    theirs = embedded_descriptors(envoy_binary(None))
    ours = list(generated())

    missing = {file.name for file in ours} - set(theirs)
    unknown = {
        field
        for file in ours
        for field in set(fields(list(file.message_type), file.package))
        - set(fields(list(theirs[file.name].message_type) if file.name in theirs else [], file.package))
    }
    assert not missing
    assert {name for name, *_ in unknown} == UNUSED
    assert len(ours) > 60
