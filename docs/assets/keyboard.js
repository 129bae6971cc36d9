// What scrolls sideways is reached by the keyboard. Material does this for code only where a mouse can hover, and takes it back elsewhere.
const scrolling = ".md-content pre > code, .md-content .formula, .md-content .wide-plot, .md-typeset__scrollwrap";
const seen = new ResizeObserver((entries) =>
  requestAnimationFrame(() => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  }),
);
window.addEventListener("load", () => {
  for (const element of document.querySelectorAll(scrolling)) seen.observe(element);
});
