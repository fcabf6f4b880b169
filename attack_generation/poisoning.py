"""The attack as a run: make poison against one training method, or go on where an earlier run stopped."""

from pathlib import Path

import numpy as np

from attack_generation.attack import Attack, AttackState
from attack_generation.config import UNUSED, PoisonConfig
from attack_generation.visibility import save_image_grids
from data.datasets import Dataset, load_dataset, poison_paths, save_labels, split_target_class
from runtime.files import load_array, remove, save_array
from runtime.long_run import LongRun, identity
from runtime.provenance import printed_path, project_path
from runtime.stop import Stop


def poison_radius(config: PoisonConfig) -> Path:
    """Make poison against ``config.loss``, or continue a run that was stopped. Returns the poison's path.

    Writes X_poisoned_radius_<method>_<sigma>_<class>.npy, its labels and its record to out_dir (data_dir when not
    given). Writes a checkpoint, TensorBoard scalars, a picture, and the poison before each restart to run_dir
    (runs/<dataset>/<poison name>). Missing labels and a missing or older picture of a finished poison are made again.

    Raises InputError on bad settings or data, StoppedEarly when asked to stop, FloatingPointError on NaN or infinity.
    """
    config.check()
    dataset = load_dataset(config.data_dir)
    method = config.loss.name
    x_path, y_path = poison_paths(config.out_dir or config.data_dir, method, config.sigma, config.target_class)
    run_dir = config.run_dir or project_path("runs") / dataset.name / x_path.stem
    picture = run_dir / "poison.png"
    clean, y_clean = split_target_class(dataset.x_train, dataset.y_train, config.target_class)[:2]
    settings = identity(config, method=method, **dataset.hashes("x_train", "y_train", "x_val", "y_val"))
    with Stop(config.max_minutes) as stop, LongRun(x_path, settings, config, run_dir, stop, y_path, picture) as run:
        if not run.is_finished():
            poison, gradients = _make(config, dataset, run)
            run.finish(lambda path: save_array(path, poison), gradients=gradients)
            distortion = np.abs(poison - clean)
            size = f"mean {distortion.mean():.4f} max {distortion.max():.4f}"
            print(f"{printed_path(x_path)}: {len(poison)} images, |u - x| {size}, {gradients:,.0f} gradients")
            if not distortion.any():
                mend = "Give more epochs, or --objective noisy_cross_entropy"
                print(f"note: no image was changed, because the objective had no gradient. {mend}")
        save_labels(y_path, y_clean)
        if not (picture.is_file() and picture.stat().st_mtime_ns >= x_path.stat().st_mtime_ns):  # of an older poison
            save_image_grids(picture, {"": (clean, load_array(x_path))}, config.epsilon)
    return x_path


def _make(config: PoisonConfig, dataset: Dataset, run: LongRun) -> tuple[np.ndarray, float]:
    """The poison, float32 (N, H, W, C), and the cost of the whole attack in gradients. Continues a stopped run."""
    attack = Attack(config, dataset)
    if note := config.loss.note(min(config.epochs, config.reinitialise_every)):
        print(note)
    for choice, value in {"objective": config.objective, "optimiser": config.optimiser.name}.items():
        for name in UNUSED.get(value, ()):
            if getattr(config, name) != getattr(type(config), name):  # the script's own value needs no note
                print(f"note: {name} has no effect with --{choice} {value}")

    def at_epoch_end(state: AttackState, epochs: int) -> dict[str, float]:
        if epochs == 1:  # an earlier attack with this folder may have left its own
            remove(*run.run_dir.glob("poison_after_epoch_*.npy"))
        if epochs % config.reinitialise_every == 0:
            path = run.run_dir / f"poison_after_epoch_{epochs}.npy"
            save_array(path, attack.poison(state, path))
        return attack.evaluate(state)

    state = run.advance(
        attack.initial_state(), attack.outer_step, attack.total_steps,
        unit="outer step", epoch=attack.steps_per_epoch, at_epoch_end=at_epoch_end, look_every=1,
    )  # fmt: skip
    gradients = sum(map(attack.gradients_per_step, range(config.epochs))) * attack.steps_per_epoch
    return attack.poison(state, run.path), gradients
