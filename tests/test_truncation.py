"""Kept counts: the official traces and every count the paper's supplement prints, and ours beside them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectrim.truncation import CURVES, Truncation, official_truncation, target_count

# Per-layer counts of the supplement: coefficients → kept at the targets 1 %, 0.1 % and the floor.
CONVOLUTIONS = {
    1_728: (128, 128, 128),
    8_192: (128, 128, 128),
    23_232: (233, 128, 128),
    32_768: (329, 128, 128),
    36_864: (370, 128, 128),
    73_728: (738, 128, 128),
    131_072: (1_312, 132, 128),
    147_456: (1_476, 148, 128),
    294_912: (2_950, 296, 128),
    307_200: (3_074, 308, 128),
    589_824: (5_899, 591, 128),
    663_552: (6_637, 665, 128),
    884_736: (8_848, 886, 128),
    1_179_648: (11_798, 1_181, 128),
    2_359_296: (23_595, 2_360, 128),
}
LINEARS = {
    5_120: (256, 256, 256),
    40_960: (411, 256, 256),
    16_777_216: (167_774, 16_779, 256),
    37_748_736: (377_489, 37_751, 256),
}
TARGETS = (0.01, 0.001, 1e-7)


@pytest.mark.parametrize(("numel", "expected"), CONVOLUTIONS.items(), ids=str)
def test_convolutions_keep_the_published_counts(numel, expected):
    assert expected == tuple(official_truncation(numel, keep).target for keep in TARGETS)


@pytest.mark.parametrize(("numel", "expected"), LINEARS.items(), ids=str)
def test_linear_layers_keep_the_published_counts(numel, expected):
    assert expected == tuple(official_truncation(numel, keep, floor=255).target for keep in TARGETS)


@pytest.mark.parametrize(
    ("numel", "expected"), [(819_200, 8_192), (2_097_152, 20_972), (524_288, 5_243), (131_072, 1_311), (1_024, 32)]
)
def test_the_generator_keeps_the_published_counts(numel, expected):
    assert expected == official_truncation(numel, 0.01, floor=31, transposed=True).target


@pytest.mark.parametrize(
    ("numel", "keep", "expected"),
    [
        (786_432, 0.01, 7_865), (262_144, 0.1, 26_215), (262_144, 0.01, 2_622),
        (1_024, 0.01, 128), (131_072, 0.01, 1_312), (524_288, 0.01, 5_244), (2_097_152, 0.01, 20_973),
    ],
)  # fmt: skip
def test_the_transformer_and_the_discriminator_keep_the_published_counts(numel, keep, expected):
    assert expected == official_truncation(numel, keep, decay=0.01).target


def test_a_convolution_follows_the_official_trace():
    expected = (
        "2304 2097 1911 1743 1591 1455 1333 1223 1124 1034 954 882 817 758 705 658 615 577 542 511 483 458 435 415 396 "
        "380 365 351 339 329 319 310 302 295 289 283 278 273 269 265 262 258 256 253 251 249 247 246 244 243 242 241 "
        "240 239 238 237 237 236 236 235"
    )
    trace = official_truncation(2304, 0.1, decay=0.1)
    counts = [trace.count(step / trace.steps) for step in range(trace.steps + 1)]
    assert [int(count) for count in expected.split()] == counts[1:61]
    assert (counts[-1], counts[0]) == (231, 2304)


def test_a_convolution_at_its_floor_freezes_after_62_steps():
    trace = official_truncation(2304, 0.01, decay=0.05)
    assert (trace.steps, trace.target) == (62, 128)
    assert [trace.count(t / 62) for t in range(1, 11)] == [2304, 2190, 2082, 1979, 1881, 1789, 1700, 1616, 1537, 1461]


def test_a_linear_layer_follows_the_official_trace():
    trace = official_truncation(2048, 0.2, decay=0.05, floor=255)
    assert (trace.steps, trace.target) == (139, 411)
    expected = [2048, 1967, 1889, 1815, 1745, 1678, 1614, 1554, 1497, 1443, 1391, 1342]
    assert expected == [trace.count(t / 139) for t in range(1, 13)]


def test_a_transposed_convolution_follows_the_official_linear_trace():
    trace = official_truncation(2048, 0.1, decay=0.01, floor=31, transposed=True)
    counts = [trace.count(step / trace.steps) for step in range(1, trace.steps + 1)]
    assert counts[:6] == [2048, 2028, 2008, 1987, 1967, 1946]
    assert (counts[-1], counts.index(205) + 1) == (205, 91)


@pytest.mark.parametrize(
    ("numel", "keep", "steps"),
    [
        (1_728, 0.01, 2_738), (36_864, 0.01, 10_194), (147_456, 0.01, 11_522), (589_824, 0.01, 13_547),
        (2_359_296, 0.01, 14_619), (589_824, 0.001, 13_119), (2_359_296, 0.001, 15_018),
    ],
)  # fmt: skip
def test_the_official_layers_freeze_after_the_measured_number_of_steps(numel, keep, steps):
    assert steps == official_truncation(numel, keep).steps


@given(
    numel=st.integers(1, 10_000),
    share=st.floats(0.001, 1),
    curve=st.sampled_from([curve for curve in CURVES if not curve.startswith("fr2023")]),
    a=st.floats(0, 1),
    b=st.floats(0, 1),
)
def test_the_count_falls_monotonically_to_the_target(numel, share, curve, a, b):
    truncation = Truncation(numel, target_count(numel, share), curve)
    assert truncation.target == truncation.count(1)
    assert numel >= truncation.count(min(a, b)) >= truncation.count(max(a, b)) >= truncation.target
    if curve != "at-once":
        assert numel == truncation.count(0)


def test_one_clock_freezes_small_layers_first():
    small, large = official_truncation(1_728, 0.01), official_truncation(36_864, 0.01)
    on_the_same_clock = Truncation.from_json(small.to_json() | {"steps": large.steps})
    assert small.target == on_the_same_clock.count(2_738 / large.steps)
    assert small.target < on_the_same_clock.count(2_600 / large.steps)


@pytest.mark.parametrize("truncation", [Truncation(100, 7, "linear"), official_truncation(2304, 0.1)], ids=str)
def test_a_truncation_survives_json(truncation):
    assert truncation == Truncation.from_json(truncation.to_json())


@pytest.mark.parametrize(
    "data",
    [
        {"numel": 10}, {"numel": 10, "target": 11}, {"numel": 10, "target": 0}, {"numel": 10, "target": 2.0},
        {"numel": 10, "target": 2, "curve": "steep"}, {"numel": 10, "target": 2, "more": 1}, {"numel": True, "target": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_truncation_from_a_stranger_is_checked(data):
    with pytest.raises(ValueError, match=r"truncation|target|schedule"):
        Truncation.from_json(data)
