"""Calling the command line in this process, with its exit codes."""

import pytest

from recon.cli.exits import finish
from recon.cli.lazy import lazy_app
from recon.cli.main import COMMANDS, EPILOG, root
from recon.cli.options import Session


@pytest.fixture
def recon(capsys):
    """Run a command in this process; return its exit code, standard output and error."""

    def run(*arguments):
        code = 0
        try:
            with lazy_app(root, COMMANDS, EPILOG).make_context("recon", list(arguments), obj=Session()) as context:
                context.command.invoke(context)
        except BaseException as err:
            code = finish(err, debug=False)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
