"""Makes the bundle and writes it: in memory first, so that what is shown before is exactly what is written."""

import gzip
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pomerium_agent.cli.dossier.evidence import Evidence, Missing
from pomerium_agent.cli.dossier.parts import PARTS, Content
from pomerium_agent.cli.dossier.redaction import Redaction
from pomerium_agent.errors import SettingsError

FOLDER = "pomerium-agent-support"
CONTENTS = "contents.txt"


class Packed(NamedTuple):
    """One file of the bundle; without content, why there is none."""

    name: str
    sentence: str
    content: bytes | None
    missing: str = ""


def pack(evidence: Evidence, *, with_people: bool = False) -> tuple[Packed, ...]:
    """Every part, redacted, and a list of them all.

    Raises SettingsError when a secret that we know would be in it: that is a bug, and nobody is told the secret.
    """
    redaction = Redaction(evidence.secrets, with_people=with_people)
    packed = []
    for part in PARTS:
        content: Content = part.make(evidence, redaction)
        if isinstance(content, Missing):
            packed.append(Packed(part.name, part.sentence, None, redaction.text(content.why)))
            continue
        if redaction.leaks(content):
            raise SettingsError(f"{part.name} would hold a secret; this is a bug, and no bundle was written")
        packed.append(Packed(part.name, part.sentence, content.encode(errors="replace")))
    listed = "\n".join(contents(packed)).encode() + b"\n"
    return Packed(CONTENTS, "this list", listed), *packed


def contents(packed: Sequence[Packed]) -> list[str]:
    """One line for each, with its size."""
    width = max(len(each.name) for each in packed)
    return [
        f"{each.name:<{width}}  {'-' if each.content is None else f'{len(each.content):,}':>12}  "
        + (each.sentence if each.content is not None else f"MISSING: {each.missing}")
        for each in packed
    ]


def write(packed: Sequence[Packed], output: Path, at: float) -> int:
    """A tar.gz that only its owner may read, all or nothing; its size. Raises SettingsError."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=at) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w") as tar,
    ):
        for each in packed:
            if each.content is not None:
                entry = tarfile.TarInfo(f"{FOLDER}/{each.name}")
                entry.size, entry.mode, entry.mtime = len(each.content), 0o600, at
                tar.addfile(entry, io.BytesIO(each.content))
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SettingsError(f"--output: {output} cannot be written: {error.strerror}") from error
    return buffer.tell()
