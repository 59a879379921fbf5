"""All checks in their order: first what this machine says, then the machine, then the world."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pomerium_agent.cli.checkup import acceptance, database, endpoints, listeners, machine, provider, running, token
from pomerium_agent.cli.checkup.finding import Finding, State, failed, ok, skipped
from pomerium_agent.cli.known_config import known_config
from pomerium_agent.errors import SettingsError
from pomerium_agent.settings import Settings, read_settings

STAND_IN = "not-a-token"  # so that the other settings can be read where the token is what is wrong


def examine(environ: Mapping[str, str], config_file: Path | None, control_socket: Path | None) -> Iterator[Finding]:
    """Look at everything, one after the other; each wait is bounded. Changes nothing on this machine."""
    yield from token.check(environ, config_file)
    settings = _settings(environ, config_file)
    if isinstance(settings, Finding):
        yield settings
        return
    yield ok("settings", "can all be read")
    yield machine.platform()
    yield machine.envoy(settings.envoy_path)
    yield machine.open_files()
    yield machine.shared_memory()
    for name, path in _directories(settings).items():
        yield machine.directory(name, path)
        yield machine.space(name, path)
    replica, finding = running.look(settings, environ, control_socket)
    yield finding
    known = known_config(running.find(environ, control_socket) if replica else None, settings)
    yield from listeners.check(settings.local, replica)
    yield listeners.check_http3(settings.local, replica, known.config)
    reached = True
    for each in endpoints.check(settings):
        reached = reached and not (each.check == endpoints.API and each.state is State.FAILED)
        yield each
    if settings.token == STAND_IN or not reached:
        yield skipped(acceptance.NAME, "there is no token to try" if reached else "the control plane is not reached")
    else:
        yield acceptance.check(settings)
    yield database.check(settings, environ)
    yield provider.check(known.config)


def _settings(environ: Mapping[str, str], config_file: Path | None) -> Settings | Finding:
    try:
        return read_settings(environ, config_file)
    except SettingsError:
        pass  # said by the check of the token, unless it is another setting
    try:
        return read_settings({**environ, "POMERIUM_ZERO_TOKEN": STAND_IN}, config_file)
    except SettingsError as error:
        return failed("settings", str(error), "correct or remove this setting; the other checks need it to be readable")


def _directories(settings: Settings) -> Mapping[str, Path]:
    """By the setting that names them; a place named twice is looked at once."""
    found = {"RUNTIME_DIRECTORY": settings.runtime_dir, "STATE_DIRECTORY": settings.state_dir}
    if settings.bootstrap_file is not None and settings.bootstrap_file.parent not in found.values():
        found["BOOTSTRAP_CONFIG_FILE"] = settings.bootstrap_file.parent
    return found
