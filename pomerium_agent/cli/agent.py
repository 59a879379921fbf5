"""`pomerium-agent agent`: what the keeper starts; not for people."""

from pomerium_agent.cli.run import ConfigFile


def agent(config: ConfigFile = None) -> None:
    """Serve one replica's configuration to the Envoy beside it. Started by `run`, on sockets it inherits."""
    from pomerium_agent.agent import run_agent
    from pomerium_agent.runtime.log import configure_logging
    from pomerium_agent.runtime.loop import run_on_best_loop
    from pomerium_agent.settings import read_settings

    settings = read_settings(config_file=config)
    configure_logging(settings.log_level, service="agent")
    run_on_best_loop(run_agent(settings))
