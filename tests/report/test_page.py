import copy
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from spectrim.errors import UnsupportedError
from spectrim.report import render, write_page
from spectrim.report.changes import planned
from spectrim.report.notes import notes
from spectrim.surgery.prune import PruneChannels
from tests.report.result import result

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """Reads a page: its text, its attributes, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_says_what_the_run_found():
    page = Page(render(result()))
    for words in (
        "LeNet5 on mnist",
        "98.03 %",
        "−1.09 points",
        "1,368 B",
        "1,256x smaller",
        "385x fewer",
        "the same",
        "layer3.conv.weight",
        "left dense by where",
        "fc.weight",
        "seed",
        "A processor",
        "2.13.0",
        "saves storage and transfer, not time",
    ):
        assert words in page.text, words


def test_there_are_four_plots_and_a_spectrum_for_each_layer():
    page = Page(render(result(layers=5)))
    assert page.tags.count("svg") == 4 + 5


def test_the_page_needs_nothing_from_outside():
    html = render(result())
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [
        value for name, value in page.attributes if name in {"src", "srcset", "href"} and not value.startswith("#")
    ]
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)
    assert "http" not in outside
    assert all(value.startswith("#") for name, value in page.attributes if name.endswith(":href"))


def test_the_same_result_gives_the_same_bytes():
    assert render(result()) == render(result())


def test_rendering_leaves_the_result_alone():
    given = result()
    before = copy.deepcopy(given)
    render(given)
    assert given == before


EVIL = "</style><script>alert('x')</script>&$\\frac{1}{2}$"


def poisoned(value: Any) -> Any:
    """The same document with every text, and every key that is a name, made hostile."""
    if isinstance(value, dict):
        return {key: poisoned(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [poisoned(entry) for entry in value]
    return value + EVIL if isinstance(value, str) else value


@pytest.mark.parametrize("layers", [2, 12])
def test_every_text_is_escaped_wherever_it_stands(layers: int):
    given = result(layers)
    evil = poisoned(given)
    for key in ("recipe", "versions", "hardware", "files"):
        evil[key] = {name + EVIL: value for name, value in evil[key].items()}
    for look, original in zip(evil["history"]["evaluations"], given["history"]["evaluations"], strict=True):
        look["phase"] = original["phase"]
    counts = given["history"]["kept"]["counts"]
    evil["history"]["kept"]["counts"] = {EVIL + site: line for site, line in counts.items()}
    html = render(evil)
    assert "<script" not in html
    assert "alert" in html
    page = Page(html)
    assert "script" not in page.tags
    assert page.tags.count("svg") == 4 + layers


def partial(*, history: bool) -> dict[str, Any]:
    """Plots take nearly all of the time, so what has nothing to do with them is tested without."""
    given = result(1)
    return given if history else {key: value for key, value in given.items() if key != "history"}


@pytest.mark.parametrize("key", sorted(result()))
def test_any_entry_may_be_missing_or_of_another_kind(key: str):
    given = partial(history=key in {"dense", "metric"})
    Page(render({name: value for name, value in given.items() if name != key}))
    for wrong in (None, 5, "text", [], [1, "a"], {}) if "history" not in given else (5, {}):
        Page(render({**given, key: wrong}))


@pytest.mark.parametrize("wrong", [None, 5, [1, "a"], {"kept": {"steps": [1], "counts": [3]}, "evaluations": [{}]}])
def test_a_history_of_another_kind_is_no_error(wrong: Any):
    Page(render({**result(1), "history": wrong}))


def test_an_empty_result_is_a_page():
    assert "A network" in Page(render({})).text


def paths(value: Any, here: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [here]
    return [path for key, entry in value.items() for path in paths(entry, (*here, key))]


INNER = [path for path in paths(result(1)) if len(path) > 1]


@pytest.mark.parametrize("path", INNER, ids=".".join)
def test_any_inner_entry_may_be_missing_or_nan(path: tuple[str, ...]):
    inner: dict[str, Any] = {}
    for replacement in (["x", float("nan")], float("nan")):
        given = partial(history="history" in path)
        inner = given
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = replacement
        Page(render(given))
    del inner[path[-1]]
    Page(render(given))


def test_a_diverged_run_is_drawn():
    given = result()
    given["history"]["compressed"]["loss"][3:] = [float("inf"), *[float("nan")] * 16]
    Page(render(given))


def test_a_single_look_is_drawn():
    given = result(1)
    given["history"]["kept"] = {"steps": [0], "counts": {"a": [5]}}
    given["history"]["dense"] = {"steps": [1], "loss": [1.0], "lr": [0.1]}
    Page(render(given))


def test_where_nothing_was_trained_there_is_no_curve():
    given = result()
    given["history"] = {
        "evaluations": [{"phase": phase, "step": 0, "metric": 0.9} for phase in ("dense", "compressed")]
    }
    page = render(given)
    assert "The way there" not in page
    given["history"]["evaluations"][1]["step"] = 10
    assert "Test accuracy" in render(given)


def test_the_page_lists_the_edits_of_the_plan_in_its_words():
    given = result(1)
    edit = PruneChannels("conv1", (1, 3), 8, (), "saves 20 parameters")
    given["plans"][0]["edits"] = [edit.to_json(), {"edit": "of another version", "path": "conv2"}]
    page = render(given)
    assert edit.summary() in page
    assert "conv2" in page
    assert "All 2 edits" in page


def test_the_page_tells_of_a_repair():
    given = result(1)
    given["history"]["repairs"] = [
        {
            "refitted": [{"path": "conv2", "inputs": [216, 288], "before": 0.25, "after": 0.125}],
            "left": [{"site": "fc", "reason": "reads what it read before"}],
            "norms": 1,
            "images": [560, 80],
            "before": 1.5,
            "after": 0.5,
        }
    ]
    page = render(given)
    assert "1 of 2 layers and 1 norm were fitted" in page
    assert "150 %" in page
    assert "216 of 288" in page
    assert "Left as they are: reads what it read before" in page
    assert "undone" not in page
    assert "The repair" not in render(result(1))
    given["history"]["repairs"][0]["undone"] = "0 layers and 2 norms do not help"
    assert "All was undone: 0 layers and 2 norms do not help." in render(given)


def test_long_runs_make_no_heavy_page():
    given = result(60)
    steps = list(range(20_000))
    given["history"]["kept"] = {"steps": steps, "counts": {f"l{n}": [10**6 - s for s in steps] for n in range(60)}}
    given["history"]["dense"] = {"steps": steps, "loss": [1 / (s + 1) for s in steps], "lr": [0.1] * len(steps)}
    assert len(render(given)) < 1_500_000


def test_what_got_worse_does_not_look_like_a_success():
    given = result()
    assert "worse" in tones(given)["Accuracy"]
    assert tones(given)["File"] == tones(given)["Time per image"] == "changed "
    given["compressed"]["metric"] = given["dense"]["metric"] - 0.005
    given["compressed"].update(latency_ms=1.0, macs=1_000)
    assert "worse" not in tones(given)["Accuracy"]
    assert "worse" in tones(given)["Time per image"]


def tones(given: dict[str, Any]) -> dict[str, str]:
    html = render({key: value for key, value in given.items() if key != "history"})
    return dict(re.findall(r'<dt>([^<]+)</dt>\s*<dd class="figure">.*?<span class="([^"]*)"', html, re.DOTALL))


def test_spectra_that_are_passed_in_take_the_place_of_those_in_the_result():
    rows = [{"site": "only.me", "numel": 9, "kept": 1, "counts": [1, 9], "dense": [0.5, 1], "compressed": [1, 1]}]
    page = Page(render(result(), spectra=rows))
    assert page.tags.count("svg") == 4 + 1
    assert "only.me" in page.text
    assert "50 % held before" in page.text


def test_drawing_leaves_the_users_settings_and_backend_alone():
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 33.0}):
        drawn = render(result())
        assert mpl.rcParams["font.size"] == 33.0
    assert drawn == render(result())
    assert "matplotlib.pyplot" not in sys.modules or mpl.rcParams["font.size"] != 33.0


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "report.html"
    assert write_page(target, result()) == target
    first = target.read_text(encoding="utf-8")
    assert first == render(result())

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(target, result(1))
    assert target.read_text(encoding="utf-8") == first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_a_missing_library_is_named_with_what_installs_it(library: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UnsupportedError, match=rf"'{library}'.*pip install 'spectrim\[report\]'"):
        render(result())


def test_a_network_whose_rebuilt_layers_are_dense_says_what_two_stages_would_save():
    sizes = {"payload": 0, "plain": 900, "total": 1_000}
    given = {"dense": {"macs": 50}, "compressed": {"macs": 50, "macs_in_two_stages": 25, "bytes": sizes}}
    (note,) = notes(given)
    assert "no faster in two stages" in note
    assert "2x fewer multiplications" in note
    assert "bench --kernels" in note
    given["compressed"]["forms"] = [{"site": "a", "ms": {"dense": 1, "two stages, fused": 2}, "taken": "dense"}]
    (note,) = notes(given)
    assert "no faster in two stages, fused or not" in note
    assert "--kernels" not in note


def test_a_difference_of_times_is_called_chance_where_the_network_computes_what_it_did():
    given = result()
    given["dense"]["latency_ms"], given["compressed"]["latency_ms"] = 38.1, 30.8
    page = Page(render(given)).text
    assert "the times differ by chance" in page
    assert "% less" not in page
    given["compressed"]["forms"] = [{"site": "a", "ms": {"dense": 2, "factored": 1}, "taken": "factored"}]
    assert "19 % less" in Page(render(given)).text


def test_notes_appear_only_where_they_apply():
    given = result()
    assert len(notes(given)) == 6
    given["compressed"]["macs"] = 1_000_000
    given["compressed"]["bytes"].update(payload=5_000)
    given["dtype"] = "float32"
    given["metric"] = {"name": "dice"}
    given["plans"][0]["skipped"] = []
    found = notes(given)
    assert len(found) == 2
    assert "still the network is not faster" in found[0]
    assert "loaded back" in found[1]
    given["compressed"]["latency_ms"] = 0.1
    assert len(notes(given)) == 1
    assert notes({}) == []


def test_a_file_in_which_nothing_is_coded_holds_an_ordinary_network():
    given = result()
    given["compressed"]["bytes"].update(payload=0)
    found = " ".join(notes(given))
    assert "holds an ordinary network: nothing is decoded" in found
    assert "coefficients" not in found


def test_the_standard_error_is_the_binomial_one():
    (note,) = [note for note in notes(result()) if "standard error" in note]
    # sqrt(0.9803 * 0.0197 / 10,000) = 0.00139
    assert "standard error of each figure is 0.14 points" in note


def test_the_page_tells_what_was_measured_of_each_form_and_what_was_taken():
    run = result()
    assert "In which form layers run" not in Page(render(run)).text
    run["compressed"]["forms"] = [
        {"site": "conv<1>", "input": [1, 8, 4, 4], "ms": {"dense": 0.2, "banded": 0.25}, "taken": "banded"}
    ]
    text = Page(render(run)).text
    assert "conv<1> 1×8×4×4 dense 0.200 · banded 0.250 banded 1.25" in text


def test_layers_that_were_skipped_for_their_times_are_one_group_with_the_times_of_each():
    run = result()
    said = "is measured to be faster dense"
    run["plans"][0]["skipped"] = [
        {"site": "a", "reason": f"{said} (0.31 against 0.42 ms)"},
        {"site": "b", "reason": f"{said} (1.5 against 2 ms)"},
        {"site": "c", "reason": "its maps are 1 x 1 (ms)"},
    ]
    assert planned(run["plans"][0])["skipped"] == [
        {"reason": said, "sites": ["a (0.31 against 0.42 ms)", "b (1.5 against 2 ms)"]},
        {"reason": "its maps are 1 x 1 (ms)", "sites": ["c"]},
    ]
