// A rectified flow of the two moons: drag the noise, choose solver and steps.
import { facts, network } from "../runtime.js";
import { draws, METHODS, solve } from "../samplers.js";
import { choice, dots, handle, latest, path, slider, stage, way, within } from "../stage.js";
import { words } from "../words.js";

export default async function make(host) {
  const { moons, interval: [end, start] } = await facts();
  const models = { flow: await network("live/flow", 2), reflowed: await network("live/reflowed", 2) };
  const point = [0.4, -0.3];
  const around = draws(3, 80).map((value) => 0.3 * value);
  const crowd = draws(4, 600);
  let states = [];
  let moved = 1; // the first rows are what is dragged

  const compute = latest(async () => {
    const offsets = dragged() === "cloud" ? around : [0, 0];
    const shifted = Array.from(offsets, (value, i) => value + point[i % 2]);
    moved = shifted.length / 2;
    states = await solve(models[which()], [...shifted, ...crowd], start, end, steps(), method());
    const last = states[states.length - 1];
    const numbers = [...point, last[0], last[1]].map((value) => value.toFixed(3));
    made.output.textContent = words("noiseOutput", steps() * METHODS[method()].nodes.length, ...numbers);
    made.paint();
  });
  const made = stage(host, {
    label: words("noiseLabel"),
    span: 2.6,
    paint() {
      if (!states.length) return;
      const last = states[states.length - 1];
      dots(made, moons.flat(), "soft", 1.5, 0.6);
      dots(made, last.slice(2 * moved), "accent", 2, 0.8);
      for (let i = 0; i < moved; i++) path(made, way(states, i), "ink", moved === 1 ? 2 : 1, moved === 1 ? 1 : 0.5);
      dots(made, states[0].slice(0, 2 * moved), "warm", 2.5);
      if (moved === 1) for (const state of states) dots(made, state.slice(0, 2), "ink", 3);
      dots(made, last.slice(0, 2 * moved), "warm", moved === 1 ? 6 : 3);
      handle(made, point);
    },
    drag(x, y, relative) {
      within(point, 2.5, x, y, relative);
      compute();
    },
  });
  const dragged = choice(made, "dragged", ["point", "cloud"], compute);
  const steps = slider(made, "steps", { min: 1, max: 40, value: 8 }, compute);
  const method = choice(made, "sampler", Object.keys(METHODS), compute);
  const which = choice(made, "model", ["flow", "reflowed"], compute);
  await compute();
  made.show();
}
