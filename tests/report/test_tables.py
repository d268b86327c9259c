import io

import pytest

from spectrim.report import Table, before_after

RESULT = {
    "metric": {"name": "dice"},
    "dense": {"metric": 0.98, "parameters": 1000, "bytes": 4000, "macs": 50, "latency_ms": 1.0},
    "compressed": {
        "metric": 0.97,
        "numbers": 110,
        "coded_numbers": 10,
        "bytes": {"payload": 20, "plain": 200, "header": 80, "total": 300},
        "macs": 25,
        "latency_ms": 0.99,
    },
    "layers": [{"site": "a", "numel": 900, "kept": 10}],
}


def test_before_and_after_compares_what_is_there():
    rows = {row[0].strip(): row[1:] for row in before_after(RESULT).rows}
    assert rows == {
        "dice": ["98.00 %", "97.00 %", "−1.00 points"],
        "learned numbers": ["1,000", "110", "9.1x fewer"],
        "in coded weights": ["900", "10", "90x fewer"],
        "bytes": ["4,000 B", "300 B", "13.3x smaller"],
        "coefficients": ["", "20 B", ""],
        "other tensors": ["", "200 B", ""],
        "header": ["", "80 B", ""],
        "multiply-adds": ["50", "25", "2x fewer"],
        "time per image": ["1 ms", "0.99 ms", "about the same"],
    }


def test_what_two_stages_would_multiply_stands_below_what_is_multiplied():
    result = {"dense": {"macs": 50}, "compressed": {"macs": 50, "macs_in_two_stages": 25}}
    assert before_after(result).rows == [
        ["multiply-adds", "50", "50", "the same"], ["  in two stages", "50", "25", "2x fewer"],
    ]  # fmt: skip


def test_numbers_of_rebuilt_layers_stand_below_all_learned_ones():
    layers = [{"shape": [16, 8, 3, 3]}, {"shape": [4, 2, 1]}]
    compressed = {"numbers": 700, "coded_numbers": 0, "rebuilt_numbers": 580}
    result = {"dense": {"parameters": 1280}, "compressed": compressed, "rebuilt": {"layers": layers}}
    assert before_after(result).rows == [
        ["learned numbers", "1,280", "700", "45 % fewer"], ["  in rebuilt layers", "1,160", "580", "2x fewer"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("macs", "taken", "said"), [(50, "dense", "the same"), (50, "two stages", "19 % less"), (25, "dense", "19 % less")]
)
def test_the_time_is_the_same_where_the_same_is_computed_whatever_the_clock_says(macs, taken, said):
    dense = {"macs": 50, "latency_ms": 38.1}
    forms = [{"site": "a", "ms": {"dense": 1.0}, "taken": taken}, {"site": "b", "ms": {}, "taken": "dense"}]
    result = {"dense": dense, "compressed": {"macs": macs, "latency_ms": 30.8, "forms": forms}}
    assert before_after(result).rows[-1] == ["time per image", "38.1 ms", "30.8 ms", said]


@pytest.mark.parametrize("missing", ["dense", "compressed", "layers", "metric"])
def test_whatever_is_missing_is_left_out(missing):
    rows = before_after({key: value for key, value in RESULT.items() if key != missing}).rows
    assert rows
    assert all(len(row) == 4 for row in rows)


@pytest.mark.parametrize("wrong", [None, 5, "x", [], {"metric": "high", "bytes": 7}])
def test_entries_of_another_kind_are_no_error(wrong):
    before_after({"dense": wrong, "compressed": wrong, "layers": wrong, "metric": wrong})


def test_nothing_gives_an_empty_table():
    assert before_after({}).rows == []
    assert str(before_after({}))


def test_rich_shows_the_same_cells_and_does_not_read_them_as_markup():
    rich = pytest.importorskip("rich.console")
    written = io.StringIO()
    table = Table(columns=["name", ">n"], rows=[["[red]a[/red]", "1"]], footer=["all", "1"], title="[b]T")
    rich.Console(file=written, width=60).print(table.rich())
    assert "[red]a[/red]" in written.getvalue()
    assert "[b]T" in written.getvalue()
    assert "all" in written.getvalue()


def test_a_cut_network_has_no_lines_about_codes():
    compressed = {"numbers": 30, "coded_numbers": 0, "bytes": {"total": 70, "payload": 0, "plain": 60, "header": 10}}
    printed = str(before_after({"dense": {"parameters": 100, "bytes": 400}, "compressed": compressed}))
    assert "coded" not in printed
    assert "coefficients" not in printed
    assert "other tensors" in printed


def test_multiplications_are_told_with_and_without_transforms():
    result = {"dense": {"macs": 50}, "compressed": {"macs": 40, "macs_without_transforms": 25}}
    rows = before_after(result).rows
    assert [row for row in rows if row[0] == "multiply-adds"] == [["multiply-adds", "50", "40", "20 % fewer"]]
    assert [row for row in rows if row[0] == "  without transforms"] == [
        ["  without transforms", "50", "25", "2x fewer"]
    ]
