"""
The pytest plugin that the installed package announces: the suite's options, where they are wanted.

In a conftest.py the options would come too late: pytest looks for its configuration beside all
arguments that exist as paths, and an option that it does not know yet is to it a flag followed by
such an argument.  ``--coco /data/coco`` would then hide pyproject.toml and conftest.py.

Sessions of other projects in the same environment get nothing: no option, no hook, no import.
"""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

import pytest

#: The name by which the suite's own hooks are registered.
SUITE = "effd0-suite"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the suite's options and hooks, if this session runs the suite."""
    del parser  # the suite's own hook of this name is called with it
    config: pytest.Config | None = pluginmanager.get_plugin("pytestconfig")
    if config is not None and is_about_effd0(config):
        from . import pytest_suite

        pluginmanager.register(pytest_suite, SUITE)


def is_about_effd0(config: pytest.Config) -> bool:
    """
    Whether a session runs effd0's suite.

    It does where the pyproject.toml of its root, or where pytest found no configuration that of
    the working directory or a folder above, has a table ``[tool.effd0]``; where ``--pyargs`` names
    a module of effd0; and where this plugin is asked for by ``-p``.
    """
    words = [str(word) for word in config.invocation_params.args]
    plugins = {word[2:] for word in words if word.startswith("-p")}
    plugins |= {word for before, word in itertools.pairwise(words) if before == "-p"}
    by_name = config.pluginmanager.has_plugin(__name__) or plugins & {"effd0", __name__}
    by_module = "--pyargs" in words and any(w.partition(".")[0] == "effd0" for w in words)
    if by_name or by_module:
        return True
    if config.inipath is not None:
        return has_suite(config.inipath.parent)
    here = config.invocation_params.dir
    return any(has_suite(folder) for folder in (here, *here.parents))


def has_suite(folder: Path) -> bool:
    """Whether the pyproject.toml in *folder* has a table ``[tool.effd0]``."""
    try:
        tool = tomllib.loads((folder / "pyproject.toml").read_text()).get("tool", {})
    except (OSError, ValueError):
        return False
    return "effd0" in tool
