"""Whether there is a cluster token, and who else may read it."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from pomerium_agent.cli.checkup.finding import Finding, failed, note, ok
from pomerium_agent.errors import SettingsError
from pomerium_agent.settings import read_settings

SHORTEST = 16  # characters; whatever is shorter was cut off, or can be guessed


def check(environ: Mapping[str, str], config_file: Path | None) -> Iterator[Finding]:
    """Its presence and shape (Z-1, Z-3), and the mode of the file it lies in."""
    only = {name: environ[name] for name in environ if name.startswith("POMERIUM_ZERO_TOKEN")}
    only |= {name: environ[name] for name in ("CREDENTIALS_DIRECTORY",) if name in environ}
    try:
        found = read_settings(only, config_file).token
    except SettingsError as error:
        yield _complaint(error)
    else:
        if len(found) < SHORTEST:
            yield failed("token", f"is only {len(found)} characters long", "copy it from the console again, to its end")
        elif not found.isascii():
            yield note(
                "token", "has characters that are not ASCII", "copy it from the console again if it is not accepted"
            )
        else:
            yield ok("token", f"is there, {len(found)} characters long")
    path = _file(environ, config_file)
    if path is not None:
        yield _mode(path)


def _complaint(error: SettingsError) -> Finding:
    """What the reader of the settings says of the token, parted where its remedy begins."""
    found, colon, remedy = str(error).partition(": set ")
    if colon:
        return failed("token", found, f"set {remedy}")
    return failed("token", str(error), "give the token as the console shows it: one word, in a file that can be read")


def _file(environ: Mapping[str, str], config_file: Path | None) -> Path | None:
    """Where the token lies, if in a file that somebody here has made."""
    if "POMERIUM_ZERO_TOKEN" in environ:
        return None
    if environ.get("POMERIUM_ZERO_TOKEN_FILE"):
        return Path(environ["POMERIUM_ZERO_TOKEN_FILE"])
    return None if environ.get("CREDENTIALS_DIRECTORY") else config_file


def _mode(path: Path) -> Finding:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return failed("token file", f"{path}: {error.strerror}", "name the right file, and let this user read it")
    if mode & 0o077:
        return failed("token file", f"{path} may be read or written by others (mode {mode:04o})", f"chmod 600 {path}")
    return ok("token file", f"{path} is private (mode {mode:04o})")
