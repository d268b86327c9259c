"""What is saved is what is loaded, up to the written dtype; what does not fit leaves the model alone."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from spectrim.artifact import load_, read, read_structure, save
from spectrim.errors import ArtifactError, UnsupportedError
from spectrim.nn.component import Layer
from spectrim.nn.factored import FactoredConv
from spectrim.surgery.edits import replace_module_
from spectrim.surgery.sites import coded
from tests.artifact.models import Tiny, code_, compressed, fingerprint, fresh, trained

X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def output(model):
    with torch.no_grad():
        return model.eval()(X)


@pytest.mark.parametrize("decode", [True, False])
def test_in_float32_a_loaded_model_computes_exactly_what_the_saved_one_does(tmp_path, decode):
    model = compressed()
    save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    again = load_(fresh(), tmp_path / "model.safetensors", decode=decode)
    assert torch.equal(output(model), output(again))
    assert again.steps.item() == 7
    assert again.seen.tolist() == [True, False, True]
    assert again.back.weight is again.tail.weight


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 0.0)])
def test_in_another_dtype_it_computes_the_same_up_to_rounding(tmp_path, dtype, tolerance):
    model = compressed()
    save(model, tmp_path / "model.safetensors", dtype=dtype)
    again = load_(fresh(), tmp_path / "model.safetensors")
    torch.testing.assert_close(output(again), output(model), atol=tolerance, rtol=tolerance)


def test_decoded_weights_are_ordinary_parameters(tmp_path):
    save(compressed(), tmp_path / "model.safetensors")
    again = load_(fresh(), tmp_path / "model.safetensors")
    assert list(again.state_dict()) == list(fresh().state_dict())
    assert [type(m) for m in again.modules()] == [type(m) for m in fresh().modules()]
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in again.parameters())


def test_what_stays_coded_saves_to_the_same_bytes_again(tmp_path):
    save(compressed(), tmp_path / "one.safetensors")
    again = load_(fresh(), tmp_path / "one.safetensors", decode=False)
    assert {each.site: each.codec.numbers() for each in coded(again)} == {
        "conv1.weight": 20, "conv2.weight": 33, "up.weight": 9, "head.weight": 20,
    }  # fmt: skip
    save(again, tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_what_stays_coded_trains_on(tmp_path):
    save(compressed(), tmp_path / "model.safetensors")
    again = load_(fresh(), tmp_path / "model.safetensors", decode=False)
    again(X).sum().backward()
    assert all(each.code.grad is not None for each in coded(again))


@pytest.mark.parametrize("options", [{}, {"norms": "folded"}, {"dtype": torch.float32}])
def test_saving_leaves_the_model_alone_and_gives_the_same_bytes_twice(tmp_path, options):
    model = compressed()
    before, mode = fingerprint(model), torch.get_rng_state()
    counts = save(model, tmp_path / "one.safetensors", **options)
    save(copy.deepcopy(model), tmp_path / "two.safetensors", **options)
    assert before == fingerprint(model)
    assert torch.equal(mode, torch.get_rng_state())
    content = (tmp_path / "one.safetensors").read_bytes()
    assert content == (tmp_path / "two.safetensors").read_bytes()
    assert counts.total == len(content) == counts.payload + counts.plain + counts.header
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.safetensors", "two.safetensors"]


def test_the_bytes_are_told_apart(tmp_path):
    counts = save(compressed(), tmp_path / "model.safetensors")
    assert counts.payload == 2 * (20 + 33 + 9 + 20)
    floats = (4 * 8) + 8 + (2 * 8) + 4 + 5 + 20  # norm, bias, norm without affine, bias, bias, tied weight once
    assert counts.plain == 2 * floats + 8 * 3 + 3  # counters and steps in int64, three booleans


def test_any_viewer_of_safetensors_opens_a_file(tmp_path):
    save(compressed(), tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == {"I64", "F16", "structure", "BOOL"}
        assert file.metadata()["spectrim"].startswith("1 ")


def test_a_file_that_safetensors_wrote_again_is_still_an_artifact(tmp_path):
    save(compressed(), tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "again.safetensors", metadata | {"format": "pt"})
    assert read_structure(tmp_path / "again.safetensors") == read_structure(tmp_path / "model.safetensors")


def test_the_structure_says_what_the_model_is(tmp_path):
    save(compressed(), tmp_path / "model.safetensors", provenance={"command": "é", "seed": 3})
    structure = read_structure(tmp_path / "model.safetensors")
    first = structure.components[0]
    assert (first.path, first.kind, first.spec) == ("conv1.weight", "spectral", {"shape": [8, 3, 3, 3], "kept": 20})
    assert [(part.dtype, part.length) for part in first.parts] == [("F16", 20)]
    assert structure.ties == {"back.weight": "tail.weight"}
    assert structure.provenance == {"command": "é", "seed": 3}
    assert "passing" not in {tensor.name for tensor in structure.tensors}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, on importing its compiler
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_a_wrapper_around_the_model_does_not_reach_the_file(tmp_path, wrap):
    model = compressed()
    save(model, tmp_path / "bare.safetensors")
    save(wrap(model), tmp_path / "wrapped.safetensors")
    assert (tmp_path / "bare.safetensors").read_bytes() == (tmp_path / "wrapped.safetensors").read_bytes()
    again = wrap(fresh())
    assert load_(again, tmp_path / "bare.safetensors") is again


def test_a_dense_model_is_a_file_too(tmp_path):
    model = trained()
    counts = save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    assert counts.payload == 0
    assert torch.equal(output(model), output(load_(fresh(), tmp_path / "model.safetensors")))


def test_a_model_without_tensors_is_a_file_too(tmp_path):
    save(nn.ReLU(), tmp_path / "model.safetensors")
    load_(nn.ReLU(), tmp_path / "model.safetensors")


@pytest.mark.parametrize("decode", [True, False])
def test_a_model_built_without_numbers_is_filled(tmp_path, decode):
    class Bare(Tiny):
        def __init__(self):
            super().__init__()
            del self.passing

    model = code_(Bare())
    save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    with torch.device("meta"):
        empty = Bare().eval()
    again = load_(empty, tmp_path / "model.safetensors", decode=decode)
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))
    assert again.back.weight is again.tail.weight
    assert torch.equal(output(model), output(again))


def test_a_buffer_that_no_file_holds_cannot_be_filled(tmp_path):
    save(compressed(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        empty = Tiny()
    with pytest.raises(ArtifactError, match="'passing' is a buffer that files do not hold"):
        load_(empty, tmp_path / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_model_keeps_its_own_dtype(tmp_path, dtype):
    save(compressed(), tmp_path / "model.safetensors")
    again = load_(fresh().to(dtype), tmp_path / "model.safetensors")
    assert {p.dtype for p in again.parameters()} == {dtype}
    expected = load_(fresh(), tmp_path / "model.safetensors")
    torch.testing.assert_close(again.conv1.weight.float(), expected.conv1.weight, atol=1e-2, rtol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("decode", [True, False])
def test_the_model_keeps_its_own_device(tmp_path, decode):
    save(compressed().cuda(), tmp_path / "model.safetensors", dtype=torch.float32)
    again = load_(fresh().cuda(), tmp_path / "model.safetensors", decode=decode)
    assert {p.device.type for p in (*again.parameters(), *again.buffers())} == {"cuda"}
    torch.testing.assert_close(again(X.cuda()).cpu(), output(compressed()), atol=1e-4, rtol=1e-4)


# -- dtypes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "dtype", "written"),
    [
        ([1.0, 1e5], torch.float16, "F32"),
        ([1e-8, 2e-9], torch.float16, "F32"),
        ([1.0, 1e-12], torch.float16, "F16"),
        ([1.0, 1e5], torch.bfloat16, "BF16"),
        ([1e300, 1.0], torch.float16, "F64"),
        ([0.0, 0.0], torch.float16, "F16"),
        ([], torch.float16, "F16"),
    ],
)
def test_a_tensor_that_would_lose_more_than_rounding_stays_wide(tmp_path, values, dtype, written):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    model = One()
    save(model, tmp_path / "model.safetensors", dtype=dtype)
    assert read_structure(tmp_path / "model.safetensors").tensors[0].dtype == written
    again = load_(One(), tmp_path / "model.safetensors")
    largest = max(map(abs, values), default=0.0)
    torch.testing.assert_close(again.value, model.value, rtol=0.0, atol=torch.finfo(dtype).eps * largest)


class Whole(nn.Module):
    def __init__(self, values, dtype):
        super().__init__()
        self.register_buffer("values", torch.tensor(values, dtype=dtype))


@pytest.mark.parametrize(
    ("values", "dtype", "written"),
    [
        ([-32768, 32767], torch.int32, "I16"),
        ([0, 32768], torch.int32, "I32"),
        ([-1, 5], torch.int64, "I16"),
        ([[-(2**31), 2**31 - 1]], torch.int64, "I32"),
        ([2**31], torch.int64, "I64"),
        ([3], torch.int16, "I16"),
        ([3], torch.uint8, "U8"),
        ([True], torch.bool, "BOOL"),
        ([], torch.int64, "I16"),
        (3, torch.int64, "I64"),
    ],
)
def test_whole_numbers_take_no_more_bits_than_they_need_and_come_back(tmp_path, values, dtype, written):
    model = Whole(values, dtype)
    save(model, tmp_path / "model.safetensors")
    assert read_structure(tmp_path / "model.safetensors").tensors[0].dtype == written
    again = load_(Whole(torch.zeros_like(model.values).tolist(), dtype), tmp_path / "model.safetensors")
    assert torch.equal(again.values, model.values)
    assert again.values.dtype == dtype


@pytest.mark.parametrize(("wide", "narrow"), [(torch.int32, torch.int16), (torch.int16, torch.uint8)])
def test_whole_numbers_do_not_go_into_fewer_bits_than_the_file_has(tmp_path, wide, narrow):
    save(Whole([2 ** (8 * narrow.itemsize)], wide), tmp_path / "model.safetensors")
    refused(Whole([0], narrow), tmp_path / "model.safetensors", f"'values' is of type {wide} in the file and {narrow}")


def test_a_narrow_model_is_not_widened(tmp_path):
    save(nn.Linear(2, 2).half(), tmp_path / "model.safetensors", dtype=torch.float32)
    assert {each.dtype for each in read_structure(tmp_path / "model.safetensors").tensors} == {"F16"}


# -- norms ------------------------------------------------------------------------------------------------------------


def test_folded_norms_are_two_vectors_and_compute_the_same(tmp_path):
    model = compressed()
    exact = save(model, tmp_path / "exact.safetensors", dtype=torch.float32)
    folded = save(model, tmp_path / "folded.safetensors", dtype=torch.float32, norms="folded")
    assert exact.plain - folded.plain == 4 * 2 * 8 + 8
    again = load_(fresh(), tmp_path / "folded.safetensors")
    torch.testing.assert_close(output(again), output(model), atol=1e-5, rtol=1e-5)
    assert again.bn1.running_mean.abs().max() == 0
    assert not torch.equal(again.bn2.running_mean, torch.zeros(8)), "there is no shift to fold this one into"
    assert again.bn2.num_batches_tracked.item() == 3


def test_a_file_in_which_nothing_was_folded_does_not_say_so(tmp_path):
    save(nn.BatchNorm2d(4, affine=False), tmp_path / "model.safetensors", norms="folded")
    assert read_structure(tmp_path / "model.safetensors").norms == "exact"


def test_a_norm_that_is_shared_between_modules_is_not_folded(tmp_path):
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    model[1].weight = model[0].weight
    save(model, tmp_path / "model.safetensors", norms="folded")
    assert {"0.running_mean", "1.running_mean"} <= {
        t.name for t in read_structure(tmp_path / "model.safetensors").tensors
    }


# -- shared modules and tensors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decode", [True, False])
def test_a_module_under_two_names_is_written_once(tmp_path, decode):
    def twice():
        layer = nn.Linear(6, 6)
        return nn.Sequential(layer, nn.ReLU(), layer, nn.BatchNorm1d(6)).eval()

    model = code_(twice(), {"0.weight": 5})
    counts = save(model, tmp_path / "model.safetensors", dtype=torch.float32, norms="folded")
    assert (counts.payload, counts.plain) == (5 * 4, 6 * 4 + 12 * 4)
    again = load_(twice(), tmp_path / "model.safetensors", decode=decode)
    x = torch.randn(3, 6)
    torch.testing.assert_close(again(x), model(x))
    assert again[0] is again[2]


def test_what_was_tied_fills_a_model_that_ties_it_no_more(tmp_path):
    save(trained(), tmp_path / "model.safetensors", dtype=torch.float32)
    loose = fresh()
    loose.back.weight = nn.Parameter(torch.zeros(4, 5))
    load_(loose, tmp_path / "model.safetensors")
    assert torch.equal(loose.back.weight, loose.tail.weight)
    assert torch.equal(loose.back.weight, trained().tail.weight)


def test_what_was_loose_does_not_fill_a_model_that_ties_it(tmp_path):
    loose = trained()
    loose.back.weight = nn.Parameter(torch.zeros(4, 5))
    save(loose, tmp_path / "model.safetensors")
    refused(fresh(), tmp_path / "model.safetensors", "'tail.weight' is one tensor in the model and several in the file")


# -- layers in the place of others ------------------------------------------------------------------------------------


def factored():
    spec = {
        "in": 8, "out": 8, "core": [3, 2, 3, 3], "bias": True, "norm": "ortho",
        "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1],
    }  # fmt: skip
    layer = FactoredConv.from_spec(spec)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


@pytest.mark.parametrize("meta", [False, True])
def test_a_layer_in_the_place_of_another_is_put_there_again(tmp_path, meta):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)).eval()
    replace_module_(model, model.get_submodule("1"), factored().eval())
    save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    with torch.device("meta" if meta else "cpu"):
        plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)).eval()
    again = load_(plain, tmp_path / "model.safetensors")
    assert isinstance(again[1], FactoredConv)
    assert not again[1].training
    assert torch.equal(output(again), output(model))
    save(again, tmp_path / "again.safetensors", dtype=torch.float32)
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_a_layer_whose_module_the_model_lacks_is_refused(tmp_path):
    model = nn.Sequential(nn.Conv2d(8, 8, 3))
    replace_module_(model, model.get_submodule("0"), factored())
    save(model, tmp_path / "model.safetensors")
    refused(
        nn.Sequential(),
        tmp_path / "model.safetensors",
        "'0' is a spectral-factored-conv layer. Sequential does not have",
    )


def test_a_model_that_is_itself_a_layer_of_ours_is_refused(tmp_path):
    layer = factored()
    assert isinstance(layer, Layer)
    with pytest.raises(UnsupportedError, match=r"Wrap it in nn.Sequential"):
        save(layer, tmp_path / "model.safetensors")


# -- what does not fit ------------------------------------------------------------------------------------------------


def refused(model, path, message, **options):
    before = fingerprint(model)
    with pytest.raises(ArtifactError, match=message) as raised:
        load_(model, path, **options)
    assert str(path) in str(raised.value)
    assert before == fingerprint(model)


@pytest.fixture
def file(tmp_path):
    save(compressed(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_another_architecture_is_named(file):
    other = nn.Sequential(nn.Conv2d(3, 8, 3))
    refused(other, file, r"for another architecture: 19 of its 19 entries do not exist in Sequential, .*'conv1.weight'")


@pytest.mark.parametrize("decode", [True, False])
def test_a_name_too_many_comes_with_the_nearest(file, decode):
    model = fresh()
    model.header = model.head
    del model.head
    refused(
        model, file, r"holds 'head.weight'. Tiny does not have it and 1 more. Nearest: 'header.weight'", decode=decode
    )


def test_a_name_too_few_is_named(file):
    model = fresh()
    model.extra = nn.Linear(2, 2)
    refused(model, file, r"Tiny needs 'extra.weight' and 1 more, which the file does not hold")


def test_a_coded_tensor_of_another_shape_is_named(file):
    model = fresh()
    model.conv1 = nn.Conv2d(3, 16, 3, bias=False)
    refused(model, file, r"'conv1.weight' has the shape \[8, 3, 3, 3\] in the file and \[16, 3, 3, 3\] in the model")


def test_a_plain_tensor_of_another_shape_is_named(file):
    model = fresh()
    model.conv2.bias = nn.Parameter(torch.zeros(9))
    refused(model, file, r"'conv2.bias' has the shape \[8\] in the file and \[9\] in the model")


def test_a_tensor_of_another_type_is_named(file):
    model = fresh()
    model.steps = torch.tensor(1.0)
    refused(model, file, r"'steps' is of type torch.int64 in the file and torch.float32 in the model")


def test_a_coded_tensor_where_the_model_has_integers_is_named(file):
    model = fresh()
    model.head.weight = nn.Parameter(torch.zeros(5, 4, dtype=torch.int64), requires_grad=False)
    refused(model, file, r"'head.weight' is coded in the file, in the model it is of type torch.int64")


def test_a_model_in_which_something_is_coded_already_is_refused(file):
    refused(compressed(), file, r"found 4 components of spectrim in it already \(first: 'conv1")


def test_numbers_too_large_for_the_model_are_named(tmp_path):
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.bias.fill_(1e5)
    save(model, tmp_path / "model.safetensors")
    refused(
        nn.Linear(2, 2).half(), tmp_path / "model.safetensors", r"'bias' has numbers up to 1e\+05, which torch.float16"
    )


def test_what_cannot_be_made_is_undone(file, monkeypatch):
    """Even a fault of ours between the edits leaves the model as it was."""
    from spectrim.surgery.plan import Plan

    def fail(self, model):
        raise MemoryError

    monkeypatch.setattr(Plan, "apply_", fail)
    model = fresh()
    before = fingerprint(model)
    with pytest.raises(MemoryError):
        load_(model, file, decode=False)
    assert before == fingerprint(model)


# -- what cannot be saved ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_not_saved(tmp_path, value):
    model = compressed()
    with torch.no_grad():
        model.bn1.running_var[2] = value
    with pytest.raises(ValueError, match=r"'bn1.running_var' holds 1 numbers that are NaN or infinite"):
        save(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_state_that_is_no_tensor_is_named(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"epoch": 3}

    with pytest.raises(UnsupportedError, match="'_extra_state' is state of type dict"):
        save(Extra(1, 1), tmp_path / "model.safetensors")


def test_a_layer_that_is_not_initialised_is_named(tmp_path):
    with pytest.raises(UnsupportedError, match=r"'weight' is not initialised. Run one batch"):
        save(nn.LazyLinear(2), tmp_path / "model.safetensors")


def test_a_model_without_numbers_is_not_saved(tmp_path):
    with pytest.raises(UnsupportedError, match="'weight' is on the meta device"):
        save(nn.Linear(2, 2, device="meta"), tmp_path / "model.safetensors")


def test_complex_numbers_are_not_saved(tmp_path):
    with pytest.raises(UnsupportedError, match=r"'weight' is a torch.strided tensor of type torch.complex64"):
        save(nn.Linear(2, 2, dtype=torch.complex64), tmp_path / "model.safetensors")


def test_a_codec_among_other_parametrizations_is_named(tmp_path):
    model = code_(nn.Sequential(nn.Linear(4, 4)), {"0.weight": 3})
    nn.utils.parametrize.register_parametrization(model[0], "weight", nn.Identity())
    with pytest.raises(UnsupportedError, match=r"'0.weight' is coded and also parametrized by something else"):
        save(model, tmp_path / "model.safetensors")


def test_parametrizations_of_others_are_saved_as_they_are(tmp_path):
    def normed():
        return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))

    model = normed()
    save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    assert torch.equal(load_(normed(), tmp_path / "model.safetensors")[0].weight, model[0].weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.int8}, "dtype must be one of torch.float16.*, got torch.int8"),
        ({"norms": "half"}, "norms must be 'exact' or 'folded', got 'half'"),
        ({"provenance": {"loss": float("nan")}}, "provenance must be JSON with finite numbers"),
        ({"provenance": {"model": object()}}, "provenance must be JSON"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        save(nn.Linear(1, 1), tmp_path / "model.safetensors", **options)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file_and_no_scraps(tmp_path):
    """The limit on file sizes makes the system refuse in the middle of the write, as a full disk does."""
    code = f"""
import resource, torch, spectrim
from spectrim.artifact import save
path = {str(tmp_path / "model.safetensors")!r}
save(torch.nn.Linear(2, 2), path)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save(torch.nn.Linear(99, 99), path)
except spectrim.ArtifactError as error:
    print(error)
"""
    pytest.importorskip("resource", reason="limits of this kind exist on POSIX only")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "asked to write 20," in run.stdout
    assert "The file that was there is as it was" in run.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    load_(nn.Linear(2, 2), tmp_path / "model.safetensors")


def test_a_folder_or_no_folder_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="is a folder"):
        save(nn.Linear(2, 2), tmp_path)
    with pytest.raises(ArtifactError, match=r"asked to write .* bytes to .*absent.*No such file or directory"):
        save(nn.Linear(2, 2), tmp_path / "absent" / "model.safetensors")


def test_a_link_stays_a_link_and_modes_follow_the_umask(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "model.safetensors")
    before = os.umask(0o027)
    try:
        save(nn.Linear(2, 2), tmp_path / "link")
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_loaded_model_does_not_hold_on_to_the_file(tmp_path):
    save(nn.Linear(2, 2), tmp_path / "model.safetensors", dtype=torch.float32)
    model = load_(nn.Linear(2, 2, device="meta"), tmp_path / "model.safetensors")
    assert model.weight.untyped_storage().nbytes() == 16
    assert read(tmp_path / "model.safetensors").tensors["weight"].tolist() == model.weight.tolist()
