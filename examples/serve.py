"""A model behind HTTP: POST /sample and /log_prob, with limits on what a request may ask for.

    pip install fastapi uvicorn
    PUSHFORWARD_MODEL=runs/moons uvicorn --app-dir examples serve:app          # a run, a saved model, or owner/name on the Hub
    curl -X POST 127.0.0.1:8000/sample -H 'content-type: application/json' -d '{"n": 3, "labels": [0, 1, 0], "seed": 7}'

One request is computed at a time, in a thread, so that /health answers meanwhile. examples/Dockerfile builds an image of it.
"""

import os
import threading
from typing import Annotated, Any, Literal

import torch
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

import pushforward as pf
from pushforward.errors import PushforwardError, UserError

MOST_ROWS = int(os.environ.get("PUSHFORWARD_MOST_ROWS", "256"))
MOST_STEPS = int(os.environ.get("PUSHFORWARD_MOST_STEPS", "100"))
SAMPLERS = {"euler": pf.samplers.Euler, "heun": pf.samplers.Heun, "midpoint": pf.samplers.Midpoint}

Label = Annotated[int, Field(ge=0, lt=2**31)]
Labels = Annotated[list[Label], Field(max_length=MOST_ROWS)]
Rows = Annotated[list[Any], Field(min_length=1, max_length=MOST_ROWS)]


class Strict(BaseModel):
    """A request, in which a misspelled field is an error."""

    model_config = ConfigDict(extra="forbid")


class SampleRequest(Strict):
    """What /sample takes; without a sampler, the model's own is used."""

    n: int = Field(1, ge=1, le=MOST_ROWS)
    labels: Labels | None = None
    seed: int = Field(0, ge=0, lt=2**63)
    sampler: Literal["euler", "heun", "midpoint"] | None = None
    steps: int = Field(20, ge=1, le=MOST_STEPS)
    guidance: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    temperature: float = Field(1.0, gt=0, le=10)


class LogProbRequest(Strict):
    """What /log_prob takes: events as nested lists (n, *shape), in the data's units."""

    x: Rows
    labels: Labels | None = None


def create(model: Any) -> FastAPI:
    """Return the application that serves a model, which is in eval mode."""
    app, lock = FastAPI(title="pushforward"), threading.Lock()
    device = next(model.parameters()).device

    def computed(function: Any, labels: list[int] | None) -> Any:
        """Call a verb with the condition of a request; what the request has wrong is status 422, in one sentence."""
        try:
            cond = None if labels is None else torch.tensor(labels, dtype=torch.int64, device=device)
            with lock, torch.no_grad():
                return function(cond)
        except PushforwardError as error:
            raise HTTPException(422 if isinstance(error, UserError) or error.exit_status == 2 else 500, str(error)) from None

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"shape": list(model.shape), "classes": model.classes, "verbs": sorted(model.verbs)}

    @app.post("/sample")
    def sample(asked: SampleRequest) -> dict[str, Any]:
        sampler = None if asked.sampler is None else SAMPLERS[asked.sampler](asked.steps)
        generator = torch.Generator().manual_seed(asked.seed)
        options = {"sampler": sampler, "guidance": asked.guidance, "temperature": asked.temperature, "generator": generator}
        return {"x": computed(lambda cond: model.sample(asked.n, cond, **options), asked.labels).tolist()}

    @app.post("/log_prob")
    def log_prob(asked: LogProbRequest) -> dict[str, Any]:
        try:
            x = torch.tensor(asked.x, dtype=model.dtype, device=device)
        except (TypeError, ValueError, RuntimeError):
            raise HTTPException(422, f"x must be numbers in nested lists of shape (n, {', '.join(map(str, model.shape))}).") from None
        return {"log_prob": computed(lambda cond: model.log_prob(x, cond), asked.labels).tolist()}

    return app


def __getattr__(name: str) -> FastAPI:
    """Load the model when uvicorn asks for `app`, so that `create` can be imported without one."""
    if name != "app":
        raise AttributeError(name)
    return create(pf.load(os.environ["PUSHFORWARD_MODEL"]))
