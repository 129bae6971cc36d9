"""Editing of images by prompts: from what describes an image to what it shall show."""

from typing import Any

import torch

from pushforward._checks import shown
from pushforward.editing.flow_edit import FlowEdit
from pushforward.editing.method import Method
from pushforward.errors import UserError
from pushforward.guidance.guidance import Guidance
from pushforward.sd3 import generation, images
from pushforward.sd3.inversion import Inversion, Prompts
from pushforward.sd3.prompts import checked_prompts


class Editing(Inversion):
    """The method of `StableDiffusion3` that edits images."""

    @torch.no_grad()
    def edit(
        self,
        image: Any,
        source: Prompts,
        target: Prompts,
        *,
        method: Method | None = None,
        negative: Prompts = "",
        generator: generation.Seeds = None,
        tokens: int = 256,
        output: images.Output = "pil",
        batch_size: int | None = None,
        are_latents: bool | None = None,
    ) -> Any:
        """Return images edited from one prompt to another, without masks and without training.

        The size is the image's. With equal prompts and scales FlowEdit returns the image's latents exactly.

        Args:
            image: a PIL image, a list of them, a tensor (n, 3, height, width) in [0, 1], or latents (n, 16, height, width).
            source: what the images show: one prompt for all, or n.
            target: what they shall show.
            method: `editing.FlowEdit` or `editing.RFInversion`; None is FlowEdit(3.5, 13.5), the scales of its paper, on 33 of 50 steps.
            negative: negative prompts of guidance.
            generator: a seed, or any generator argument of `sample`.
            tokens: number of T5 tokens in the context.
            output: "pil", "tensor" (n, 3, height, width) or "array" (n, height, width, 3), float32 in [0, 1], or "latents".
            batch_size: images per chunk; None is all.
            are_latents: whether `image` is latents (n, 16, height, width); None decides by the number of channels.

        Raises:
            UserError: `method` is none, or cannot be used.
        """
        images.checked_output(output)
        method = FlowEdit(3.5, 13.5) if method is None else method
        if not isinstance(method, Method):
            raise UserError(f"method is {shown(method)}, but it is pf.editing.FlowEdit() or another of pf.editing.")
        target, negative = checked_prompts(target, "target"), checked_prompts(negative, "negative")
        latents, model, before = self._at(image, source, tokens, are_latents)
        n = len(latents)
        after = self._spread(target, n, tokens, "targets")
        times = method.grid_on(model)(1.0, 0.0, method.steps, model.path)

        def steered(guidance: Guidance | float | None) -> Guidance | None:
            made = generation.guidance_of(guidance, None, times, model.net)
            return generation.with_negative(made, lambda: self._negative(negative, n, tokens))

        generators = generation.generators_of(generator, n)
        with self.residence.using("transformer"):
            made = method.with_guidance(steered)(model, latents, before, after, generator=generators, batch_size=batch_size)
        return self._returned(made, output)
