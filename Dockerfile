# A replica in a container: stock Envoy, the agent and their keeper, as a user without rights.
#
#   docker build -t pomerium-agent .
#   docker run -e POMERIUM_ZERO_TOKEN -p 443:443 pomerium-agent
#
# docs/container.md says the rest. linux/amd64 and linux/arm64, which is where the wheel of Envoy exists.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
# The build makes the wire contracts (hatch_build.py) and needs nothing of the tests.
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY proto proto
COPY pomerium_agent pomerium_agent
# One environment that moves as a whole; the byte code is made here, since the root of the container may be read-only.
RUN python3 -m venv /opt/pomerium-agent \
    && /opt/pomerium-agent/bin/pip install --no-cache-dir --disable-pip-version-check . \
    && /opt/pomerium-agent/bin/pip uninstall --yes --disable-pip-version-check pip \
    && /opt/pomerium-agent/bin/pomerium-agent version

FROM ${BASE}
COPY --from=build /opt/pomerium-agent /opt/pomerium-agent
# Sockets and state; everything else may be read-only. The user is a number, so that `runAsNonRoot` can tell.
RUN install -d -o 10001 -g 10001 -m 0700 /run/pomerium-agent /var/lib/pomerium-agent
ENV PATH=/opt/pomerium-agent/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RUNTIME_DIRECTORY=/run/pomerium-agent \
    STATE_DIRECTORY=/var/lib/pomerium-agent \
    BOOTSTRAP_CONFIG_FILE=/var/lib/pomerium-agent/bootstrap.dat
USER 10001:10001
VOLUME ["/run/pomerium-agent", "/var/lib/pomerium-agent"]
EXPOSE 443 443/udp
# Over the control socket, which only this user may open: no port, no shell, no curl.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["pomerium-agent", "health", "--ready"]
# The keeper is process 1: it adopts and reaps orphans, and passes SIGTERM, SIGHUP and the rest on in order.
ENTRYPOINT ["pomerium-agent"]
CMD ["run"]
