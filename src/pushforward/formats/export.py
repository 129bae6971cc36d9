"""Models for other runtimes: one verb as a program of torch.export, or as an ONNX file, for batches of any size."""

import copy
import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel
from pushforward.formats.files import write_atomically
from pushforward.formats.wrapped import unwrapped
from pushforward.registry import export
from pushforward.samplers.sampler import AdaptiveSampler, Sampler

if TYPE_CHECKING:
    from pushforward.guidance.guidance import Guidance

Verb = Literal["sample", "decode", "encode", "log_prob", "network"]
VERBS = get_args(Verb)
ROWS, OTHER_ROWS = 3, 5  # batches that a program is made and checked with
LARGEST = 2**31  # bytes that a file of protobuf can hold: larger weights are in a file next to it
PACKAGES = ("onnx", "onnxscript")


class _Program(nn.Module):
    """One verb of a model as a function of tensors alone."""

    def __init__(self, model: GenerativeModel, verb: Verb, sampler: Sampler | None, guidance: Any) -> None:
        super().__init__()
        self.model, self.verb, self.sampler, self.guidance = model, verb, sampler, guidance

    @torch.no_grad()
    def forward(self, *given: Tensor) -> Tensor:
        model: Any = self.model
        if self.verb == "network":
            return model.net(*given) if len(given) == 3 else model.net(*given, None)
        x, cond = given[0], given[1] if len(given) > 1 else None
        if self.verb == "sample":
            cond = model._checked_cond(cond, x.shape[0])
            guidance = model._guided(self.guidance, self.sampler, False)
            return model._from_model(model._sampled(x, cond, self.sampler, guidance, None))
        solved = {} if self.sampler is None else {"sampler": self.sampler}
        return getattr(model, self.verb)(x, cond, **solved)


@export("formats.export_program")
def export_program(
    model: GenerativeModel, verb: Verb = "sample", *, sampler: Sampler | None = None, guidance: "Guidance | float | None" = None
) -> torch.export.ExportedProgram:
    """Return one verb of a model as a program of torch.export: a graph of tensors, which runs without this library.

    Its inputs are, each with any number n of rows:

        sample, decode:  noise (n, *shape), a draw of model.base (standard normal on most paths), and cond
        encode, log_prob:  x (n, *shape) in the data's units, and cond
        network:  x (n, *shape), t (n,) in [0, 1], and cond, of `model.net`

    where cond, of a conditional model only, is labels (n,) int64, vectors or images. A program is compared with the model on a batch of
    another size before it is returned. Take noise of the runtime at hand: programs hold no random numbers.

    Args:
        model: the model; a copy of it in eval mode is exported.
        verb: what the program computes: "sample", "decode", "encode", "log_prob" or "network".
        sampler: sampler with a fixed number of steps and without noise, such as `pf.samplers.Euler(10)`; None is the model's own.
        guidance: guidance of samples, with a fixed scale.

    Returns:
        The program: `program.module()(noise)` calls it, `torch.export.save(program, "model.pt2")` writes it.

    Raises:
        UserError: the sampler adapts its steps or draws noise; or torch.export cannot trace the verb, such as an exact divergence.

    Example:
        >>> import torch, pushforward as pf
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,))
        >>> program = pf.formats.export_program(model, sampler=pf.samplers.Euler(2))
        >>> program.module()(torch.randn(7, 2)).shape
        torch.Size([7, 2])
    """
    model = unwrapped(model)
    if verb not in VERBS:
        raise UserError(f"verb is {verb!r}, but it must be one of {', '.join(map(repr, VERBS))}.")
    _check_verb(model, verb, sampler, guidance)
    program = _Program(copy.deepcopy(model).eval(), verb, sampler, guidance).eval()
    given, other = _inputs(model, verb, ROWS), _inputs(model, verb, OTHER_ROWS)
    expected = program(*other)  # also computes what is cached: the steps of samplers are numbers, which cannot be read while tracing
    batch = torch.export.Dim("n")
    shapes = (tuple({0: batch} for _ in given),)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(program, tuple(given), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export raises errors of a dozen types
        reason = next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{verb} of this model cannot be exported, as torch.export stops ({reason[:200]}); export another verb.") from error
    if not torch.allclose(exported.module()(*other), expected, rtol=1e-3, atol=1e-3):
        raise UserError(f"{verb} of this model cannot be exported: its program gives other values for {OTHER_ROWS} rows than the model.")
    return exported


@export("formats.export_onnx")
def export_onnx(
    model: GenerativeModel,
    path: str | Path,
    verb: Verb = "sample",
    *,
    sampler: Sampler | None = None,
    guidance: "Guidance | float | None" = None,
) -> Path:
    """Write one verb of a model as an ONNX file, for batches of any size; the inputs are those of `export_program`.

    The inputs are named noise or x, t and cond, the output x, z, log_prob or prediction. Weights of more than 2 GB are in a second file.

    Args:
        model: the model; a copy of it in eval mode is exported.
        path: the file to write, ending in .onnx.
        verb: what the file computes: "sample", "decode", "encode", "log_prob" or "network".
        sampler: sampler with a fixed number of steps and without noise, such as `pf.samplers.Euler(10)`; None is the model's own.
        guidance: guidance of samples, with a fixed scale.

    Returns:
        The path.

    Raises:
        UserError: as `export_program`; or onnx and onnxscript are not installed, the path does not end in .onnx, or ONNX has no operator
            for a part of the model, such as the inverse of a matrix in samples of glow.

    Example:
        >>> import pushforward as pf
        >>> pf.formats.export_onnx(pf.models.realnvp(2), "flow.pt", "log_prob")
        Traceback (most recent call last):
        pushforward.errors.UserError: path is flow.pt, but the name of an ONNX file ends in .onnx.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise UserError(f"path is {path}, but the name of an ONNX file ends in .onnx.")
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        lacking = " and no ".join(absent)
        raise UserError(f'an ONNX file is requested, but there is no {lacking}; run pip install "pushforward[onnx]".')
    program = export_program(model, verb, sampler=sampler, guidance=guidance)
    names = _names(unwrapped(model), verb)
    output = {"encode": "z", "log_prob": "log_prob", "network": "prediction"}.get(verb, "x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = _as_onnx(program, verb, names, output)
    if sum(one.numel() * one.element_size() for one in program.state_dict.values()) < LARGEST // 2:
        write_atomically(path, lambda temporary: made.save(temporary))
    else:
        made.save(path, external_data=True)
    return path


def _as_onnx(program: torch.export.ExportedProgram, verb: Verb, names: list[str], output: str) -> torch.onnx.ONNXProgram:
    """Return a program as one of ONNX, which has no operator that solves triangular systems.

    Raises:
        UserError: ONNX has no operator for another part of it.
    """
    try:
        plain = program.run_decompositions({torch.ops.aten.linalg_solve_triangular.default: _substituted})
        made = torch.onnx.export(plain, input_names=names, output_names=[output], dynamo=True, verbose=False)
        assert made is not None
        return made
    except torch.onnx.OnnxExporterError as error:
        reason = next((found for line in str(error).splitlines() if (found := line.partition("No ONNX function found for ")[2])), "")
        what = reason.partition(". ")[0] or "a part of it"
        raise UserError(
            f"{verb} of this model cannot be written as ONNX, which has no {what}; use export_program, or another verb."
        ) from error


def _substituted(a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    """Return `torch.linalg.solve_triangular(a, b)` for a matrix a (d, d) by substitution: d products of vectors and matrices."""
    if not left:
        return _substituted(a.mT, b.mT, upper=not upper, unitriangular=unitriangular).mT
    size = a.shape[-1]
    found: list[Tensor] = []  # in the order of the rows
    for k in reversed(range(size)) if upper else range(size):
        row = b[..., k : k + 1, :]
        if found:
            known = a[..., k : k + 1, k + 1 :] if upper else a[..., k : k + 1, :k]
            row = row - known @ torch.cat(found, dim=-2)
        row = row if unitriangular else row / a[..., k : k + 1, k : k + 1]
        found = [row, *found] if upper else [*found, row]
    return torch.cat(found, dim=-2)


def _check_verb(model: GenerativeModel, verb: Verb, sampler: Sampler | None, guidance: Any) -> None:
    """Raise unless a program can compute a verb.

    Raises:
        UserError: it cannot; nothing is traced.
    """
    if verb not in model.verbs and verb != "network":
        raise UserError(f"verb is {verb!r}, but this model has {', '.join(sorted(model.verbs))}.")
    if verb == "network" and not isinstance(getattr(model, "net", None), nn.Module):
        raise UserError("verb is 'network', but this model has no network of x and t; export its verbs.")
    if guidance is not None and verb != "sample":
        raise UserError(f"guidance is given for {verb}, but only samples are guided; leave it out.")
    own = model.sampler if sampler is None else sampler
    if verb == "network" or own is None:
        return
    if isinstance(own, AdaptiveSampler):
        raise UserError(f"sampler is {type(own).__name__}, whose number of steps depends on the data; give one such as Euler(10).")
    if getattr(own, "stochastic", False):
        raise UserError(f"sampler is {type(own).__name__}, which draws noise, but a program holds none; give one such as DDIM(20).")


def _names(model: GenerativeModel, verb: Verb) -> list[str]:
    first = ["x", "t"] if verb == "network" else ["noise" if verb in ("sample", "decode") else "x"]
    return [*first, "cond"] if model.conditioning else first


def _inputs(model: GenerativeModel, verb: Verb, n: int) -> list[Tensor]:
    """Return inputs of n rows: draws of normal noise, times and conditions, of a seed of their own."""
    device = next(model.parameters()).device
    made = torch.Generator().manual_seed(0)
    given = [torch.randn(n, *model.shape, generator=made, dtype=model.dtype)]
    if verb == "network":
        given.append(torch.linspace(0.2, 0.8, n, dtype=model.dtype))
    if model.classes is not None:
        given.append(torch.arange(n) % model.classes)
    elif model.conditioning.shape is not None:
        given.append(torch.randn(n, *model.conditioning.shape, generator=made, dtype=model.dtype))
    return [one.to(device) for one in given]
