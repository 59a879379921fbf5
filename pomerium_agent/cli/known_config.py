"""The configuration as this machine knows it: from the replica that runs here, else what it last knew to be good."""

import asyncio
import base64
from pathlib import Path
from typing import NamedTuple

from pomerium_agent.agent.last_good import LastGood
from pomerium_agent.cli.status import ask
from pomerium_agent.config.whole import whole_config
from pomerium_agent.errors import ConfigRejected, SettingsError
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.settings import Settings
from pomerium_agent.zero.secrets import derive_secrets


class Known(NamedTuple):
    """`origin` says where it is from; without a configuration, why there is none."""

    config: config_pb2.Config | None
    origin: str


def known_config(control_socket: Path | None, settings: Settings | None) -> Known:
    """Keys and secrets included: it is for looking at, and to be redacted before it is shown."""
    why = "no replica runs on this machine as this user"
    if control_socket is not None:
        try:
            said = ask(control_socket, "/config")
            return Known(
                config_pb2.Config.FromString(base64.b64decode(str(said["config"]))), "what this replica was told"
            )
        except SettingsError as error:
            why = str(error)
        except (KeyError, ValueError):
            why = "the replica does not say what it was told; is it older than this command?"
    if settings is None:
        return Known(None, why)
    try:
        kept = asyncio.run(LastGood(settings.state_dir, derive_secrets(settings.token).file_key).load())
    except ConfigRejected as error:
        return Known(None, f"{why}; and the last known good one cannot be used: {error}")
    if kept is None:
        return Known(None, f"{why}; and none is kept in {settings.state_dir}")
    return Known(whole_config(kept.records), f"the last known good one, of {kept.at.isoformat(timespec='seconds')}")
