"""`check_aliasing` finds each way of writing shared memory, with the tensor, the operator and both lines, and nothing else."""

import contextlib
import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from aliasing_shapes import HELD, MADE, SHAPES, line
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.testing._internal.two_tensor import TwoTensor

import pushforward as pf
from pushforward.debug.aliasing import check_aliasing, detect_aliasing
from pushforward.debug.places import Place, here, place
from pushforward.errors import AliasingError


def found(report):
    return [(one.kind, one.name, one.operator) for one in report.findings]


@pytest.mark.filterwarnings("ignore")  # those of torch, about in-place operations on expanded tensors and arrays that are read-only
@pytest.mark.parametrize("name", SHAPES)
def test_a_program_is_explained(name):
    function, expected, raises = SHAPES[name]
    try:
        with detect_aliasing(*([HELD[name]] if name in HELD else []), raises=False) as report:
            function()
    except RuntimeError:
        assert raises
    else:
        assert not raises
    (finding,) = report.findings
    assert {key: getattr(finding, key) for key in expected} == expected
    assert (finding.written.file, finding.written.line) == (function.__code__.co_filename, line(function, "written"))
    made = line(MADE.get(name, function), "made")
    assert (finding.made and finding.made.line) == made
    assert ("raises" in finding.effect or "would write beyond" in finding.effect) == raises
    assert finding.remedy


def test_the_text_of_a_finding_names_tensor_operator_lines_and_remedy():
    def program():
        bias = torch.zeros(4).expand(3, 4)
        bias.add_(1)

    report = check_aliasing(program)
    first = program.__code__.co_firstlineno
    heading, written, expanded, effect, remedy = str(report).splitlines()
    assert heading == "1. aten.add_ writes bias of shape (3, 4) and strides (0, 1), whose elements share memory"
    assert f"test_aliasing.py:{first + 2} in program: bias.add_(1)" in written
    assert f"test_aliasing.py:{first + 1} in program: torch.zeros(4).expand(3, 4) (expand, from shape (4,))" in expanded
    assert "more than one element of the written-to tensor refers to a single memory location" in effect
    assert "torch.zeros(4).expand(3, 4).clone(), or add() in place of add_()" in remedy
    assert isinstance(report.error, RuntimeError)


def test_inputs_must_not_change_and_arguments_that_are_meant_to_may():
    def scale(x, weights, out, total_):
        x.relu_()
        weights["a"][0].mul_(2)
        torch.add(x, 1, out=out)
        total_.add_(1)

    x = torch.ones(4)
    report = check_aliasing(scale, x, weights={"a": [torch.ones(2)]}, out=torch.empty(4), total_=torch.zeros(()))
    assert found(report) == [("input", "x", "aten.relu_"), ("input", "weights['a'][0]", "aten.mul_")]


def test_a_write_next_to_an_input_in_the_same_memory_is_no_change():
    memory = torch.zeros(4, 6)
    assert not check_aliasing(lambda x: memory[:, 1::2].add_(1), memory[:, ::2]).findings
    assert check_aliasing(lambda x: memory[:, 1:].add_(1), memory[:, ::2]).findings


class Clamped(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        with torch.no_grad():
            self.weight.clamp_(max=0.5)
        return x * self.weight


def test_a_write_that_torch_refused_has_changed_nothing():
    def program(x):
        loss = x.exp().sum()
        with contextlib.suppress(RuntimeError):
            x.data.expand(2, 3).add_(1)
        loss.backward()

    report = check_aliasing(program, torch.ones(3, requires_grad=True))
    assert [one.kind for one in report.findings] == ["overlap"]
    assert report.error is None


def test_inputs_may_contain_themselves():
    nested = [torch.ones(2)]
    nested.append(nested)
    assert found(check_aliasing(lambda x: x[0].mul_(2), nested)) == [("input", "x[0]", "aten.mul_")]


def test_a_module_must_not_change_its_parameters_but_may_change_its_buffers():
    assert found(check_aliasing(Clamped(), torch.ones(4))) == [("parameter", "Clamped.weight", "aten.clamp_")]


def test_an_optimiser_may_change_parameters_and_inputs():
    def attack(x):
        x.requires_grad_()
        optimiser = torch.optim.Adam([x])
        x.square().sum().backward()
        optimiser.step()

    assert not check_aliasing(attack, torch.ones(3)).findings


def test_filling_an_expanded_tensor_with_a_number_is_well_defined():
    def program():
        mask = torch.ones(4).expand(3, 4)
        mask.zero_()
        mask[:, 0].fill_(2)
        return mask

    report = check_aliasing(program)
    assert not report.findings
    assert report.result.tolist() == [[2, 0, 0, 0]] * 3


def test_filling_some_of_the_rows_of_an_expanded_tensor_changes_the_others():
    def program():
        mask = torch.ones(4).expand(3, 4)
        mask[1:, 0].fill_(2)

    assert found(check_aliasing(program)) == [("part", "mask", "aten.fill_")]


def test_the_tensor_that_was_expanded_may_be_written():
    def program():
        bias = torch.zeros(4, requires_grad=True)
        rows = bias.expand(3, 4)
        with torch.no_grad():
            bias.add_(1)
        return rows

    assert not check_aliasing(program).findings


def test_what_backward_would_refuse_is_found_without_backward():
    def program(x):
        h = x.exp()
        return h.add_(1)

    (finding,) = check_aliasing(program, torch.ones(3, requires_grad=True)).findings
    assert (finding.kind, finding.operator, finding.made.text) == ("saved", "aten.add_", "x.exp()")


def test_a_value_that_an_optimiser_changed_has_another_remedy():
    layers, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.ones(1, 2)
    optimiser = torch.optim.SGD(layers.parameters(), 0.1)

    def steps():
        losses = layers(x).sum(), layers(x).square().sum()
        for loss in losses:  # the second backward needs the weights that the first step has changed
            loss.backward(retain_graph=True)
            optimiser.step()

    (finding,) = check_aliasing(steps).findings
    assert finding.kind == "saved"
    assert finding.remedy.startswith("call backward before the step")


def test_a_graph_that_an_optimiser_left_behind_is_no_finding():
    layer = nn.Linear(3, 1)

    def program():
        validation = layer(torch.ones(2, 3, requires_grad=True))  # outside no_grad, never used for backward
        layer(torch.ones(2, 3)).sum().backward()
        torch.optim.SGD(layer.parameters(), 0.1).step()
        return validation

    assert not check_aliasing(program).findings


def test_an_error_in_the_code_itself_is_not_hidden():
    @detect_aliasing()
    def program():
        torch.ones(6).unfold(0, 3, 1).mul_(2)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        program()
    assert "aten.mul_" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="must match the size") as caught:
        check_aliasing(lambda x: x.mul_(2) + torch.ones(2), torch.ones(3))
    assert "aten.mul_ changes x" in caught.value.__notes__[0]


def test_numbers_and_gradients_are_those_without_the_check():
    def program():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(5, 4, generator=generator).requires_grad_()
        w = torch.randn(4, 3, generator=generator).requires_grad_()
        y = torch.nn.functional.softmax(torch.tanh(x @ w), dim=1).cumsum(0)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (first.square().sum() + torch.func.grad(lambda w: (x.detach() @ w).exp().sum())(w.detach()).sum()).backward()
        return x.grad, w.grad

    report = check_aliasing(program)
    assert all(torch.equal(a, b) for a, b in zip(report.result, program(), strict=True))
    assert not report.findings
    assert report.unseen == ["values saved for backward within torch.func transforms"]


def test_nothing_is_kept_alive():
    gc.disable()
    try:
        with detect_aliasing():
            x = torch.ones(4, requires_grad=True)
            y = x.exp()  # saves its own output
            after_backward = StorageWeakRef(y.untyped_storage())
            y.sum().backward()
            y = x.exp()
            without_backward = StorageWeakRef(y.untyped_storage())
            del y
            assert after_backward.expired()
            assert without_backward.expired()
    finally:
        gc.enable()


def test_compiled_functions_run_uncompiled_and_this_is_stated():
    def program(x):
        return x.expand(3, 4).mul(2).add_(1)

    report = check_aliasing(torch.compile(program, backend="eager", fullgraph=True), torch.ones(4))
    assert not report.findings
    assert report.unseen == ["compiled kernels: compiled functions ran uncompiled"]


def test_a_custom_operator_is_named():
    @torch.library.custom_op("pushforward_tests::double", mutates_args=("x",))
    def double(x: torch.Tensor) -> None:
        x.mul_(2)

    report = check_aliasing(double, torch.ones(3))
    assert found(report) == [("input", "args[0]", "pushforward_tests.double")]
    assert report.unseen == ["what pushforward_tests::double writes other than its schema declares"]


@pytest.mark.filterwarnings("ignore:Use of")
def test_a_context_manager_raises_when_it_ends():
    mask = torch.ones(4).expand(3, 4)
    with pytest.raises(AliasingError, match="aten.masked_fill_ writes mask") as caught, detect_aliasing() as report:
        mask.masked_fill_(torch.eye(3, 4, dtype=torch.bool), 0)
    assert caught.value.report is report
    assert report.findings[0].how == "before the check"
    with pytest.raises(AliasingError, match="expand_as") as caught, detect_aliasing():
        torch.ones(4).expand_as(torch.ones(3, 4)).add_(1)
    assert "single memory location" in str(caught.value.__cause__)


def test_a_context_manager_protects_what_it_is_given_under_its_name():
    images, layer = {"train": torch.ones(4)}, nn.Linear(2, 2)
    with detect_aliasing(images, layer, raises=False) as report, torch.no_grad():
        batch = images["train"][:2]
        batch.mul_(2)
        layer.weight.zero_()
    assert found(report) == [("input", "images['train']", "aten.mul_"), ("parameter", "layer.weight", "aten.zero_")]
    assert "batch = batch.clone()" in report.findings[0].remedy


def test_a_decorator_checks_each_call():
    @detect_aliasing()
    def normalise(x, inplace):
        return x.div_(255) if inplace else x.div(255)

    assert normalise(torch.ones(2), False).max() < 1
    with pytest.raises(AliasingError, match="aten.div_ changes x"):
        normalise(torch.ones(2), True)
    assert normalise.__name__ == "normalise"


def test_a_training_run_raises_no_alarm(tmp_path):
    with detect_aliasing() as report:
        data = pf.data.load("moons")
        trainer = pf.Trainer(pf.models.flow_matching(shape=(2,), classes=2), data, steps=5, batch_size=64, out=tmp_path)
        trainer.fit()
    assert not report.findings


LAYERS = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.Dropout(inplace=True),
    ),
    "normalised weights": lambda: nn.Sequential(
        nn.utils.spectral_norm(nn.Linear(8, 8)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
    ),
    "lazy": lambda: nn.LazyLinear(4),
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16),
}


@pytest.mark.parametrize("layers", LAYERS)
def test_layers_of_torch_raise_no_alarm(layers):
    module, x = LAYERS[layers](), torch.randn(2, 3, 8, 8) if layers == "convolutions" else torch.randn(2, 3, 8)
    assert not check_aliasing(module, x).findings
    assert not check_aliasing(lambda: module(x).square().sum().backward()).findings


def test_tensors_with_memory_of_another_kind_are_named():
    report = check_aliasing(lambda: TwoTensor(torch.ones(3), torch.ones(3)).mul_(2))
    assert not report.findings
    assert report.unseen == ["writes to tensors of TwoTensor, which have memory of another kind"]


def test_an_embedding_may_renormalise_its_weight():
    assert not check_aliasing(nn.Embedding(5, 3, max_norm=0.1), torch.tensor([1, 2])).findings


@pytest.mark.parametrize(
    "name", ["Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"]
)
def test_optimisers_of_torch_raise_no_alarm(name):
    layer = nn.Linear(3, 2)

    def step(x):
        optimiser = getattr(torch.optim, name)(layer.parameters())
        for foreach in (False, True):
            optimiser.defaults["foreach"] = optimiser.param_groups[0]["foreach"] = foreach
            optimiser.zero_grad()
            layer(x).square().sum().backward()
            optimiser.step()

    assert not check_aliasing(step, torch.randn(4, 3)).findings


def test_long_runs_keep_nothing():
    with detect_aliasing():
        detector = detect_aliasing()
        detector.__enter__()
        for _ in range(1500):
            torch.ones(1, requires_grad=True).expand(3).sum().backward()
        watch = detector._watch
        detector.__exit__(None, None, None)
    assert len(watch.views._origins) < 1200
    assert not watch.saved._histories
    assert not watch.saved._alive
    assert not watch.views._parents


def test_a_thread_without_lines_of_its_own_has_those_of_the_user():
    main = threading.get_ident()
    with ThreadPoolExecutor(1) as pool:
        mark = pool.submit(here, main).result()
    assert place(mark).file == __file__


def test_the_fixture_is_found_without_importing_torch():
    code = "import sys, pushforward.debug.fixture; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_line_is_printed_below_the_folder_of_packages_or_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    shown = {
        str(tmp_path / "train.py"): "train.py:3",
        str(tmp_path / ".venv/lib/python3.11/site-packages/torchvision/models/resnet.py"): "torchvision/models/resnet.py:3",
        "/usr/lib/python3/dist-packages/torchvision/ops.py": "torchvision/ops.py:3",
        pf.nn.MLP.__init__.__code__.co_filename: "pushforward/nn/mlp.py:3",
        "/elsewhere/train.py": "/elsewhere/train.py:3",
    }
    assert {file: Place(file, 3).where for file in shown} == shown
    assert str(Place("/elsewhere/train.py", 3, "step", "x.add_(1)", Place(str(tmp_path / "train.py"), 9))) == (
        "/elsewhere/train.py:3 in step: x.add_(1)\n    called at train.py:9"
    )
