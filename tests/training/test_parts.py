"""The small parts of the loop: recipes, order, augmentation, optimizer, checkpoints, progress."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import spectrim
from spectrim.errors import ArtifactError, SpectrimError
from spectrim.training.augmentation import augmented
from spectrim.training.average import Average
from spectrim.training.checkpoint import Checkpoint, optimizer_state, restore_optimizer_
from spectrim.training.job import Job
from spectrim.training.loop import Phase
from spectrim.training.optimizer import check_optimizer, optimizer_for
from spectrim.training.progress import OnConsole, Silent
from spectrim.training.randomness import deterministic, mixed, seed_everything, shuffled
from spectrim.training.recipe import Recipe
from spectrim.training.recipes import CARDS, recipes_for
from spectrim.training.source import Preprocessing
from spectrim.training.sources import open_source
from spectrim.zoo import ZOO
from tests.training.tiny import tiny

RECIPE = Recipe(epochs=2, batch_size=100, lr=0.1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# -- recipes ----------------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_then_falls_to_nearly_nothing():
    rates = [RECIPE.rate(step, 100) for step in range(100)]
    assert rates[4] == max(rates) == 0.1
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 1e-4


def test_a_learning_rate_may_stay():
    assert {replace(RECIPE, decay="none", warmup=0.0).rate(step, 10) for step in range(10)} == {0.1}


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_the_schedules_arrive_before_the_end_and_never_return(steps):
    progress = [RECIPE.progress(step, steps) for step in range(steps)]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert all(0 < p <= 1 for p in progress)


@pytest.mark.parametrize("name", [*ZOO, "timm:vit_tiny", "package:function"])
def test_every_network_has_a_card(name):
    card = recipes_for(name, "frequency-regularization")
    assert card.dense.epochs > 0
    assert card.compressed.weight_decay == 0.0  # decay would pull on kept coefficients alone


def test_the_cifar_cards_fall_at_the_epochs_of_the_releases():
    for name, epochs, milestones in (("official", 500, [50, 100, 200, 300, 400]), ("hrankplus", 150, [50, 100])):
        card = CARDS[name]
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
        theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=milestones, gamma=0.1)
        assert card.epochs == epochs
        for epoch in range(epochs):
            steps = range(3 * epoch, 3 * epoch + 3)
            assert [card.rate(step, 3 * epochs) for step in steps] == pytest.approx(theirs.get_last_lr() * 3)
            optimizer.step()
            theirs.step()


def test_the_imagenet_cards_are_the_curves_of_the_releases():
    per_epoch = 7
    for step in range(90 * per_epoch):
        epoch, place = divmod(step, per_epoch)
        warm = min(1.0, (1 + place + epoch * per_epoch) / (5 * per_epoch))
        by_steps = 0.1 * warm * 0.1 ** (epoch // 30 + (epoch >= 80))
        assert CARDS["imagenet"].rate(step, 90 * per_epoch) == pytest.approx(by_steps)
        if place == 0 and epoch >= 5:  # ours falls at every step, theirs at every epoch
            by_cosine = 0.05 * (1 + np.cos(np.pi * (epoch - 5) / 85))
            assert CARDS["imagenet-cosine"].rate(step, 90 * per_epoch) == pytest.approx(by_cosine, abs=1e-9)


def test_milestones_move_along_with_fewer_epochs():
    job = Job(model="resnet56", data="digits", method="cfdp", recipe="official", epochs=10, lr=1.0)
    rates = [job.recipes().compressed.rate(step, 100) for step in range(100)]
    assert [step for step in range(1, 100) if rates[step] < rates[step - 1]] == [10, 20, 40, 60, 80]


def test_what_is_asked_for_goes_over_the_card():
    asked = {"lr": 0.5, "weight_decay": 0.25, "label_smoothing": 0.125, "ema": 0.75, "epochs": 3, "batch_size": 8}
    found = Job(model="resnet56", data="digits", method="cfdp", recipe="hrankplus", **asked).recipes().compressed
    assert {name: getattr(found, name) for name in asked} == asked
    assert found == replace(CARDS["hrankplus"], **asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_decay": -1.0}, "weight decay must be at least 0"),
        ({"label_smoothing": 1.0}, r"label smoothing must lie in \[0, 1\)"),
        ({"ema": 1.0}, r"moving average must lie in \(0, 1\), got 1.0. 0.999 is common"),
        ({"decay": "step"}, "milestones are shares of the steps"),
        ({"milestones": (0.5,)}, "milestones are shares of the steps"),
        ({"decay": "step", "milestones": (50.0,)}, "milestones are shares of the steps"),
    ],
)
def test_a_recipe_refuses_what_is_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **changes)


def test_an_unknown_recipe_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no recipe 'long'\. There are short, short-adamw, official"):
        Job(model="lenet5", data="digits", method="cfdp", recipe="long")


def test_a_job_says_everything_its_artifact_depends_on():
    one = Job(model="lenet5", data="digits", method="frequency-regularization")
    for changes in (
        {"seed": 1},
        {"lr": 0.5},
        {"epochs": 3},
        {"dtype": "float32"},
        {"where": ("a",)},
        {"image_size": 9},
        {"recipe": "official"},
        {"ema": 0.9},
    ):
        assert replace(one, **changes).to_json() != one.to_json()


# -- order ------------------------------------------------------------------------------------------------------------


def phase(**changes):
    source = open_source("digits", image_size=8)
    prepare = Preprocessing((0.0,), (1.0,), 1)
    return Phase(number=0, recipe=replace(RECIPE, **changes), source=source, prepare=prepare, seed=5)


def test_an_epoch_sees_every_image_at_most_once_and_the_next_in_another_order():
    this = phase()
    epochs = [torch.cat([this.rows(e * 14 + step) for step in range(this.steps_per_epoch)]) for e in range(2)]
    assert [len(set(rows.tolist())) for rows in epochs] == [1400, 1400]
    assert not torch.equal(*epochs)
    assert torch.equal(this.rows(3), phase().rows(3))


def test_a_batch_larger_than_the_data_is_all_of_it():
    assert phase(batch_size=10_000).steps_per_epoch == 1


def test_mixing_tells_numbers_and_their_order_apart():
    assert len({mixed(*pair) for pair in [(0, 0), (0, 1), (1, 0), (1, 1), (0,), (0, 0, 0)]}) == 6
    assert not torch.equal(shuffled(50, 1, 2), shuffled(50, 2, 1))


def test_seeding_sets_every_generator():
    def draw():
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    seed_everything(1, 2)
    first = draw()
    seed_everything(1, 2)
    assert draw() == first
    seed_everything(2, 1)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_deterministic_algorithms_are_put_back():
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


# -- augmentation -----------------------------------------------------------------------------------------------------


def test_shifted_images_are_the_images_moved():
    images = torch.randint(1, 255, (16, 3, 28, 28), generator=generator()).byte()
    moved, labels = augmented(images, torch.arange(16), "shift", generator=generator())
    assert torch.equal(labels, torch.arange(16))
    padded = nn.functional.pad(images, (2,) * 4)
    windows = padded.unfold(2, 28, 1).unfold(3, 28, 1).permute(0, 2, 3, 1, 4, 5)
    for image, places in zip(moved, windows, strict=True):
        assert any(torch.equal(image, places[y, x]) for y in range(5) for x in range(5))


def test_about_half_of_the_images_are_mirrored():
    ramp = torch.arange(32).expand(400, 1, 32, 32).byte()
    moved, _ = augmented(ramp, torch.zeros(400), "crop-flip", generator=generator())
    falling = (moved[:, 0, 16, 20] < moved[:, 0, 16, 12]).float().mean()
    assert 0.4 < falling < 0.6


def test_labels_of_pixels_move_with_their_pixels():
    images = torch.randint(0, 255, (8, 1, 16, 16), generator=generator()).byte()
    moved, labels = augmented(images, images[:, 0].long(), "crop-flip", generator=generator())
    assert torch.equal(moved[:, 0].long(), labels)
    assert not torch.equal(moved, images)
    blocks = torch.randint(0, 2, (8, 1, 4, 4), generator=generator()).byte().mul(200).repeat_interleave(8, 2)
    blocks = blocks.repeat_interleave(8, 3)
    moved, labels = augmented(blocks, blocks[:, 0].long(), "resized-crop", generator=generator())
    assert set(labels.unique().tolist()) == {0, 200}
    assert ((moved[:, 0] > 100) == (labels > 100)).float().mean() > 0.99
    assert not torch.equal(moved, blocks)


def test_resized_crops_are_windows_of_the_areas_and_aspects_of_imagenet():
    across, down = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="xy")
    images = torch.stack([across, down]).mul(4).byte().expand(2000, 2, 64, 64)
    moved, _ = augmented(images, torch.zeros(2000), "resized-crop", generator=generator())
    assert moved.shape == images.shape
    assert moved.dtype == torch.uint8
    seen = moved.float() / 4
    widths = (seen[:, 0, 32, 60] - seen[:, 0, 32, 4]) / 56  # of the image; negative where mirrored
    heights = (seen[:, 1, 60, 32] - seen[:, 1, 4, 32]) / 56
    area, aspect = widths.abs() * heights, widths.abs() / heights
    assert 0.07 < area.min() < 0.12
    assert area.max() > 0.9
    assert 0.45 < area.mean() < 0.55
    assert 0.7 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 1.45
    assert 0.45 < (widths < 0).float().mean() < 0.55
    left = torch.minimum(seen[:, 0, 32, 0], seen[:, 0, 32, 63])
    room = 64 * (1 - widths.abs())
    assert 0.45 < (left / room)[room > 16].mean() < 0.55  # anywhere in the image


def test_none_leaves_images_alone():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    assert augmented(images, images, "none", generator=generator())[0] is images


# -- optimizer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_optimizer_trains_everything_and_decays_weights_alone(kind):
    model = tiny()
    optimizer = optimizer_for(model, replace(RECIPE, optimizer=kind, weight_decay=0.1))
    check_optimizer(model, optimizer)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(model.conv.weight)] == 0.1
    assert decay[id(model.conv.bias)] == decay[id(model.norm.weight)] == 0.0


def test_the_releases_decay_everything_by_plain_momentum():
    model = tiny()
    optimizer = optimizer_for(model, CARDS["official"])
    check_optimizer(model, optimizer)
    assert {(group["weight_decay"], group["nesterov"]) for group in optimizer.param_groups} == {(5e-3, False)}


def test_an_optimizer_from_before_the_compression_is_noticed():
    model = tiny()
    optimizer = torch.optim.SGD(list(model.parameters()))
    check_optimizer(model, optimizer)
    spectrim.compress_(model, spectrim.FrequencyRegularization(keep=0.5))
    with pytest.raises(SpectrimError, match=r"holds 2 tensors that are not parameters.*Build the optimizer after"):
        check_optimizer(model, optimizer)


def test_an_optimizer_that_misses_a_parameter_is_noticed():
    model = tiny()
    with pytest.raises(SpectrimError, match=r"lacks 5 that it has \(first: 'conv\.bias'\)"):
        check_optimizer(model, torch.optim.SGD([model.conv.weight]))


def test_frozen_parameters_may_be_left_out_or_held():
    model = tiny()
    model.conv.weight.requires_grad_(requires_grad=False)
    check_optimizer(model, optimizer_for(model, RECIPE))
    check_optimizer(model, torch.optim.SGD(model.parameters()))


# -- moving average ---------------------------------------------------------------------------------------------------


def test_the_average_is_torchs_and_counts_what_is_whole():
    model = tiny().train()
    average = Average(model, 0.5)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    theirs.update_parameters(model)
    for number in range(9, 14):  # from the eighth step on, the decay is a half
        model(torch.rand(8, 1, 8, 8, generator=generator(number)))
        nn.init.normal_(model.fc.weight, generator=generator(number))
        average.update(model, number)
        theirs.update_parameters(model)
    found = theirs.module.state_dict()
    for name, value in average.tensors.items():
        if value.is_floating_point():
            assert torch.allclose(value, found[name], atol=1e-7), name
    assert average.tensors["norm.num_batches_tracked"] == 5


def test_the_average_follows_codes_that_shrink():
    model = spectrim.compress_(tiny(), spectrim.FrequencyRegularization(keep=0.05))
    average = Average(model, 0.9)
    for number in range(1, 9):
        spectrim.anneal_(model, number / 8)
        average.update(model, number)
    with average.in_place_of(model):
        assert model.fc.parametrizations.weight[0].count == 48
        inside = model.eval()(torch.ones(1, 1, 8, 8))
    nn.init.zeros_(model.fc.parametrizations.weight.original)
    average.into_(model)
    assert torch.equal(model(torch.ones(1, 1, 8, 8)), inside)


def test_a_network_is_its_own_again_after_its_average_was_looked_at():
    model = tiny()
    average = Average(model, 0.9)
    nn.init.ones_(model.fc.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def look():
        with average.in_place_of(model):
            assert not torch.equal(model.fc.weight, before["fc.weight"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_checkpoint_gives_back_model_optimizer_and_notes(tmp_path, kind):
    recipe = replace(RECIPE, optimizer=kind)

    def after(model, optimizer):
        model(torch.ones(2, 1, 8, 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model = tiny().eval()
    optimizer = optimizer_for(model, recipe)
    after(model, optimizer)
    path = tmp_path / "c.safetensors"
    Checkpoint(model.state_dict(), optimizer_state(optimizer), {"step": 1, "x": [0.1]}).write(path)
    found = Checkpoint.read(path)
    assert found.notes == {"step": 1, "x": [0.1]}
    other = tiny().eval()
    other.load_state_dict(dict(found.model))
    memory = optimizer_for(other, recipe)
    restore_optimizer_(memory, found.optimizer)
    after(model, optimizer)
    after(other, memory)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_tied_tensors_survive_a_checkpoint(tmp_path):
    weight = torch.ones(3)
    Checkpoint({"a": weight, "b": weight}).write(tmp_path / "c")
    assert torch.equal(Checkpoint.read(tmp_path / "c").model["b"], weight)


def test_another_file_is_no_checkpoint(tmp_path):
    spectrim.save(tiny(), tmp_path / "m.safetensors")
    with pytest.raises(ArtifactError, match="not a checkpoint of this version"):
        Checkpoint.read(tmp_path / "m.safetensors")


# -- progress ---------------------------------------------------------------------------------------------------------


def test_a_log_gets_about_ten_lines_a_phase(capsys):
    reporter = OnConsole()
    with reporter.phase("dense", total=200, done=0):
        for step in range(1, 201):
            reporter.step(step, "loss 1.0")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1] == "dense: step 200/200, loss 1.0"


def test_silence_is_silent(capsys):
    reporter = Silent()
    with reporter.phase("dense", total=1, done=0):
        reporter.step(1, "x")
        reporter.say("y")
    assert capsys.readouterr() == ("", "")
