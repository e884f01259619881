// What the reader picks, draws and presses on the page, and what is shown of it.
"use strict";

const [find, every] = ["querySelector", "querySelectorAll"].map((how) => (what) => document[how](`.try-it ${what}`));

// The manifest, and a look-up of tensors by name. A page opened from disk may run scripts, but not fetch files.
async function load(folder) {
  const get = (name, kind) => fetch(folder + name).then((response) => response[kind]());
  const script = Object.assign(document.createElement("script"), { src: `${folder}networks.js` });
  const added = () => new Promise((done) => (script.onload = done) && document.head.append(script));
  const local = location.protocol === "file:" && (await added(), window.tryItData);
  const [manifest, binary] =
    local || (await Promise.all([get("networks.json", "json"), get("networks.bin", "arrayBuffer")]));
  const tensor = (name) => {
    const [offset, ...shape] = manifest.tensors[name] ?? [];
    const size = shape.reduce((n, m) => n * m, 1);
    return shape.length && { shape, values: new Float32Array(binary, 4 * offset, size) };
  };
  return { manifest, tensor };
}

function paint(canvas, pixels) {
  const image = new ImageData(8, 8);
  image.data.set(Array.from({ length: 256 }, (_, i) => (i % 4 === 3 ? 255 : 255 * pixels[i >> 2])));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

(async (folder) => {
  const form = find("form").elements;
  const { manifest, tensor } = await load(folder);
  const networks = manifest.networks.map((name) => [name, new Network((part) => tensor(`${name}.${part}`))]);
  const network = () => Object.fromEntries(networks)[form.network.value];
  const images = rowsOf(tensor("test.images"));
  const [labels, trained] = ["test.labels", "train.labels"].map((name) => tensor(name).values);
  const targeted = () => form.target.value !== "none";
  let digit, path, classes, spot, timer; // spot: from feature space to the drawing
  let [turn, ends] = [0, []]; // which count goes on, and where it found the changed digits of each class

  function act(kind, { pixels, label }) {
    const aim = { none: label, next: (label + 1) % 10 }[form.target.value] ?? +form.target.value;
    const [epsilon, steps] = [+form.epsilon.value, +form.steps.value];
    const options = { norm: form.norm.value, epsilon, step: epsilon * manifest.step, steps, targeted: targeted() };
    if (kind === "attack") return { aim, way: pgd(network(), pixels, aim, options) };
    return { aim, way: kind === "noise" ? noise(network(), pixels, options) : [network().run(pixels)] };
  }

  function go(kind) {
    const { aim, way } = act(kind, digit);
    const likely = [...Array(10).keys()].sort((a, b) => way.at(-1).logits[b] - way.at(-1).logits[a]);
    [path, classes] = [way, [...new Set([digit.label, aim, ...likely])].slice(0, 3)];
    const last = (form.shown.max = path.length - 1);
    find(".try-said").ariaBusy = true; // it is read out once, at the end
    drawPlane(matchMedia("(prefers-reduced-motion: reduce)").matches ? last : 0);
    clearInterval(timer);
    timer = setInterval(() => (+form.shown.value < last ? show(+form.shown.value + 1) : stop()), 180);
  }
  function stop() {
    clearInterval(timer);
    find(".try-said").ariaBusy = false;
  }

  function drawPlane(t) {
    const flat = network().plane(classes);
    const corners = classes.map((c) => network().means[c]);
    const clouds = classes.map((c) => network().cloud.filter((_, i) => trained[i] === c));
    const parts = [...clouds, ...classes.map((c) => ends[c] ?? [])];
    const points = [...corners, ...parts.flat(), ...path.map(({ point }) => point)].map(flat);
    const bounds = [0, 1].map((k) => [Math.min, Math.max].map((of) => of(...points.map((p) => p[k]))));
    const scale = Math.min(...bounds.map(([low, high], k) => [380, 310][k] / (high - low)));
    const middle = bounds.map(([low, high]) => (low + high) / 2);
    spot = (point) => flat(point).map((v, k) => Math.round([200, 170][k] + scale * [1, -1][k] * (v - middle[k])));
    every(".cloud, .ends").forEach((each, k) => each.setAttribute("d", parts[k].map((p) => `M${spot(p)}h0`).join("")));
    every(".corner").forEach((each, k) => each.setAttribute("transform", `translate(${spot(corners[k])})`));
    every(".corner text").forEach((each, k) => (each.textContent = classes[k]));
    find("polygon").setAttribute("points", corners.map(spot).join(" "));
    show(t);
  }

  function show(t) {
    const { pixels, logits, answer, nearest } = path[t];
    const change = plus(pixels, path[0].pixels, -1);
    const [size, length] = [Math.max(...change.map(Math.abs)), Math.hypot(...change)];
    const gain = 0.5 / (size || 0.5);
    const shown = [path[0].pixels, change.map((v) => 0.5 + gain * v), pixels];
    every(".try-images canvas").forEach((canvas, k) => paint(canvas, shown[k]));
    find(".try-gain").textContent = size ? `change × ${gain.toPrecision(2)}` : "no change";
    const all = path.flatMap((each) => [...each.logits, 0]);
    const share = (z) => (z - Math.min(...all)) / (Math.max(...all) - Math.min(...all));
    every(".try-bars li").forEach((bar, c) => {
      bar.className = `class${classes.indexOf(c)} ${c === answer ? "answer" : ""}`;
      bar.style.setProperty("--from", share(Math.min(logits[c], 0)));
      bar.style.setProperty("--to", share(Math.max(logits[c], 0)));
      bar.lastElementChild.textContent = logits[c].toFixed(1);
    });
    const way = path.slice(0, t + 1).map(({ point }) => spot(point));
    find("polyline").setAttribute("points", way.join(" "));
    find(".now").setAttribute("transform", `translate(${way[t]})`);
    const steps = path.length - 2; // beside the clean image and the random start; noise has none
    const when = !t ? "clean" : !steps ? "with noise" : t === 1 ? "random start" : `step ${t - 1} of ${steps}`;
    [form.shown.value, find(".try-time b").textContent, form.shown.ariaValueText] = [t, when, when];
    find(".try-said").innerHTML = `This <b>${digit.label}</b>, ${when}: the network reads <b>${answer}</b>, the nearest
      class mean says <b>${nearest}</b>. Largest change of a pixel ${size.toFixed(2)}, length ${length.toFixed(2)}.`;
  }

  // One row of the table: what becomes of all test digits, shown as it grows, dropped where a setting is changed.
  async function count(kind) {
    const [mine, found, totals, row] = [++turn, [], [Array(4).fill(0), Array(4).fill(0)], find("tbody").insertRow(0)];
    const [name, norm, target] = ["network", "norm", "target"].map((each) => form[each].selectedOptions[0].text);
    const towards = kind === "attack" && targeted() ? `, target: ${target}` : "";
    find("tbody").ariaBusy = true;
    for (let i = 0, seen = 0, told = performance.now(); i < images.length; i++) {
      const { aim, way } = act(kind, { pixels: images[i], label: labels[i] });
      if (!towards || aim !== labels[i]) {
        seen++;
        (found[labels[i]] ??= []).push(way.at(-1).point);
        [way[0], way.at(-1)].forEach(({ answer, nearest, vertex, point }, k) => {
          const right = [answer, nearest].map((each) => each === labels[i]);
          const values = [...right, vertex !== labels[i], network().variability(point, labels[i])];
          totals[k] = plus(totals[k], values);
        });
      }
      if (i < images.length - 1 && performance.now() - told < 50) continue;
      const word = (v, j) => (j === 3 ? (v / seen).toPrecision(2) : `${((100 * v) / seen).toFixed(1)}%`);
      const cells = totals[0].map((v, j) => `<td>${word(v, j)} → <b>${word(totals[1][j], j)}</b></td>`);
      const title = `${name}, ${kind}${towards}, ${norm.slice(0, 2)}, ε = ${form.epsilon.value} (${seen})`;
      row.innerHTML = `<th scope="row">${title}</th>${cells.join("")}`;
      ends = found;
      drawPlane(+form.shown.value);
      await new Promise((resume) => setTimeout(resume));
      if (turn !== mine) return row.remove();
      told = performance.now();
    }
    row.className = "done";
    find("tbody").ariaBusy = false;
  }

  function changed({ target }) {
    if (target === form.shown) return (stop(), show(+target.value));
    const budget = manifest.budgets[form.norm.value];
    if (target === form.norm) Object.assign(form.epsilon, { max: 2 * budget, step: budget / 20, value: budget });
    ["epsilon", "steps"].forEach((name) => (form[name].previousElementSibling.textContent = form[name].value));
    const shares = network().cloud.map((point, i) => network().variability(point, trained[i]));
    find(".try-nc1").textContent = (sum(shares) / shares.length).toPrecision(2);
    [turn, ends] = [turn + 1, []];
    go();
  }

  function pick(c) {
    const own = [...images.keys()].filter((i) => labels[i] === c);
    const index = own[(own.indexOf(digit?.index) + 1) % own.length];
    take({ index, pixels: images[index], label: c });
    paint(every("[data-digit] canvas")[c], digit.pixels);
  }
  function take(given) {
    digit = given;
    every("[data-digit]").forEach((button, c) => (button.ariaPressed = "index" in digit && c === digit.label));
    go();
  }

  find("form").addEventListener("input", changed);
  every("[data-digit]").forEach((button, c) => {
    paint(button.firstElementChild, images[labels.indexOf(c)]);
    button.onclick = () => pick(c);
  });
  every("[data-do]").forEach((button) => (button.onclick = () => (button.dataset.all ? count : go)(button.dataset.do)));
  document.querySelectorAll("[data-tour]").forEach((button) => {
    const [name, kind] = button.dataset.tour.split(" ");
    button.onclick = () => {
      [form.network.value, form.steps.value] = [name, manifest.steps];
      [form.norm.value, form.target.value] = ["linf", "none"];
      changed({ target: form.norm });
      go(kind);
      count(kind);
      find("form").scrollIntoView();
    };
  });
  drawing(find(".try-pad"), find(".try-clear"), (pixels) => take({ pixels, label: network().run(pixels).answer }));
  form.steps.value = manifest.steps;
  pick(3);
  changed({ target: form.norm });
  document.documentElement.classList.add("try-it-lives");
})(new URL(".", document.currentScript.src).href);
