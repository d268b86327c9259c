"""The flat form computes what the masked one does, and what is between a writer and its readers may stay a spectrum."""

import pytest
import torch
from torch import nn

from spectrim.measure import macs
from spectrim.nn import BandedPointwiseConv2d, FlatBandsConv2d, GroupedBandsConv2d
from spectrim.nn.blockwise import Geometry


def pair(block=(4, 4), stride=(1, 1), order="zigzag", inside=6, out=5, *, bias=True, low=1):
    torch.manual_seed(0)
    frequencies = block[0] * block[1]
    kept = torch.randint(low, frequencies + 1, (inside,)).tolist()
    masked = BandedPointwiseConv2d(inside, out, block, kept=kept, stride=stride, order=order, bias=bias).double()
    for parameter in masked.parameters():
        torch.nn.init.normal_(parameter)
    flat = FlatBandsConv2d.of(masked.geometry, masked.weight, masked.bias, masked.kept.long())
    return masked, flat


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (7, 9), (1, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
@pytest.mark.parametrize("order", ["zigzag", "radial", "square"])
def test_it_computes_what_the_masked_form_does(size, stride, order):
    masked, flat = pair(stride=stride, order=order)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    torch.testing.assert_close(flat(x), masked(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
def test_a_chain_computes_what_its_layers_do_one_by_one(bias):
    first, _ = pair(inside=6, out=4, bias=bias)
    second, _ = pair(inside=6, out=4, bias=bias)
    readers = [pair(inside=4, out=7, bias=bias, low=low)[0] for low in (1, 9)]
    top = max(int(each.kept.max()) for each in readers)
    one, two = (FlatBandsConv2d.of(w.geometry, w.weight, w.bias, w.kept.long(), writes=top) for w in (first, second))
    x, y = (torch.randn(2, 6, 8, 12, dtype=torch.float64) for _ in range(2))
    for reader in readers:
        chained = FlatBandsConv2d.of(reader.geometry, reader.weight, reader.bias, reader.kept.long(), reads="spectra")
        torch.testing.assert_close(chained(one(x) + two(y)), reader(first(x) + second(y)), rtol=1e-10, atol=1e-10)
    assert one(x).shape == (2, 4, 2, 3, top)


def test_a_spectrum_of_fewer_coefficients_than_are_handed_on_ends_in_zeros():
    _, flat = pair(inside=3)
    low = FlatBandsConv2d.of(flat.geometry, torch.ones(5, 3, 1, 1), None, torch.tensor([2, 1, 2]), writes=9)
    spectrum = low(torch.rand(1, 3, 4, 4))
    assert spectrum.shape[-1] == 9
    assert not spectrum[..., 2:].any()
    assert spectrum[..., 1].any()


def test_the_spectrum_of_a_map_that_blocks_do_not_divide_is_not_handed_on():
    with pytest.raises(ValueError, match=r"blocks of \(2, 2\).*map of \(3, 4\)"):
        FlatBandsConv2d(Geometry(3, 4, (2, 2)), [(3, 4)], writes=2)(torch.zeros(1, 3, 3, 4))


def test_it_goes_through_its_spec_and_its_state():
    _, flat = pair()
    again = FlatBandsConv2d.from_spec(flat.spec()).double()
    again.load_state_dict(flat.state_dict())
    x = torch.randn(1, 6, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(again(x), flat(x))
    assert GroupedBandsConv2d.summary(flat.spec()) == FlatBandsConv2d.summary(flat.spec())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [[3, 5]]}, "at most 4"),
        ({"groups": [[2, 4]]}, "3 channels in all"),
        ({"groups": 3}, "list of pairs"),
        ({"reads": "files"}, "reads must be"),
        ({"writes": 5}, "writes must be"),
        ({"writes": True}, "writes must be"),
        ({"reads": "spectra", "stride": [2, 2]}, "without a stride"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(change, message):
    spec = FlatBandsConv2d(Geometry(3, 4, (2, 2)), [(3, 2)]).spec()
    with pytest.raises(ValueError, match=message):
        FlatBandsConv2d.from_spec(spec | change)
    with pytest.raises(ValueError, match="needs"):
        FlatBandsConv2d.from_spec({name: value for name, value in spec.items() if name != "writes"})


def test_sorted_channels_are_not_gathered_in_an_exported_graph():
    def operators(kept):
        flat = FlatBandsConv2d.of(Geometry(3, 4, (4, 4)), torch.rand(4, 3, 1, 1), None, torch.tensor(kept))
        program = torch.export.export(flat.eval(), (torch.rand(1, 3, 4, 4),))
        return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}

    assert not any("index" in name or "gather" in name for name in operators([5, 3, 3]))
    assert any("index_select" in name for name in operators([3, 5, 3]))


@pytest.mark.parametrize("shape", [(1, 6, 8, 8), (3, 6, 7, 9)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_it_multiplies_what_the_other_forms_do(shape, stride):
    masked, flat = pair(stride=stride)
    assert flat.multiplications(shape) == masked.multiplications(shape) == masked.finalized().multiplications(shape)
    assert macs(nn.Sequential(flat), torch.zeros(shape, dtype=torch.float64)) == flat.multiplications(shape)


def test_with_channels_last_it_multiplies_what_the_other_forms_do():
    geometry = Geometry(3, 5, (2, 2), last=True)
    flat = FlatBandsConv2d(geometry, [(1, 4), (2, 1)])
    assert flat.multiplications((2, 4, 6, 3)) == GroupedBandsConv2d(geometry, [(1, 4), (2, 1)]).multiplications(
        (2, 4, 6, 3)
    )


def test_a_chain_multiplies_what_its_layers_do_without_the_transforms_between_them():
    writer, _ = pair(inside=6, out=4)
    reader, _ = pair(inside=4, out=7)
    kept, images, positions = int(reader.kept.max()), 2, 64
    low = writer.kept.long().clamp(max=kept)
    one = FlatBandsConv2d.of(writer.geometry, writer.weight, writer.bias, writer.kept.long(), writes=kept)
    two = FlatBandsConv2d.of(reader.geometry, reader.weight, reader.bias, reader.kept.long(), reads="spectra")
    chain, x = nn.Sequential(one, two), torch.zeros(images, 6, 8, 8, dtype=torch.float64)
    there, back = int(low.clamp(max=8).sum()), min(kept, 8) * 7
    products = positions // 16 * int(low.sum()) * 4, positions // 16 * int(reader.kept.sum()) * 7
    assert one.multiplications(x.shape) == images * (products[0] + positions * there)
    assert macs(chain, x) == images * (sum(products) + positions * (there + back))
    assert macs(chain, x) < macs(nn.Sequential(writer, reader), x)
