"""Verbs of the console, typed in as a person does, without the process."""

import pytest
from typer.testing import CliRunner

from pomerium_agent.cli.console import console_app
from pomerium_agent.errors import SettingsError


def type_in(*words: str) -> str:
    """Run a verb that succeeds; what it printed."""
    done = CliRunner().invoke(console_app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*words: str) -> str:
    """Run a verb that is refused; why."""
    with pytest.raises(SettingsError) as error:
        CliRunner().invoke(console_app, words, catch_exceptions=False)
    return str(error.value)
