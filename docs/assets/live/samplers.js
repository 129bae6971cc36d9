// The solvers and samplers of the figures: the same formulas as pf.samplers, in a few lines each.
export const METHODS = {
  euler: { nodes: [0], stages: [[]], weights: [1] },
  midpoint: { nodes: [0, 1 / 2], stages: [[], [1 / 2]], weights: [0, 1] },
  heun: { nodes: [0, 1], stages: [[], [1]], weights: [1 / 2, 1 / 2] },
  rk4: { nodes: [0, 1 / 2, 1 / 2, 1], stages: [[], [1 / 2], [0, 1 / 2], [0, 0, 1]], weights: [1 / 6, 1 / 3, 1 / 3, 1 / 6] },
};

/** The states of dx/dt = velocity(x, t) from t0 to t1: steps + 1 arrays, the first is x. */
export async function solve(velocity, x, t0, t1, steps, method = "heun") {
  const { nodes, stages, weights } = METHODS[method];
  const states = [Float64Array.from(x)];
  const h = (t1 - t0) / steps;
  for (let k = 0; k < steps; k++) {
    const start = states[k];
    const slopes = [];
    for (let i = 0; i < nodes.length; i++) slopes.push(await velocity(moved(start, h, stages[i], slopes), t0 + h * (k + nodes[i])));
    states.push(moved(start, h, weights, slopes));
  }
  return states;
}

function moved(x, h, weights, slopes) {
  const out = Float64Array.from(x);
  weights.forEach((weight, j) => {
    if (weight) for (let i = 0; i < out.length; i++) out[i] += h * weight * slopes[j][i];
  });
  return out;
}

/** alpha and sigma of pf.paths.VariancePreserving(). */
export function variancePreserving(t) {
  const integral = (0.1 + 0.5 * (20 - 0.1) * t) * t;
  return { alpha: Math.exp(-0.5 * integral), sigma: Math.sqrt(-Math.expm1(-integral)) };
}

/** The states of DDIM: expected data and noise are mixed for the next time, and a share eta of the noise is drawn again. */
export async function ddim(noise, x, t0, t1, steps, eta, draw) {
  const states = [Float64Array.from(x)];
  for (let k = 0; k < steps; k++) {
    const t = t0 + ((t1 - t0) * k) / steps;
    const p = variancePreserving(t);
    const q = variancePreserving(t0 + ((t1 - t0) * (k + 1)) / steps);
    const kappa = eta * q.sigma * Math.sqrt(Math.max(0, 1 - ((p.alpha * q.sigma) / (q.alpha * p.sigma)) ** 2));
    const kept = Math.sqrt(q.sigma ** 2 - kappa ** 2);
    const predicted = await noise(states[k], t);
    states.push(states[k].map((value, i) => {
      const data = (value - p.sigma * predicted[i]) / p.alpha;
      return q.alpha * data + kept * predicted[i] + (kappa ? kappa * draw() : 0);
    }));
  }
  return states;
}

/** Standard normal numbers from a seed: mulberry32 and Box and Muller. */
export function normal(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** n draws. */
export function draws(seed, n) {
  const draw = normal(seed);
  return Float64Array.from({ length: n }, draw);
}
