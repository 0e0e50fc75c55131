"""Tests for `effd0.cli.settings`: options in a file mean what they mean on the command line."""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.cli import pytest_suite
from effd0.cli.command import check_values
from effd0.cli.settings import OPTION_GROUPS, OPTIONS, Settings, read_settings, template
from effd0.errors import OptionError
from tests.helpers import EVERY_SEED, assert_one_error, assert_read_or_refused, effd0, run_pytest

FILE = """\
model = "build/d0.onnx"
checkpoint = "/weights/d0.pth"
min-map = 30
max_drop = 0.5
batch_size = [1, 8]
runner = "torch"
slow = true
"""
VALUES = {
    "model": Path("build/d0.onnx"), "checkpoint": Path("/weights/d0.pth"), "min_map": 30.0,
    "max_drop": 0.5, "batch_size": [1, 8], "runner": ["torch"], "slow": True,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def session(*words: str) -> dict[str, Any]:
    """The options of a session of pytest with *words*, made in pytest's order."""
    parser = pytest.Parser(_ispytest=True)
    pytest_suite.pytest_addoption(parser)
    early = SimpleNamespace(
        known_args_namespace=parser.parse_known_args(words),
        option=parser.parse_known_args([]),
        stash=pytest.Stash(),
    )
    pytest_suite.pytest_load_initial_conftests(cast(pytest.Config, early))
    return vars(parser.parse_known_args(words, namespace=early.option))


@pytest.mark.parametrize(
    ("name", "head"),
    [("effd0.toml", ""), ("pyproject.toml", "[tool.effd0]\nsuite = 'tests'\n")],
    ids=["own-file", "pyproject"],
)
def test_the_file_replaces_defaults(name: str, head: str, folder: Path) -> None:
    """Each key is its option, with the option's type; others keep their defaults."""
    before = session()
    (folder / name).write_text(head + FILE)
    assert session() == before | VALUES


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--min-map=33.4", "--max-drop=0.1"], {"min_map": 33.4, "max_drop": 0.1}),
        (["--runner=ort", "--batch-size=2"], {"runner": ["ort"], "batch_size": [2]}),
        (["--model=other.onnx"], {"model": Path("other.onnx")}),
    ],
    ids=["the-default-given", "repeatable", "path"],
)
def test_the_command_line_replaces_the_file(
    words: list[str], wanted: dict[str, Any], folder: Path
) -> None:
    """An option that is typed has that value alone, even where it is the default."""
    (folder / "effd0.toml").write_text(FILE)
    assert session(*words) == session() | wanted


def test_the_nearest_file_is_read_alone(folder: Path) -> None:
    """In the working directory, then beside the model; effd0.toml comes before pyproject.toml."""
    found = []
    for place in ("of/pyproject.toml", "of/effd0.toml", "pyproject.toml", "effd0.toml"):
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        head = "[tool.effd0]\n" if path.name == "pyproject.toml" else ""
        path.write_text(f"{head}coco = '{path.stem}'")
        found.append(session("--model=of/d0.onnx")["coco"])
    assert found == [Path(p) for p in ("of/pyproject", "of/effd0", "pyproject", "effd0")]


@pytest.mark.parametrize("text", ["tool = 3", "[tool]\neffd0 = 3", "[tool.effd0]\nsuite = 'tests'"])
def test_a_pyproject_without_options_gives_none(text: str, folder: Path) -> None:
    """What is there for other tools, or for the plugin, changes no option."""
    (folder / "pyproject.toml").write_text(text)
    assert read_settings(OPTIONS) is None


def test_the_standard_output_is_in_no_folder(folder: Path) -> None:
    """What is to be printed is printed from wherever the file is."""
    (folder / "of").mkdir()
    (folder / "of" / "effd0.toml").write_text("report-json = '-'")
    assert session("--model=of/d0.onnx")["report_json"] == Path("-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = 'a'", "effd0.toml: modle is no option; model was probably meant"),
        ("[gate]\nmin_map = 3", "effd0.toml: gate is no option"),
        ("qqqq = 1", "qqqq is no option; a key that 'effd0 init' writes was probably meant"),
        ("slow = false\nmin-map = 'x'", 'min-map is "x", but a number is wanted'),
        ("min_map = true", "min_map is true, but a number is wanted"),
        ("threads = 1.5", "threads is 1.5, but a whole number is wanted"),
        ("slow = 1", "slow is 1, but true or false is wanted"),
        ("model = ['a']", r'model is \["a"\], but a path in quotes is wanted'),
        ('model = "a\\u0000"', "but a path in quotes is wanted"),
        ("runner = 3", "runner is 3, but text in quotes, or a list of such, is wanted"),
        ("batch_size = [1, '2']", "but a whole number, or a list of such, is wanted"),
        (f"min_map = 1{'0' * 400}", "min_map is 1000.*, but a number is wanted"),
        ("max_drop = 1\nmax-drop = 1", "max-drop is given with - and with _; leave one out"),
        ("slow = true\nmin_map 3", "effd0.toml, line 2, is 'min_map 3', but TOML in UTF-8"),
        ("slow = true\nslow = true", "line 2, is 'slow = true', .* write each key once"),
        ("batch_size = [1,\n", r"line 1, is 'batch_size = \[1,', but TOML"),
        (b"\xff\xfe", "effd0.toml is something else, but TOML in UTF-8 is wanted"),
        (None, "effd0.toml cannot be read: Is a directory; check it"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_and_key(text: str | bytes | None, message: str, folder: Path) -> None:
    """What is wrong in the file is one usage error, before a test is collected."""
    file = folder / "effd0.toml"
    if text is None:
        file.mkdir()
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(pytest.UsageError, match=message):
        session()


@pytest.mark.parametrize(
    ("message", "value", "prefix"),
    [
        ("--model is a.onnx, which does not exist", "a.onnx", "effd0.toml (model): "),
        ("--model is b.onnx, which does not exist", "b.onnx", ""),
        ("--model-name is a.onnx", "a.onnx", ""),
        ("--min-map is 334, but 0 to 100 is wanted", "a.onnx", "effd0.toml (min_map): "),
    ],
    ids=["from-the-file", "typed", "another-option", "of-two-words"],
)
def test_a_value_from_the_file_is_blamed_on_it(message: str, value: str, prefix: str) -> None:
    """Whoever typed no option reads where its value is, and who typed one is told of that."""
    settings = Settings(Path("effd0.toml"), {"model": "a.onnx", "min_map": 334})
    assert settings.blamed(message, {"model": value, "min_map": 334}) == prefix + message


def test_check_hands_on_what_is_typed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typed default replaces the file; the rest is pytest's to read, but the place of files."""
    (folder / "effd0.toml").write_text(
        "model = 'd0.onnx'\nmin_map = 30\nmax_drop = 1\nout = 'gate'"
    )
    asked: list[str] = []
    monkeypatch.setattr(pytest, "main", lambda words, **_: asked.extend(words))
    assert (
        effd0("check", "--min-map", "33.4").out
        == "settings    effd0.toml (model, min_map, max_drop, out)\n"
    )
    flags = {one.flag for one in OPTIONS}
    assert [word for word in asked if word.partition("=")[0] in flags] == [
        "--min-map=33.4", "--report-json=gate/run.json", "--out=gate/detections",
    ]  # fmt: skip


@pytest.mark.slow
def test_pytest_reads_the_file(folder: Path) -> None:
    """A session in its folder shows that it took the file, and blames the file's values on it."""
    (folder / "effd0.toml").write_text("min_map = 50\nmodel = 'no.onnx'")
    (folder / "test_any.py").write_text("def test_any(): pass")
    refused = run_pytest("-p", "effd0", cwd=folder)
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert refused.stderr.startswith("ERROR: effd0.toml (model): --model is no.onnx, which does")
    (folder / "effd0.toml").write_text("min_map = 50")
    assert (
        "\nsettings: effd0.toml (min_map)\n" in run_pytest("-v", "-p", "effd0", cwd=folder).stdout
    )


def test_init_changes_nothing_where_it_finds_nothing(folder: Path) -> None:
    """The file of an empty folder is a comment, which shows each option with its default."""
    assert "no model, weights or data set found" in effd0("init").out
    assert read_settings(OPTIONS) is None
    shown = {}
    for line in (folder / "effd0.toml").read_text().splitlines():
        name, equals, value = line.removeprefix("# ").partition(" = ")
        if equals:
            shown[name] = value
    assert sorted(shown) == sorted(one.name for one in OPTIONS)
    defaults = {one.name: one.default for one in OPTIONS if one.default not in (None, ())}
    assert {name: tomllib.loads(f"value = {shown[name]}")["value"] for name in defaults} == defaults


def test_init_fills_in_what_there_is_one_of(folder: Path) -> None:
    """The only file or folder of a kind is given; several are left to choose from."""
    for name in ("d0.onnx", "a.pth", "b.pth", "notes.txt"):
        (folder / name).touch()
    (folder / "my \U00020000 coco" / "annotations").mkdir(parents=True)
    out = effd0("init").out
    wanted = {"model": Path("d0.onnx"), "coco": Path("my \U00020000 coco")}
    assert read_settings(OPTIONS) == Settings(Path("effd0.toml"), wanted)
    assert out == 'wrote effd0.toml\nmodel = "d0.onnx"\ncoco = "my \U00020000 coco"\n'
    assert '# checkpoint = "a.pth or b.pth"' in (folder / "effd0.toml").read_text()


def test_init_keeps_a_file_that_is_there(folder: Path) -> None:
    """What a user wrote is not lost."""
    (folder / "effd0.toml").write_text(FILE)
    assert_one_error("OutputError: effd0.toml is there; edit it, or remove it", "init")
    assert (folder / "effd0.toml").read_text() == FILE


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Place of a model; its folder has no settings yet."""
    return tmp_path_factory.mktemp("model") / "d0.onnx"


#: A file by hand, and every line that `init` writes.
TEMPLATE = template(OPTION_GROUPS, Path(__file__).parent)
VALID = (FILE, "\n".join(re.findall(r"^# (\w+ = .*)$", TEMPLATE, re.MULTILINE)))


@given(st.sampled_from(VALID), st.data())
def test_a_mutated_file_is_read_or_refused(beside: Path, text: str, data: st.DataObject) -> None:
    """Whatever is typed into a file, it gives values or one error of effd0."""
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(start + 8, len(text))))
    mutated = text[:start] + data.draw(st.text(max_size=4)) + text[stop:]
    (beside.parent / "effd0.toml").write_bytes(mutated.encode(errors="surrogatepass"))
    try:
        settings = read_settings(OPTIONS, beside)
    except OptionError as error:
        assert str(error).startswith(str(beside.parent / "effd0.toml"))  # noqa: PT017  # either is right
        return
    known = {one.name: one for one in OPTIONS}
    for name, value in (settings.values if settings else {}).items():
        kind, several = known[name].kind, value if known[name].many else [value]
        assert all(isinstance(each, kind) for each in several)


@EVERY_SEED
@pytest.mark.parametrize("name", ["effd0.toml", "pyproject.toml"])
def test_mutated_values_are_read_or_refused(
    name: str, seeds: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each value of each option has its type and range, or the error names file and key."""
    monkeypatch.chdir(tmp_path)
    content = {
        key: value for key, value in tomllib.loads(VALID[1]).items() if not str(value).isupper()
    }
    if name == "pyproject.toml":
        content = {"tool": {"effd0": content}}
    defaults = {one.name: list(one.default) if one.many else one.default for one in OPTIONS}

    def read() -> object:
        found = read_settings(OPTIONS)
        values = {} if found is None else found.values
        check_values(OPTIONS, defaults | values | {"overwrite": False})
        return values

    assert_read_or_refused(tmp_path / name, content, seeds, read, toml=True)
