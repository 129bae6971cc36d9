// DDIM with a share eta of the noise drawn again at each step: the ODE at 0, DDPM at 1.
import { facts, network } from "../runtime.js";
import { ddim, draws, normal, variancePreserving } from "../samplers.js";
import { button, dots, handle, latest, path, slider, stage, way, within } from "../stage.js";
import { words } from "../words.js";

const SHOWN = 12; // trajectories that start at the point

export default async function make(host) {
  const { eight, diffusion_interval: [end, start] } = await facts();
  const noise = await network("live/diffusion", 2);
  const crowd = draws(6, 500);
  const point = [0.9, -0.6];
  let seed = 1;
  let states = [];

  const compute = latest(async () => {
    const from = [...Array.from({ length: 2 * SHOWN }, (_, i) => point[i % 2]), ...crowd];
    states = await ddim(noise, from, start, end, steps(), eta(), normal(seed));
    const last = states[states.length - 1];
    const { alpha, sigma } = variancePreserving(end);
    const predicted = await noise(last, end);
    states.push(last.map((value, i) => (value - sigma * predicted[i]) / alpha)); // sampling ends with the expected data
    made.output.textContent = words("ddimOutput", eta().toFixed(2), steps() + 1, distance(states[states.length - 1]).toFixed(3));
    made.paint();
  });
  function distance(x) {
    let sum = 0;
    for (let i = 2 * SHOWN; i < x.length; i += 2) sum += Math.min(...eight.map(([u, v]) => Math.hypot(u - x[i], v - x[i + 1])));
    return sum / ((x.length - 2 * SHOWN) / 2);
  }
  const made = stage(host, {
    label: words("ddimLabel"),
    span: 2.2,
    paint() {
      if (!states.length) return;
      const last = states[states.length - 1];
      dots(made, eight.flat(), "soft", 1.5, 0.6);
      dots(made, last.slice(2 * SHOWN), "accent", 2, 0.8);
      for (let i = 0; i < SHOWN; i++) path(made, way(states, i), "ink", 1.2, 0.7);
      dots(made, last.slice(0, 2 * SHOWN), "warm", 4);
      handle(made, point);
    },
    drag(x, y, relative) {
      within(point, 2.1, x, y, relative);
      compute();
    },
  });
  const eta = slider(made, "eta", { min: 0, max: 1, step: 0.05, value: 0.3, text: (value) => value.toFixed(2) }, compute);
  const steps = slider(made, "steps", { min: 1, max: 100, value: 30 }, compute);
  button(made, "again", () => {
    seed += 1;
    compute();
  });
  await compute();
  made.show();
}
