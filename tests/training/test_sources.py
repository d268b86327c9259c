"""Every data source gives images and labels, and says what is wrong with a file that has none."""

import gzip
import io
import pickle
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spectrim.errors import DataError, UnsupportedError
from spectrim.training.images import FileImages, StoredImages
from spectrim.training.source import Preprocessing, Source
from spectrim.training.sources import open_source


def idx(array):
    array = np.asarray(array, np.uint8)
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def draw(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


@pytest.fixture
def mnist(tmp_path):
    for part, count in (("train", 6), ("t10k", 4)):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(draw(count, 28, 28))))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(count) % 3)))
    return tmp_path


@pytest.fixture
def photos(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.fromarray(draw(12, 16, 3, seed=label * 5 + number)).save(tmp_path / name / f"{number}.png")
    return tmp_path


# -- what works -------------------------------------------------------------------------------------------------------


def test_the_digits_come_with_scikit_learn_and_are_as_large_as_mnist():
    source = open_source("digits")
    assert (len(source.train), len(source.test), source.num_classes) == (1438, 359, 10)
    assert (source.shape, source.task, source.augmentation) == ((1, 28, 28), "classification", "shift")
    assert torch.bincount(source.test.labels).min() > 25


def test_an_image_size_scales_the_images():
    assert open_source("digits", image_size=8).shape == (1, 8, 8)


def test_mnist_reads_what_was_written(mnist):
    source = open_source(f"mnist:{mnist}")
    pixels, labels = source.train.batch(torch.tensor([5, 0]))
    assert torch.equal(pixels, torch.from_numpy(draw(6, 28, 28)[[5, 0]]).unsqueeze(1))
    assert labels.tolist() == [2, 0]


def test_mnist_reads_the_other_naming_and_unpacked_files_in_a_sub_folder(mnist):
    raw = mnist / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in list(mnist.glob("*.gz")):
        name = path.name.replace("-idx", ".idx").removesuffix(".gz")
        (raw / name).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert len(open_source(f"mnist:{mnist}").train) == 6


def cifar_records(count, seed):
    labels = np.arange(count, dtype=np.uint8)[:, None] % 10
    return np.concatenate([labels, draw(count, 3072, seed=seed)], axis=1)


@pytest.fixture(params=["folder", "archive", "python"])
def cifar(request, tmp_path):
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    files = {}
    for seed, name in enumerate(names):
        table = cifar_records(4, seed)
        batch = {"data": table[:, 1:].copy(), "labels": table[:, 0].astype(int).tolist(), "filenames": ["x"] * 4}
        if request.param == "python":
            files[name] = pickle.dumps(batch, protocol=2)
        else:
            files[f"{name}.bin"] = table.tobytes()
    if request.param == "archive":
        place = tmp_path / "cifar-10-binary.tar.gz"
        with tarfile.open(place, "w:gz") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return place
    inner = tmp_path / ("cifar-10-batches-py" if request.param == "python" else "cifar-10-batches-bin")
    inner.mkdir()
    for name, data in files.items():
        (inner / name).write_bytes(data)
    return tmp_path


def test_cifar10_reads_all_that_is_published(cifar):
    source = open_source(f"cifar10:{cifar}")
    assert (len(source.train), len(source.test), source.shape) == (20, 4, (3, 32, 32))
    expected = cifar_records(4, 5)
    assert torch.equal(source.test.pixels.flatten(1), torch.from_numpy(expected[:, 1:].copy()))
    assert source.test.labels.tolist() == [0, 1, 2, 3]


def test_a_folder_of_images_is_split_by_class(photos):
    source = open_source(f"images:{photos}")
    assert (len(source.train), len(source.test), source.classes) == (8, 2, ("cat", "dog"))
    assert source.shape == (3, 224, 224)
    assert sorted(source.test.labels.tolist()) == [0, 1]


def test_a_folder_of_images_keeps_its_own_split_and_its_common_size(tmp_path):
    for part, count in (("train", 3), ("val", 1)):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw(20, 20, seed=number)).save(tmp_path / part / name / f"{number}.png")
    source = open_source(f"images:{tmp_path}")
    assert (len(source.train), len(source.test), source.shape) == (6, 2, (1, 20, 20))
    assert torch.equal(source.train.batch(torch.tensor([1]))[0][0, 0], torch.from_numpy(draw(20, 20, seed=1)))


def test_images_on_disk_are_decoded_when_asked_for_if_memory_is_short(photos, monkeypatch):
    stored = open_source(f"images:{photos}", image_size=8)
    monkeypatch.setattr("spectrim.training.sources.images._IN_MEMORY", 0)
    lazy = open_source(f"images:{photos}", image_size=8)
    assert isinstance(stored.train, StoredImages)
    assert isinstance(lazy.train, FileImages)
    rows = torch.tensor([3, 0, 7])
    assert all(torch.equal(a, b) for a, b in zip(stored.train.batch(rows), lazy.train.batch(rows), strict=True))


@pytest.mark.parametrize("layout", ["nhw", "nhwc", "nchw", "floats"])
def test_npz_takes_every_usual_layout(tmp_path, layout):
    images = draw(10, 6, 7, 3)
    given = {
        "nhw": images[..., 0], "nhwc": images, "nchw": images.transpose(0, 3, 1, 2), "floats": images / 255,
    }[layout]  # fmt: skip
    np.savez(tmp_path / "a.npz", images=given, labels=np.arange(10) % 2, split=np.array(["train", "test"] * 5))
    source = open_source(f"npz:{tmp_path}/a.npz")
    expected = images[1::2, ..., :1] if layout == "nhw" else images[1::2]
    assert torch.equal(source.test.pixels, torch.from_numpy(expected.transpose(0, 3, 1, 2).copy()))


def test_npz_without_a_split_sets_the_same_fifth_aside_every_time(tmp_path):
    np.savez(tmp_path / "a.npz", images=draw(10, 4, 4), labels=np.arange(10))
    first, second = (open_source(f"npz:{tmp_path}/a.npz").test.labels for _ in range(2))
    assert len(first) == 2
    assert torch.equal(first, second)


def test_npz_with_a_label_for_every_pixel_is_segmentation(tmp_path):
    np.savez(tmp_path / "a.npz", images=draw(6, 8, 8, 3), labels=draw(6, 8, 8) % 2, split=np.array([0, 0, 0, 0, 1, 1]))
    source = open_source(f"npz:{tmp_path}/a.npz")
    assert (source.task, len(source.test)) == ("segmentation", 2)


class Rows:
    column_names = ("img", "label")

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return ({"img": Image.fromarray(draw(8, 8, seed=row)), "label": row % 2} for row in range(self.count))

    def __getitem__(self, column):
        return [row % 2 for row in range(self.count)]


def test_hf_reads_a_data_set_with_images_and_labels(monkeypatch):
    library = types.ModuleType("datasets")
    library.load_dataset = lambda _: {"train": Rows(4), "test": Rows(2)}
    monkeypatch.setitem(sys.modules, "datasets", library)
    source = open_source("hf:somebody/something")
    assert (len(source.train), source.shape, source.num_classes) == (4, (1, 8, 8), 2)


def test_hf_names_the_missing_split(monkeypatch):
    library = types.ModuleType("datasets")
    library.load_dataset = lambda _: {"train": Rows(4)}
    monkeypatch.setitem(sys.modules, "datasets", library)
    with pytest.raises(DataError, match="expected the splits 'train' and 'test' or 'validation', found train"):
        open_source("hf:somebody/something")


def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'spectrim\[datasets\]'"):
        open_source("hf:mnist")


def test_statistics_bring_pixels_to_mean_0_and_deviation_1():
    source = open_source("digits")
    mean, std = source.statistics()
    x = Preprocessing(mean, std, channels=3)(source.train.pixels)
    assert x.shape[1] == 3
    assert abs(float(x.mean())) < 1e-3
    assert abs(float(x.std()) - 1) < 1e-3


def test_fixed_statistics_fit_any_number_of_channels():
    source = open_source("digits")
    assert source.statistics("half") == ((0.5,), (0.5,))
    assert len(source.statistics("imagenet")[0]) == 1


# -- what is wrong, said so that one can mend it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digit", "no data source 'digit'. There are digits, mnist:DIR, cifar10:PATH"),
        ("mnist", "should read 'mnist:DIR'"),
        ("digits:here", "should read 'digits'"),
        ("mnist:/nowhere/at/all", "there is no folder '/nowhere/at/all'"),
        ("images:/nowhere", "there is no folder '/nowhere'"),
        ("cifar10:/nowhere", "there is nothing at '/nowhere'"),
        ("npz:/nowhere.npz", "there is no file '/nowhere.npz'"),
    ],
)
def test_a_source_that_is_not_there_is_named(text, message):
    with pytest.raises(DataError, match=message):
        open_source(text)


def test_a_missing_folder_is_told_its_neighbours(tmp_path):
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError, match="holds 'mnist'"):
        open_source(f"mnist:{tmp_path}/mnits")


def test_a_size_of_zero_is_refused():
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        open_source("digits", image_size=0)


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
GOOD = gzip.compress(idx(draw(6, 28, 28)), mtime=0)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (IMAGES, None, f"no file '{IMAGES}'"),
        (IMAGES, GOOD[:2000], f"{IMAGES}: damaged gzip data"),
        (IMAGES, GOOD[:1000] + b"\xff\xff\xff" + GOOD[1003:], f"{IMAGES}: damaged gzip data"),
        (IMAGES, b"<html>404</html>", "not an idx file: it starts with b'<htm'"),
        (IMAGES, b"", "not an idx file"),
        (IMAGES, gzip.compress(idx(np.arange(6)), mtime=0), "with 1 dimensions; expected bytes \\(0x08\\) with 3"),
        (IMAGES, gzip.compress(b"\0\0\x0d\3" + bytes(12), mtime=0), "type 0x0d with 3 dimensions"),
        (IMAGES, gzip.compress(idx(draw(6, 28, 28))[:-5], mtime=0), "announces 6x28x28 = 4704 bytes, holds 4699"),
        (IMAGES, gzip.compress(b"\0\0\x08\3" + b"\xff" * 12 + b"abc", mtime=0), "holds 3. The file is truncated"),
        (LABELS, gzip.compress(idx(np.arange(5)), mtime=0), "5 labels for the 6 images"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else str(value),
)
def test_a_bad_idx_file_is_named_with_what_was_expected(mnist, file, content, message):
    if content is None:
        (mnist / file).unlink()
    else:
        (mnist / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(f"mnist:{mnist}")


def test_a_label_of_the_test_part_that_training_never_saw_is_named_with_its_row(mnist):
    (mnist / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx([0, 1, 7, 0])))
    with pytest.raises(DataError, match="test part: the label of row 2 is 7; labels lie in 0 to 2"):
        open_source(f"mnist:{mnist}")


def test_a_truncated_cifar_batch_is_named(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073 + 10))
    with pytest.raises(DataError, match="1 images of 3073 bytes and 10 bytes more"):
        open_source(f"cifar10:{tmp_path}")


def test_a_folder_without_cifar_says_what_it_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"no 'data_batch_1.bin' \(binary version\)"):
        open_source(f"cifar10:{tmp_path}")


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "cifar.tar.gz").write_bytes(b"\x1f\x8b not really")
    with pytest.raises(DataError, match=r"not a readable \.tar\.gz archive"):
        open_source(f"cifar10:{tmp_path}/cifar.tar.gz")


class Bomb:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Bomb()), "it asks for builtins.print, which is refused"),
        (b"not a pickle", "not a batch of CIFAR-10's Python version"),
        (pickle.dumps({"data": 3}), "no 'data' of bytes with 3,072 columns"),
        (pickle.dumps([1]), "no 'data'"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}), "no list 'labels' with one number"),
    ],
)
def test_a_pickle_of_unknown_origin_is_not_trusted(tmp_path, capsys, content, message):
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(f"cifar10:{tmp_path}")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"no image", b"", b"\x89PNG\r\n\x1a\n cut short"])
def test_a_file_that_is_no_image_is_named(photos, content):
    (photos / "dog" / "3.png").write_bytes(content)
    with pytest.raises(DataError, match=r"dog/3\.png: not a readable image"):
        open_source(f"images:{photos}")


def test_a_truncated_image_is_named(photos):
    path = photos / "cat" / "2.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cat/2\.png: not a readable image"):
        open_source(f"images:{photos}")


def test_folders_without_classes_or_images_say_so(tmp_path):
    with pytest.raises(DataError, match="at least two of them, found none"):
        open_source(f"images:{tmp_path}")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="a: no image in it"):
        open_source(f"images:{tmp_path}")


def test_parts_with_different_classes_are_refused(tmp_path):
    for name in ("train/a", "train/b", "val/a", "val/c"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match="b, c are in only one of the two"):
        open_source(f"images:{tmp_path}")


GOOD_ARRAYS = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.array([0, 1, 0, 1])}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GOOD_ARRAYS["images"]}, "no array 'labels'; found 'images'"),
        ({**GOOD_ARRAYS, "images": np.zeros((4, 64), np.uint8)}, "has the shape \\(4, 64\\)"),
        ({**GOOD_ARRAYS, "images": np.zeros((4, 8, 8), np.int64)}, "holds int64; expected bytes"),
        ({**GOOD_ARRAYS, "images": np.full((4, 8, 8), np.nan)}, "row 0 of 'images' has floats outside"),
        ({**GOOD_ARRAYS, "labels": np.zeros(3, int)}, "has the shape \\(3,\\); expected \\(4,\\)"),
        ({**GOOD_ARRAYS, "labels": np.zeros(4)}, "holds float64; expected whole numbers"),
        ({**GOOD_ARRAYS, "labels": np.array([0, 1, -1, 0])}, "label of row . is -1"),
        ({**GOOD_ARRAYS, "split": np.array(["train", "test", "tset", "train"])}, "row 2 of 'split' is 'tset'"),
        ({**GOOD_ARRAYS, "split": np.array([0, 1, 0, 2])}, "row 3 of 'split' is 2"),
        ({**GOOD_ARRAYS, "split": np.array([0, 0, 0, 0])}, "no test images"),
        ({**GOOD_ARRAYS, "labels": np.array([object()] * 4)}, "not a readable .npz archive of plain arrays"),
    ],
)
def test_a_bad_array_is_named_with_its_row(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_source(f"npz:{tmp_path}/a.npz")


def test_a_truncated_archive_is_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD_ARRAYS)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"not a readable \.npz archive"):
        open_source(f"npz:{path}")


def test_parts_of_different_sizes_are_refused():
    labels = torch.zeros(2, dtype=torch.int64)
    small, large = (StoredImages(torch.zeros(2, 1, n, n, dtype=torch.uint8), labels) for n in (8, 9))
    with pytest.raises(DataError, match="8x8 with 1 channel, the test images 9x9"):
        Source("two", small, large, num_classes=2)


def test_the_real_idx_files_are_read(tmp_path):
    import os

    root = os.environ.get("SPECTRIM_DATA")
    if root is None:
        pytest.skip("needs the files of SPECTRIM_DATA")
    source = open_source(f"mnist:{Path(root) / 'mnist'}")
    assert (len(source.train), len(source.test)) == (60_000, 10_000)
    (mean,), (std,) = source.statistics()
    assert (mean, std) == (pytest.approx(0.1307, abs=0.002), pytest.approx(0.3081, abs=0.002))
