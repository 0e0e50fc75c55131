"""The commands of README and docs are real: each is run, as written, where its files are."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch

from effd0 import __all__ as public
from effd0.data import fixture as embedded
from effd0.runners.checkpoint import class_count
from effd0.spec import D0
from tests.helpers import ROOT, effd0
from tests.helpers.own_classes import cut_checkpoint, cut_scenes

from ..emulator.acl import installed
from ..emulator.tools import emulated_path
from .options_page import unknown_options

PAGES = {
    str(path.relative_to(ROOT)): path.read_text().splitlines()
    for pages in ("README.md", "CONTRIBUTING.md", "docs/*.md")
    for path in sorted(ROOT.glob(pages))
}
#: Those and the decisions, which show no commands.
EVERY_PAGE = [*PAGES, "CHANGELOG.md"] + [
    str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/decisions/*.md"))
]
#: Made where there is a board.
NOT_HERE = {"baselines/", "build/site"}
#: Each command that a page shows, by its place.
SHOWN = {
    f"{name}:{number}": line.strip()
    for name, lines in PAGES.items()
    for number, line in enumerate(lines, 1)
    if line.startswith(("    effd0 ", "    pytest "))
}
COMMANDS, GUIDE, QUANTISED, OWN = (
    [line for place, line in SHOWN.items() if place.startswith(page) and line.startswith("effd0 ")]
    for page in (
        ("README.md", "CONTRIBUTING.md"),
        "docs/ascend.md",
        "docs/quantised.md",
        "docs/own-model.md",
    )
)


def fetched(folder: Path) -> Path:
    """The working *folder* with coco_data and d0.pth, as `effd0 fetch` would leave it."""
    (folder / "coco_data").symlink_to(embedded.coco_root())
    (folder / "d0.pth").symlink_to(embedded.checkpoint())
    return folder


def links(page: str) -> set[Path]:
    """The files that a page links to; an anchor is checked where the site is built."""
    found = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text())
    return {(ROOT / page).parent / one for one in found if not one.startswith("https://")}


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_what_a_page_names_is_there(page: str) -> None:
    """No link is dead, a page is named by a link alone, and each path or module of effd0 exists."""
    text = (ROOT / page).read_text()
    assert [str(one) for one in links(page) if not one.exists()] == []
    assert re.findall(r"`(?:docs/)?[a-z-]+\.md`", text) == []
    modules = re.findall(r"python -m ((?:benchmarks|tests)[\w.]+)", text)
    named = set(re.findall(r"`([\w.][\w.-]*/[\w./*-]*)", text)) - NOT_HERE
    named |= {one.replace(".", "/") + "*" for one in modules}
    places = (ROOT, ROOT / "effd0")
    assert [one for one in named if not any(any(place.glob(one)) for place in places)] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working folder for all commands of the README, which go on from each other."""
    return fetched(tmp_path_factory.mktemp("readme"))


def test_readme_leads_to_everything() -> None:
    """In few lines; every page is a link of README's, or of a page that README leads to."""
    assert len(PAGES["README.md"]) <= 50
    reached, ahead = set[Path](), {ROOT / "README.md"}
    while ahead:
        reached |= ahead
        pages = [str(one.relative_to(ROOT)) for one in ahead if one.suffix == ".md"]
        ahead = {one.resolve() for page in pages for one in links(page)} - reached
    assert {page for page in EVERY_PAGE if ROOT / page not in reached} == set()


def test_the_api_page_shows_what_is_public() -> None:
    """Every name that effd0 gives has its reference, and no other."""
    shown = re.findall(r"^::: effd0\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(public)


def test_the_install_page_shows_every_extra() -> None:
    """A user finds what each extra of pyproject.toml is for."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert re.findall(r"^\| `(\w+)` \|", "\n".join(PAGES["docs/install.md"]), re.MULTILINE) == [
        *extras
    ]


@pytest.mark.parametrize("line", SHOWN.values(), ids=SHOWN)
def test_a_page_shows_options_that_are_there(line: str) -> None:
    """Whoever copies a command from any page is not told that there is no such option."""
    assert unknown_options(line) == set()


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_readme_command_runs(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command succeeds as it stands; those before it have made its files."""
    if line.startswith("effd0 fetch"):
        pytest.skip(
            "needs a network; tests/unit/data/test_download.py runs it against a local server"
        )
    monkeypatch.chdir(folder)
    assert effd0(*shlex.split(line)[1:]).code == 0, line


@pytest.mark.slow
def test_the_guides_commands_lead_from_weights_to_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an emulated board each succeeds where it stands; those before it made its files."""
    monkeypatch.chdir(fetched(tmp_path))
    assert len(GUIDE) > 8, "the guide was written in another way than this test reads"
    with emulated_path(), installed() as emulator:
        for command in GUIDE:
            outcome = effd0(*shlex.split(command)[1:])
            assert outcome.code == 0, f"{command}\n{outcome.err}"
        emulator.assert_clean()


@pytest.mark.slow
def test_the_page_on_int8_leads_from_weights_to_a_mixed_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command succeeds where it stands; those before it made its files."""
    monkeypatch.chdir(fetched(tmp_path))
    assert len(QUANTISED) == 4
    for command in QUANTISED:
        outcome = effd0(*shlex.split(command)[1:])
        assert outcome.code == 0, f"{command}\n{outcome.out}\n{outcome.err}"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a data set and weights as effdet's train.py takes and writes them."""
    folder = tmp_path_factory.mktemp("own")
    names = {1: (1, "person"), 6: (2, "bus"), 13: (3, "sign"), 44: (4, "bottle"), 72: (5, "tv")}
    weights = torch.load(cut_checkpoint([*names], folder / "plain.pth"), weights_only=True)
    saved = {"epoch": 299, "arch": D0.arch, "state_dict": weights, "state_dict_ema": weights}
    torch.save(saved, folder / "model_best.pth.tar")
    cut_scenes(names, folder / "mine")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", OWN)
def test_own_models_command_runs(line: str, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an emulated board each succeeds as it stands, and both checks end with PASS."""
    monkeypatch.chdir(own)
    with emulated_path(), installed() as emulator:
        outcome = effd0(*shlex.split(line)[1:])
        assert outcome.code == 0, f"{outcome.out}\n{outcome.err}"
        assert (" check " in line) == ("PASS  MAY SHIP" in outcome.out)
        if line.startswith(("effd0 evaluate", "effd0 postprocess")):
            assert "(tf_efficientdet_d0, 5 classes, 512x512)" in outcome.out
        emulator.assert_clean()


def test_a_training_file_says_its_number_of_classes(own: Path) -> None:
    """The page gives --num-classes where an .om stands alone, and nowhere else."""
    assert class_count(own / "model_best.pth.tar", D0) == 5
    for line in OWN:
        alone = ("--model mine.om" in line or "--omfile" in line) and "--checkpoint" not in line
        assert ("--num-classes 5" in line) == alone
