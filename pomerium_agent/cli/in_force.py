"""The configuration in force: what the console holds for a cluster, or what the replica on this machine was told."""

import base64
from pathlib import Path

from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import config_pb2


def of_cluster(data_dir: Path, name: str) -> config_pb2.Config:
    """The version in force at the console of this machine."""
    from pomerium_agent.console.store import open_store

    with open_store(data_dir, create=False) as store:
        cluster = store.cluster(name)
        return store.config(cluster.id).config if cluster.version else config_pb2.Config()


def of_replica(control_socket: Path | None) -> config_pb2.Config:
    """What the replica behind the socket was told, without what a console of ours adds."""
    from pomerium_agent.cli.status import ask, find_socket
    from pomerium_agent.console.additions import without_additions

    told = ask(control_socket or find_socket(), "/config")
    try:
        return without_additions(config_pb2.Config.FromString(base64.b64decode(str(told["config"]))))
    except (KeyError, ValueError) as error:
        raise SettingsError("the replica does not say what it was told; is it older than this command?") from error
