// PreActResNet-8 on 8 x 8 digits: forward, back to the input, attacks, and where a feature lies among the class means.
// An activation is a Float64Array of (position, channel); a convolution's weights are (tap, channel in, channel out).
"use strict";

const sum = (values) => values.reduce((total, v) => total + v, 0);
const dot = (a, b) => sum(a.map((v, i) => v * b[i]));
const plus = (a, b, scale = 1) => a.map((v, i) => v + scale * b[i]);
const largest = (values) => values.reduce((best, v, i) => (v > values[best] ? i : best), 0);
const clip = (v, low, high) => Math.min(high, Math.max(low, v));

// Every meeting of an input position, an output position and a tap of the kernel that lies inside the image.
function convolution({ values, shape }, side, stride = 1) {
  const [kernel, , inside, outside] = shape,
    out = side / stride,
    pad = (kernel - 1) / 2,
    meetings = [];
  for (let y = 0; y < out; y++)
    for (let x = 0; x < out; x++)
      for (let tap = 0; tap < kernel * kernel; tap++) {
        const row = y * stride + Math.floor(tap / kernel) - pad;
        const column = x * stride + (tap % kernel) - pad;
        if (row < 0 || row >= side || column < 0 || column >= side) continue;
        meetings.push((row * side + column) * inside, (y * out + x) * outside, tap * inside * outside);
      }
  return { meetings, values, inside, outside, inputs: side * side * inside, outputs: out * out * outside };
}

function convolve({ meetings, values, inside, outside, outputs }, input) {
  const output = new Float64Array(outputs);
  for (let m = 0; m < meetings.length; m += 3)
    for (let i = 0, w = meetings[m + 2]; i < inside; i++, w += outside) {
      const v = input[meetings[m] + i];
      if (v) for (let o = 0, to = meetings[m + 1]; o < outside; o++) output[to + o] += v * values[w + o];
    }
  return output;
}

// The way back is the transpose: the same meetings, input and output exchanged. Nothing is flipped or dilated.
function transposed({ meetings, values, inside, outside, inputs }, gradient) {
  const result = new Float64Array(inputs);
  for (let m = 0; m < meetings.length; m += 3)
    for (let i = 0, w = meetings[m + 2]; i < inside; i++, w += outside) {
      let total = 0;
      for (let o = 0, from = meetings[m + 1]; o < outside; o++) total += gradient[from + o] * values[w + o];
      result[meetings[m] + i] += total;
    }
  return result;
}

// relu(batch norm) with kept statistics, an affine map by channel; and its way back, shut where the output is 0.
function rectify({ scale, shift }, x) {
  const n = scale.length;
  const a = x.map((v, i) => Math.max(0, v * scale[i % n] + shift[i % n]));
  return [a, (gradient) => gradient.map((g, i) => (a[i] > 0 ? g * scale[i % n] : 0))];
}

function block({ bn1, conv1, bn2, conv2, shortcut }, x) {
  const [a, backA] = rectify(bn1, x);
  const [b, backB] = rectify(bn2, convolve(conv1, a));
  const back = (gradient) => {
    const through = transposed(conv1, backB(transposed(conv2, gradient)));
    // A shortcut with weights leaves after the first activation, the identity before it.
    return shortcut ? backA(plus(through, transposed(shortcut, gradient))) : plus(backA(through), gradient);
  };
  return [plus(convolve(conv2, b), shortcut ? convolve(shortcut, a) : x), back];
}

class Network {
  constructor(tensor) {
    const vector = (name) => Float64Array.from(tensor(name).values);
    const conv = (name, side, stride) => tensor(name) && convolution(tensor(name), side, stride);
    const norm = (name) => {
      const [weight, bias, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map((part) =>
        vector(`${name}.${part}`),
      );
      const scale = weight.map((w, i) => w / Math.sqrt(variance[i] + 1e-5));
      return { scale, shift: bias.map((b, i) => b - mean[i] * scale[i]) };
    };
    [this.mean, this.std] = ["mean", "std"].map((part) => vector(`normalize.${part}`)[0]);
    [this.bias, this.centre, this.spread] = ["head.bias", "centre", "spread"].map(vector);
    [this.head, this.basis, this.means, this.cloud] = ["head.weight", "basis", "means", "cloud"].map((name) =>
      rowsOf(tensor(name)),
    );
    this.stem = conv("stem.weight", 8);
    this.last = norm("features.0");
    this.blocks = ["block1", "block2", "block3"].map((name, i) => {
      const [side, stride] = [8, 8, 4].map((side, k) => [side, k ? 2 : 1])[i];
      const [conv1, conv2] = [conv(`${name}.conv1.weight`, side, stride), conv(`${name}.conv2.weight`, side / stride)];
      const shortcut = conv(`${name}.shortcut.weight`, side, stride);
      return { bn1: norm(`${name}.bn1`), conv1, bn2: norm(`${name}.bn2`), conv2, shortcut };
    });
  }

  // What the network makes of an image, and the map from a gradient of its logits to a gradient of its pixels.
  run(pixels) {
    const backs = [];
    const keep = ([y, back]) => (backs.unshift(back), y);
    const scaled = Float64Array.from(pixels, (v) => (v - this.mean) / this.std);
    const x = this.blocks.reduce((y, each) => keep(block(each, y)), convolve(this.stem, scaled));
    const a = keep(rectify(this.last, x));
    const features = new Float64Array(this.centre.length);
    const n = features.length;
    a.forEach((v, i) => (features[i % n] += (v * n) / a.length));
    const logits = this.bias.map((b, c) => b + dot(this.head[c], features));
    const gradient = (slope) => {
      const pooled = features.map((_, i) => (sum(slope.map((s, c) => s * this.head[c][i])) * n) / a.length);
      const flow = backs.reduce(
        (g, back) => back(g),
        a.map((_, i) => pooled[i % n]),
      );
      return transposed(this.stem, flow).map((v) => v / this.std);
    };
    return { pixels, logits, answer: largest(logits), gradient, ...this.place(features) };
  }

  // Coordinates in the span of the centred class means: nearest mean, vertex and NC1 do not see what is outside it.
  place(features) {
    const point = Float64Array.from(this.basis, (axis) => dot(axis, plus(features, this.centre, -1)));
    const nearest = largest(this.means.map((mean) => -Math.hypot(...plus(point, mean, -1))));
    return { point, nearest, vertex: largest(this.means.map((mean) => dot(point, mean) / Math.hypot(...mean))) };
  }

  // A sample's share of NC1 about the clean means: its squared distance in units of the scatter between classes.
  variability(point, label) {
    return sum(plus(point, this.means[label], -1).map((v, k) => (v * v) / this.spread[k]));
  }

  // Orthonormal coordinates in the plane of three class means, the first axis towards the first of them.
  plane(classes) {
    const three = classes.map((c) => this.means[c]);
    const origin = three[0].map((_, k) => sum(three.map((mean) => mean[k])) / 3);
    const [a, b] = three.map((mean) => plus(mean, origin, -1));
    const first = direction(a, "l2");
    const second = direction(plus(b, first, -dot(b, first)), "l2");
    return (point) => [first, second].map((axis) => dot(axis, plus(point, origin, -1)));
  }
}

const rowsOf = ({ values, shape: [count, width] }) =>
  Array.from({ length: count }, (_, i) => Float64Array.from(values.subarray(i * width, (i + 1) * width)));
const gaussian = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
const direction = (v, norm) => {
  const length = Math.hypot(...v) || 1;
  return v.map(norm === "linf" ? Math.sign : (entry) => entry / length);
};

// The box first and the l2 ball after it, as nclib has it: shrinking a perturbation does not leave the box.
function project(delta, pixels, epsilon, norm) {
  const near = norm === "linf" ? delta.map((v) => clip(v, -epsilon, epsilon)) : delta;
  const boxed = near.map((v, i) => clip(pixels[i] + v, 0, 1) - pixels[i]);
  const share = norm === "linf" ? 1 : Math.min(1, epsilon / (Math.hypot(...boxed) || 1));
  return boxed.map((v) => v * share);
}

// The way of PGD on cross-entropy: the clean image, the random start unless there is none, and every step.
function pgd(network, pixels, label, { epsilon, step, steps, norm, targeted = false, random = true }) {
  const start = (v) => (norm === "linf" ? v.map(() => 2 * Math.random() - 1) : direction(v.map(gaussian), norm));
  const radius = norm === "linf" ? epsilon : epsilon * Math.random() ** (1 / pixels.length);
  let delta = pixels.map(() => 0);
  const path = [network.run(pixels)];
  const go = (next) => path.push(network.run(plus(pixels, (delta = project(next, pixels, epsilon, norm)))));
  if (random) go(start(delta).map((v) => v * radius));
  for (let k = 0; k < steps; k++) {
    const { logits, gradient } = path.at(-1);
    const powers = logits.map((z) => Math.exp(z - Math.max(...logits)));
    const slope = powers.map((p, c) => (targeted ? -1 : 1) * (p / sum(powers) - (c === label)));
    go(plus(delta, direction(gradient(slope), norm), step));
  }
  return path;
}

// Noise of an attack's own size: a random corner of the l-infinity ball, or a random point of the sphere.
function noise(network, pixels, { epsilon, norm }) {
  const noisy = plus(pixels, direction(pixels.map(gaussian), norm), epsilon);
  return [pixels, noisy.map((v) => clip(v, 0, 1))].map((image) => network.run(image));
}
