"""Networks of finite width beside the tangent kernel: built in its parametrisation or the usual one, trained side by
side, and their own kernels."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, stack_module_state, vmap
from torch.nn import functional as F

from .kernel import BIAS, WEIGHT, targets


class Scaled(nn.Linear):
    """A linear layer in tangent parametrisation: weights N(0, 1) times sqrt(weight / fan-in), biases times
    sqrt(bias). The wider the network, the less each weight moves in training."""

    def __init__(self, inputs: int, outputs: int, weight: float = WEIGHT, bias: float = BIAS):
        super().__init__(inputs, outputs)
        self.gain, self.bias_gain = (weight / inputs) ** 0.5, bias**0.5
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.gain * self.weight, self.bias_gain * self.bias)


def mlp(sizes: list[int], seed: int, lazy: bool = False) -> nn.Sequential:
    """A ReLU network of layers of these sizes, as PyTorch starts it; or, where ``lazy``, in tangent parametrisation and
    starting at zero. ValueError for lazy hidden layers of odd width."""
    with torch.random.fork_rng([]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        layers = [(Scaled if lazy else nn.Linear)(a, b) for a, b in pairwise(sizes)]
        if lazy:
            _mirror(layers)
    return nn.Sequential(nn.Flatten(), layers[0], *(part for layer in layers[1:] for part in (nn.ReLU(), layer)))


def _mirror(layers: list[Scaled]) -> None:
    """Make every hidden layer two equal halves that do not meet, with opposite read-outs: the network is zero, and its
    kernel's mean is what it was."""
    for layer in layers[:-1]:
        if layer.out_features % 2:
            raise ValueError(f"lazy networks have hidden layers of even width, not {layer.out_features}")
        layer.bias.copy_(torch.cat(2 * [layer.bias.chunk(2)[0]]))
    first, *middle, last = layers
    first.weight.copy_(torch.cat(2 * [first.weight.chunk(2)[0]]))
    for layer in middle:
        half = layer.weight.chunk(2)[0].chunk(2, 1)[0]
        layer.weight.copy_(2**0.5 * torch.block_diag(half, half))
    half = last.weight.chunk(2, 1)[0]
    last.weight.copy_(torch.cat([half, -half], 1))
    last.bias.zero_()


def train(
    nets: list[nn.Sequential],
    x: Tensor,
    y: Tensor,
    seeds: list[int],
    epochs: int,
    lr: float,
    batch: int = 50,
    loss: str = "ce",
    attack: Callable | None = None,
    watch: Callable | None = None,
) -> None:
    """Train networks of one shape, as ``mlp`` builds them, side by side by SGD, each with the data order of its own
    seed; in place.

    x, y : images and labels (N,). loss : "ce" or "squared", towards centred unit vectors.
    attack : (model, images, labels) to images, made for every batch. watch : called with every epoch, 0 first.

    ValueError for another loss, seeds that are not one for each network, and layers that ``mlp`` does not build.
    """
    if loss not in ("ce", "squared"):
        raise ValueError(f"unknown loss {loss!r}; choose one of ce, squared")
    if len(seeds) != len(nets):
        raise ValueError(f"one seed for each network: not {len(seeds)} for {len(nets)}")
    if other := [layer for net in nets for layer in net if not isinstance(layer, nn.Flatten | nn.Linear | nn.ReLU)]:
        raise ValueError(f"networks are trained side by side as mlp builds them, without {type(other[0]).__name__}")
    weights, _ = stack_module_state(nets)
    optimizer = torch.optim.SGD(weights.values(), lr)
    gains = [_gains(layer) for layer in nets[0] if isinstance(layer, nn.Linear)]
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]

    def together(images: Tensor) -> Tensor:
        """Logits of (nets * batch) images, as an attack knows them: a batched product for each layer."""
        h, pairs = images.reshape(len(nets), -1, images[0].numel()), iter(weights.values())
        for layer, (W, b, (gain, bias_gain)) in enumerate(zip(pairs, pairs, gains)):
            h = torch.baddbmm(bias_gain * b[:, None], h.relu() if layer else h, gain * W.mT)
        return h.flatten(0, 1)

    for epoch in range(epochs + 1):
        if watch or epoch == epochs:
            for i, net in enumerate(nets):
                net.load_state_dict({name: w[i].detach() for name, w in weights.items()})
        if watch:
            watch(epoch)
        order = torch.stack([torch.randperm(len(x), generator=draw) for draw in draws])
        for index in order.split(batch, 1) if epoch < epochs else ():
            images, labels = x[index].flatten(0, 1), y[index].flatten()
            images = attack(together, images, labels) if attack else images
            wanted = labels if loss == "ce" else targets(labels, nets[0][-1].out_features).to(images)
            value = F.cross_entropy if loss == "ce" else F.mse_loss
            optimizer.zero_grad()
            (value(together(images), wanted, reduction="sum") / index.shape[1]).backward()
            optimizer.step()


def _gains(layer: nn.Linear) -> tuple[float, float]:
    return getattr(layer, "gain", 1.0), getattr(layer, "bias_gain", float(layer.bias is not None))


def empirical_kernel(model: nn.Sequential, x: Tensor, z: Tensor | None = None, trace=False, limit=4e9) -> Tensor:
    """<df_c(x)/dtheta, df_e(z)/dtheta> of a chain of linear layers and activations, (N, C, M, C), or with ``trace`` the
    sum over c = e, (N, M). Differentiable in ``x``.

    Layer by layer it is an inner product of inputs times one of back-propagated slopes, so no Jacobian is formed: time
    N M C^2 width, not N M C^2 width^2. Raises ValueError for a layer of another kind, and for a result above ``limit``
    bytes.
    """
    left = _factors(model, x)
    right = left if z is None else _factors(model, z)
    (C, N, _), M = left[-1][1].shape, right[-1][1].shape[1]
    if (size := N * M * (1 if trace else C * C) * x.element_size()) > limit:
        raise ValueError(f"kernel too large: {size:.1e} bytes exceed {limit:.1e}; use trace=True or fewer images")
    pattern = "cno,cmo->nm" if trace else "cno,emo->ncme"
    total = 0
    for (a, d, gain, bias_gain), (b, e, *_) in zip(left, right):
        inputs, slopes = gain**2 * a @ b.T + bias_gain**2, torch.einsum(pattern, d, e)
        total = total + (inputs if trace else inputs[:, None, :, None]) * slopes
    return total


def _factors(model: nn.Sequential, x: Tensor) -> list[tuple]:
    """Of each linear layer: its inputs (N, in), the outputs' slopes by its result (C, N, out), gains of both kinds."""
    inputs, results, layers, asked = [], [], [], x.requires_grad
    x = x if asked else x.detach().requires_grad_()  # so that frozen networks have slopes too
    with torch.enable_grad():
        for layer in model:
            linear = isinstance(layer, nn.Linear)
            noisy = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.training
            other = not linear and next(layer.parameters(), None) is not None
            if layer in layers or noisy or other or (isinstance(layer, nn.Softmax) and layer.dim == 0):
                name = type(layer).__name__ + (" in train mode" if noisy else " used twice" if layer in layers else "")
                raise ValueError(f"no layerwise kernel for {name}: linear layers and activations; see jacobian_kernel")
            before, x = x, layer(x.clone())  # an activation may work in place
            if linear:
                inputs, results, layers = [*inputs, before], [*results, x], [*layers, layer]
        directions = torch.eye(x.shape[1], dtype=x.dtype)[:, None].expand(-1, len(x), -1)
        slopes = torch.autograd.grad(x, results, directions, is_grads_batched=True, retain_graph=asked)
    gains = map(_gains, layers)
    return [(a if asked else a.detach(), d, *gain) for a, d, gain in zip(inputs, slopes, gains)]


def jacobian_kernel(model: nn.Module, x: Tensor, z: Tensor | None = None) -> Tensor:
    """The same of any network, from whole Jacobians (N, C, parameters): the reference, and the way for few images."""
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules()):
        raise ValueError("batch norm in train mode mixes images: call model.eval() first")
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def jacobian(images: Tensor) -> Tensor:
        of_one = jacrev(lambda w, image: functional_call(model, w, (image[None],))[0])
        return torch.cat([j.flatten(2) for j in vmap(of_one, (None, 0))(weights, images).values()], 2)

    left = jacobian(x)
    return torch.einsum("ncp,mep->ncme", left, left if z is None else jacobian(z))
