// Noise paired with data: independently, or so that the sum of squared distances is minimal.
import { draws } from "../samplers.js";
import { choice, dots, handle, path, slider, stage, within } from "../stage.js";
import { words } from "../words.js";

/** The column of each row that minimises the total cost: the Hungarian method with potentials, n³ steps. */
export function assignment(cost) {
  const n = cost.length;
  const u = new Float64Array(n + 1);
  const v = new Float64Array(n + 1);
  const row = new Int32Array(n + 1); // of each column, counted from 1
  const before = new Int32Array(n + 1);
  for (let i = 1; i <= n; i++) {
    row[0] = i;
    let j = 0;
    const least = new Float64Array(n + 1).fill(Infinity);
    const used = new Uint8Array(n + 1);
    do {
      used[j] = 1;
      let delta = Infinity;
      let next = 0;
      for (let k = 1; k <= n; k++) {
        if (used[k]) continue;
        const reduced = cost[row[j] - 1][k - 1] - u[row[j]] - v[k];
        if (reduced < least[k]) [least[k], before[k]] = [reduced, j];
        if (least[k] < delta) [delta, next] = [least[k], k];
      }
      for (let k = 0; k <= n; k++) {
        if (used[k]) {
          u[row[k]] += delta;
          v[k] -= delta;
        } else least[k] -= delta;
      }
      j = next;
    } while (row[j]);
    while (j) {
      row[j] = row[before[j]];
      j = before[j];
    }
  }
  const columns = new Array(n);
  for (let k = 1; k <= n; k++) columns[row[k] - 1] = k - 1;
  return columns;
}

const squared = ([a, b], [c, d]) => (a - c) ** 2 + (b - d) ** 2;
const side = ([a, b], [c, d], [e, f]) => Math.sign((c - a) * (f - b) - (d - b) * (e - a));

function crossings(lines) {
  let count = 0;
  lines.forEach(([a, b], k) => {
    for (const [c, d] of lines.slice(0, k)) if (side(a, b, c) !== side(a, b, d) && side(c, d, a) !== side(c, d, b)) count += 1;
  });
  return count;
}

export default async function make(host) {
  const most = 64;
  const offsets = draws(21, 2 * most);
  const jitter = draws(22, 2 * most);
  const centre = [0, 0];
  const data = Array.from({ length: most }, (_, k) => [
    2.4 * Math.cos((k % 8) * (Math.PI / 4)) + 0.15 * jitter[2 * k],
    2.4 * Math.sin((k % 8) * (Math.PI / 4)) + 0.15 * jitter[2 * k + 1],
  ]);
  let lines = [];

  function show() {
    const n = size();
    const noise = Array.from({ length: n }, (_, k) => [centre[0] + 0.8 * offsets[2 * k], centre[1] + 0.8 * offsets[2 * k + 1]]);
    const columns = pairing() === "transport" ? assignment(noise.map((z) => data.slice(0, n).map((x) => squared(z, x)))) : noise.map((_, k) => k);
    lines = noise.map((z, k) => [z, data[columns[k]]]);
    const mean = lines.reduce((sum, [z, x]) => sum + squared(z, x), 0) / n;
    made.output.textContent = words("pairingOutput", mean.toFixed(2), crossings(lines));
    made.paint();
  }
  const made = stage(host, {
    label: words("pairingLabel"),
    span: 3.2,
    paint() {
      for (const line of lines) path(made, line, "ink", 1, 0.5);
      dots(made, lines.flatMap(([z]) => z), "warm", 3.5);
      dots(made, lines.flatMap(([, x]) => x), "accent", 3.5);
      handle(made, centre);
    },
    drag(x, y, relative) {
      within(centre, 2.8, x, y, relative);
      show();
    },
  });
  const pairing = choice(made, "pairing", ["independent", "transport"], show);
  const size = slider(made, "batch", { min: 8, max: most, step: 8, value: 32 }, show);
  show();
  made.show();
}
