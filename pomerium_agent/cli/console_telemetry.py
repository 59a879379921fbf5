"""`pomerium-agent console telemetry`: ask the replicas of a cluster for their metrics, and show what they say."""

import json
import time
from typing import Annotated, Any

import typer

from pomerium_agent.cli.console_options import AsJson, DataDir, default_data_dir, utc_now

LOOK_EVERY = 0.2  # seconds


def telemetry(
    cluster: Annotated[str, typer.Argument(metavar="NAME", help="The cluster's name.")],
    envoy: Annotated[
        list[str] | None, typer.Option(help="A metric of Envoy, such as envoy_server_live; may be repeated.")
    ] = None,
    agent: Annotated[
        list[str] | None, typer.Option(help="A metric of the agent, such as policy_count_total; may be repeated.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, max=60, help="Seconds to wait for those that are connected.")] = 10.0,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask every connected replica for metrics, and show the latest answer of each. Without names, a useful few."""
    from pomerium_agent.cli.plain import plain
    from pomerium_agent.cli.telemetry import series
    from pomerium_agent.console.control import ask
    from pomerium_agent.console.store import open_store
    from pomerium_agent.console.telemetry import AGENT_METRICS, ENVOY_METRICS, read_telemetry
    from pomerium_agent.console.words import NOBODY_SERVES, ago

    place = data_dir or default_data_dir()
    named = bool(envoy or agent)
    question: dict[str, Any] = {
        "op": "telemetry",
        "envoy": (envoy or []) if named else list(ENVOY_METRICS),
        "agent": (agent or []) if named else list(AGENT_METRICS),
    }
    with open_store(place, create=False) as store:
        found = store.cluster(cluster)
        asked_at = utc_now()
        asked = ask(place, question | {"cluster": found.id}) is not None
        if asked:
            connected = {each.instance for each in store.sightings.replicas(found.id) if each.connected}
            until = time.monotonic() + wait
            while time.monotonic() < until:
                if connected <= {e.instance for e in read_telemetry(store.database, found.id) if e.at >= asked_at}:
                    break
                time.sleep(LOOK_EVERY)
        answers = read_telemetry(store.database, found.id)
    if as_json:
        told = [each.to_json() | {"fresh": asked and each.at >= asked_at} for each in answers]
        print(json.dumps({"asked": asked, "replicas": told}, indent=2))
        return
    if not asked:
        print(f"{NOBODY_SERVES}: this is what was said last\n")
    for each in answers:
        late = "" if each.at >= asked_at else ", before it was asked now"
        print(f"replica {plain(each.hostname) or '?'}  {plain(each.instance)}  {ago(each.at, utc_now())}{late}")
        for line in series([dict(scope) for scope in each.scopes]):
            print(f"  {plain(line)}")
    if not answers:
        print("no replica has answered yet")
