// A RealNVP, layer by layer: each moves one coordinate by what the other one determines.
import { facts, model } from "../runtime.js";
import { draws } from "../samplers.js";
import { dots, handle, latest, path, slider, stage, within } from "../stage.js";
import { words } from "../words.js";

const LINES = Array.from({ length: 13 }, (_, k) => -2.4 + 0.4 * k);
const FINE = Array.from({ length: 49 }, (_, k) => -2.4 + 0.1 * k);

export default async function make(host) {
  const { couplings, moves } = await facts();
  // From noise to data the layers run from the last to the first.
  const layers = await Promise.all(moves.map((_, k) => model(`live/coupling_${couplings - 1 - k}`)));
  const moving = [...moves].reverse();
  const grid = [...LINES.flatMap((x) => FINE.flatMap((y) => [x, y])), ...LINES.flatMap((y) => FINE.flatMap((x) => [x, y]))];
  const crowd = draws(5, 800);
  const point = [1.2, 1.3];
  let states = [];

  const compute = latest(async () => {
    states = [Float64Array.from([...point, ...crowd, ...grid])];
    for (const layer of layers) {
      const x = states[states.length - 1];
      states.push(await layer({ noise: { values: x, shape: [x.length / 2, 2] } }));
    }
    show();
  });
  function show() {
    const k = depth();
    const at = [states[k][0], states[k][1]].map((value) => value.toFixed(3));
    const [moved, keeps] = moving[k - 1] ? ["x₂", "x₁"] : ["x₁", "x₂"];
    made.output.textContent = k ? words("layersOutput", k, couplings, moved, keeps, ...at) : words("layersStart");
    made.paint();
  }
  const made = stage(host, {
    label: words("layersLabel"),
    span: 2.6,
    paint() {
      if (!states.length) return;
      const x = states[depth()];
      const first = 2 + crowd.length;
      for (let line = 0; line < 2 * LINES.length; line++) {
        const points = FINE.map((_, k) => first + 2 * (line * FINE.length + k)).map((i) => [x[i], x[i + 1]]);
        path(made, points, "soft", 1, 0.7);
      }
      dots(made, x.slice(2, first), "accent", 2, 0.8);
      path(made, states.slice(0, depth() + 1).map((state) => [state[0], state[1]]), "ink", 2);
      dots(made, [x[0], x[1]], "warm", 6);
      handle(made, point);
    },
    drag(x, y, relative) {
      within(point, 2.4, x, y, relative);
      compute();
    },
  });
  const depth = slider(made, "layer", { min: 0, max: couplings, value: couplings }, show);
  await compute();
  made.show();
}
