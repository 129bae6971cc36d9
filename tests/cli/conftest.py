"""Commands draw their pictures without matplotlib's layout, which takes two thirds of their time; tests/evaluation draws them with it."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _without_layout():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.layout_engine.ConstrainedLayoutEngine.execute", lambda engine, figure: None)
        yield
