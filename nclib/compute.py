"""Where and in what precision to compute: chosen once, with the reason."""

import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

PRECISIONS = ("auto", "float32", "bfloat16")  # float16 would need its gradients scaled


@dataclass(frozen=True)
class Compute:
    """A device, the precision of training and attacks on it, and why. Measures are always float32."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        """The precision's name: "float32" or "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    def autocast(self):
        """A context in which forward passes run in ``dtype``."""
        return nullcontext() if self.name == "float32" else torch.autocast(self.device.type, self.dtype)

    def lay_out(self, images_or_model):
        """Images (N, C, H, W), or a model, on the device and channels last: convolutions gain in any precision."""
        return images_or_model.to(self.device, memory_format=torch.channels_last)


@contextmanager
def full_precision():
    """float32 that is float32: on CUDA convolutions run in TF32 unless told otherwise, ten bits where NC1 needs 23.
    torch's older and newer switches move together, as it answers nothing where they disagree, and are put back."""
    cudnn, newer, before = torch.backends.cudnn, _switches(), []
    for switch in newer:
        before.append(switch.fp32_precision)
        switch.fp32_precision = "none"
    older = "tf32" in before[2:4] if newer else cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        cudnn.allow_tf32, products = older
        torch.set_float32_matmul_precision(products)
        for switch, was in zip(newer, before):
            switch.fp32_precision = was


def _switches() -> tuple:
    """torch's own from 2.9 on: those that others fall back on, then convolutions, recurrence and products."""
    b = torch.backends
    if not hasattr(b, "fp32_precision"):
        return ()
    return b, b.cudnn, b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul, b.mkldnn.conv, b.mkldnn.rnn, b.mkldnn.matmul


def choose(precision: str = "auto", device: str | torch.device | None = None, side: int = 32) -> Compute:
    """Pick device and precision. ``side`` is the image side: below 16 pixels bfloat16 gains a CPU about a tenth.

    CPU and CUDA are tried and measured. ValueError for an unknown device or precision, and for one that is not there.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise ValueError(f"unknown device {str(device)!r}; choose cpu, cuda, or another that torch knows") from None
    counts = {"cuda": torch.cuda.device_count, "mps": torch.backends.mps.is_available}
    if device.type in counts and (device.index or 0) >= (count := int(counts[device.type]())):
        raise ValueError(f"device {str(device)!r} asked for, but torch finds {count} such; choose another, or cpu")
    if precision != "auto":
        return Compute(device, getattr(torch, precision), "as asked")
    if device.type == "cpu" and side < 16:
        return Compute(device, torch.float32, "images this small gain little from bfloat16 on a CPU")
    if device.type not in ("cpu", "cuda"):
        return Compute(device, torch.float32, f"bfloat16 is not tried on {device.type}")
    gpu = device.type == "cuda"
    native = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else _cpu_has_bf16()
    reason = f"this {'GPU' if gpu else 'CPU'} has {'' if native else 'no '}bfloat16 units"
    return Compute(device, torch.bfloat16 if native else torch.float32, reason)


def _cpu_has_bf16() -> bool:
    with warnings.catch_warnings(action="ignore"):
        return "AVX512" in torch.backends.cpu.get_cpu_capability() and torch.cpu._is_avx512_bf16_supported()
