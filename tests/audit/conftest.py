"""Calling the command line in this process."""

import pytest

from recon.cli.lazy import lazy_app
from recon.cli.main import COMMANDS, EPILOG, root
from recon.cli.options import Session


@pytest.fixture
def call(capsys):
    """Run a command in this process; return what it printed to stdout."""

    def run(*arguments: str) -> str:
        command = lazy_app(root, COMMANDS, EPILOG)
        with command.make_context("recon", list(arguments), obj=Session()) as context:
            command.invoke(context)
        return capsys.readouterr().out

    return run
