"""The page in a browser: it opens from disk without a complaint, switches, sorts and filters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from effd0.report.view import write_page
from effd0.results.run import Run
from tests.helpers import runs

from .chromium import chromium, opened
from .test_page import NASTY, nasty_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: Chromium starts in a second, and each page opens in a third of one.
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    with chromium() as started:
        yield started


def mistaken_run() -> Run:
    """One picture has an object missed, the second a zebra too many, the others no difference."""
    run = runs.good_content(pictures=4)
    for place, one in enumerate(run["accuracy"][0]["insight"]["gallery"]):
        found = [{"box": of["box"], "class": of["class"], "score": 0.9} for of in one["truth"]]
        zebra = {"box": (0, 0, 9, 9), "class": "zebra", "score": 0.5}
        one["candidate"] = (found[1:], [*found, zebra], found, found)[place]
        one |= {"difference": (0.2, 0.1, 0.0004, 0.0)[place], "file_name": f"{place}.jpg"}
    return runs.as_run(run)


def own_classes_run() -> Run:
    """200 classes with names of several words in several alphabets."""
    names = [
        f"{word} {n:03} of a long name" for n in range(50) for word in ("cup", "чашка", "كوب", "杯")
    ]
    run = runs.good_content(pictures=2)
    accuracy = run["accuracy"][0]
    note = f"200 classes in the order of category ids: label 1 is 7 ({names[0]})"
    accuracy |= {"per_class": dict.fromkeys(names, 0.5), "settings": {"notes": [note]}}
    accuracy["against"]["metrics"]["per_class"] = dict.fromkeys(names, 0.6)
    sides = ("candidate", "reference")
    accuracy["operating_point"] = {side: runs.operating_point(names, 0.1) for side in sides}
    run["artefact"]["network"] = runs.network(num_classes=200)
    return runs.as_run(run)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of runs: good, broken, compared, hostile, with mistakes, of own classes, empty."""
    folder = tmp_path_factory.mktemp("pages")
    sides: dict[str, tuple[Any, Any]] = {
        "good": (runs.as_run(runs.good_content(pictures=8)), None),
        "faulty": (runs.as_run(runs.faulty_content(pictures=2)), None),
        "compared": (
            runs.as_run(runs.faulty_content(pictures=2)),
            runs.as_run(runs.older_content()),
        ),
        "hostile": (nasty_run(), None),
        "mistaken": (mistaken_run(), None),
        "own-classes": (own_classes_run(), None),
        "bare": (runs.as_run(runs.bare_content()), None),
    }
    for name, (run, baseline) in sides.items():
        write_page(folder / f"{name}.html", run, baseline)
    return {name: folder / f"{name}.html" for name in sides}


@pytest.fixture
def good(browser: Browser, pages: dict[str, Path]) -> Iterator[Page]:
    """The page of a good run, which nothing goes wrong in whatever is done there."""
    with opened(browser, pages["good"]) as (page, wrong):
        yield page
        assert wrong == []


@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("name", ["good", "faulty", "compared", "hostile", "own-classes", "bare"])
def test_page_opens(browser: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    """No error, no message, no request; and nothing is wider than the window."""
    with opened(browser, pages[name], width=width) as (page, wrong):
        assert page.get_by_role("heading", level=1).is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert wrong == []


def test_200_classes_are_sorted_and_scrolled(browser: Browser, pages: dict[str, Path]) -> None:
    """The table of classes keeps its height, and no name takes more than three lines."""
    with opened(browser, pages["own-classes"]) as (page, wrong):
        rows = page.locator("#classes tbody tr")
        assert rows.count() == 200
        box = page.locator(".scroll.tall:has(#classes)").bounding_box()
        assert box is not None
        assert box["height"] < 600
        heights = rows.evaluate_all("rows => rows.map(row => row.offsetHeight)")
        line = page.evaluate(
            "parseFloat(getComputedStyle(document.querySelector('#classes')).lineHeight)"
        )
        assert max(heights) < 4 * line
        page.locator("#class-sort").select_option("name")
        assert str(rows.first.get_attribute("data-name")).startswith("cup 000")
    assert wrong == []


def test_hostile_names_are_seen_as_text(browser: Browser, pages: dict[str, Path]) -> None:
    """A class called <script> stands there as it is called, in the enlarged picture too."""
    with opened(browser, pages["hostile"]) as (page, wrong):
        page.locator(f".enlarge[aria-label={_quoted('Enlarge ' + NASTY)}]").click()
        assert page.locator("dialog h3").inner_text() == NASTY
        assert page.locator("dialog text", has_text=NASTY).count() > 0
    assert wrong == []


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def test_boxes_are_switched(good: Page) -> None:
    """Each side's boxes go and come back, and the others stay."""
    for side in ("ground truth", "reference", "candidate"):
        key = side.rpartition(" ")[2]
        group = good.locator(f'#gallery g[data-side="{key}"]').first
        other = "candidate" if key != "candidate" else "truth"
        box = good.get_by_label(side, exact=True)
        box.uncheck()
        assert group.evaluate("e => getComputedStyle(e).display") == "none"
        assert good.locator(f'#gallery g[data-side="{other}"]').first.is_visible()
        box.check()
        assert group.evaluate("e => getComputedStyle(e).display") != "none"


def names(page: Page, rows: str) -> list[str]:
    """Return the names of *rows* that are seen, from the top."""
    return [
        str(row.get_attribute("data-name")) for row in page.locator(rows).all() if row.is_visible()
    ]


def test_images_are_sorted_and_filtered(good: Page) -> None:
    """By difference first, by name if asked; a filter keeps what has the words, and counts it."""
    by_difference = names(good, "#gallery > li")
    differences = good.locator("#gallery > li").evaluate_all(
        "items => items.map(item => Number(item.dataset.difference))"
    )
    assert differences == sorted(differences, reverse=True)
    good.locator("#image-sort").select_option("name")
    assert names(good, "#gallery > li") == sorted(by_difference) != by_difference
    good.locator("#image-filter").fill(by_difference[0].upper())
    assert names(good, "#gallery > li") == by_difference[:1]
    assert good.locator("#image-count").inner_text() == "1 image"
    good.locator("#image-filter").fill("no such thing")
    assert names(good, "#gallery > li") == []
    assert good.locator("#no-image").is_visible()


def test_pictures_are_filtered_by_mistakes_and_class(
    browser: Browser, pages: dict[str, Path]
) -> None:
    """Missed, false and class narrow the pictures together; those that are the same are folded."""
    with opened(browser, pages["mistaken"]) as (page, wrong):
        every = ".gallery > li"
        assert names(page, every) == ["0.jpg", "1.jpg"]
        page.locator("#images summary").click()
        assert names(page, every) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
        page.locator("#image-class").select_option("zebra")
        assert names(page, every) == ["1.jpg"]
        assert page.locator("#same-count").inner_text() == "0 images"
        page.locator("#image-show").select_option("missed")
        assert names(page, every) == []
        assert page.locator("#no-image").is_visible()
        page.locator("#image-class").select_option("")
        assert names(page, every) == ["0.jpg"]
        page.locator("#image-show").select_option("false")
        assert names(page, every) == ["1.jpg"]
        page.locator(".enlarge:visible").click()
        assert page.locator("dialog text", has_text="false: zebra").count() == 1
    assert wrong == []


def test_an_enlarged_picture_leads_to_the_next(browser: Browser, pages: dict[str, Path]) -> None:
    """Keys and buttons go round the pictures that are seen; closing returns to the last."""
    with opened(browser, pages["mistaken"]) as (page, wrong):
        name = page.locator("#enlarged-name")
        page.locator(".enlarge").first.click()
        page.keyboard.press("ArrowRight")
        assert (name.inner_text(), page.locator("#enlarged-place").inner_text()) == (
            "1.jpg", "2 of 2",
        )  # fmt: skip
        page.get_by_role("button", name="Next").click()
        assert name.inner_text() == "0.jpg"
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Escape")
        page.wait_for_function("document.activeElement.ariaLabel === 'Enlarge 1.jpg'")
    assert wrong == []


def test_classes_are_sorted(good: Page) -> None:
    """The losers come first; by name and by AP if asked."""
    first = names(good, "#classes tbody tr")
    good.locator("#class-sort").select_option("name")
    assert names(good, "#classes tbody tr") == sorted(first) != first
    good.locator("#class-sort").select_option("change")
    assert names(good, "#classes tbody tr") == first


def test_checks_are_filtered_by_a_click_on_their_stage(good: Page) -> None:
    """A stage of the line leads to its checks; status and words narrow them further."""
    good.locator('[data-show-stage="gate"]').click()
    rows = good.locator("#check-table tbody tr:visible")
    assert {row.get_attribute("data-stage") for row in rows.all()} == {"gate"}
    good.locator("#check-status").select_option("skipped")
    assert rows.count() == 1
    good.locator("#check-stage").select_option("")
    good.locator("#check-filter").fill("test_nms")
    assert good.locator("#check-count").inner_text() == "1 check"


def test_checks_are_sorted(good: Page) -> None:
    """As the page was made, by name and by time if asked; a filter stays."""
    rows = "#check-table tbody tr"
    made = names(good, rows)
    good.locator("#check-filter").fill("npu")
    good.locator("#check-sort").select_option("name")
    assert len(names(good, rows)) < len(made)
    good.locator("#check-filter").fill("")
    assert names(good, rows) == sorted(made) != made
    good.locator("#check-sort").select_option("seconds")
    told = [row.get_attribute("data-seconds") for row in good.locator(rows).all()]
    times = [float(str(seconds)) for seconds in told]
    assert times == sorted(times, reverse=True) != [times[0]] * len(times)
    good.locator("#check-sort").select_option("place")
    assert names(good, rows) == made


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_theme_follows_the_system_and_the_button(
    browser: Browser, pages: dict[str, Path], theme: Literal["dark", "light"]
) -> None:
    """The page begins in the system's theme; the button turns it over, and a reload keeps that."""
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, pages["good"], theme=theme) as (page, wrong):
        button = page.get_by_role("button", name="Dark")
        before, pressed = page.evaluate(ground), button.get_attribute("aria-pressed")
        assert pressed == str(theme == "dark").lower()
        button.click()
        after = page.evaluate(ground)
        assert after != before
        page.reload()
        assert page.evaluate(ground) == after
        assert button.get_attribute("aria-pressed") != pressed
    assert wrong == []


def test_a_keyboard_is_enough(good: Page) -> None:
    """The first stop skips to the verdict; a picture opens and closes, and the focus comes back."""
    good.keyboard.press("Tab")
    assert good.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    assert good.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]  # it is seen
    good.keyboard.press("Enter")
    assert good.evaluate("document.activeElement.id") == "main"
    picture = good.locator(".enlarge").first
    picture.focus()
    assert picture.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    good.keyboard.press("Enter")
    assert good.locator("dialog .picture text").count() > 0
    good.keyboard.press("Escape")
    assert not good.locator("dialog").is_visible()
    assert picture.evaluate("e => e === document.activeElement")


def test_page_is_whole_without_scripts(browser: Browser, pages: dict[str, Path]) -> None:
    """Where scripts are off, everything is shown and no dead control is."""
    with opened(browser, pages["good"], java_script_enabled=False) as (page, _):
        assert page.locator("#gallery > li").last.is_visible()
        for control in page.locator("select, input, #theme, #copy").all():
            assert not control.is_visible()


def test_print_shows_no_control(good: Page) -> None:
    """On paper there is the verdict and no button; passed checks are left out, failed are not."""
    good.emulate_media(media="print")
    assert good.get_by_role("heading", level=1).is_visible()
    for control in good.locator("select, input, #theme, #copy, nav").all():
        assert not control.is_visible()
    assert good.locator('#check-table tr[data-status="passed"]:visible').count() == 0
