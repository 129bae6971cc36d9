// Models in ONNX files, run by onnxruntime-web in one thread. The runtime is loaded once, when the first model is needed.
const RUNTIME = new URL("../runtime/", import.meta.url).href;
const MODELS = new URL("../code/", import.meta.url).href;
let loading = null;
let turn = Promise.resolve(); // the runtime computes one call at a time
const files = new Map();

function runtime() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `${RUNTIME}ort.wasm-core.min.js`;
    script.onload = () => {
      ort.env.wasm.wasmPaths = RUNTIME;
      ort.env.wasm.numThreads = 1;
      ort.env.logLevel = "error";
      resolve(ort);
    };
    script.onerror = () => reject(new Error("onnxruntime-web was not found"));
    document.head.append(script);
  });
  return loading;
}

function kept(name, load) {
  if (!files.has(name)) files.set(name, load());
  return files.get(name);
}

/** The numbers that the build wrote next to the models. */
export function facts() {
  return kept("facts", async () => (await fetch(`${MODELS}live/live.json`)).json());
}

/** A model as a function: columns by input name, each {values, shape} (labels: {labels}), to the values of its output. */
export async function model(name, folder = MODELS) {
  const ort = await runtime();
  const session = await kept(folder + name, () => ort.InferenceSession.create(`${folder}${name}.onnx`, { executionProviders: ["wasm"] }));
  return (inputs) => {
    const feeds = {};
    for (const [key, { values, shape, labels }] of Object.entries(inputs)) {
      feeds[key] = labels
        ? new ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [labels.length])
        : new ort.Tensor("float32", Float32Array.from(values), shape);
    }
    turn = turn.then(() => session.run(feeds), () => session.run(feeds));
    return turn.then((outputs) => outputs[session.outputNames[0]].data);
  };
}

/** The network of a path model as a function (x, t) of n events of a given size; x is flat. */
export async function network(name, size, labels = null, folder = MODELS) {
  const call = await model(name, folder);
  return (x, t) => {
    const n = x.length / size;
    const inputs = { x: { values: x, shape: [n, size] }, t: { values: new Float32Array(n).fill(t), shape: [n] } };
    if (labels) inputs.cond = { labels: typeof labels === "function" ? labels(n) : labels };
    return call(inputs);
  };
}
