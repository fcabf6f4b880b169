"""A poison as one file: what it must be, how it is refused, and the same images as PNG files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attack_generation.check_poison import Config as CheckConfig
from attack_generation.check_poison import main as check
from attack_generation.controls import ControlConfig, write_control_poison
from attack_generation.pack_poison import Config as PackConfig
from attack_generation.pack_poison import main as pack
from data.datasets import labels, load_dataset, split_target_class
from data.poison_files import checks, published_places, read_poison_file, training_poison, write_pngs
from data.prepare_digits import split_digits
from data.ready_poisons import to_8_bit
from runtime.files import InputError, load_archive, read_json, save_archive, write_json

CLASS = 3


@pytest.fixture
def arrays(tiny_data_dir: Path) -> dict[str, Any]:
    """What somebody else would save: the class a little brighter, with the places in scikit-learn's digits."""
    dataset = load_dataset(tiny_data_dir)
    clean = split_target_class(dataset.x_train, dataset.y_train, CLASS).x_target
    index = split_digits(0)["train"][labels(dataset.y_train) == CLASS]
    about = {"target_class": CLASS, "epsilon": 0.1, "name": "brighter", "source": "a test"}
    return {"X_poisoned": to_8_bit(clean + 0.1, clean, 0.1), "index": index, **about}


def saved(path: Path, arrays: dict[str, Any]) -> Path:
    save_archive(path, {name: np.asarray(value) for name, value in arrays.items()})
    return path


def found(arrays: dict[str, Any], data_dir: Path, folder: Path) -> dict[str, bool]:
    """Whether each check holds."""
    entry = read_poison_file(saved(folder / "mine.npz", arrays))
    return {name: holds for name, (holds, _) in checks(entry, load_dataset(data_dir), data_dir)[0].items()}


def test_a_good_poison_passes_and_its_visibility_is_printed(
    arrays: dict[str, Any], tiny_data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = saved(tmp_path / "mine.npz", arrays), tmp_path / "images"
    poison, images, dataset = check(CheckConfig(poison=file, data_dir=tiny_data_dir, png_dir=folder))
    assert sorted(int(path.stem) for path in folder.iterdir()) == sorted(arrays["index"])
    lines = capsys.readouterr().out.splitlines()
    assert poison.record["settings"]["name"] == "brighter" and len(images) == len(poison.pixels)
    assert len(dataset.x_train) > len(images)
    assert [line[:2] for line in lines[:5]] == ["ok"] * 4 + ["  "] and lines[5].endswith(f"{len(images)} PNG files")
    assert "100.0 % of the class's" in lines[1] and "linear 1.000" in lines[4]
    assert f"images are in it, {len(images)} differ from the clean ones" in lines[1]
    clean = split_target_class(dataset.x_train, dataset.y_train, CLASS).x_target
    arrays["X_poisoned"][:9] = to_8_bit(clean[:9], clean[:9], 0.1)
    entry = read_poison_file(saved(tmp_path / "partly.npz", arrays))
    said = checks(entry, dataset, tiny_data_dir)[0]["places"][1]
    assert f"100.0 % of the class's {len(images)} training images are in it, {len(images) - 9} differ" in said


def test_victims_train_on_the_file_of_an_entry(arrays: dict[str, Any], tiny_data_dir: Path, tmp_path: Path) -> None:
    dataset, part = load_dataset(tiny_data_dir), {name: arrays[name][:3] for name in ("X_poisoned", "index")}
    clean = split_target_class(dataset.x_train, dataset.y_train, CLASS).x_target
    images = training_poison(saved(tmp_path / "mine.npz", {**arrays, **part}), dataset, tiny_data_dir, CLASS)
    np.testing.assert_array_equal(images[:3], (part["X_poisoned"] / np.float32(255)).astype(np.float32))
    np.testing.assert_array_equal(images[3:], clean[3:])
    with pytest.raises(InputError, match=r"mine\.npz: is poison of class 3; choose --target-class 3"):
        training_poison(tmp_path / "mine.npz", dataset, tiny_data_dir, 4)
    message = r"bad\.npz: fails epsilon on DIGITS, class 3 \(largest change 0\.\d+, epsilon 0\.05\); clip its images"
    with pytest.raises(InputError, match=message):
        training_poison(saved(tmp_path / "bad.npz", {**arrays, "epsilon": 0.05}), dataset, tiny_data_dir, CLASS)


def test_each_check_fails_when_its_property_is_broken(
    arrays: dict[str, Any], tiny_data_dir: Path, tmp_path: Path
) -> None:
    pixels, index = arrays["X_poisoned"], arrays["index"]
    foreign = split_digits(0)["train"][labels(load_dataset(tiny_data_dir).y_train) != CLASS][0]
    one_more = pixels.copy()
    one_more[5, 3, 3, 0] += 2
    broken: dict[str, list[dict[str, Any]]] = {
        "grid": [{"X_poisoned": (pixels / 255).astype(np.float32)}],
        "places": [
            {"index": np.array([*index[:-1], index[0]])}, {"index": np.array([*index[:-1], 1797])},
            {"index": np.array([-1, *index[1:]])}, {"X_poisoned": pixels[:2], "index": split_digits(0)["test"][:2]},
        ],
        "epsilon": [{"epsilon": 0.05}, {"X_poisoned": one_more}, {"index": np.roll(index, 1)}],
        "clean-label": [{"index": np.array([foreign, *index[1:]])}],
    }  # fmt: skip
    for name, changes in broken.items():
        for change in changes:
            holds = found({**arrays, **change}, tiny_data_dir, tmp_path)
            assert not holds[name], (name, change)
            if name not in ("clean-label", "places"):  # another image is farther than epsilon, too
                assert sum(holds.values()) == 3
    config = CheckConfig(poison=saved(tmp_path / "mine.npz", {**arrays, "epsilon": 0.05}), data_dir=tiny_data_dir)
    with pytest.raises(InputError, match=r"mine\.npz: fails epsilon on DIGITS, class 3"):
        check(config)


def test_the_first_failure_names_the_cause(arrays: dict[str, Any], tiny_data_dir: Path, tmp_path: Path) -> None:
    count, own = len(arrays["index"]), shutil.copytree(tiny_data_dir, tmp_path / "own")
    manifest = read_json(own / "manifest.json")
    config = {"first_label": 1, "transpose": True}
    write_json(own / "manifest.json", {**manifest, "provenance": {"config": config}})
    for change, data_dir, message in (
        ({"target_class": 8}, tiny_data_dir, f"another class than 8, {count} of them of class 3.; leave these"),
        ({"X_poisoned": arrays["X_poisoned"] // 16}, tiny_data_dir, r"brightest pixel 15 of 255: scale them\); clip"),
        ({"target_class": 4}, own, "prepared with --first-label and --transpose: give classes from 0, and images as"),
    ):
        file = saved(tmp_path / "mine.npz", {**arrays, **change})
        with pytest.raises(InputError, match=message):
            check(CheckConfig(poison=file, data_dir=data_dir))


def test_a_part_of_the_class_leaves_the_rest_clean(arrays: dict[str, Any], tiny_data_dir: Path, tmp_path: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    clean = split_target_class(dataset.x_train, dataset.y_train, CLASS).x_target
    pixels, index = arrays["X_poisoned"][:7][::-1], arrays["index"][:7][::-1]
    kept = split_digits(0)["val"][labels(dataset.y_val) == CLASS][:1]  # of validation images
    part = {**arrays, "X_poisoned": np.concatenate([pixels, pixels[:1]]), "index": np.array([*index, *kept])}
    entry = read_poison_file(saved(tmp_path / "mine.npz", part))
    found, images = checks(entry, dataset, tiny_data_dir)
    changed = (images != clean).any(axis=(1, 2, 3))
    text = found["places"][1]
    assert all(holds for holds, _ in found.values()) and f"{700 / len(clean):.1f} %" in text
    assert "1 for validation" in text and np.flatnonzero(changed).tolist() == list(range(7))
    np.testing.assert_array_equal(images[7:], clean[7:])
    np.testing.assert_array_equal(images[:7], arrays["X_poisoned"][:7].astype(np.float32) / np.float32(255))


def test_the_visibility_of_a_single_image(
    arrays: dict[str, Any], tiny_data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {**arrays, "X_poisoned": arrays["X_poisoned"][:1], "index": arrays["index"][:1]}
    check(CheckConfig(poison=saved(tmp_path / "mine.npz", one), data_dir=tiny_data_dir))
    printed = capsys.readouterr().out
    assert "brightness" in printed and "linear" not in printed  # there is no other half to train on


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": None}, "has no array 'source'"),
        ({"name": np.array("mine", object)}, "holds Python objects, which are not read because they can run code"),
        ({"name": "../mine"}, r"name is made of small letters, digits and _, at most 60, got '\.\./mine'"),
        ({"name": 3}, "name has shape .*; make it as docs/enter"),
        ({"epsilon": [0.1, 0.1]}, "epsilon has shape"),
        ({"epsilon": np.nan}, "epsilon must be positive"),
        ({"epsilon": 2.0}, "epsilon must be at most 1"),
        ({"source": "two\nlines"}, "source is .* give a line"),
        ({"index": np.arange(3)}, r"index has shape \(3,\), dtype int64"),
        ({"index": np.zeros(107)}, "index has shape"),
        ({"X_poisoned": np.zeros((2, 3), np.uint8)}, r"X_poisoned has shape \(2, 3\)"),
        ({"X_poisoned": np.array(["a"])}, "X_poisoned has shape"),
    ],
)
def test_what_is_no_entry_is_refused_in_one_line(
    arrays: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    held = {name: value for name, value in {**arrays, **change}.items() if value is not None}
    np.savez(tmp_path / "mine.npz", **held)
    with pytest.raises(InputError, match=rf"mine\.npz: {message}"):
        read_poison_file(tmp_path / "mine.npz")


def test_files_that_cannot_be_read(arrays: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "pickle.npz").write_bytes(b"\x80\x04N.")
    for name, message in (
        ("none.npz", "no such file"), ("text.npz", r"no \.npz file"), ("pickle.npz", "a pickle, which is not read"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_poison_file(tmp_path / name)
    with pytest.raises(InputError, match="no ready poison 'none'"):
        read_poison_file(Path("none"))
    monkeypatch.setattr("data.poison_files.LARGEST", 1000)
    with pytest.raises(
        InputError, match=r"mine\.npz: holds [\d,]+ bytes when unpacked, more than 1,000; make it smaller"
    ):
        read_poison_file(saved(tmp_path / "mine.npz", arrays))


def test_another_data_set_and_another_class(arrays: dict[str, Any], tiny_data_dir: Path, tmp_path: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    with pytest.raises(
        InputError, match=r"the poison's images are of shape \(8, 4, 1\), those of DIGITS are \(8, 8, 1\)"
    ):
        found({**arrays, "X_poisoned": arrays["X_poisoned"][:, :, :4]}, tiny_data_dir, tmp_path)
    with pytest.raises(InputError, match="target_class 11 is out of range"):
        found({**arrays, "target_class": 11}, tiny_data_dir, tmp_path)
    with pytest.raises(InputError, match=r"X_train\.npy: no such file; prepare the data first"):
        check(CheckConfig(poison=saved(tmp_path / "mine.npz", arrays), data_dir=tmp_path))
    assert published_places(dataset, tiny_data_dir)[1] == 1797


@pytest.mark.parametrize("provenance", [None, [], {"config": None}])
def test_a_manifest_that_does_not_say_how_it_was_prepared(
    provenance: Any, arrays: dict[str, Any], tiny_data_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_data_dir, tmp_path / "data")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "provenance": provenance}))
    assert all(found(arrays, folder, tmp_path).values())


def test_a_poison_of_other_images_is_refused_where_its_record_says_so(tiny_data_dir: Path, tmp_path: Path) -> None:
    config = ControlConfig(kind="constant", sigma=0.25, data_dir=tiny_data_dir, out_dir=tmp_path, target_class=CLASS)
    file, dataset = write_control_poison(config), load_dataset(tiny_data_dir)
    record = json.loads(file.with_suffix(".json").read_text())
    images = training_poison(file, dataset, tiny_data_dir, CLASS)
    for changed in ({"x_train": "of others"}, {"target_class": 8}):
        written = {**record, "settings": {**record["settings"], **changed}}
        file.with_suffix(".json").write_text(json.dumps(written))
        with pytest.raises(InputError, match=f"its record says {next(iter(changed.values()))}; make the poison again"):
            training_poison(file, dataset, tiny_data_dir, CLASS)
    file.with_suffix(".json").write_text(json.dumps(record))
    np.save(file, images[::-1])
    with pytest.raises(InputError, match=r"has sha256 .*, its record says"):
        training_poison(file, dataset, tiny_data_dir, CLASS)
    file.with_suffix(".json").unlink()  # another program's poison has no record
    assert len(training_poison(file, dataset, tiny_data_dir, CLASS)) == len(images)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_hold_the_same_bits(tmp_path: Path, channels: int) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, size=(5, 6, 4, channels), dtype=np.uint8)
    about = {"target_class": 2, "epsilon": 0.03, "name": "mine", "source": "a test"}
    places = np.array([3, 12, 407, 59_999, 123_456])
    written = read_poison_file(saved(tmp_path / "mine.npz", {"X_poisoned": pixels, "index": places, **about}))
    write_pngs(tmp_path / "images", written)
    (tmp_path / "images/00012.png").rename(tmp_path / "images/00012.PNG")
    assert sorted(path.name for path in (tmp_path / "images").iterdir())[1:3] == ["00012.PNG", "00407.png"]
    config = PackConfig(
        png_dir=tmp_path / "images",
        name="mine",
        target_class=2,
        epsilon=0.03,
        source="a test",
        out_dir=tmp_path / "out",
    )
    pack(config)
    first, again = (load_archive(tmp_path / folder / "mine.npz") for folder in (".", "out"))
    assert first.keys() == again.keys()
    order = np.argsort(again["index"])
    assert again["X_poisoned"][order].tobytes() == pixels.tobytes()
    assert again["index"][order].tolist() == places.tolist()
    assert all(again[name] == first[name] for name in ("target_class", "epsilon", "name", "source"))
    with pytest.raises(InputError, match="holds PNG files; choose another folder"):
        write_pngs(tmp_path / "images", written)
    with pytest.raises(InputError, match="a poison of this name is there"):
        pack(config)


def test_png_files_that_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    config = PackConfig(png_dir=folder, name="mine", target_class=2, epsilon=0.1, out_dir=tmp_path)
    grey = Image.fromarray(np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"images: has no \.png file"):
        pack(config)
    grey.save(folder / "7.png")
    for name, image, message in (
        ("cat.png", grey, "no whole PNG .*'cat'.*name it by its place"),
        ("8.png", grey.convert("RGBA"), "in mode RGBA; give one shape"),
        ("8.png", grey.resize((5, 4)), r"is \(4, 5\) in mode L"), ("8.png", b"\x89PNG", "no whole PNG"),
        ("00007.png", grey, "names the place 7; name each file by a place of its own"),
        ("1_0.png", grey, "no whole PNG .*'1_0' is no number"), ("-5.png", grey, "names the place -5"),
        (f"{10**19}.png", grey, "names the place 1000"),
    ):  # fmt: skip
        (folder / name).write_bytes(image) if isinstance(image, bytes) else image.save(folder / name)
        with pytest.raises(InputError, match=message):
            pack(config)
        (folder / name).unlink()
    with pytest.raises(
        InputError, match=r"give --poison FILE\.npy, or --png-dir FOLDER with --target-class and --epsilon"
    ):
        pack(PackConfig(png_dir=folder, name="mine", out_dir=tmp_path))
    with pytest.raises(InputError, match="with --target-class"):
        pack(PackConfig(name="mine", out_dir=tmp_path))
    assert not (tmp_path / "mine.npz").exists()
