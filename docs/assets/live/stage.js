// What all figures share: a canvas in the colours of the page, controls with labels, and a point that is dragged or moved by keys.
import { words } from "./words.js";

const MARGIN = 12; // of the plane, in pixels

/** Replace the picture of a figure by a canvas and a form; `paint(stage)` draws it again whenever size or colours change. */
export function stage(host, { label, ratio = 0.6, span = 3, paint, drag = null }) {
  const canvas = document.createElement("canvas");
  const controls = document.createElement("div");
  const output = document.createElement("output");
  controls.className = "live-controls";
  output.setAttribute("aria-live", "polite");
  canvas.setAttribute("aria-label", drag ? `${label} ${words("keys")}` : label);
  canvas.setAttribute("role", drag ? "application" : "img");
  if (drag) canvas.tabIndex = 0;
  const made = { host, canvas, controls, output, context: canvas.getContext("2d"), width: 0, height: 0, span };

  // Coordinates of the plane, with the origin in the middle of the canvas.
  made.scale = () => (Math.min(made.width, made.height) / 2 - MARGIN) / span;
  made.place = (x, y) => [made.width / 2 + x * made.scale(), made.height / 2 - y * made.scale()];
  made.where = (px, py) => [(px - made.width / 2) / made.scale(), (made.height / 2 - py) / made.scale()];
  made.colour = (name) => getComputedStyle(host).getPropertyValue(`--live-${name}`).trim();
  made.paint = () => {
    if (!made.width) return; // not shown yet
    made.context.setTransform(made.density, 0, 0, made.density, 0, 0);
    made.context.clearRect(0, 0, made.width, made.height);
    made.context.globalAlpha = 1;
    paint(made);
  };
  made.show = () => {
    const picture = host.querySelector("img");
    const holder = picture.closest("p") ?? picture;
    holder.replaceWith(canvas, controls, output);
    new ResizeObserver(() => {
      made.width = canvas.clientWidth;
      made.height = Math.round(made.width * (made.width < 480 ? Math.max(ratio, 0.8) : ratio));
      made.density = window.devicePixelRatio || 1;
      canvas.style.height = `${made.height}px`;
      canvas.width = made.width * made.density;
      canvas.height = made.height * made.density;
      made.paint();
    }).observe(canvas);
    new MutationObserver(made.paint).observe(document.body, { attributes: true, attributeFilter: ["data-md-color-scheme"] });
  };
  if (drag) draggable(made, drag);
  return made;
}

/** Call drag(x, y, relative) with a place in the plane: of the pointer, or relative to the last one by arrow keys. */
function draggable(made, drag) {
  const { canvas } = made;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    drag(...made.where(event.clientX - box.left, event.clientY - box.top), false);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    at(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) at(event);
  });
  const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  canvas.addEventListener("keydown", (event) => {
    const step = keys[event.key];
    if (!step) return;
    event.preventDefault();
    drag(...step.map((one) => one * (event.shiftKey ? 0.5 : 0.1)), true);
  });
}

let count = 0;

function labelled(made, text, control) {
  const row = document.createElement("div");
  const label = document.createElement("label");
  control.id = `live-${++count}`;
  label.htmlFor = control.id;
  label.textContent = text;
  row.append(label, control);
  made.controls.append(row);
  return row;
}

/** A slider whose value is shown by `text`; returns a function that reads it. */
export function slider(made, name, { min, max, step = 1, value, text = String }, change) {
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min, max, step, value });
  const shown = document.createElement("span");
  const update = () => {
    shown.textContent = text(Number(input.value));
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => {
    update();
    change();
  });
  labelled(made, words(name), input).append(shown);
  input.dataset.name = name;
  update();
  return () => Number(input.value);
}

/** A choice of one of several names; returns a function that reads it. */
export function choice(made, name, names, change) {
  const select = document.createElement("select");
  for (const one of names) select.add(new Option(words(one), one));
  select.addEventListener("change", change);
  select.dataset.name = name;
  labelled(made, words(name), select);
  return () => select.value;
}

export function button(made, name, press) {
  const one = document.createElement("button");
  one.type = "button";
  one.className = "md-button";
  one.textContent = words(name);
  one.addEventListener("click", press);
  made.controls.append(one);
}

/** Run an asynchronous computation, and once more if it was requested again meanwhile: only the latest state is drawn. */
export function latest(compute) {
  let running = false;
  let again = false;
  return async () => {
    again = true;
    if (running) return;
    running = true;
    try {
      while (again) {
        again = false;
        await compute();
      }
    } finally {
      running = false;
    }
  };
}

/** Draw points of the plane, x flat as (x0, y0, x1, y1, ...). */
export function dots(made, x, colour, radius, alpha = 1) {
  const { context } = made;
  context.fillStyle = made.colour(colour);
  context.globalAlpha = alpha;
  for (let i = 0; i < x.length; i += 2) {
    const [px, py] = made.place(x[i], x[i + 1]);
    context.beginPath();
    context.arc(px, py, radius, 0, 2 * Math.PI);
    context.fill();
  }
  context.globalAlpha = 1;
}

/** Draw a line through points of the plane [[x, y], ...]. */
export function path(made, points, colour, width, alpha = 1) {
  const { context } = made;
  context.strokeStyle = made.colour(colour);
  context.lineWidth = width;
  context.globalAlpha = alpha;
  context.beginPath();
  points.forEach(([x, y], k) => context[k ? "lineTo" : "moveTo"](...made.place(x, y)));
  context.stroke();
  context.globalAlpha = 1;
}

/** Draw the handle that is dragged. */
export function handle(made, [x, y]) {
  const { context } = made;
  const [px, py] = made.place(x, y);
  context.beginPath();
  context.arc(px, py, 8, 0, 2 * Math.PI);
  context.fillStyle = made.colour("warm");
  context.fill();
  context.lineWidth = 2;
  context.strokeStyle = made.colour("paper");
  context.stroke();
}

/** The way of row i through states. */
export const way = (states, i) => states.map((state) => [state[2 * i], state[2 * i + 1]]);

/** A place that drag moves, kept within the plane. */
export function within(place, span, x, y, relative) {
  const bound = (value) => Math.min(span, Math.max(-span, value));
  place[0] = bound(relative ? place[0] + x : x);
  place[1] = bound(relative ? place[1] + y : y);
}
