"""The scores of channels as a table, as JSON and as a picture."""

import json
import sys

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.report import ChannelInspection
from spectrim.surgery.plan import Skipped
from spectrim.surgery.prune import PruneChannels
from spectrim.surgery.ranking import Ranked

IMAGES = torch.rand(8, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.ReLU(), nn.Conv2d(24, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)
    ).eval()  # fmt: skip


def test_what_goes_is_what_the_plan_cuts_and_the_scores_are_relative():
    model, method = net(), st.CFDP(keep=0.5)
    found = st.inspect_channels(model, method, calibration=IMAGES)
    plan = st.plan(model, method, calibration=IMAGES)
    gone = {edit.path: edit.channels for edit in plan.edits if isinstance(edit, PruneChannels)}
    assert {each.path: each.gone for each in found.groups if each.gone} == gone
    for each in found.groups:
        assert sum(each.scores) / len(each.scores) == pytest.approx(1)
        if each.gone:
            assert max(each.scores[unit] for unit in each.gone) <= each.cut
            assert f"ortho scores below {each.cut:.2f} of the mean go" in str(plan)


def test_groups_that_stay_whole_are_scored_and_say_why_and_other_layers_are_listed():
    found = st.inspect_channels(net(), st.CFDP(keep={"0": 0.5, "2": 1.0}), where="!4", calibration=IMAGES)
    assert [(each.path, len(each.scores), each.kept, each.reason) for each in found.groups] == [
        ("0", 16, 8, ""),
        ("2", 24, 24, "keep=1 leaves all of its 24 channels"),
    ]
    assert found.groups[1].cut is None
    assert found.groups[1].held == 1
    assert found.skipped == (Skipped("4", "left alone by where"), Skipped("6", "is the output of the model"))
    assert "2  keep=1 leaves all" in str(found)


def test_a_target_decides_what_goes_too():
    found = st.inspect_channels(net(), st.CFDP(target="params:0.6"), calibration=IMAGES)
    plan = st.plan(net(), st.CFDP(target="params:0.6"), calibration=IMAGES)
    assert {each.path for each in found.groups if each.gone} == {edit.path for edit in plan.edits}
    assert {each.path for each in found.groups} == {"0", "2", "4"}
    assert all(bool(each.gone) != bool(each.reason) for each in found.groups)


def test_looking_changes_nothing():
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    st.inspect_channels(model, st.CFDP(keep=0.5), calibration=IMAGES)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_json_has_every_score_and_survives_a_round_trip():
    document = st.inspect_channels(net(), st.CFDP(keep=0.5), calibration=IMAGES).to_json()
    assert json.loads(json.dumps(document)) == document
    assert [group["units"] for group in document["groups"]] == [16, 24, 8]
    assert all(len(group["scores"]) == group["units"] for group in document["groups"])
    assert all(group["kept"] + len(group["gone"]) == group["units"] for group in document["groups"])


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_is_written_in_the_format_of_its_ending(tmp_path, ending, magic):
    pytest.importorskip("matplotlib")
    found = st.inspect_channels(net(), st.CFDP(keep=0.5), calibration=IMAGES)
    file = found.draw(tmp_path / f"scores.{ending}")
    assert file.read_bytes().startswith(magic)
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


def test_the_picture_names_every_group_and_shows_where_its_cut_falls(tmp_path):
    pytest.importorskip("matplotlib")
    groups = [
        Ranked(path="one", writers=("one", "two"), width=4, scores=(2.0, 0.0, 1.5, 0.5), gone=(1, 3)),
        Ranked(path="outlier", writers=("outlier",), width=100, scores=(50.0, *[0.5] * 99), gone=()),
    ]
    found = ChannelInspection(method="CFDP", model="Net", groups=tuple(groups))
    text = found.draw(tmp_path / "scores.svg").read_text()
    assert ">one</text>" in text
    assert ">outlier</text>" in text
    assert ">2</text>" in text  # two of four stay
    assert "up to 50.0" in text


def test_a_picture_that_cannot_be_drawn_is_refused(tmp_path, monkeypatch):
    found = ChannelInspection(method="CFDP", model="Net", groups=())
    with pytest.raises(ValueError, match="found no group that can be cut"):
        found.draw(tmp_path / "scores.png")
    found = st.inspect_channels(net(), st.CFDP(keep=0.5), calibration=IMAGES)
    with pytest.raises(st.UnsupportedError, match=r"into 'scores\.bmpx', found no picture format"):
        found.draw(tmp_path / "scores.bmpx")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(st.UnsupportedError, match=r"pip install 'spectrim\[report\]'"):
        found.draw(tmp_path / "scores.png")
    assert not list(tmp_path.iterdir())
