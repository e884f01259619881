"""What training costs: seconds an epoch, forward-units a step, float32 against bfloat16 with channels last.

    python benchmarks/training.py                   # small defaults, about two minutes on one thread
    python benchmarks/training.py --device cuda     # adds images per second and the share of the chip's bfloat16 peak

Images are random, of CIFAR-10's shape: time does not depend on what they show. An epoch is timed as ``fit`` runs it
(attack, update, one look at the losses), without measuring and saving. Forward-units are the convolutions' and matrix
products' operations of one step divided by those of one forward pass. Rounds are interleaved; median (lowest-highest).
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from nclib import Recipe
from nclib.compute import choose
from nclib.data import Dataset, Split
from nclib.training.epochs import batch_loss, network, train_epoch

# Dense bfloat16, multiply and add counted as two.
PEAK = {"H200": 989e12, "H100 80GB HBM3": 989e12, "H100 PCIe": 756e12, "A100": 312e12}


def random_images(images: int, digits: bool) -> Dataset:
    torch.manual_seed(0)
    shape = (1, 8, 8) if digits else (3, 32, 32)
    split = Split(torch.randint(0, 256, (images, *shape), dtype=torch.uint8), torch.arange(images) % 10)
    return Dataset("digits" if digits else "cifar10", split, split, tuple("0123456789"))


def flops_of_a_step(recipe: Recipe, data: Dataset) -> tuple[int, float]:
    """Operations of one step per image, and the forward-units they make."""
    model, (x, y) = network(recipe, data).train(), (data.train.images[:4] / 255, data.train.labels[:4])
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(x)
    with FlopCounterMode(display=False) as step:
        batch_loss(model, recipe, x, y, torch.Generator().manual_seed(0))[0].backward()
    return step.get_total_flops() // 4, step.get_total_flops() / forward.get_total_flops()


class Trainer:
    """One recipe in one precision, an epoch at a time."""

    def __init__(self, recipe: Recipe, data: Dataset, device: str):
        self.recipe, self.compute, self.epochs = recipe, choose(recipe.precision, device), 0
        self.data, self.model = data.to(device), self.compute.lay_out(network(recipe, data))
        sgd = dict(lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        self.optimizer = torch.optim.SGD(self.model.parameters(), **sgd)

    def epoch(self) -> float:
        began = time.perf_counter()
        train_epoch(self.model, self.optimizer, self.recipe, self.data.train, self.compute, self.epochs)
        self.epochs += 1
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="preactresnet18")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=256, help="in an epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--digits", action="store_true", help="images of 1x8x8 instead of 3x32x32")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = random_images(options.images, options.digits)
    chosen = choose("auto", options.device, data.shape[-1])
    place = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"torch {torch.__version__}, {place}; chosen here: {chosen.dtype} ({chosen.reason})")
    print(f"{options.architecture} at width {options.width}, {options.images} images of {data.shape} in batches of 128")
    print(f"{'':14}{'units a step':>12}{'precision':>12}{'s an epoch':>24}{'images/s':>10}{'of float32':>12}")
    peak = next((p for name, p in PEAK.items() if name in place and "MIG" not in place), None)
    for training in ("standard", "adversarial", "trades"):
        recipe = Recipe(
            dataset=data.name, training=training, architecture=options.architecture, width=options.width,
            epsilon=8 / 255, step=2 / 255,
        )  # fmt: skip
        flops, units = flops_of_a_step(recipe, data)
        trainers = {p: Trainer(recipe.but(precision=p), data, options.device) for p in ("float32", "bfloat16")}
        seconds = {precision: [] for precision in trainers}
        for round_ in range(options.repeats + 1):  # the first one warms up
            for precision, trainer in trainers.items():
                spent = trainer.epoch()
                if round_:
                    seconds[precision].append(spent)
        for precision, times in seconds.items():
            median = statistics.median(times)
            spread = f"{median:.3f} ({min(times):.3f}-{max(times):.3f})"
            gain = statistics.median(a / b for a, b in zip(times, seconds["float32"]))
            rate = options.images / median
            share = f"   {rate * flops / peak:.1%} of the bfloat16 peak" if peak and precision == "bfloat16" else ""
            print(f"{training:14}{units:12.2f}{precision:>12}{spread:>24}{rate:10.0f}{gain:12.2f}{share}")


if __name__ == "__main__":
    main()
