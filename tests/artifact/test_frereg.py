"""Checkpoints of the authors' release: the imported network computes what theirs computes, and saves as an artifact."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from spectrim.artifact import import_frereg_, load_, save
from spectrim.artifact.frereg import covering
from spectrim.errors import ArtifactError, SiteError
from spectrim.surgery.sites import coded
from spectrim.transforms.ordering import positions
from spectrim.zoo.unet import unet

frereg = pytest.importorskip("frereg", reason="the authors' package installs on Python < 3.12 only")


def network(conv, transposed, *, bias=True, statistics=True):
    """An encoder and a decoder of the given layer classes, with the names that both have in common."""
    return nn.Sequential(
        conv(3, 8, 3, padding=1, bias=bias),
        nn.BatchNorm2d(8, affine=statistics, track_running_stats=statistics),
        nn.ReLU(),
        conv(8, 16, 3, stride=2, padding=1, groups=2, bias=bias),
        transposed(16, 8, 2, stride=2, bias=bias),
        conv(8, 2, 1, bias=bias),
    )


def theirs(**options):
    """One of the authors' networks, its spectra cut to 20 coefficients as their training would."""
    torch.manual_seed(1)
    model = network(frereg.Conv2d, frereg.ConvTranspose2d, **options)
    for module in model:
        if "ZMAT" in dict(module.named_buffers()):
            module.IDROP[module.ZMAT.reshape(module.IDROP.shape) >= 20] = 0
    frereg.countParams(model)
    return model


def released(model, path):
    """Write as the authors' demonstration does: masks applied and dropped, every entry sparse."""
    model = copy.deepcopy(model)
    frereg.cleanParams(model)
    for module in model:
        for name in ("ZMAT", "IDROP", "IMAT"):
            if name in module._buffers:
                setattr(module, name, None)
    torch.save({name: tensor.detach().to_sparse() for name, tensor in model.state_dict().items()}, path)
    return model


@pytest.mark.parametrize("options", [{}, {"bias": False, "statistics": False}], ids=["biases and norms", "bare"])
def test_a_release_computes_what_the_authors_layers_compute(tmp_path, options):
    peer = released(theirs(**options), tmp_path / "theirs.pt").eval()
    ours = import_frereg_(network(nn.Conv2d, nn.ConvTranspose2d, **options), tmp_path / "theirs.pt").eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), peer(x), atol=1e-5, rtol=1e-5)
    assert [each.codec.numbers() for each in coded(ours)] == [20, 20, 20, 16]


def test_an_import_saves_as_an_artifact(tmp_path):
    released(theirs(bias=False, statistics=False), tmp_path / "theirs.pt")
    bare = {"bias": False, "statistics": False}
    ours = import_frereg_(network(nn.Conv2d, nn.ConvTranspose2d, **bare), tmp_path / "theirs.pt").eval()
    counts = save(ours, tmp_path / "ours.safetensors", dtype=torch.float32)
    assert counts.payload == 76 * 4
    assert counts.plain == 0
    assert counts.total < (tmp_path / "theirs.pt").stat().st_size / 5
    again = load_(network(nn.Conv2d, nn.ConvTranspose2d, **bare), tmp_path / "ours.safetensors").eval()
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(again(x), ours(x))


def test_a_whole_state_dict_has_its_masks_applied_and_its_ranks_ignored(tmp_path):
    model = theirs()
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    frereg.cleanParams(model)
    ours = import_frereg_(network(nn.Conv2d, nn.ConvTranspose2d), tmp_path / "whole.pt").eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), model.eval()(x), atol=1e-5, rtol=1e-5)
    assert [each.codec.numbers() for each in coded(ours)] == [20, 20, 20, 16]


def test_a_plain_layer_in_a_whole_state_dict_stays_plain(tmp_path):
    torch.manual_seed(1)
    torch.save(nn.Sequential(nn.Conv2d(3, 8, 3), frereg.Conv2d(8, 8, 3)).state_dict(), tmp_path / "mixed.pt")
    ours = import_frereg_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), tmp_path / "mixed.pt")
    assert [each.site for each in coded(ours)] == ["1.weight"]


def test_what_may_be_a_plain_layer_is_asked_about(tmp_path):
    """In a file where everything is sparse, nothing marks the authors' layers."""
    plain = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False))
    torch.save({"0.weight": plain[0].weight.detach().to_sparse()}, tmp_path / "sparse.pt")
    fresh = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False))
    with pytest.raises(ArtifactError, match=r"'0.weight' has no zero behind its 576 coefficients.*where='!0.weight'"):
        import_frereg_(fresh, tmp_path / "sparse.pt")
    assert coded(import_frereg_(fresh, tmp_path / "sparse.pt", where="*"))[0].codec.numbers() == 576


def test_a_linear_layer_is_a_spectrum_of_two_axes(tmp_path):
    """The authors' own Linear cannot be built (a name is missing in 0.1.0), so its checkpoint is made by hand."""
    spectrum = torch.zeros(6, 10)
    spectrum.view(-1)[positions((6, 10), 7)] = torch.randn(7)
    torch.save({"weight": spectrum.to_sparse(), "bias": torch.arange(6.0)}, tmp_path / "linear.pt")
    layer = import_frereg_(nn.Linear(10, 6), tmp_path / "linear.pt")
    columns = frereg._dct.idct(spectrum, norm="ortho")
    dense = frereg._dct.idct(columns.T.contiguous(), norm="ortho").T
    torch.testing.assert_close(layer.weight, dense)
    assert layer.bias.tolist() == list(range(6))
    assert coded(layer)[0].codec.numbers() == 7


@pytest.mark.parametrize("shape", [(4, 4), (8, 3, 3, 3), (5, 1, 7), (9,), (512, 256, 3, 3)])
def test_the_covering_count_is_the_smallest_one(shape):
    for kept in (1, 2, 7, 9):
        spectrum = torch.zeros(shape)
        spectrum.view(-1)[positions(shape, kept)[-1]] = 1.0
        assert covering(spectrum) == kept
    assert covering(torch.zeros(shape)) == 1


ORDINARY = {"0.weight": torch.zeros(4, 3, 3, 3).to_sparse(), "0.bias": torch.zeros(4)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**ORDINARY, "1.weight": torch.zeros(2)}, r"holds '1.weight' \(1 such\), which Sequential does not have"),
        ({"0.weight": ORDINARY["0.weight"]}, r"Sequential needs '0.bias' \(1 such\)"),
        ({**ORDINARY, "0.bias": torch.zeros(5)}, r"'0.bias' is \[5\].*\[4\]"),
        ({**ORDINARY, "0.bias": torch.full((4,), torch.nan)}, "'0.bias' holds numbers that are NaN"),
        (
            {
                **ORDINARY,
                "0.weight": torch.sparse_coo_tensor([[0]] * 4, [1.0], (1 << 20, 1 << 20, 3, 3), check_invariants=True),
            },
            r"'0.weight' is \[1048576, 1048576, 3, 3\]",
        ),
        ({"0.weight": torch.zeros(4, 3, 3, 3), "0.bias": torch.zeros(4)}, "found no spectra"),
        ({**ORDINARY, "epoch": 3}, "'epoch' is a int, not a tensor"),
        ([1, 2], "found a list"),
        ({}, "dict of tensors"),
        (nn.Linear(1, 1), "Nothing of it was executed"),
    ],
    ids=["unknown", "missing", "shape", "nan", "absurd", "dense", "not a tensor", "list", "empty", "pickled module"],
)
def test_a_wrong_checkpoint_is_refused_and_the_model_left_alone(tmp_path, content, message):
    torch.save(content, tmp_path / "wrong.pt")
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ArtifactError, match=message) as raised:
        import_frereg_(model, tmp_path / "wrong.pt")
    assert str(tmp_path / "wrong.pt") in str(raised.value)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"plain text"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "wrong.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match="asked to read a checkpoint"):
        import_frereg_(nn.Linear(1, 1), tmp_path / "wrong.pt")
    with pytest.raises(ArtifactError, match="asked to read a checkpoint"):
        import_frereg_(nn.Linear(1, 1), tmp_path / "absent.pt")


def test_where_that_matches_nothing_is_an_error_of_where(tmp_path):
    torch.save(ORDINARY, tmp_path / "ordinary.pt")
    with pytest.raises(SiteError, match="'stem' matches none"):
        import_frereg_(nn.Sequential(nn.Conv2d(3, 4, 3)), tmp_path / "ordinary.pt", where="stem")


def test_the_published_unet_is_a_file_of_less_than_2000_bytes(tmp_path):
    """33 coefficients in each of 23 tensors; the authors' archive of the same numbers has 4,524 bytes."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in unet().state_dict().items()}
    checkpoint = {}
    for name, shape in shapes.items():
        index = np.stack(np.unravel_index(positions(shape, 33).numpy(), shape))
        values = torch.arange(1.0, 34.0)
        checkpoint[name] = torch.sparse_coo_tensor(torch.from_numpy(index), values, shape, check_invariants=True)
    torch.save(checkpoint, tmp_path / "unet_fr.pt")
    counts = save(import_frereg_(unet(), tmp_path / "unet_fr.pt"), tmp_path / "unet.safetensors")
    assert (counts.payload, counts.plain) == (1518, 0)
    assert counts.total == (tmp_path / "unet.safetensors").stat().st_size <= 2000
