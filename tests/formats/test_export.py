"""Exported programs and ONNX files: the values of the model for batches of any size, and one sentence for what cannot be exported."""

import importlib.util

import pytest
import torch

import pushforward as pf
from pushforward.errors import UserError
from pushforward.formats.export import _substituted

NET = pf.nn.MLP.Config((16, 16))


def trained(model):
    """The model with weights that differ from those at the start, where outputs are zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.05 * torch.randn_like(one))
    return model.eval()


MODELS = {
    "rectified_flow": (lambda: pf.models.rectified_flow(NET, (2,)), {"sampler": pf.samplers.Euler(10)}),
    "realnvp": (lambda: pf.models.realnvp(2, 4, (16,)), {"verb": "log_prob"}),
    "meanflow": (lambda: pf.models.meanflow(NET, (2,)), {}),
    "ddpm": (lambda: pf.models.ddpm(NET, (2,), classes=3, drop_cond=0.1), {"sampler": pf.samplers.DDIM(3), "guidance": 2.0}),
    "network": (lambda: pf.models.rectified_flow(NET, (2,), cond_features=4), {"verb": "network"}),
    "maf": (lambda: pf.models.maf(2, 2, hidden=(8,)), {"verb": "encode"}),
    "nsf": (lambda: pf.models.nsf(3, 2, hidden=(8,)), {"verb": "decode"}),
}


def inputs(model, verb, n):
    generator = torch.Generator().manual_seed(2)
    given = [torch.randn(n, *model.shape, generator=generator)]
    given += [torch.rand(n, generator=generator)] if verb == "network" else []
    given += [torch.arange(n) % model.classes] if model.classes else []
    return [*given, torch.randn(n, model.cond_features, generator=generator)] if model.cond_features else given


def values(model, given, verb="sample", sampler=None, guidance=None):
    """What the model itself computes; samples of given noise are drawn by a base that returns it."""
    with torch.no_grad():
        if verb == "network":
            return model.net(*given)
        if verb != "sample":
            return getattr(model, verb)(*given)
        model._base_sample = lambda n, cond, generator: given[0]
        return model.sample(len(given[0]), *given[1:], sampler=sampler, guidance=guidance)


@pytest.mark.parametrize("name", [pytest.param(one, marks=[] if one == "meanflow" else pytest.mark.slow) for one in MODELS])
def test_a_program_computes_what_the_model_does(name):
    make, options = MODELS[name]
    model = trained(make())
    program = pf.formats.export_program(model, **options).module()
    for n in (1, 6):
        given = inputs(model, options.get("verb"), n)
        torch.testing.assert_close(program(*given), values(model, given, **options), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_what_the_model_does(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    make, options = MODELS[name]
    model = trained(make())
    path = pf.formats.export_onnx(model, tmp_path / "model.onnx", **options)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    assert names[0] == ("noise" if options.get("verb", "sample") in ("sample", "decode") else "x")
    for n in (1, 6):
        given = inputs(model, options.get("verb"), n)
        (found,) = session.run(None, dict(zip(names, (one.numpy() for one in given), strict=True)))
        torch.testing.assert_close(torch.from_numpy(found), values(model, given, **options), rtol=1e-4, atol=1e-4)


def test_exporting_changes_nothing_of_the_model():
    model = trained(pf.models.meanflow(NET, (2,))).train()
    before = {key: one.clone() for key, one in model.state_dict().items()}
    pf.formats.export_program(model)
    assert model.training
    assert all(torch.equal(one, before[key]) for key, one in model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: pf.models.rectified_flow(NET, (2,)), {}, "sampler is Dopri5, whose number of steps depends on the data"),
        (lambda: pf.models.ddpm(NET, (2,)), {"sampler": pf.samplers.DDPM(5)}, "sampler is DDPM, which draws noise"),
        (lambda: pf.models.meanflow(NET, (2,)), {"verb": "log_prob"}, "verb is 'log_prob', but this model has"),
        (lambda: pf.models.realnvp(2), {"verb": "network"}, "this model has no network of x and t"),
        (lambda: pf.models.realnvp(2), {"verb": "score"}, "verb is 'score', but it must be one of 'sample'"),
        (lambda: pf.models.realnvp(2), {"verb": "encode", "guidance": 2.0}, "only samples are guided"),
    ],
)
def test_what_cannot_be_exported_is_refused(make, options, message):
    with pytest.raises(UserError, match=message):
        pf.formats.export_program(make(), **options)


@pytest.mark.slow
def test_what_torch_cannot_trace_is_one_sentence():
    with pytest.raises(UserError, match="log_prob of this model cannot be exported, as torch.export stops"):
        pf.formats.export_program(pf.models.rectified_flow(NET, (2,)), "log_prob", sampler=pf.samplers.Euler(2))


def test_missing_packages_are_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'there is no onnx and no onnxscript; run pip install "pushforward\[onnx\]"'):
        pf.formats.export_onnx(pf.models.realnvp(2), tmp_path / "flow.onnx")


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("unit", [True, False])
def test_what_onnx_computes_for_a_triangular_system_is_its_solution(upper, left, unit):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 5, generator=generator, dtype=torch.float64) + 5 * torch.eye(5, dtype=torch.float64)
    matrix, b = matrix.triu() if upper else matrix.tril(), torch.randn(5, 5, generator=generator, dtype=torch.float64)
    expected = torch.linalg.solve_triangular(matrix, b, upper=upper, left=left, unitriangular=unit)
    torch.testing.assert_close(_substituted(matrix, b, upper=upper, left=left, unitriangular=unit), expected)


def test_what_onnx_has_no_operator_for_is_refused_in_a_sentence(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")

    def stops(*_, **__):
        raise torch.onnx.OnnxExporterError("Failed.\nNo ONNX function found for <OpOverload(op='aten.qr')>. Failure message: none")

    monkeypatch.setattr(torch.onnx, "export", stops)
    with pytest.raises(UserError, match=r"encode of this model cannot be written as ONNX, which has no <OpOverload\(op='aten.qr'\)>; use"):
        pf.formats.export_onnx(pf.models.maf(2, 1, hidden=(8,)), tmp_path / "model.onnx", "encode")
    assert not list(tmp_path.iterdir())
