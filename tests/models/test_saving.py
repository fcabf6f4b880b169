"""Saved models: round trips within and across backends, damaged files, precision."""

import errno
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from data.datasets import poison_paths
from models.registry import all_layers, build_model
from models.saving import load_model, save_model, victim_name, with_precision
from runtime.files import InputError
from tests.waiting import HANG


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A small ResNet, whose BatchNorm statistics are not the initial ones."""
    model = build_model("resnet8v1", (8, 8, 1), 10, seed=0)
    generator = np.random.default_rng(0)
    model.set_weights([w + generator.uniform(0, 0.1, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


@pytest.fixture
def images() -> np.ndarray:
    """Five random images."""
    return np.random.default_rng(1).random((5, 8, 8, 1), dtype=np.float32)


def logits(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """The model's logits in inference mode, float32."""
    return ops.convert_to_numpy(ops.cast(model(x, training=False), "float32"))


def test_a_saved_model_loads_as_it_was(model: keras.Model, images: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.keras"
    save_model(model, path)
    assert [p.name for p in path.parent.iterdir()] == ["model.keras"]
    loaded = load_model(path, image_shape=(8, 8, 1))
    np.testing.assert_array_equal(logits(loaded, images), logits(model, images))
    assert [v.name for v in loaded.trainable_variables] == [v.name for v in model.trainable_variables]


def test_the_other_backend_loads_the_file_without_this_project(
    model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", images)
    other = "jax" if keras.backend.backend() == "tensorflow" else "tensorflow"
    pytest.importorskip(other)
    code = (
        "import keras, numpy as np\n"
        "model = keras.saving.load_model('model.keras', compile=False, safe_mode=True)\n"
        "logits = model(np.load('x.npy'), training=False)\n"
        "np.save('logits.npy', keras.ops.convert_to_numpy(logits))\n"
        "print(keras.backend.backend())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG,
        env={**os.environ, "KERAS_BACKEND": other},
    )
    assert done.stdout.strip() == other, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), logits(model, images), atol=1e-5, rtol=1e-5)


def test_missing_damaged_and_foreign_files_are_refused(model: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with pytest.raises(InputError, match=r"model.keras: no such file"):
        load_model(path)
    save_model(model, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"not a whole .keras file"):
        load_model(path)
    path.write_bytes(b"weights")
    with pytest.raises(InputError, match=r"not a whole .keras file"):
        load_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(InputError, match="cannot be loaded as a model") as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 1))
    keras.Model(inputs, layers.Lambda(lambda x: x * 2)(inputs)).save(tmp_path / "model.keras")
    with pytest.raises(InputError, match="cannot be loaded as a model"):
        load_model(tmp_path / "model.keras")


def test_a_model_of_another_dataset_is_refused(model: keras.Model, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"takes images of shape \(8, 8, 1\), the data have \(28, 28, 1\)"):
        load_model(tmp_path / "model.keras", image_shape=(28, 28, 1))


def test_another_suffix_is_refused(model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in .keras"):
        save_model(model, tmp_path / "model.h5")


def test_a_full_disk_keeps_the_last_model(
    model: keras.Model, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(model, tmp_path / "model.keras")
    before = (tmp_path / "model.keras").read_bytes()

    def full(self: keras.Model, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(model), "save", full)
    with pytest.raises(InputError, match="no space left on the disk"):
        save_model(model, tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    assert (tmp_path / "model.keras").read_bytes() == before


def test_bfloat16_computes_the_same_model_more_coarsely(model: keras.Model, images: np.ndarray) -> None:
    coarse = with_precision(model, "bfloat16")
    assert keras.backend.standardize_dtype(coarse(images).dtype) == "bfloat16"
    for a, b in zip(coarse.get_weights(), model.get_weights(), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)
    exact, rounded = logits(model, images), logits(coarse, images)
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.05
    np.testing.assert_array_equal(logits(with_precision(coarse, "float32"), images), exact)


def test_bfloat16_reaches_the_layers_of_a_nested_model(model: keras.Model, images: np.ndarray) -> None:
    nested = keras.Sequential([keras.Input(model.input_shape[1:]), keras.layers.Rescaling(0.5), model])
    coarse = with_precision(nested, "bfloat16")
    whole = (keras.Model, keras.layers.InputLayer)
    assert {layer.compute_dtype for layer in all_layers(coarse) if not isinstance(layer, whole)} == {"bfloat16"}
    exact = logits(nested, images)
    assert 0 < np.abs(logits(coarse, images) - exact).max() / np.abs(exact).max() < 0.05


def test_a_copy_shares_no_weights(model: keras.Model, images: np.ndarray) -> None:
    before = logits(model, images)
    copy = with_precision(model, "bfloat16")
    copy.set_weights([weight * 0 for weight in copy.get_weights()])
    np.testing.assert_array_equal(logits(model, images), before)


def test_an_adapted_normalization_keeps_its_statistics(images: np.ndarray) -> None:
    """Its layer computes with numbers that are made of its weights, and the model divides with a plain operation."""
    adapted = layers.Normalization(axis=None)
    adapted.adapt(images * 7 + 3)
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(adapted(inputs * 7 + 3) / 2.0)))
    assert with_precision(model, "float32") is model
    exact = logits(model, images)
    assert 0 < np.abs(logits(with_precision(model, "bfloat16"), images) - exact).max() < 0.05 * np.abs(exact).max()


class Hidden(layers.Layer):
    """A layer of a user whose factor is neither in its configuration nor in its weights."""

    factor = 1.0

    def call(self, x: Any) -> Any:
        return x * self.factor


def test_a_copy_with_other_scores_is_refused(images: np.ndarray) -> None:
    model = keras.Sequential([keras.Input(images.shape[1:]), hidden := Hidden(), layers.Flatten(), layers.Dense(3)])
    hidden.factor = 5.0
    assert with_precision(model, "float32") is model
    with pytest.raises(InputError, match=r"in bfloat16 .*a copy has other scores: a layer holds more than"):
        with_precision(model, "bfloat16")


def test_an_unknown_precision_is_refused(model: keras.Model) -> None:
    with pytest.raises(InputError, match="no precision 'float8'; choose one of float32, bfloat16"):
        with_precision(model, "float8")


def test_a_model_without_an_axis_of_channels_is_told_how_to_get_one(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((28, 28)), layers.Flatten(), layers.Dense(10)]).save(tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"\(28, 28\) without an axis of channels; put keras\.Input\(\(28, 28, 1\)\)"):
        load_model(tmp_path / "model.keras")


def test_a_model_of_flat_images_is_told_how_to_take_images(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    flat = keras.Sequential([keras.Input((64,)), layers.Dense(10)])
    flat.save(path)
    with pytest.raises(InputError, match=r"put keras\.Input\(\(8, 8, 1\)\) and keras\.layers\.Reshape\(\(64,\)\) in"):
        load_model(path, (8, 8, 1))
    keras.Sequential([keras.Input((8, 8, 1)), layers.Reshape((64,)), flat]).save(path)
    assert load_model(path, (8, 8, 1), 10).output_shape == (None, 10)


def test_a_model_may_take_images_of_any_size_but_not_of_other_channels(tmp_path: Path) -> None:
    inputs = keras.Input((None, None, 1))
    scores = layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(inputs)))
    keras.Model(inputs, scores).save(tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras", (8, 8, 1), 3).input_shape == (None, None, None, 1)
    with pytest.raises(InputError, match=r"m\.keras: .* \(None, None, 1\), the data have \(8, 8, 3\)"):
        load_model(tmp_path / "m.keras", (8, 8, 3), 3)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_a_model_of_whole_numbers_is_refused(tmp_path: Path, dtype: str) -> None:
    inputs = keras.Input((8, 8, 1), dtype=dtype)
    keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Rescaling(1 / 255)(inputs)))).save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=f"takes {dtype} pixels, .*layers.Rescaling"):
        load_model(tmp_path / "m.keras")


def test_a_model_of_a_class_that_is_not_here_says_so(tmp_path: Path) -> None:
    class Doubled(layers.Layer):
        def call(self, x: object) -> object:
            return 2 * x

    inputs = keras.Input((8, 8, 1))
    keras.Model(inputs, layers.Dense(3)(layers.Flatten()(Doubled()(inputs)))).save(tmp_path / "m.keras")
    with pytest.raises(InputError, match="Doubled is code of the program that saved the model and is not run here"):
        load_model(tmp_path / "m.keras")


def test_a_victims_name_writes_the_noise_level_as_its_poisons_name_does() -> None:
    """A script's constant may be 1 in place of 1.0."""
    names = {victim_name("macer", sigma, "clean", 0) for sigma in (1, 1.0)}
    assert names == {"macer_1.0_clean_seed0.keras"}
    assert poison_paths(Path(), "macer", 1, 8)[0].name == "X_poisoned_radius_macer_1.0_8.npy"
