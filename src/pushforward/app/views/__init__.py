"""One view of a model per file: `build(loaded, word)` adds its components to the page."""
