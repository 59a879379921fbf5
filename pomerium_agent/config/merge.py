"""Settings of many records laid over each other: later wins, field by field (Z-46, R-2)."""

from collections.abc import Iterable

from pomerium_agent.config.sourced import Layer, MergedSettings, SourcedCertificate, certificates_of
from pomerium_agent.pb.pomerium import config_pb2

# They apply as a set: one non-empty field makes its Settings the source of all of them (routes 1.7).
BRANDING = (
    "primary_color",
    "secondary_color",
    "darkmode_primary_color",
    "darkmode_secondary_color",
    "logo_url",
    "favicon_url",
    "error_message_first_paragraph",
)


def merge_settings(layers: Iterable[Layer]) -> MergedSettings:
    """Merge the settings of the layers, lowest first.

    Scalars and durations win when present; lists and maps replace when non-empty, never element by element;
    StringList and other messages replace when present, even empty; certificates are appended.
    """
    merged = config_pb2.Settings()
    origin: dict[str, str] = {}
    certificates: list[SourcedCertificate] = []
    for layer in layers:
        if layer.settings is not None:
            overlay(merged, layer.settings.message)
            for field, _ in layer.settings.message.ListFields():
                origin[field.name] = layer.settings.record_id
            certificates += certificates_of(layer.settings)
        certificates += layer.certificates
    return MergedSettings(merged, origin, tuple(certificates))


def overlay(target: config_pb2.Settings, source: config_pb2.Settings) -> None:
    """Lay `source` over `target`, in place, by the rules of `merge_settings`."""
    if any(getattr(source, name) for name in BRANDING):
        for name in BRANDING:
            target.ClearField(name)
    for field, value in source.ListFields():  # only what is present, and lists and maps that are not empty
        if field.name == "certificates":
            target.certificates.extend(value)
        elif field.is_repeated:
            target.ClearField(field.name)
            one = config_pb2.Settings()
            getattr(one, field.name).MergeFrom(value)
            target.MergeFrom(one)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
