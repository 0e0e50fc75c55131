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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

#: The suite in an installed effd0.
INSTALLED = "effd0.suite"
#: Options that name an artefact under test.
PATHS = ("--model", "--onnx", "--results", "--bins", "--detections", "--checkpoint", "--coco")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the suite's options and hooks, if this session runs the suite."""
    del parser  # the suite's own hook of this name is called with it
    config: pytest.Config | None = pluginmanager.get_plugin("pytestconfig")
    if config is not None and is_about_effd0(config):
        pluginmanager.import_plugin("effd0.cli.pytest_suite")
        if runs_installed_suite(config):
            pluginmanager.import_plugin(f"{INSTALLED}.fixtures")


def is_about_effd0(config: pytest.Config) -> bool:
    """
    Whether a session runs effd0's suite.

    It does where the pyproject.toml of its root has a key ``tool.effd0.suite``; where that of the
    working directory, or of a folder above, has it, and an option's value may have led pytest away;
    where ``--pyargs`` names a module of effd0; and where this plugin is asked for by ``-p``.
    """
    words = [str(word) for word in config.invocation_params.args]
    plugins = {word[2:] for word in words if word.startswith("-p")}
    plugins |= {word for before, word in itertools.pairwise(words) if before == "-p"}
    by_name = config.pluginmanager.has_plugin(__name__) or plugins & {"effd0", __name__}
    if by_name or runs_installed_suite(config):
        return True
    if config.inipath is not None and has_suite(config.inipath.parent):
        return True
    ours = any(word.partition("=")[0] in PATHS for word in words)
    return (config.inipath is None or ours) and _inside_suite(config.invocation_params.dir)


def runs_installed_suite(config: pytest.Config) -> bool:
    """Whether ``--pyargs`` names the suite that an installed effd0 has."""
    words = [str(word) for word in config.invocation_params.args]
    return "--pyargs" in words and any(word.startswith(INSTALLED) for word in words)


def is_led_away(config: pytest.Config) -> bool:
    """Whether pytest found no configuration, or not that of the suite in which it was started."""
    if config.inipath is None:
        return True
    return not has_suite(config.inipath.parent) and _inside_suite(config.invocation_params.dir)


def _inside_suite(folder: Path) -> bool:
    return any(has_suite(one) for one in (folder, *folder.parents))


def has_suite(folder: Path) -> bool:
    """Whether the table ``[tool.effd0]`` of the pyproject.toml in *folder* names a suite."""
    try:
        return "suite" in tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["effd0"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
