"""The routes portal: exactly what this visitor would be let into (authenticate 8.4, N-43)."""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import sentinel

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.authenticate.portal import listed
from pomerium_agent.authenticate.site import Site, build_site
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.authenticate.visitor import Visitor
from pomerium_agent.authorize.decide import Case, decide
from pomerium_agent.authorize.from_config import compile_rules
from pomerium_agent.authorize.gather import Question
from pomerium_agent.authorize.who import Who
from pomerium_agent.config.login import Login
from pomerium_agent.config.snapshot import ConfigSnapshot, Route
from pomerium_agent.look import PortalRoute
from pomerium_agent.policy import Kind
from pomerium_agent.policy.facts import Identity
from pomerium_agent.sessions.handle import Handle, sign_handle
from pomerium_agent.sessions.identity import Resolved
from tests.fakes import session_records as records
from tests.fakes.config_records import compiled, config, route
from tests.unit.authenticate.stage import APP, AUTH, KEY, SESSION_COOKIE, scene

NOON = datetime(2026, 8, 5, 12, 0, tzinfo=UTC)
UP = {"to": ["http://127.0.0.1:1"]}
