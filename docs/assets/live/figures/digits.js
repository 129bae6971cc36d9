// One noise, two models of digits: MeanFlow in a few jumps, and a rectified flow in Euler's steps.
import { model, network } from "../runtime.js";
import { draws, solve } from "../samplers.js";
import { choice, latest, slider, stage } from "../stage.js";
import { words } from "../words.js";

const SIZE = 64;
const JUMPS = ["1", "2", "4"];

export default async function make(host) {
  const corners = [11, 12, 13].map((seed) => draws(seed, SIZE));
  const at = [0.3, 0.2]; // angles on a sphere whose points are all standard normal noise
  const jump = Object.fromEntries(await Promise.all(JUMPS.map(async (name) => [name, await model(`live_digits/one_step_${name}`)])));
  const velocity = await network("live_digits/digit_flow", SIZE, () => [Number(digit())]);
  let shown = [];

  const compute = latest(async () => {
    const [a, b] = at;
    const weights = [Math.cos(a) * Math.cos(b), Math.sin(a) * Math.cos(b), Math.sin(b)];
    const noise = corners[0].map((_, i) => weights.reduce((sum, weight, k) => sum + weight * corners[k][i], 0));
    const few = await jump[jumps()]({ noise: { values: noise, shape: [1, SIZE] }, cond: { labels: [Number(digit())] } });
    const states = await solve(velocity, noise, 1, 0, steps(), "euler");
    const many = states[states.length - 1];
    shown = [[words("noise"), noise], [`MeanFlow: ${jumps()}`, few], [`Euler: ${steps()}`, many]];
    const difference = many.reduce((sum, value, i) => sum + Math.abs(value - few[i]), 0) / SIZE;
    made.output.textContent = words("digitsOutput", jumps(), steps(), difference.toFixed(2));
    made.paint();
  });
  const made = stage(host, {
    label: words("digitsLabel"),
    ratio: 0.38,
    paint() {
      const { context } = made;
      const side = Math.min(made.height - 40, made.width / 3 - 16);
      shown.forEach(([title, pixels], k) => {
        const left = (made.width * (2 * k + 1)) / 6 - side / 2;
        const top = (made.height - side - 24) / 2 + 24;
        const cell = side / 8;
        context.fillStyle = made.colour("ink");
        context.font = "13px sans-serif";
        context.textAlign = "center";
        context.fillText(title, left + side / 2, top - 8);
        pixels.forEach((value, i) => {
          const shade = Math.round(255 * Math.min(1, Math.max(0, (k ? value + 1 : value / 2 + 1) / 2)));
          context.fillStyle = `rgb(${shade}, ${shade}, ${shade})`;
          context.fillRect(left + (i % 8) * cell, top + Math.floor(i / 8) * cell, cell + 0.5, cell + 0.5);
        });
      });
    },
    drag(x, y, relative) {
      at[0] = relative ? at[0] + x : x;
      at[1] = relative ? at[1] + y : y;
      compute();
    },
  });
  const digit = choice(made, "digit", [..."0123456789"], compute);
  made.controls.querySelector("select").value = "3";
  const jumps = choice(made, "jumps", JUMPS, compute);
  const steps = slider(made, "eulerSteps", { min: 1, max: 32, value: 1 }, compute);
  await compute();
  made.show();
}
