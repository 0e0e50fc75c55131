"""Tests for `effd0.report.view`: one file that shows a run whole, as text and nothing but text."""

import html
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from effd0.benchmark.published import published_accuracies
from effd0.errors import MissingExtra
from effd0.report import plots, view
from effd0.report.view import render_page, write_page
from effd0.results.check import MEANINGS, STAGES
from effd0.results.run import Run, write_run
from effd0.spec import D0
from tests.helpers import assert_one_error, effd0, runs

SECTIONS = ("accuracy", "parity", "speed", "images", "checks", "reproduce")
NASTY = "<script>alert(1)</script>'\"&<img src=x onerror=alert(1)>"
#: Attributes by which HTML and SVG load something.
LOADING = ("src", "srcset", "poster", "data", "action", "formaction", "background")


class Parsed(HTMLParser):
    """What is in a page: its elements with their attributes, ids, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.ids = [one["id"] for _, one in self.elements if "id" in one]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep text, with its white space made one blank."""
        self.text = f"{self.text} {' '.join(data.split())}"


@pytest.fixture(scope="module")
def good() -> str:
    """The page of a good run."""
    return render_page(runs.as_run(runs.good_content(pictures=4)))


@pytest.fixture(scope="module")
def compared() -> str:
    """The page of a broken run beside an older one that passed."""
    return render_page(
        runs.as_run(runs.faulty_content(pictures=4)), runs.as_run(runs.older_content())
    )


def page_of(**parts: Any) -> Parsed:
    """Return the page of a small run with some *parts* replaced."""
    return Parsed(render_page(runs.run(**parts)))


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        pytest.param(runs.verdict(), "MAY SHIP", id="pass"),
        pytest.param(runs.verdict("fail", "nms"), "MUST NOT SHIP", id="fail"),
        pytest.param(runs.verdict("undecided"), "UNDECIDED", id="undecided"),
        pytest.param(runs.verdict("incomplete"), "INCOMPLETE", id="incomplete"),
        pytest.param(runs.verdict("demo"), "DEMO", id="demo"),
        pytest.param(runs.verdict("not gated"), "NOT GATED", id="not-gated"),
    ],
)
def test_the_verdict_is_the_headline(verdict: dict[str, Any], words: str) -> None:
    """The title and the first heading say whether the artefact may ship, and no other does."""
    page = render_page(runs.run(verdict=verdict, accuracy=[], latency=[]))
    heading = re.search(r"<h1.*?</h1>", page, re.DOTALL)
    assert heading is not None
    others = {headline for headline, _ in MEANINGS.values()} - {words}
    assert words in heading[0]
    assert f"<title>{words}: mine.onnx, 2026-11-25</title>" in page
    assert not [other for other in others if other in page]


def test_a_failure_names_stage_evidence_and_diagnosis(compared: str) -> None:
    """Who reads the head of the page knows where to look."""
    text = Parsed(compared.partition('id="beside"')[0]).text
    verdict = runs.faulty_content(pictures=0)["verdict"]
    assert f"The first broken stage is preprocess. {verdict['later']} more checks failed" in text
    assert verdict["evidence"] in text
    assert verdict["diagnosis"] in text


def test_the_next_step_is_on_the_page() -> None:
    """The command is there to be copied where one helps; a run file of before has none."""
    told = runs.verdict("undecided", next_step="effd0 fetch coco --root coco_data")
    assert "Next step effd0 fetch coco --root coco_data" in page_of(verdict=told).text
    assert "Next step" not in page_of(verdict=runs.verdict("fail", "nms")).text


def test_the_head_says_what_was_run_and_what_a_release_lacks() -> None:
    """Date, hashes, images, threshold, untested stages and what is lacking stand in the verdict."""
    told = runs.verdict("incomplete", untested=["nms", "gate"], lacks=["name the release set"])
    measured = runs.accuracy(against=runs.against(0, 0.1))
    page = render_page(runs.run(verdict=told, accuracy=[measured]))
    text = Parsed(page[page.index("<h1") : page.index('class="stages"')]).text
    for wanted in (
        "run of 2026-11-25", f"model {'a' * 12} ", f"checkpoint {'c' * 12} ",
        "5000 images of val2017", "mAP threshold 33.4 %", "drop threshold 0.2 points",
        "A release lacks name the release set", "Not tested, so not known nms, gate",
    ):  # fmt: skip
        assert wanted in text


def test_a_check_is_shown_by_its_sentence() -> None:
    """What a test holds and what it was given are read; its node id is behind them, in the text."""
    name = "suite/test_runner.py::test_it[batch=5-runner=acl-npu]"
    told = runs.verdict("fail", "runner", check=name)
    checks = [runs.check("runner", "failed", name=name, sentence="Heads hold numbers")]
    text = page_of(verdict=told, checks=checks).text
    assert "Check Heads hold numbers" in text
    assert f"Heads hold numbers batch=5, runner=acl-npu {name}" in text


def test_all_sections_are_there(good: str) -> None:
    """A whole run has every section, and none of them says that something is missing."""
    page = Parsed(good)
    assert [name for name in SECTIONS if name not in page.ids] == []
    # The one line is for a search that finds nothing, and hidden.
    assert good.count('class="missing"') == 1
    assert tuple(re.findall(r'<span class="stage">(\w+)</span>', good)) == STAGES


def test_what_is_missing_says_what_would_fill_it() -> None:
    """A run without any figure has the same sections, each with a line that names a command."""
    page = render_page(runs.as_run(runs.bare_content()))
    assert [name for name in SECTIONS if name not in Parsed(page).ids] == []
    for section in ("accuracy", "parity", "speed", "checks"):
        content = page.partition(f'id="{section}"')[2].partition("</section>")[0]
        assert re.search(r'class="missing".*(pytest|effd0) .*--report-json', content), section
    assert "No images are in this run." in page


def test_published_values_stand_beside() -> None:
    """Each with its source; only an mAP of all of val2017 stands there without a word."""
    for images in (5000, 4999):
        text = page_of(accuracy=[runs.accuracy(images=images)]).text
        for one in (one for one in published_accuracies() if one.arch == D0.arch):
            assert str(one.map) in text
            assert one.source in text
        assert ("cannot be compared with the published" in text) == (images < 5000)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        pytest.param(
            runs.network(num_classes=5),
            "No published mAP of tf_efficientdet_d0, 5 classes, 512x512 is known",
            id="own-classes",
        ),
        pytest.param(None, "does not say of which network it is", id="older-file"),
    ],
)
def test_another_network_has_nothing_published(network: dict[str, Any] | None, words: str) -> None:
    """Of figures that are of something else the page shows none, neither mAP nor throughput."""
    text = page_of(artefact=runs.artefact(network=network)).text
    assert words in text
    for absent in ("google/automl", "Ascend 310P3", "beside what is published"):
        assert absent not in text


def test_the_page_says_which_network_and_how_labels_belong_to_categories() -> None:
    """Names in any alphabet stand there as they are."""
    note = "2 classes in the order of category ids: label 1 is 7 (чашка), 2 is 12 (صندوق)"
    measured = runs.accuracy(settings={"notes": [note]}, per_class={"чашка": 0.5, "صندوق": 0.25})
    of = runs.artefact(network=runs.network(num_classes=2, image_size=(512, 384)))
    text = page_of(accuracy=[measured], artefact=of).text
    assert text.count("tf_efficientdet_d0, 2 classes, 512x384") >= 2
    assert note in text
    assert " чашка 50.0" in text
    assert " صندوق 25.0" in text


def test_page_loads_nothing(compared: str) -> None:
    """No element names a place outside of the file, and the page forbids what could."""
    for tag, attributes in Parsed(compared).elements:
        assert tag not in ("iframe", "object", "embed", "base"), tag
        assert not set(attributes) & set(LOADING), (tag, attributes)
        for name, value in attributes.items():
            if name in ("href", "xlink:href"):
                assert re.match(r"#|data:(image/jpeg;base64)?,", value or ""), (tag, value)
    style = compared.partition("<style>")[2].partition("</style>")[0]
    assert "@import" not in style
    assert not re.search(r"url\((?!#)", compared)
    assert "default-src 'none'" in compared


def test_every_reference_in_the_page_has_its_target(good: str) -> None:
    """Ids are of one element each, and what is pointed at is there."""
    page = Parsed(good)
    assert len(page.ids) == len(set(page.ids))
    named = [
        word
        for _, attributes in page.elements
        for key in ("aria-labelledby", "for")
        for word in (attributes.get(key) or "").split()
    ]
    linked = re.findall(r'(?:href="|url\()#([^")]+)', good)
    assert [name for name in [*named, *linked] if name not in page.ids] == []


def nasty_run() -> Run:
    """A run in which everything that is text is hostile."""
    run = runs.faulty_content(pictures=2)
    accuracy = run["accuracy"][0]
    picture = accuracy["insight"]["gallery"][0]
    picture |= {"file_name": NASTY}
    for side in ("truth", "candidate", "reference"):
        for one in picture[side]:
            one["class"] = NASTY
    accuracy["per_class"][NASTY] = 0.5
    accuracy["against"]["metrics"]["per_class"][NASTY] = 0.6
    accuracy["operating_point"] = {
        side: runs.operating_point([NASTY, f"{NASTY}2"], 0.1) for side in ("candidate", "reference")
    }
    accuracy |= {"backend": NASTY, "runner": NASTY, "settings": {NASTY: [NASTY, None]}}
    accuracy["against"] |= {"runner": NASTY}
    accuracy["stages_ms"][NASTY] = runs.stage_times(1.0)
    run["parity"][0] |= {"runner": NASTY, "reference": NASTY}
    run["latency"][0] |= {"runner": NASTY, "name": NASTY, "timed": NASTY}
    run["latency"][0]["fingerprint"] |= {"chip": NASTY}
    run["checks"][0] |= {"name": NASTY, "evidence": NASTY, "diagnosis": NASTY, "unit": NASTY}
    run["verdict"] |= {"evidence": NASTY, "diagnosis": NASTY}
    run["artefact"] |= {"name": NASTY}
    run["environment"][0] = {"machine": {NASTY: {NASTY: NASTY}}, "packages": {NASTY: NASTY}}
    run["commands"] = [NASTY]
    return runs.as_run(run)


def test_hostile_text_is_text() -> None:
    """Markup in any name is shown as it stands: it makes no element and no attribute."""
    page = render_page(nasty_run(), runs.as_run(runs.older_content()))
    parsed = Parsed(page)
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert "img" not in [tag for tag, _ in parsed.elements]
    handlers = [name for _, one in parsed.elements for name in one if name.startswith("on")]
    assert handlers == []
    assert NASTY not in page
    # In the verdict, a class, a file, a check, a command: many places, all of them escaped.
    assert page.count(html.escape(NASTY).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) > 20


def test_a_baseline_stands_beside(compared: str) -> None:
    """Both runs' figures are shown, and what became worse is said."""
    text = Parsed(compared.partition('id="beside"')[2].partition("</section>")[0]).text
    assert "d0_bs8_october.onnx" in text
    assert "Worse than the baseline" in text
    assert "65.24" in text
    assert "58.10" in text


def test_a_baseline_of_other_images_is_told() -> None:
    """What cannot be compared is one line of the page, which is whole otherwise."""
    other = runs.artefact(dataset={"name": "mine", "images": 3, "sha256": "e" * 64})
    page = render_page(runs.run(), runs.run(artefact=other))
    assert "Not comparable:" in page
    assert "mAP can be compared on the same images only" in page
    assert 'id="reproduce"' in page


@pytest.mark.slow
def test_a_page_of_a_large_run_is_small_and_takes_seconds(tmp_path: Path) -> None:
    """80 images make a page below 5 MB, the same each time; with 5000 checks it takes 20 s."""
    run = runs.as_run(runs.good_content(pictures=80))
    page = render_page(run)
    assert page.count('class="enlarge"') == 80
    assert len(page.encode()) < 5e6
    assert render_page(run) == page
    run.checks *= 5000 // len(run.checks) + 1
    write_run(tmp_path / "run.json", run)
    start = time.process_time()
    outcome = effd0("report", tmp_path / "run.json", "--html", tmp_path / "page.html")
    assert outcome.code == 0, outcome.err
    assert time.process_time() - start < 20


def test_command_writes_the_page(tmp_path: Path) -> None:
    """It says what the verdict is, which changes no exit code; a foreign file makes no page."""
    write_run(tmp_path / "run.json", runs.as_run(runs.faulty_content(pictures=0)))
    write_run(tmp_path / "old.json", runs.as_run(runs.older_content()))
    page = tmp_path / "page.html"
    arguments = ("--baseline", tmp_path / "old.json", "--html", page)
    outcome = effd0("report", tmp_path / "run.json", *arguments)
    assert (outcome.code, outcome.out) == (0, f"wrote {page}: FAIL in preprocess\n")
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert "Beside the baseline" in page.read_text()
    page.unlink()
    (tmp_path / "run.json").write_text(json.dumps({"images": [], "annotations": []}))
    assert_one_error("holds a JSON ", "report", tmp_path / "run.json", "--html", page)
    assert not page.exists()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_the_extra_the_message_names_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the page's packages are not installed, the command that installs them is told."""

    def absent(module: str, *, extra: str) -> Any:
        raise MissingExtra(f"{module} is not installed: pip install 'effd0[{extra}]'")

    target = view if package == "jinja2" else plots
    monkeypatch.setattr(target, "require", absent)
    view._environment.cache_clear()
    with pytest.raises(MissingExtra, match=r"effd0\[report\]"):
        write_page(tmp_path / "page.html", runs.as_run(runs.good_content(pictures=1)))
    monkeypatch.undo()
    view._environment.cache_clear()
    assert not (tmp_path / "page.html").exists()
