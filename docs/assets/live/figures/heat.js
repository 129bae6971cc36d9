// The heat equation for a mixture of Gaussians: its density after the heat time s, and points that follow the score in closed form.
import { normal } from "../samplers.js";
import { dots, slider, stage } from "../stage.js";
import { words } from "../words.js";

const MEANS = [[-1.6, -0.7], [0.2, 1.4], [1.7, -0.5]];
const VARIANCE = 0.06;
const LONGEST = 2; // heat time
const FRAMES = 200; // of the points, equally spaced in the square root of s

/** Density and score of the data smoothed for the time s: a mixture of Gaussians of variance VARIANCE + 2 s. */
function smoothed(x, y, s) {
  const variance = VARIANCE + 2 * s;
  let [p, u, v] = [0, 0, 0];
  for (const [mx, my] of MEANS) {
    const weight = Math.exp(-((x - mx) ** 2 + (y - my) ** 2) / (2 * variance)) / (2 * Math.PI * variance * MEANS.length);
    p += weight;
    u += (weight * (mx - x)) / variance;
    v += (weight * (my - y)) / variance;
  }
  return { p, score: [u / p, v / p] };
}

/** dx/ds = -score, by Heun's method in r with s = r². */
function moved(x, r, h) {
  const slope = (at, radius) => {
    const out = new Float64Array(at.length);
    for (let i = 0; i < at.length; i += 2) {
      const { score } = smoothed(at[i], at[i + 1], radius * radius);
      out[i] = -2 * radius * score[0];
      out[i + 1] = -2 * radius * score[1];
    }
    return out;
  };
  const first = slope(x, r);
  const second = slope(x.map((value, i) => value + h * first[i]), r + h);
  return x.map((value, i) => value + (h / 2) * (first[i] + second[i]));
}

function variance(x) {
  const n = x.length / 2;
  let total = 0;
  for (const start of [0, 1]) {
    let [sum, squares] = [0, 0];
    for (let i = start; i < x.length; i += 2) {
      sum += x[i];
      squares += x[i] ** 2;
    }
    total += squares / n - (sum / n) ** 2;
  }
  return total / 2;
}

export default async function make(host) {
  const draw = normal(7);
  const states = [Float64Array.from({ length: 600 }, (_, i) => MEANS[(i >> 1) % MEANS.length][i % 2] + Math.sqrt(VARIANCE) * draw())];
  const h = Math.sqrt(LONGEST) / FRAMES;
  for (let k = 0; k < FRAMES; k++) states.push(moved(states[k], k * h, h));
  const image = document.createElement("canvas");
  const s = () => (frame() * h) ** 2;

  function show() {
    const known = variance(states[0]);
    made.output.textContent = words("heatOutput", variance(states[frame()]).toFixed(2), known.toFixed(2), (known + 2 * s()).toFixed(2));
    made.paint();
  }
  const made = stage(host, {
    label: words("heatLabel"),
    span: 3.2,
    paint() {
      image.width = 160;
      image.height = Math.max(1, Math.round((160 * made.height) / made.width));
      const pen = image.getContext("2d");
      const pixels = pen.createImageData(image.width, image.height);
      const shade = made.colour("accent").match(/[0-9a-f]{2}/gi).map((one) => parseInt(one, 16));
      const top = smoothed(...MEANS[1], s()).p;
      for (let row = 0; row < image.height; row++) {
        for (let column = 0; column < image.width; column++) {
          const [x, y] = made.where(((column + 0.5) * made.width) / image.width, ((row + 0.5) * made.height) / image.height);
          const share = smoothed(x, y, s()).p / top;
          pixels.data.set([...shade, Math.round(200 * Math.min(1, share))], 4 * (row * image.width + column));
        }
      }
      pen.putImageData(pixels, 0, 0);
      made.context.drawImage(image, 0, 0, made.width, made.height);
      dots(made, states[frame()], "ink", 1.8, 0.8);
    },
  });
  const frame = slider(made, "heatTime", { min: 0, max: FRAMES, value: 60, text: (k) => ((k * h) ** 2).toFixed(2) }, show);
  show();
  made.show();
}
