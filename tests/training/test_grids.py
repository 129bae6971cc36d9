"""Pictures of samples that a run draws as it trains."""

import matplotlib.image
import pytest

import pushforward as pf
from pushforward.training.grids import SampleGrid


@pytest.mark.parametrize(("name", "table"), [("moons", False), ("iris", True)])
def test_points_are_a_scatter_plot_and_rows_of_a_table_are_marginals(name, table, tmp_path, monkeypatch):
    train, validation = (pf.data.load(name, split) for split in ("train", "validation"))
    drawn = []
    monkeypatch.setattr("pushforward.evaluation.run_pictures.marginals", _counted(drawn))
    model = pf.models.maf(shape=train.shape, schema=train.schema, levels=train.levels, layers=1, hidden=(4,), classes=train.classes)
    pf.Trainer(model, train, validation=validation, steps=2, batch_size=16, validate_every=1, callbacks=[SampleGrid(tmp_path)]).fit()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001.png", "step-000002.png"]
    assert drawn == ([[column.title for column in train.schema.columns]] * 2 if table else [])
    assert matplotlib.image.imread(tmp_path / "step-000002.png").ndim == 3


def test_samples_that_cannot_be_drawn_do_not_end_the_run(tmp_path, monkeypatch):
    data, model = pf.data.load("moons", n=40), pf.models.rectified_flow(pf.nn.MLP.Config((4,)), (2,), classes=2)
    monkeypatch.setattr(model, "sample", lambda *_, **__: model.sample_that_is_not_there)
    trainer = pf.Trainer(model, data, validation=data, steps=2, batch_size=8, block=8, ema=0, callbacks=[SampleGrid(tmp_path)])
    with pytest.warns(UserWarning, match=r"there is no sample grid of step 2: .* has no attribute"):
        assert trainer.fit().step == 2


def _counted(drawn):
    from pushforward.evaluation.table_pictures import marginals

    def counted(columns, panels):
        drawn.append([one.column.title for one in columns])
        return marginals(columns, panels)

    return counted
