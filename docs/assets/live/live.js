// The figures of the site: each replaces its picture when it comes into view; without scripts the picture stays.
const started = new WeakSet();

async function start(host) {
  if (started.has(host)) return;
  started.add(host);
  try {
    const { default: make } = await import(`./figures/${host.dataset.figure}.js`);
    await make(host);
    host.dataset.state = "ready";
  } catch (error) {
    host.dataset.state = "failed"; // the picture is still there
    console.error(`The figure ${host.dataset.figure} does not run: ${error}`);
  }
}

// After the page has loaded: before, pictures above have no height, and figures further down seem to be in view.
function observe() {
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) start(entry.target);
  });
  for (const host of document.querySelectorAll("figure.live")) seen.observe(host);
}
if (document.readyState === "complete") observe();
else window.addEventListener("load", observe, { once: true });
