"""Certificates from Python, as in a notebook. README and docs/ show the snippets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from data.datasets import load_dataset
from evaluation import compare
from models.saving import save_model, with_precision
from randomized_smoothing_certification.certificate_file import is_summarised, read_known_points, read_points
from randomized_smoothing_certification.certificate_record import recorded_settings
from randomized_smoothing_certification.certification_config import CertificateSettings, CertificationConfig
from randomized_smoothing_certification.certification_run import certify_test_points
from randomized_smoothing_certification.certify_images import certify_images
from randomized_smoothing_certification.merge_shards import merge
from runtime.files import InputError

SETTINGS = CertificateSettings(sigma=0.25, n=1_000, target_class="all", points=3)


def test_a_scikit_learn_classifier_is_certified(capsys: pytest.CaptureFixture[str]) -> None:
    # snippet: certify a scikit-learn classifier
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    from randomized_smoothing_certification.certification_config import CertificateSettings
    from randomized_smoothing_certification.certify_images import certify_images

    digits = load_digits()
    x, y = digits.images / 16, digits.target  # pixels in [0, 1], classes
    forest = RandomForestClassifier(random_state=0).fit(x[:1000].reshape(-1, 64), y[:1000])
    settings = CertificateSettings(sigma=0.25, n=1_000, target_class="all", points=5)  # five images of each class
    found = certify_images(lambda images: forest.predict_proba(images.reshape(-1, 64)), x[1000:], y[1000:], settings)
    print(found.acr, found.radii)  # radius -1: not certified for its label
    # end of snippet
    assert found.radii.shape == (50,) and 0.05 < found.acr < 0.75 and str(found.acr) in capsys.readouterr().out
    assert [point.label for point in found.points] == [y[1000:][point.idx] for point in found.points]
    assert sorted(point.label for point in found.points) == sorted(5 * list(range(10)))


def torch_network() -> Any:
    import torch

    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()


def test_a_pytorch_classifier_is_certified(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    images, labels = np.random.default_rng(0).uniform(size=(60, 8, 8, 1)), np.arange(60) % 10
    network = torch_network()
    # snippet: certify a PyTorch classifier
    import torch

    from randomized_smoothing_certification.certification_config import CertificateSettings
    from randomized_smoothing_certification.certify_images import certify_images

    settings = CertificateSettings(sigma=0.25, n=1_000, target_class="all", points=5)
    network.eval()  # no dropout, fixed BatchNorm
    with torch.no_grad():
        found = certify_images(lambda x: network(torch.tensor(x).permute(0, 3, 1, 2)).numpy(), images, labels, settings)
    print(found.acr)
    # end of snippet
    assert 0 <= float(capsys.readouterr().out) < 1


def test_a_model_has_the_certificates_of_the_script(tiny_data_dir: Path, tmp_path: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    model = keras.Sequential([keras.Input(dataset.image_shape), keras.layers.Flatten(), keras.layers.Dense(10)])
    save_model(model, tmp_path / "m.keras")
    of_script = {"data_dir": tiny_data_dir, "model": tmp_path / "m.keras", "out": tmp_path / "a.tsv"}
    certify_test_points(CertificationConfig(**of_script, sigma=0.25, n=1_000, target_class="all", points=3))
    found = certify_images(model, dataset.x_test, dataset.y_test.argmax(axis=1), SETTINGS)
    written = [line.split("\t")[:5] for line in (tmp_path / "a.tsv").read_text().splitlines()[1:]]
    assert [point.line.split("\t")[:5] for point in found.points] == written


IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 1)).astype(np.float32) / np.float32(255)
LABELS = np.arange(60) % 3
WEIGHTS = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)


SHIFT = np.array([0.5, 0, 0])


def on_arrays(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(-1, 16) @ WEIGHTS


def on_tensors(images: Any) -> Any:
    return keras.ops.matmul(keras.ops.reshape(images, (-1, 16)), WEIGHTS)


def as_model() -> keras.Model:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, use_bias=False)])
    model.set_weights([WEIGHTS])
    return model


@pytest.mark.parametrize("more", [{}, {"shared_noise": False}, {"noise": "grid"}, {"radii": (0.0, 0.1)}])
def test_every_kind_of_classifier_sees_the_same_noise_whole_or_in_shards(more: dict[str, Any]) -> None:
    def certified(classifier: Any, **changes: Any) -> list[tuple[Any, ...]]:
        values = {"sigma": 0.25, "n": 500, "target_class": "all", "points": 4, **more, **changes}
        points = certify_images(classifier, IMAGES, LABELS, CertificateSettings(**values)).points
        return [(*point[:5], *point[6:]) for point in points]

    whole = certified(on_arrays)
    assert len(whole) == 12 and len({radius for *_, radius, _, _, _ in whole}) > 1
    for classifier in (on_tensors, as_model(), lambda images: on_arrays(images).argmax(axis=1)):
        assert certified(classifier) == whole
    assert sorted(certified(on_arrays, shard="1/2") + certified(on_arrays, shard="2/2")) == whole
    assert certified(on_arrays, seed=1) != whole


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        (LABELS[:5], {}, r"labels are int64 of shape \(5,\); give classes from 0, int of shape \(60,\)"),
        (LABELS / 2, {}, "labels are float64"),
        (LABELS - 1, {}, "give classes from 0"),
        (LABELS, {"num_classes": 2}, "largest label 2, num_classes 2; give labels < num_classes"),
        (LABELS + 10**12, {}, "largest label 1000000000002, .* num_classes <= 100000"),
        (LABELS, {"num_classes": 4}, r"scores of shape \(100, 4\)"),
        (LABELS, {"num_classes": 3.0}, "num_classes must be a whole number, got 3.0"),
        (LABELS, {"num_classes": "3"}, "num_classes must be a whole number, got '3'"),
        (LABELS, {"batch_size": 1.5}, "batch_size must be a whole number, got 1.5"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: np.ndarray, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        certify_images(on_arrays, IMAGES, labels, SETTINGS, **more)


def test_pixels_that_are_no_numbers_are_named() -> None:
    for value, mend in (
        (np.nan, "give images without NaN"),
        (9, "scale them"),
        (99, "divide by 255"),
        (-9, "normalise in the cl"),
    ):
        with pytest.raises(InputError, match=rf"pixels must lie in \[0, 1\].*; {mend}"):
            certify_images(on_arrays, np.full_like(IMAGES, value), LABELS, SETTINGS)


def test_saved_certificates_are_read_and_replace_no_run(tmp_path: Path) -> None:
    found = certify_images(on_arrays, IMAGES, LABELS, SETTINGS)
    found.save(file := tmp_path / "mine.tsv")
    found.save(file)
    assert read_points(file) == found.points == read_known_points(file)
    known = recorded_settings(file)
    assert [known[name] for name in ("n", "sigma", "alpha")] == [SETTINGS.n, SETTINGS.sigma, SETTINGS.alpha]
    with pytest.raises(InputError, match=rf"mine\.tsv: made with n = {SETTINGS.n}, this run has 300"):
        certify_images(on_arrays, IMAGES, LABELS, replace(SETTINGS, n=300)).save(file)
    assert read_points(file) == found.points
    for content, line in (("", "not valid JSON"), ("[]", "not a record of this project; .*choose another")):
        (tmp_path / "mine.settings.json").write_text(content)
        with pytest.raises(InputError, match=rf"mine\.settings\.json: {line}"):
            found.save(file)
        assert (tmp_path / "mine.settings.json").read_text() == content and read_points(file) == found.points
    (other := tmp_path / "other.tsv").write_text("another program's")
    with pytest.raises(InputError, match=r"other\.tsv: exists without other\.settings\.json"):
        found.save(other)
    assert other.read_text() == "another program's"
    with pytest.raises(InputError, match=r"ends in \.tsv"):
        found.save(tmp_path / "mine.csv")
    (tmp_path / "settings.json").touch()
    with pytest.raises(InputError, match=r"settings\.json beside it is of another file"):
        found.save(tmp_path / "seed_0.tsv")


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_a_model_of_any_precision_has_a_hash(policy: str) -> None:
    dense = keras.layers.Dense(3, dtype=policy)
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(dtype=policy), dense])
    hashes = set()
    for bias in (0, 0, 1):
        dense.set_weights([np.zeros((16, 3)), np.full(3, bias)])
        hashes.add(certify_images(model, IMAGES, LABELS, SETTINGS).record["settings"]["weights_sha256"])
    assert len(hashes) == 2 and "" not in hashes


def test_a_model_is_certified_in_bfloat16_and_a_function_is_not() -> None:
    in_bfloat16, model = replace(SETTINGS, precision="bfloat16"), as_model()
    found = certify_images(model, IMAGES, LABELS, in_bfloat16)
    copy = certify_images(with_precision(model, "bfloat16"), IMAGES, LABELS, SETTINGS)
    assert [point.radius for point in found.points] == [point.radius for point in copy.points]
    recorded = [
        one.record["settings"]["precision"] for one in (found, copy, certify_images(model, IMAGES, LABELS, SETTINGS))
    ]
    assert model.compute_dtype == "float32" and recorded == ["bfloat16", "bfloat16", "float32"]
    with pytest.raises(InputError, match="precision bfloat16 needs a Keras model; leave it out"):
        certify_images(on_arrays, IMAGES, LABELS, in_bfloat16)


def test_shards_of_two_models_or_backends_are_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{part}.tsv" for part in range(1, 4)]
    for part, scale, file in zip(("1/2", "2/2", "2/2"), (1, 2, 1), files, strict=True):
        (model := as_model()).set_weights([scale * WEIGHTS])
        certify_images(model, IMAGES, LABELS, replace(SETTINGS, shard=part)).save(file)
    assert merge([files[0], files[2]], tmp_path / "whole.tsv")["point_set"]["count"] == 9
    with pytest.raises(InputError, match=r"2\.tsv: weights_sha256 is .*, but .* in .*1\.tsv; certify the shards alike"):
        merge(files[:2], tmp_path / "two.tsv")
    certify_images(on_arrays, IMAGES, LABELS, replace(SETTINGS, shard="1/2")).save(tmp_path / "here.tsv")
    monkeypatch.setattr("runtime.long_run.backend_name", lambda: "torch")
    certify_images(on_arrays, IMAGES, LABELS, replace(SETTINGS, shard="2/2")).save(tmp_path / "there.tsv")
    with pytest.raises(InputError, match=r"there\.tsv: backend is torch, but .* in .*here\.tsv"):
        merge([tmp_path / "here.tsv", tmp_path / "there.tsv"], tmp_path / "two.tsv")


def test_saved_certificates_replace_those_of_a_merge_with_their_summary(tmp_path: Path) -> None:
    """Only the times differ. With the merge's summary beside them, the new certificates would count as changed."""
    shards = [tmp_path / f"{number}.tsv" for number in (1, 2)]
    for path in shards:
        certify_images(on_arrays, IMAGES, LABELS, replace(SETTINGS, shard=f"{path.stem}/2")).save(path)
    merge(shards, whole := tmp_path / "whole.tsv")
    assert is_summarised(whole)
    found = certify_images(on_arrays, IMAGES, LABELS, SETTINGS)
    found.save(whole)
    assert read_known_points(whole) == found.points and not is_summarised(whole)


def test_a_vote_of_the_whole_batch_is_no_classifier() -> None:
    def majority(images: np.ndarray) -> np.ndarray:
        return np.full(len(images), np.bincount(on_arrays(images).argmax(axis=1)).argmax())

    with pytest.raises(InputError, match="with other images beside them"):
        certify_images(majority, IMAGES, on_arrays(IMAGES).argmax(axis=1), SETTINGS)


@pytest.mark.parametrize("size", [50, 25, 20, 10, 5, 2])
def test_statistics_of_parts_of_a_batch_are_noticed(size: int) -> None:
    """Such as BatchNorm in training mode in a classifier that divides its images into smaller batches."""

    def in_parts(images: np.ndarray) -> np.ndarray:
        scores = on_arrays(images)
        parts = [scores[i : i + size] for i in range(0, len(scores), size)]
        return np.concatenate([part - part.mean(axis=0) for part in parts])

    with pytest.raises(InputError, match="with other images beside them"):
        certify_images(in_parts, IMAGES, on_arrays(IMAGES).argmax(axis=1), SETTINGS)


def test_a_classifier_that_changes_its_images_is_certified() -> None:
    def in_place(images: np.ndarray) -> np.ndarray:
        scores = on_arrays(images)
        images -= 0.5
        return scores

    labels = on_arrays(IMAGES).argmax(axis=1)
    found, wanted = (certify_images(one, IMAGES, labels, SETTINGS) for one in (in_place, on_arrays))
    np.testing.assert_array_equal(found.radii, wanted.radii)


def test_scores_that_are_nan_in_some_batches_are_named_so() -> None:
    def damaged(images: np.ndarray) -> np.ndarray:
        scores = np.array(on_arrays(images))
        scores[::7] = np.nan
        return scores

    with pytest.raises(InputError, match="the classifier gives NaN for some images, others beside other images"):
        certify_images(damaged, IMAGES, LABELS, SETTINGS)


def test_scores_that_are_always_nan_are_bad_input() -> None:
    images, truth = np.full((6, 2, 2, 1), 0.5), np.arange(6) % 2
    with pytest.raises(InputError, match=r"no finite largest score for 100 of 100 .* train it again, or mend its code"):
        certify_images(lambda x: np.full((len(x), 2), np.nan), images, truth, SETTINGS)


def test_numbers_of_numpy_are_settings() -> None:
    settings = CertificateSettings(sigma=np.float32(0.25), target_class=np.int64(2))  # type: ignore[arg-type]
    settings.check_types()
    assert (type(settings.sigma), type(settings.target_class), settings.target_class) == (float, int, 2)


def test_a_model_of_any_image_size_is_certified() -> None:
    pooled = keras.layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input((None, None, 1)), pooled, keras.layers.Dense(3)])
    assert len(certify_images(model, IMAGES, LABELS, SETTINGS).points) == 9
    with pytest.raises(InputError, match=r"images of shape \(None, None, 1\), the data has \(4, 4, 2\)"):
        certify_images(model, np.concatenate([IMAGES, IMAGES], axis=3), LABELS, SETTINGS)


def test_what_is_no_settings_and_no_images_is_refused() -> None:
    with pytest.raises(InputError, match="settings must be CertificateSettings, got dict"):
        certify_images(on_arrays, IMAGES, LABELS, {"sigma": 0.25})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"give classes from 0, int of shape \(\)"):
        certify_images(on_arrays, np.float32(0.5), LABELS, SETTINGS)  # type: ignore[arg-type]
    for images in ([[0.1, 0.2], [0.1]], ["a.png", "b.png"]):
        with pytest.raises(InputError, match="images and labels must be arrays of numbers"):
            certify_images(on_arrays, images, [0, 1], SETTINGS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"noise": "Grid"}, "noise"),
        ({"n": 1000.5}, "n"),
        ({"target_class": "8"}, "target_class"),
        ({"radii": 0.1}, "radii"),
    ],
)
def test_settings_of_another_type_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"settings: .*\$\.{message}"):
        certify_images(on_arrays, IMAGES, LABELS, CertificateSettings(**setting))


def test_two_classifiers_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In Python, and from files of the same points and votes."""
    truth = on_arrays(IMAGES).argmax(axis=1)
    found = certify_images(on_arrays, IMAGES, truth, SETTINGS)
    other = certify_images(lambda images: on_arrays(images) + SHIFT, IMAGES, truth, SETTINGS)
    capsys.readouterr()  # a class has fewer images than points
    # snippet: compare two classifiers
    import numpy as np

    from randomized_smoothing_certification.run_statistics import reduction_of

    radii = [np.maximum(one.radii, 0) for one in (found, other)]  # of the same points; not certified counts 0
    print(reduction_of(radii[1][None, None], radii[0][None]).text)  # (attack runs, victims, points), (victims, points)
    # end of snippet
    printed = capsys.readouterr().out.strip()
    found.save(tmp_path / "first.tsv")
    other.save(tmp_path / "second.tsv")
    compare.main(compare.Config(clean=(tmp_path / "first.tsv",), poisoned=(tmp_path / "second.tsv",)))
    said = capsys.readouterr().out
    assert " % (" in printed and f"reduction of the ACR: {printed}, 95 % over points" in said
    assert f"ACR {found.acr:.4f} of --clean, {other.acr:.4f} of --poisoned" in said and "has no record" not in said
    more_votes = certify_images(on_arrays, IMAGES, truth, replace(SETTINGS, n=2_000))
    more_votes.save(tmp_path / "more.tsv")
    with pytest.raises(InputError, match=r"second\.tsv: n is 1000, but 2000 in .*more\.tsv; certify alike"):
        compare.main(compare.Config(clean=(tmp_path / "more.tsv",), poisoned=(tmp_path / "second.tsv",)))
