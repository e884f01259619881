"""A recipe: all that determines a trained model, checked on creation, hashed into a key."""

import ast
import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

CHOICES = {
    "dataset": ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "imagenette"),
    "architecture": ("preactresnet8", "preactresnet18", "vgg11"),
    "training": ("standard", "adversarial", "trades"),
    "norm": ("linf", "l2"),
    "attack_batchnorm": ("eval", "train"),
    "trades_batchnorm": ("fixed", "published"),
    "perturbations": ("fresh", "stale"),
    "precision": ("auto", "float32", "bfloat16"),
}
ATTACK_ONLY = ("norm", "epsilon", "step", "steps", "attack_batchnorm", "perturbations")
TRADES_ONLY = ("trades_batchnorm", "beta")
EVAL_ONLY = ("attack_batchnorm",)  # the published TRADES never leaves eval mode
CODE = ("compute", "data", "models", "measures", "attacks", "views", "layers", "train")


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a trained model (Su et al. 2024, section 2; defaults: digits).

    dataset, per_class, test_per_class : the data set; images kept of each class in either split (None: all).
    architecture, width : network and channels of its first stage (64 in the paper).
    training : "standard", "adversarial" (cross-entropy on attacked batches, Madry et al. 2018) or "trades"
        (CE(clean) + beta KL(clean || attacked), Zhang et al. 2019).
    norm, epsilon, step, steps : the attack in training, in pixel units.
    attack_batchnorm : batch norm during the attack, "eval" or, as released, "train".
    trades_batchnorm : "fixed", or "published": the model stays in eval mode, its statistics at 0 and 1.
    reestimate : after training, average batch-norm statistics anew over the clean training data.
    perturbations : measure on "fresh" attacks or on the "stale" ones made during the epoch.
    epochs, batch, lr, momentum, weight_decay : SGD; lr falls tenfold at each share in ``drops``.
    precision : "float32", "bfloat16", or "auto": bfloat16 where the device gains from it.
    seed : initialisation, data order and attack starts.

    Raises ValueError, in one line, for an unknown choice, a wrong type or a value out of range.
    """

    dataset: str = "digits"
    per_class: int | None = None
    test_per_class: int | None = None
    architecture: str = "preactresnet8"
    width: int = 16
    training: str = "standard"
    norm: str = "linf"
    epsilon: float = 0.2
    step: float = 0.05
    steps: int = 10
    attack_batchnorm: str = "eval"
    trades_batchnorm: str = "fixed"
    beta: float = 6.0
    reestimate: bool = False
    perturbations: str = "fresh"
    epochs: int = 100
    batch: int = 128
    lr: float = 0.1
    drops: tuple[float, ...] = (0.25, 0.375)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = "auto"
    seed: int = 1

    def __post_init__(self):
        from .attacks import check_attack  # here, as who asks for CHOICES need not wait for PyTorch

        for field in fields(self):
            object.__setattr__(self, field.name, _check_type(field.name, getattr(self, field.name), field.type))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        check_attack(self.epsilon, self.norm)
        for name in ("width", "epochs", "batch", "lr", "step", "steps", "momentum", "weight_decay", "beta"):
            value, zero = getattr(self, name), name in ("momentum", "weight_decay", "beta")
            if not (value >= 0 if zero else value > 0):
                raise ValueError(f"{name} must be {'0 or more' if zero else 'above 0'}, not {value}")
        if any(not 0 < share < 1 for share in self.drops):
            raise ValueError(f"drops are shares of the epochs between 0 and 1, not {self.drops}")

    def but(self, **changes) -> "Recipe":
        """The same recipe with some fields changed."""
        return replace(self, **changes)

    def canonical(self) -> dict[str, Any]:
        """The fields that matter: standard training knows no attack, only TRADES knows its options."""
        idle = ATTACK_ONLY if self.training == "standard" else ()
        idle += TRADES_ONLY if self.training != "trades" else ()
        idle += EVAL_ONLY if self.training == "trades" and self.trades_batchnorm == "published" else ()
        return {name: value for name, value in asdict(self).items() if name not in idle}

    @property
    def key(self) -> str:
        """Twelve hex digits of what determines the model: these fields and the training code."""
        text = json.dumps(self.canonical(), sort_keys=True) + training_code()
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """What the model is called in figures and records."""
        if self.training == "trades":
            return f"TRADES ({self.trades_batchnorm})"
        ordinary = self.training == "standard" or self.attack_batchnorm == "eval"
        return self.training if ordinary else f"{self.training} (train-mode attack)"

    @property
    def label(self) -> str:
        """A line's worth of name, for logs."""
        return f"{self.name} · {self.dataset} · {self.architecture} · seed {self.seed}"


@cache
def training_code() -> str:
    """Hash of the code that trains and measures: comments and docstrings aside, a change there is a new key."""
    sources = (_bare(Path(__file__).with_name(f"{name}.py").read_text()) for name in CODE)
    return hashlib.sha256("".join(sources).encode()).hexdigest()


def _bare(source: str) -> str:
    """Source as its syntax tree prints it, without docstrings: layout and prose do not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.AST(body=[ast.Expr(value=ast.Constant()), *rest]):
                node.body = rest or [ast.Pass()]
    return ast.unparse(tree)


def _check_type(name: str, value: Any, kind: Any) -> Any:
    """The value as its field's type: an int may stand for a float, nothing else for anything else."""
    if kind is float and type(value) is int:
        return float(value)
    if kind == tuple[float, ...] and isinstance(value, (tuple, list)):
        return tuple(_check_type(name, share, float) for share in value)
    if type(value) in (get_args(kind) or (kind,)):
        return value
    raise ValueError(f"{name} must be {getattr(kind, '__name__', kind)}, not {value!r}")
