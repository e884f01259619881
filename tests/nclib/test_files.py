"""Damaged or half-unpacked files: one line that names the file and says what to do, and never fewer images."""

import pickle
import struct
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as tv

import nclib as nc
from nclib import known

SIZES = (20, 10)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def no_network(*_, **__):
        raise OSError("no route to host")

    for module in ("cifar", "mnist", "imagenette"):
        source = __import__(f"torchvision.datasets.{module}", fromlist=["x"])
        monkeypatch.setattr(source, "download_and_extract_archive", no_network)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Every data set with 20 images to train and 10 to test."""
    for name, entry in known.DATASETS.items():
        if name != "digits":
            monkeypatch.setitem(known.DATASETS, name, entry._replace(sizes=SIZES))


def mnist(root: Path) -> Path:
    where = root / "MNIST" / "raw"
    where.mkdir(parents=True, exist_ok=True)
    for part, size in zip(("train", "t10k"), SIZES):
        content = struct.pack(">4I", 2051, size, 28, 28) + bytes(range(size)) * 784
        (where / f"{part}-images-idx3-ubyte").write_bytes(content)
        labels = struct.pack(">2I", 2049, size) + bytes(i % 10 for i in range(size))
        (where / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return where


def cifar10(root: Path) -> Path:
    where = root / "cifar-10-batches-py"
    where.mkdir()
    for kind, names, size in (("train", [f"data_batch_{i}" for i in range(1, 6)], 4), ("test", ["test_batch"], 10)):
        sums = []
        for name in names:
            batch = {"data": np.full((size, 3072), size, np.uint8), "labels": [i % 10 for i in range(size)]}
            (where / name).write_bytes(pickle.dumps(batch))
            sums.append([name, md5((where / name).read_bytes()).hexdigest()])
        setattr(tv.CIFAR10, f"{kind}_list", sums)
    (where / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    tv.CIFAR10.meta = tv.CIFAR10.meta | {"md5": md5((where / "batches.meta").read_bytes()).hexdigest()}
    return where


def imagenette(root: Path) -> Path:
    where = root / "imagenette2-160"
    for part, count in (("train", 2), ("val", 1)):
        for word in tv.Imagenette._WNID_TO_CLASS:
            (where / part / word).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (170, 165), (i, 9, 9)).save(where / part / word / f"{i}.JPEG", "JPEG")
    return where


@pytest.fixture
def made(tmp_path, monkeypatch):
    for attribute in ("train_list", "test_list", "meta"):
        monkeypatch.setattr(tv.CIFAR10, attribute, getattr(tv.CIFAR10, attribute))
    return lambda name: {"mnist": mnist, "cifar10": cifar10, "imagenette": imagenette}[name](tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "imagenette"])
def test_sound_files_are_read_whole(made, tmp_path, name):
    made(name)
    data = nc.load(name, root=tmp_path)
    assert (len(data.train), len(data.test)) == SIZES and data.shape == known.DATASETS[name].shape
    assert data.train.images.dtype == torch.uint8 and data.num_classes == 10


def cut(file: Path):
    file.write_bytes(file.read_bytes()[:-7])


def halved(file: Path):
    file.write_bytes(file.read_bytes()[:50])


def emptied(folder: Path):
    for file in folder.iterdir():
        file.unlink()


def gone(folder: Path):
    emptied(folder)
    folder.rmdir()


DAMAGES = [
    ("mnist", "train-images-idx3-ubyte", cut), ("mnist", "t10k-labels-idx1-ubyte", cut),
    ("mnist", "t10k-images-idx3-ubyte", Path.unlink),
    ("mnist", "train-labels-idx1-ubyte", lambda f: f.write_bytes(b"")),
    ("mnist", "train-images-idx3-ubyte", lambda f: f.write_bytes(b"\0\0\x0d\x03" + f.read_bytes()[4:])),
    ("mnist", "train-images-idx3-ubyte", lambda f: f.write_bytes(b"\x1f\x8b\x08\x08" + f.read_bytes()[4:])),
    ("cifar10", "data_batch_3", cut), ("cifar10", "data_batch_3", Path.unlink), ("cifar10", "test_batch", cut),
    ("cifar10", "batches.meta", Path.unlink), ("cifar10", "batches.meta", lambda f: f.write_bytes(b"nothing")),
    ("imagenette", "train/n02102040", emptied), ("imagenette", "val/n03888257", emptied),
    ("imagenette", "val/n03888257", gone),
]  # fmt: skip


@pytest.mark.parametrize("name, file, damage", DAMAGES)
def test_what_is_missing_or_damaged_is_named_with_the_remedy(made, tmp_path, name, file, damage):
    where = made(name)
    damage(where / file)
    with pytest.raises(FileNotFoundError) as caught:
        nc.load(name, root=tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{name}: {where / file} is missing or damaged") and "\n" not in text
    assert "take away what is there and try again" in text and "NCLIB_DATA" in text


def test_what_is_missing_is_downloaded(made, tmp_path, monkeypatch):
    source = __import__("torchvision.datasets.mnist", fromlist=["x"])
    fetch = lambda *_, **__: any((tmp_path / "MNIST" / "raw").iterdir()) or made("mnist")  # noqa: E731
    monkeypatch.setattr(source, "download_and_extract_archive", fetch)
    assert len(nc.load("mnist", root=tmp_path).train) == 20


def test_the_reencoded_pictures_are_read_as_themselves_and_never_fetched(made, tmp_path, monkeypatch):
    source = __import__("torchvision.datasets.imagenette", fromlist=["x"])
    monkeypatch.setattr(source, "download_and_extract_archive", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(FileNotFoundError, match=r"^imagenette_reencoded: .* is missing .* or take imagenette$"):
        nc.load("imagenette_reencoded", root=tmp_path)
    made("imagenette")
    data = nc.load("imagenette_reencoded", root=tmp_path)
    assert data.name == "imagenette_reencoded" and (len(data.train), len(data.test)) == SIZES


def test_a_file_of_fewer_images_is_not_taken_for_all(made, tmp_path):
    """Images and labels that agree with each other, and not with what there should be."""
    where = made("mnist")
    (where / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, 12, 28, 28) + bytes(12 * 784))
    (where / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 12) + bytes(12))
    with pytest.raises(FileNotFoundError, match=r"^mnist: 12 labels and images \(12, 1, 28, 28\) to train, not \(20,"):
        nc.load("mnist", root=tmp_path)


def test_a_lost_picture_is_told_and_a_broken_one_is_named(made, tmp_path):
    where = made("imagenette")
    picture = where / "val" / "n03888257" / "0.JPEG"
    for content in (picture.read_bytes()[:300], b"no picture", b""):
        picture.write_bytes(content)
        with pytest.raises(ValueError, match=rf"^{picture} cannot be read as an image \(.*\): put a sound one there"):
            nc.load("imagenette", root=tmp_path)
    (where / "train" / "n03888257" / "1.JPEG").unlink()
    picture.write_bytes((where / "val" / "n02102040" / "0.JPEG").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"^imagenette: 19 labels"):
        nc.load("imagenette", root=tmp_path)


# One's own ---------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setenv("NCLIB_HOME", str(tmp_path))
    for part, word, i in ((p, w, i) for p in ("train", "test") for w in "ab" for i in range(3)):
        (tmp_path / "mine" / part / word).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 40 * i).save(tmp_path / "mine" / part / word / f"{i}.png")
    return tmp_path


OWN = {
    "an unreadable image": (lambda f: halved(f / "test/b/1.png"), "test/b/1.png cannot be read as an image"),
    "no image inside": (lambda f: (f / "test/b/1.png").write_text("<html>"), "test/b/1.png cannot be read as an image"),
    "an empty class": (lambda f: emptied(f / "train/b"), "train: Found no valid file for the classes b"),
    "no classes": (lambda f: [gone(d) for d in (f / "train").iterdir()], "train: Couldn't find any"),
    "another size": (
        lambda f: Image.new("L", (9, 8)).save(f / "test/b/1.png"),
        "test/b/1.png has 8 x 9 pixels, .*0.png 8 x 8: bring",
    ),
    "another kind": (lambda f: (f / "train/b/4.heic").write_bytes(b"x"), "train/b/4.heic is no image of a known kind"),
    "one class": (lambda f: [gone(f / p / "b") for p in ("train", "test")], "one class only"),
    "a class to test only": (lambda f: gone(f / "train/b"), "train has classes a, test a, b"),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_a_folder_of_images_that_is_damaged_is_one_line(house, name):
    damage, words = OWN[name]
    damage(house / "mine")
    with pytest.raises(ValueError, match=words) as caught:
        nc.load("mine")
    assert "\n" not in str(caught.value) and str(house / "mine") in str(caught.value)


def test_files_of_the_system_are_no_images_and_no_fault(house):
    for name in (".DS_Store", "Thumbs.db"):
        (house / "mine" / "train" / "a" / name).write_bytes(b"x")
    assert len(nc.load("mine").train) == 6


SOUND = dict(train_images=np.zeros((6, 8, 8), np.uint8), train_labels=np.arange(6) % 2)
SOUND |= dict(test_images=SOUND["train_images"], test_labels=SOUND["train_labels"])
ARCHIVES = {
    "labels too few": (dict(test_labels=np.arange(4) % 2), r"labels must be one per sample, of shape \(6,\)"),
    "labels in rows": (dict(train_labels=np.zeros((6, 2), int)), "labels must be one per sample"),
    "labels of words": (dict(train_labels=np.array(list("ababab"))), "mine.npz"),
    "one class": (dict(train_labels=np.zeros(6, int), test_labels=np.zeros(6, int)), "one class only"),
    "a label of no training image": (dict(test_labels=np.arange(6)), "labels go up to 5"),
    "objects": (dict(train_images=np.array([{}, None])), "is no .npz file of arrays"),
    "flat images": (dict(train_images=np.zeros((6, 64), np.uint8)), r"images must be \(N, C, H, W\), not \(6, 64\)"),
    "other images to test": (dict(test_images=np.zeros((6, 9, 9), np.uint8)), "images differ"),
    "not pixels": (dict(train_images=np.full((6, 8, 8), 7.0)), r"pixels must lie in \[0, 1\]"),
    "a number": (dict(train_images=np.float32(1)), "mine.npz"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_arrays_that_do_not_fit_are_one_line_that_names_the_file(house, name):
    change, words = ARCHIVES[name]
    np.savez(house / "mine.npz", **SOUND | change)
    with pytest.raises(ValueError, match=words) as caught:
        nc.load("mine.npz")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(house / "mine.npz"))


@pytest.mark.parametrize("place", [0.2, 0.5, 0.999])
def test_an_archive_cut_or_scratched_anywhere_is_one_line(house, place):
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 8), np.uint8)
    np.savez_compressed(house / "mine.npz", **SOUND | dict(train_images=noise))
    whole = (house / "mine.npz").read_bytes()
    at = int(place * len(whole))
    for content in (whole[:at], whole[: at - 40] + b"\xff" * 40 + whole[at:]):
        (house / "mine.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"mine\.npz ") as caught:
            nc.load("mine.npz")
        assert "\n" not in str(caught.value)


def test_an_array_under_the_name_of_an_archive_is_one_line(house):
    with open(house / "mine.npz", "wb") as file:
        np.save(file, SOUND["train_images"])
    with pytest.raises(ValueError, match=r"mine\.npz is no .npz file of arrays"):
        nc.load("mine.npz")


@pytest.mark.parametrize("kind, words", [
    ("I;16", "more than 8 bits"), ("I", "more than 8 bits"), ("F", "more than 8 bits"),
    ("RGBA", "transparent in places"), ("LA", "transparent in places"),
])  # fmt: skip
def test_pictures_that_would_lose_what_they_show_are_refused(house, kind, words):
    """PIL clips 16 bits and floats to a constant, and drops what is drawn in transparency."""
    file = next(iter(sorted((house / "mine" / "train").rglob("*.png"))))
    size = Image.open(file).size[::-1]
    shade = np.random.default_rng(0).random(size)
    if kind in ("RGBA", "LA"):
        picture = Image.new(kind, size[::-1])
        picture.putalpha(Image.fromarray(np.uint8(255 * shade)))
    else:
        picture = Image.fromarray({"I;16": np.uint16, "I": np.int32, "F": np.float32}[kind](60000 * shade))
        file = file.rename(file.with_suffix(".tiff"))
    picture.save(file)
    with pytest.raises(ValueError, match=f"{file.name}.*{words}"):
        nc.load("mine")
    opaque = Image.fromarray(np.uint8(255 * shade)).convert("RGBA")
    opaque.save(file.with_suffix(".png"))
    if file.suffix != ".png":
        file.unlink()
    assert nc.load("mine").shape[0] == 3
