// One coupling layer in the plane: the coordinate along the split is kept (or moves), the other one is scaled and shifted.
import { choice, handle, path, slider, stage } from "../stage.js";
import { words } from "../words.js";

const LINES = Array.from({ length: 17 }, (_, k) => -2 + 0.25 * k);
const FINE = Array.from({ length: 81 }, (_, k) => -2 + 0.05 * k);
const CELL = [0.25, 0.5, 0.5]; // corner and side of a cell of the grid
const REACH = 2.6; // of the handle

function area(points) {
  let sum = 0;
  points.forEach(([x, y], k) => {
    const [u, v] = points[(k + 1) % points.length];
    sum += x * v - u * y;
  });
  return Math.abs(sum / 2);
}

export default async function make(host) {
  const turn = () => (angle() * Math.PI) / 180;
  const logScale = (kept) => scaling() * Math.sin(1.5 * kept + 0.5);
  /** Rotate into the coordinates of the split, couple them, and rotate back. */
  function map([x, y]) {
    const [c, s] = [Math.cos(turn()), Math.sin(turn())];
    let [along, across] = [c * x + s * y, c * y - s * x];
    if (half() === "second") across = across * Math.exp(logScale(along)) + shift() * Math.sin(2 * along);
    else along = along * Math.exp(logScale(across)) + shift() * Math.sin(2 * across);
    return [c * along - s * across, s * along + c * across];
  }
  function border() {
    const [x, y, side] = CELL;
    const sides = Array.from({ length: 40 }, (_, k) => (side * k) / 40);
    return [...sides.map((k) => [x + k, y]), ...sides.map((k) => [x + side, y + k]), ...sides.map((k) => [x + side - k, y + side]), ...sides.map((k) => [x, y + side - k])];
  }
  function show() {
    const [x, y, side] = CELL;
    const [c, s] = [Math.cos(turn()), Math.sin(turn())];
    const [u, v] = [x + side / 2, y + side / 2];
    const kept = half() === "second" ? c * u + s * v : c * v - s * u;
    made.output.textContent = words("splitOutput", (side * side).toFixed(4), area(border().map(map)).toFixed(4), (logScale(kept) + 0).toFixed(3));
    made.paint();
  }
  const made = stage(host, {
    label: words("splitLabel"),
    paint() {
      for (const k of LINES) {
        path(made, FINE.map((y) => map([k, y])), "accent", 1, 0.8);
        path(made, FINE.map((x) => map([x, k])), "accent", 1, 0.8);
      }
      const cell = border().map(map);
      path(made, [...cell, cell[0]], "warm", 3);
      const [c, s] = [REACH * Math.cos(turn()), REACH * Math.sin(turn())];
      path(made, [[-c, -s], [c, s]], "ink", 2);
      handle(made, [c, s]);
    },
    drag(x, y, relative) {
      const degrees = relative ? angle() + 20 * (x + y) : (Math.atan2(y, x) * 180) / Math.PI;
      const input = made.controls.querySelector("[data-name=angle]");
      input.value = Math.round(((degrees % 180) + 180) % 180);
      input.dispatchEvent(new Event("input"));
    },
  });
  const angle = slider(made, "angle", { min: 0, max: 179, value: 0, text: (value) => `${value}°` }, show);
  const half = choice(made, "half", ["second", "first"], show);
  const shift = slider(made, "shift", { min: 0, max: 1, step: 0.05, value: 0.5, text: (value) => value.toFixed(2) }, show);
  const scaling = slider(made, "scaling", { min: 0, max: 1, step: 0.05, value: 0, text: (value) => value.toFixed(2) }, show);
  show();
  made.show();
}
