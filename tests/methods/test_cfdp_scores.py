"""The scores against numbers computed from the paper and by the authors' code, and against loops of scipy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from spectrim.methods.cfdp_scores import SCORES, frequency_score, official_score
from spectrim.transforms.blocks import block_dctn

ROW, COLUMN = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
MAPS = {
    "ramp": (8 * ROW + COLUMN) / 63,
    "checker": ((ROW + COLUMN) % 2).float(),
    "impulse": 8.0 * ((ROW == 0) & (COLUMN == 0)),
    "const": torch.full((8, 8), 0.5),
    "oddodd": ((ROW % 2 == 1) & (COLUMN % 2 == 1)).float(),
    "cols": (COLUMN % 4 == 0).float(),
}
RAMP4 = torch.arange(16.0).reshape(4, 4)


def maps(*names):
    return torch.stack([MAPS[name] for name in names])[None].float()


def official_by_hand(image, weight=0.03):
    """The released loop: 2x2 patches, orthonormal transform, Gaussian of 10 afterwards, leftovers zero."""
    height, width = image.shape
    spectrum = np.zeros_like(image)
    for i in range(height // 2):
        for j in range(width // 2):
            patch = image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            spectrum[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = gaussian_filter(dctn(patch, norm="ortho"), sigma=10)
    share = (spectrum > spectrum.mean()).sum() / spectrum.size
    return share * np.linalg.norm(spectrum) + weight * np.linalg.norm(image)


@pytest.mark.parametrize(
    ("name", "share", "spectral", "spatial", "total"),
    [
        ("ramp", 0.0625, 18.263655, 4.637095, 1.280591),
        ("checker", 0.0625, 17.888544, 5.656854, 1.287740),
        ("impulse", 0.25, 20.0, 8.0, 5.240000),
        ("const", 0.0625, 16.0, 4.0, 1.120000),
        ("oddodd", 0.3125, 12.0, 4.0, 3.870000),
        ("cols", 0.25, 12.649111, 4.0, 3.282278),
    ],
)
def test_equation_6_without_gaussian(name, share, spectral, spatial, total):
    x = maps(name)
    spectrum = block_dctn(x, 4, scale="none")
    assert float(torch.linalg.vector_norm(spectrum)) == pytest.approx(spectral, abs=1e-5)
    assert float(torch.linalg.vector_norm(x)) == pytest.approx(spatial, abs=1e-5)
    assert float(frequency_score(x, scale="none", weight=0.0)) == pytest.approx(share * spectral, abs=1e-5)
    assert float(frequency_score(x, scale="none")) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "share", "total"),
    [  # the checker's coefficients tie with their mean, up to rounding
        ("ramp", 0.0625, 0.428931),
        ("impulse", 0.25, 2.240000),
        ("const", 0.0625, 0.370000),
        ("oddodd", 0.3125, 1.370000),
        ("cols", 0.25, 1.120000),
    ],
)
def test_the_orthonormal_score(name, share, total):
    x = maps(name)
    assert float(SCORES["ortho"](x, 10.0, 0.03)) == pytest.approx(total, abs=1e-5)
    energy = float(torch.linalg.vector_norm(x))
    assert float(frequency_score(x, weight=0.0)) == pytest.approx(share * energy, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "share", "spectral", "total"),
    [
        ("ramp", 0.0625, 18.130301, 1.272257),
        ("checker", 0.0625, 16.013570, 1.170554),
        ("impulse", 0.125, 12.028818, 1.743602),
        ("const", 0.0625, 16.0, 1.120000),
        ("oddodd", 0.125, 8.329560, 1.161195),
        ("cols", 0.1875, 9.809717, 1.959322),
    ],
)
def test_equation_6_with_a_gaussian_of_one_pixel(name, share, spectral, total):
    x = maps(name)
    spectrum = block_dctn(x, 4, scale="none", sigma=1.0)
    assert float(torch.linalg.vector_norm(spectrum)) == pytest.approx(spectral, abs=1e-5)
    assert float(frequency_score(x, scale="none", sigma=1.0, weight=0.0)) == pytest.approx(share * spectral, abs=1e-5)
    assert float(SCORES["paper"](x, 1.0, 0.03)) == pytest.approx(total, abs=1e-5)


OFFICIAL = {"ramp": 1.169759, "checker": 0.169729, "impulse": 0.74, "const": 0.62, "oddodd": 0.12, "cols": 1.534214}


@pytest.mark.parametrize("name", [name for name in OFFICIAL if name != "const"])  # a constant map ties
def test_the_released_score(name):
    assert float(official_score(maps(name))) == pytest.approx(OFFICIAL[name], abs=3e-5)  # the Gaussian's residue
    assert official_by_hand(MAPS[name].double().numpy()) == pytest.approx(OFFICIAL[name], abs=1e-6)


def test_the_4x4_ramp():
    spectrum = block_dctn(RAMP4, 4, scale="none")
    expected = torch.zeros(4, 4)
    expected[0] = torch.tensor([120, -12.617288, 0, -0.896683])
    expected[:, 0] = torch.tensor([120, -50.469152, 0, -3.586732])
    torch.testing.assert_close(spectrum, expected, atol=1e-4, rtol=0)
    x = RAMP4[None, None]
    assert float(torch.linalg.vector_norm(spectrum)) == pytest.approx(130.843418, abs=1e-4)
    assert float(frequency_score(x, scale="none", weight=0.0)) == pytest.approx(8.177714, abs=1e-5)
    assert float(torch.linalg.vector_norm(x)) == pytest.approx(35.213634, abs=1e-5)
    assert float(frequency_score(x, scale="none")) == pytest.approx(9.234123, abs=1e-5)
    assert float(frequency_score(x)) == pytest.approx(3.257261, abs=1e-5)
    assert float(frequency_score(x, block=2)) == pytest.approx(9.859817, abs=1e-5)
    rows = torch.tensor([[5.0, -1, 9, -1], [-4, 0, -4, 0], [21, -1, 25, -1], [-4, 0, -4, 0]])
    torch.testing.assert_close(block_dctn(RAMP4, 2), rows, atol=1e-5, rtol=0)
    assert float(official_score(x)) == pytest.approx(7.537150, abs=1e-5)


def test_the_rankings_differ():
    x = maps(*MAPS)

    def order(score):
        return [list(MAPS)[k] for k in score[0].argsort(descending=True)]

    by_table = sorted(OFFICIAL, key=OFFICIAL.get, reverse=True)
    assert by_table == ["cols", "ramp", "impulse", "const", "checker", "oddodd"]
    names = [name for name in by_table if name != "const"]
    assert [name for name in order(official_score(x)) if name != "const"] == names
    equation_6 = ["impulse", "oddodd", "cols", "checker", "ramp", "const"]
    assert order(frequency_score(x, scale="none")) == equation_6


@pytest.mark.parametrize("name", list(SCORES))
def test_a_map_of_zeros_scores_zero(name):
    assert float(SCORES[name](torch.zeros(1, 1, 6, 6), 10.0, 0.03)) == 0


def test_a_map_of_one_pixel_has_no_released_frequency_part():
    assert float(official_score(torch.full((1, 1, 1, 1), 7.0))) == pytest.approx(0.03 * 7)


@pytest.mark.parametrize("side", [3, 7])
def test_the_released_score_does_not_see_the_last_row_and_column_of_odd_maps(side):
    x = torch.rand(1, 1, side, side)
    cut = x.clone()
    cut[..., -1, :] = 0
    cut[..., -1] = 0
    torch.testing.assert_close(official_score(x, 0.0), official_score(cut, 0.0))
    assert float(official_score(x)) == pytest.approx(official_by_hand(x[0, 0].double().numpy()), rel=1e-5)


@given(st.integers(3, 9), st.integers(3, 9), st.integers(0, 20))
def test_the_closed_form_is_the_released_loop(height, width, seed):
    """Up to the Gaussian's residue of 4e-6; a map of one patch alone ties with its mean, and that residue decides."""
    image = np.random.default_rng(seed).normal(size=(height, width))
    assert float(official_score(torch.from_numpy(image)[None, None])) == pytest.approx(
        official_by_hand(image), rel=1e-4, abs=1e-4 * math.sqrt(height * width)
    )


@given(st.integers(1, 17), st.integers(1, 17))
def test_parseval_makes_the_orthonormal_score_a_share_of_the_energy(height, width):
    x = torch.rand(2, 3, height, width, dtype=torch.float64)
    spectrum = block_dctn(x, 4)
    share = (spectrum >= spectrum.mean((-2, -1), keepdim=True)).double().mean((-2, -1))
    expected = (share + 0.03) * torch.linalg.vector_norm(x, dim=(-2, -1))
    torch.testing.assert_close(frequency_score(x), expected)


@pytest.mark.parametrize("name", list(SCORES))
def test_a_score_belongs_to_one_map_alone(name):
    x = torch.rand(3, 4, 9, 6)
    whole = SCORES[name](x, 10.0, 0.03)
    assert whole.shape == (3, 4)
    assert whole.dtype is torch.float64
    torch.testing.assert_close(whole[1, 2], SCORES[name](x[1:2, 2:3], 10.0, 0.03)[0, 0])


def test_the_paper_with_its_gaussian_of_ten_sees_the_patches_means():
    """Its default then says, up to 1.5 %, how unevenly the means of the patches are spread; see docs/methods/cfdp.md."""
    x = torch.rand(1, 8, 16, 16, dtype=torch.float64)
    means = torch.nn.functional.avg_pool2d(x, 4)
    spectrum = block_dctn(x, 4, scale="none", sigma=10.0)
    torch.testing.assert_close(spectrum[..., ::4, ::4], 16 * means, rtol=1e-2, atol=0)
