"""Names become networks that fit the data."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import spectrim
from spectrim.errors import ArtifactError, SiteError, UnsupportedError
from spectrim.training.models import Fit, build, channels_of, check_output, example_for
from spectrim.training.setting import fit_for, preprocessing
from spectrim.training.sources import open_source
from spectrim.training.weights import is_artifact, load_file_, load_weights_, read_weights
from tests.training.tiny import Tiny, tiny

FIT = Fit(channels=1, size=8, num_classes=4)


def test_a_name_of_the_zoo_is_built_for_the_data():
    model = build("resnet20", Fit(channels=1, size=8, num_classes=4))
    assert model(torch.randn(1, 1, 8, 8)).shape == (1, 4)


def test_a_function_gets_what_it_has_parameters_for():
    model = build("tests.training.tiny:tiny", FIT)
    assert isinstance(model, Tiny)
    assert model.fc.out_features == 4


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_libraries_are_asked_for_the_number_of_classes(name):
    library = name.partition(":")[0]
    pytest.importorskip(library)
    model = build(name, Fit(channels=3, size=64, num_classes=4)).eval()
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize("name", ["torchvision:vit_b_16", "timm:test_vit"])
def test_transformers_are_told_the_size_of_the_images(name):
    pytest.importorskip(name.partition(":")[0])
    with torch.device("meta"):
        model = build(name, Fit(channels=3, size=64, num_classes=4)).eval()
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("lenet", SiteError, "Did you mean 'lenet5'"),
        ("abcdefgh", SiteError, "The zoo has lenet5, resnet20"),
        ("timm:resnet180", SiteError, "in timm. Did you mean 'resnet18"),
        ("torchvision:resnet180", SiteError, "in torchvision. Did you mean 'resnet18'"),
        ("no_such_module:f", SiteError, "there is no module 'no_such_module'"),
        ("tests.training.tiny:tine", SiteError, "has no function 'tine'. It has tiny"),
        ("tests.training.tiny:no_module", UnsupportedError, "returned int; a torch.nn.Module was expected"),
        ("json:dumps", UnsupportedError, "json:dumps could not be built"),
    ],
)
def test_a_name_that_leads_nowhere_gets_a_hint(name, error, message):
    with pytest.raises(error, match=message):
        build(name, Fit(channels=3, size=8, num_classes=4))


def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnsupportedError, match=r"needs the package 'timm'.*pip install 'spectrim\[vision\]'"):
        build("timm:resnet18")


def test_grey_images_are_repeated_for_a_network_that_wants_colour():
    source = open_source("digits", image_size=32)
    network = build("resnet20", Fit(channels=3, num_classes=10))
    prepare = preprocessing(network, source)
    assert network(prepare(source.test.batch(torch.arange(2))[0])).shape == (2, 10)
    assert channels_of(nn.Linear(2, 2), offered=1) == 1


def test_what_a_network_is_for_comes_from_the_data_or_from_numbers():
    assert fit_for("digits") == Fit(channels=1, size=28, num_classes=10)
    assert fit_for("digits", num_classes=3, image_size=16) == Fit(channels=1, size=16, num_classes=3)
    assert fit_for(None) == Fit()


def test_examples_have_the_size_that_networks_expect():
    assert example_for("resnet20", build("resnet20"), Fit(), 2).shape == (2, 3, 32, 32)
    assert example_for("m:f", nn.Conv2d(4, 2, 1), Fit()).shape == (1, 4, 224, 224)


def test_checking_the_output_leaves_the_mode_alone():
    model = tiny()
    check_output("tiny", model, torch.randn(2, 1, 8, 8), torch.zeros(2), 10)
    assert model.training
    with pytest.raises(UnsupportedError, match="cannot run on images of 3x8x8"):
        check_output("tiny", model, torch.randn(2, 3, 8, 8), torch.zeros(2), 10)
    assert model.training


# -- weights ----------------------------------------------------------------------------------------------------------


def filled(value):
    model = tiny()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model


@pytest.mark.parametrize("form", ["safetensors", "pt", "wrapped", "parallel", "artifact"])
def test_every_usual_form_of_weights_is_read(tmp_path, form):
    state, path = filled(2).state_dict(), tmp_path / f"w.{form}"
    if form == "safetensors":
        save_file(state, path)
    elif form == "artifact":
        spectrim.save(filled(2), path)
    else:
        wrapped = {"pt": state, "wrapped": {"state_dict": state, "epoch": 3}}
        torch.save(wrapped.get(form, {f"module.{name}": tensor for name, tensor in state.items()}), path)
    model = load_file_(tiny(), path)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert is_artifact(path) == (form == "artifact")


def test_a_counter_of_batches_may_be_missing():
    state = {name: tensor for name, tensor in tiny().state_dict().items() if "num_batches" not in name}
    load_weights_(tiny(), state, origin="here")


class Evil:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "neither a safetensors file nor a state dict"),
        ([1, 2], "holds no dictionary of named tensors"),
        ({"a": 1}, "holds no dictionary of named tensors"),
        ({}, "holds no dictionary of named tensors"),
        (None, "neither a safetensors file nor a state dict"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, capsys, content, message):
    path = tmp_path / "w.pt"
    if content is None:
        path.write_bytes(b"PK no zip at all")
    else:
        torch.save(content, path)
    with pytest.raises(ArtifactError, match=message):
        read_weights(path)
    assert capsys.readouterr().out == ""


def test_weights_of_another_network_are_named_by_their_keys():
    state = tiny(num_classes=7).state_dict()
    state["head.weight"] = state.pop("conv.weight")
    model = filled(1)
    with pytest.raises(ArtifactError) as caught:
        load_weights_(model, state, origin="w.pt")
    assert str(caught.value) == (
        "w.pt does not fit Tiny: it lacks conv.weight; it has beside what the network has head.weight; it has in "
        "another shape fc.weight (7, 96) for (10, 96), fc.bias (7,) for (10,)."
    )
    assert all(bool((tensor == 1).all()) for tensor in model.state_dict().values())


@pytest.mark.skipif("SPECTRIM_DATA" not in os.environ, reason="needs the files of SPECTRIM_DATA")
def test_the_published_resnet_is_read():
    load_file_(build("resnet20"), Path(os.environ["SPECTRIM_DATA"]) / "weights" / "cifar10-resnet20.safetensors")
