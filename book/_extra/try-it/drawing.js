// The pad: strokes by finger, mouse or keys, and a digit of them, made as the data set's makers made theirs.
"use strict";

function stroked(pen, strokes, width, color = "white") {
  Object.assign(pen, { lineWidth: width, lineCap: "round", lineJoin: "round", strokeStyle: color });
  for (const stroke of strokes) {
    pen.beginPath();
    [stroke[0], ...stroke].forEach((point) => pen.lineTo(...point));
    pen.stroke();
  }
}

// Scaled to the full height and centred, on 32 x 32 dots of ink or none; a pixel is the share of ink in 4 x 4 of them.
function pixelsOf(strokes) {
  const bounds = [0, 1].map((k) => strokes.flat().map((point) => point[k]));
  const [[left, right], [top, bottom]] = bounds.map((along) => [Math.min(...along), Math.max(...along)]);
  const scale = Math.min(26 / (bottom - top || 1), 20 / (right - left || 1));
  const pen = Object.assign(document.createElement("canvas"), { width: 32, height: 32 }).getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 16 - (scale * (left + right)) / 2, 16 - (scale * (top + bottom)) / 2);
  stroked(pen, strokes, 5 / scale);
  const pixels = new Float64Array(64);
  pen.getImageData(0, 0, 32, 32).data.forEach((alpha, i) => {
    if (i % 4 === 3 && alpha > 127) pixels[8 * (i >> 9) + ((i >> 4) & 7)] += 1 / 16;
  });
  return pixels;
}

// Tells of every change. Keys: arrows move the pen, the space bar lowers and lifts it.
function drawing(pad, clear, tell) {
  const arrows = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
  let [strokes, down, at] = [[], false, [96, 40]];
  const lower = (whether) => (down = whether) && strokes.push([]);
  const move = (point) => {
    at = point;
    if (down) strokes.at(-1).push(at);
    const pen = pad.getContext("2d");
    pen.clearRect(0, 0, 192, 192);
    stroked(pen, strokes, 18);
    if (pad.matches(":focus-visible")) stroked(pen, [[at]], 8, down ? "#D55E00" : "#E69F00");
    if (strokes.length) tell(pixelsOf(strokes));
  };
  const place = ({ offsetX, offsetY }) => move([offsetX, offsetY].map((v) => (v * 192) / pad.clientWidth));
  pad.onpointerdown = (event) => (pad.setPointerCapture(event.pointerId), lower(true), place(event));
  pad.onpointermove = (event) => down && place(event);
  pad.onpointerup = pad.onpointercancel = () => lower(false);
  pad.onkeydown = (event) => {
    if (event.key !== " " && !arrows[event.key]) return;
    event.preventDefault();
    if (event.key === " ") lower(!down);
    move(plus(at, arrows[event.key] ?? [0, 0]));
  };
  clear.onclick = () => move(((strokes = []), (down = false), at));
}
