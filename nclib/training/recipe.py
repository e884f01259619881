"""A recipe: all that determines a trained model, checked on creation, and the key that its weights are kept under."""

import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any, Literal, get_args

from ..known import DATASETS, NETWORKS
from ..runtime import home

TABLES = {"dataset": DATASETS, "architecture": NETWORKS}  # fields whose choices are entries
VERSIONS = {name: entry.version for table in TABLES.values() for name, entry in table.items()} | {
    # of every part that a key names: raised by hand when the part comes to give other weights
    "standard": 1, "adversarial": 1, "trades": 1,
    "linf": 1, "l2": 1,
    "smoothing": 1, "focal": 1, "squared": 1,
    "sphere": 1, "rows": 2, "decayed": 1, "simplex": 1,
    "shift": 1, "flip": 1,
}  # fmt: skip
USUAL = ("ce", "linear", "none")  # loss, head and augmentation that no name mentions
DECAYED = ("rows", "decayed")  # heads whose rows and features are decayed
WEIGHTLESS = ("test_per_class", "perturbations", "precision")  # change what is measured, or the folder, not the key
ATTACK_ONLY = ("norm", "epsilon", "step", "steps", "attack_batchnorm", "perturbations")
TRADES_ONLY = ("trades_batchnorm", "beta")
LOSS_ONLY = {"smoothing": "smoothing", "gamma": "focal", "target": "squared"}  # field -> the loss that knows it
HEAD_ONLY = {"temperature": ("sphere",), "head_decay": DECAYED}
EVAL_ONLY = ("attack_batchnorm",)  # the published TRADES never leaves eval mode
MAY_BE_ZERO = ("epsilon", "momentum", "weight_decay", "beta", "gamma", "head_decay")
ABOVE_ZERO = ("width", "epochs", "batch", "lr", "step", "steps", "target", "temperature")


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a trained model (Su et al. 2024, section 2; defaults: digits).

    dataset, per_class, test_per_class : the data set, by name (``nclib.known``) or by the path of one's own; images
        kept of each class in either split (None: all).
    architecture, width : network and channels of its first stage (64 in the paper).
    training : "standard", "adversarial" (cross-entropy on attacked batches, Madry et al. 2018) or "trades"
        (CE(clean) + beta KL(clean || attacked), Zhang et al. 2019).
    norm, epsilon, step, steps : the attack in training, in pixel units.
    attack_batchnorm : batch norm during the attack, "eval" or, as released, "train".
    trades_batchnorm : "fixed", or "published": the model stays in eval mode, its statistics at 0 and 1.
    reestimate : after training, average batch-norm statistics anew over the clean training data.
    perturbations : measure on "fresh" attacks or on the "stale" ones made during the epoch.
    epochs, batch, lr, momentum, weight_decay : SGD; lr falls tenfold at each share in ``drops``.
    loss : what the last layer is trained with: cross-entropy "ce", label "smoothing" (a share, ``smoothing``), "focal"
        (exponent ``gamma``) or "squared" error (towards ``target`` times the label's unit vector; Zhou et al. 2022).
        Attacks in training stay those of cross-entropy.
    head : "linear"; "sphere": features and rows of length 1, logits times ``temperature``, no bias; "decayed":
        ``head_decay`` / 2 times the squared lengths of rows and batch features joins the loss; "rows": the same with
        rows of length 1 (Yaras et al. 2022: its subject, its baseline in the text, its baseline as released);
        "simplex": rows fixed at a simplex, no bias (Zhu et al. 2021).
    augmentation : "none"; "shift": training images moved by up to an eighth of their side; "flip": half of them
        mirrored, too.
    precision : "float32", "bfloat16", or "auto": bfloat16 where the device gains from it, and a run of either where
        one is kept.
    seed : initialisation, data order and attack starts.

    Raises ValueError, in one line, for an unknown choice, a wrong type or a value out of range.
    """

    dataset: str = "digits"
    per_class: int | None = None
    test_per_class: int | None = None
    architecture: str = "preactresnet8"
    width: int = 16
    training: Literal["standard", "adversarial", "trades"] = "standard"
    norm: Literal["linf", "l2"] = "linf"
    epsilon: float = 0.2
    step: float = 0.05
    steps: int = 10
    attack_batchnorm: Literal["eval", "train"] = "eval"
    trades_batchnorm: Literal["fixed", "published"] = "fixed"
    beta: float = 6.0
    reestimate: bool = False
    loss: Literal["ce", "smoothing", "focal", "squared"] = "ce"
    smoothing: float = 0.05
    gamma: float = 3.0
    target: float = 1.0
    head: Literal["linear", "sphere", "rows", "decayed", "simplex"] = "linear"
    temperature: float = 1.0
    head_decay: float = 1e-4
    augmentation: Literal["none", "shift", "flip"] = "none"
    perturbations: Literal["fresh", "stale"] = "fresh"
    epochs: int = 100
    batch: int = 128
    lr: float = 0.1
    drops: tuple[float, ...] = (0.25, 0.375)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 1

    def __post_init__(self):
        for field in fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name), field.type))
        for name in (*ABOVE_ZERO, *MAY_BE_ZERO):
            value, zero = getattr(self, name), name in MAY_BE_ZERO
            if not (0 <= value < inf if zero else 0 < value < inf):
                raise ValueError(f"{name} must be {'0 or more' if zero else 'above 0'} and finite, not {value}")
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, not {self.momentum}")
        if self.attacked and self.norm == "linf" and self.epsilon > 1:
            raise ValueError(f"pixels lie in [0, 1], so epsilon is at most 1 in linf, not {self.epsilon}: 8/255?")
        for name in ("per_class", "test_per_class"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"{name} must be 1 or more, or None for all, not {count}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is a share from 0 to below 1, not {self.smoothing}")
        if self.training == "trades" and self.loss != "ce":
            raise ValueError(f"TRADES has a loss of its own: loss must be 'ce', not {self.loss!r}")
        if any(not 0 < share < 1 for share in self.drops):
            raise ValueError(f"drops are shares of the epochs between 0 and 1, not {self.drops}")

    def but(self, **changes) -> "Recipe":
        """The same recipe with some fields changed."""
        return replace(self, **changes)

    def canonical(self) -> dict[str, Any]:
        """The fields that matter: standard training knows no attack, only TRADES knows its options."""
        idle = () if self.attacked else ATTACK_ONLY
        idle += TRADES_ONLY if self.training != "trades" else ()
        idle += EVAL_ONLY if self.training == "trades" and self.trades_batchnorm == "published" else ()
        idle += tuple(name for name, loss in LOSS_ONLY.items() if self.loss != loss)
        idle += tuple(name for name, heads in HEAD_ONLY.items() if self.head not in heads)
        return {name: value for name, value in asdict(self).items() if name not in idle}

    @property
    def attacked(self) -> bool:
        """Does this training see attacks?"""
        return self.training != "standard"

    @property
    def parts(self) -> tuple[str, ...]:
        """What ``VERSIONS`` counts of this recipe: data set, network, training, its attack's norm, and what of loss,
        head and augmentation is not as usual."""
        norm = [self.norm] if self.attacked else []
        unusual = [part for part in (self.loss, self.head, self.augmentation) if part not in USUAL]
        return (self.dataset, self.architecture, self.training, *norm, *unusual)

    @property
    def key(self) -> str:
        """Twelve hex digits of what determines the weights: fields that differ from the defaults, raised versions.

        So a new field with a default, a new choice, an edited comment or a new measure leave every old key alone.
        ``tests/golden.json`` sees to it that a version is raised when, and only when, weights change.
        """
        named = {field.name: field.default for field in fields(self) if field.name not in WEIGHTLESS}
        canonical = self.canonical().items()
        changed = {name: value for name, value in canonical if name in named and value != named[name]}
        if path := own_path(self.dataset):
            changed["dataset"] = content(path)
        raised = {part: VERSIONS[part] for part in self.parts if VERSIONS.get(part, 1) > 1}
        return sha256(json.dumps([changed, raised], sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """What the model is called in figures and records."""
        if self.training == "trades":
            return f"TRADES ({self.trades_batchnorm})"
        ordinary = not self.attacked or self.attack_batchnorm == "eval"
        name = self.training if ordinary else f"{self.training} (train-mode attack)"
        head = f"sphere, temperature {self.temperature:g}" if self.head == "sphere" else self.head
        return ", ".join([name, *(part for part in (self.loss, head, self.augmentation) if part not in USUAL)])

    @property
    def label(self) -> str:
        """A line's worth of name, for logs."""
        return f"{self.name} · {self.dataset} · {self.architecture} · seed {self.seed}"


def own_path(dataset: str) -> Path | None:
    """Where one's own data set lies, relative to the checkout; None for those known by name."""
    path = home() / str(dataset)
    return path if dataset not in choices("dataset") and path.exists() else None


def content(path: Path) -> str:
    """Digest of a data set's files: their names and what is in them."""
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return _content(path, tuple((f, f.stat().st_mtime_ns, f.stat().st_size) for f in files))


@cache
def _content(path: Path, files: tuple) -> str:
    digest = sha256()
    for file, *_ in files:
        digest.update(file.relative_to(path).as_posix().encode() + sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def choices(name: str) -> tuple:
    """What a field of a recipe may be; empty where any value of its type will do."""
    if name in TABLES:
        return tuple(TABLES[name])
    kind = next((field.type for field in fields(Recipe) if field.name == name), None)
    return get_args(kind) if getattr(kind, "__origin__", None) is Literal else ()


def _checked(name: str, value: Any, kind: Any) -> Any:
    """The value as its field's type: an int may stand for a float, nothing else for anything else."""
    if name == "dataset" and type(value) is str and own_path(value):
        return value
    if (known := choices(name)) and value not in known:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
    if kind is float and type(value) is int:
        return float(value)
    if kind == tuple[float, ...] and isinstance(value, (tuple, list)):
        return tuple(_checked("drops", share, float) for share in value)
    if known or type(value) in (get_args(kind) or (kind,)):
        return value
    raise ValueError(f"{name} must be {getattr(kind, '__name__', kind)}, not {value!r}")
