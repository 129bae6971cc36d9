from pathlib import Path

import torch
import transformers

import pushforward as pf
from pushforward.cli import main

transformers.utils.logging.set_verbosity_error()


# --8<-- [start:tiny]
def tiny(folder: Path) -> Path:
    """Write a Stable Diffusion 3.5 with random weights and 1/3000 of the parameters, as a diffusers folder with tokenizers."""
    torch.manual_seed(0)
    transformer = pf.nn.MMDiT(
        (16, 8, 8), depth=3, heads=2, head_width=32, context_width=96, pooled_width=128, positions=24, base_size=8, dual=2
    )
    vae = pf.nn.AutoencoderKL(widths=(32, 32, 32, 32), blocks=1)
    for p in transformer.parameters():  # a newly initialised one returns zero
        torch.nn.init.normal_(p, std=0.5 / max(1, p[0].numel()) ** 0.5)
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(one + "</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    clip = {"vocab_size": len(tokens), "num_hidden_layers": 2, "intermediate_size": 64, "hidden_size": 32, "num_attention_heads": 1}
    clip |= {"projection_dim": 64, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    t5 = {"vocab_size": 100, "d_model": 96, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
    encoders = {
        "clip_l": transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**clip)),
        "clip_g": transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**clip, hidden_act="gelu")),
        "t5": transformers.T5EncoderModel(transformers.T5Config(**t5)),
    }
    vocabulary = {token: k for k, token in enumerate(tokens)}
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *((one, -5.0) for one in letters)]
    readers = {
        "tokenizer": transformers.CLIPTokenizer(vocabulary, [], model_max_length=77),
        "tokenizer_2": transformers.CLIPTokenizer(vocabulary, [], pad_token="!", model_max_length=77),
        "tokenizer_3": transformers.T5TokenizerFast(pieces, extra_ids=0, model_max_length=512),
    }
    model = pf.StableDiffusion3(transformer, vae, encoders)
    model.save(folder, "diffusers")
    for name, reader in readers.items():
        reader.save_pretrained(folder / name)
    return folder


folder = tiny(Path("tiny-sd3"))
# --8<-- [end:tiny]

# --8<-- [start:load]
sd3 = pf.StableDiffusion3.from_pretrained(folder, device="cpu")
print(sd3.variant)
# --8<-- [end:load]

# --8<-- [start:sample]
images = sd3.sample(
    ["a red fox in the snow", "a map of a small island"],
    negative="blurred",
    steps=4,
    guidance=5.0,
    size=(64, 96),  # height, width: divisible by 16
    generator=7,  # seeds 7 and 8, one for each image
)
images[0].save("fox.png")
# --8<-- [end:sample]

# --8<-- [start:seeds]
together = sd3.sample(["a fox", "a cat", "a map"], steps=4, size=(64, 64), generator=[1, 2, 3], output="latents")
alone = sd3.sample("a cat", steps=4, size=(64, 64), generator=2, output="latents")
print(f"one image alone and in a batch: {float((together[1] - alone[0]).abs().max()):.0e} apart")
# --8<-- [end:seeds]

# --8<-- [start:guidance]
sd3.sample(
    "a fox",
    sampler=pf.samplers.DPMSolverPP(4, grid=pf.samplers.Shifted(3, levels=1000)),
    guidance=pf.guidance.CFG(4.0, interval=(0.1, 0.95), rescale=0.3),
    skip_layers=(1,),  # Stable Diffusion 3.5 medium: (7, 8, 9)
    size=(64, 64),
)
# --8<-- [end:guidance]

# --8<-- [start:edit]
fox = images[0]
sd3.sample("a white fox", image=fox, strength=0.5, steps=6)
mask = torch.zeros(64, 96)
mask[:, 48:] = 1  # 1 is repainted; the rest stays bit-identical
sd3.sample("a fox looks at the moon", image=fox, mask=mask, steps=6)
sd3.edit(fox, "a red fox in the snow", "a wolf in the snow", method=pf.editing.FlowEdit(3.5, 13.5, steps=6), generator=7)
# --8<-- [end:edit]

# --8<-- [start:invert]
heun = pf.samplers.Heun(12, grid=pf.samplers.Shifted(3, levels=1000))
encoded = sd3.encode(fox, "a fox", sampler=heun)
print(f"back from noise, off by {float(encoded.error[0]):.0e} of the latents' size")
sd3.decode(encoded.noise, "a wolf", sampler=heun)
sd3.vary(fox, "a fox", amount=0.3, generator=1, sampler=heun)
density = sd3.log_prob(fox, "a fox", probes=4, sampler=pf.samplers.Heun(2), generator=torch.Generator().manual_seed(0))
print(f"log p = {float(density.log_prob[0]):.0f} ± {float(density.standard_error[0]):.0f} nats for {encoded.latents[0].numel()} numbers")
# --8<-- [end:invert]

# --8<-- [start:watch]
sd3.sample("a fox", steps=4, size=(64, 64), callback=lambda seen: seen.images()[0].save(f"step-{seen.done}.png"))
sd3.sample(["a fox", "a cat", "a map"], steps=4, size=(64, 64), batch_size=2, callback=pf.sd3.ProgressBar())


def steer(progress):
    if progress.done == 3:
        progress.stop()  # the images are those expected now
    return progress.latents.clamp(-3, 3)  # what the sampler uses; None changes nothing


sd3.sample("a fox", steps=4, size=(64, 64), callback=steer)
# --8<-- [end:watch]

# --8<-- [start:model]
latents = sd3.vae.encode(torch.rand(3, 3, 64, 64) * 2 - 1).detach()
cond = sd3.encode_prompt(["a", "b", "c"])
model = sd3.model_for((64, 64))  # a PathModel, with the methods of every model
model.loss(latents, cond, generator=torch.Generator().manual_seed(0)).backward()
# --8<-- [end:model]

# --8<-- [start:memory]
for name in ("medium", "medium-3.5", "large-3.5"):
    memory = pf.sd3.memory_of(name, tiling=True)
    peaks = {"all on the device": memory.together, "offload=True": memory.offloaded, "offload='blocks'": memory.by_blocks}
    peaks["t5=False"] = memory.together - memory.weights["t5"]
    print(f"{name:11}", ", ".join(f"{switch} {peak / 1e9:.1f} GB" for switch, peak in peaks.items()))
print(f"\n{pf.sd3.memory_of('medium-3.5', tiling=True)}")
# --8<-- [end:memory]

# --8<-- [start:small]
options = {"steps": 4, "size": (64, 64), "generator": 1, "output": "latents"}
exact = sd3.sample("a fox", **options)
for weights in ("fp8", "int8"):
    small = pf.StableDiffusion3.from_pretrained(folder, weights=weights, offload="blocks")
    error = (small.sample("a fox", **options) - exact).square().mean().sqrt() / exact.std()
    size = small.memory().weights["transformer"] / sd3.memory().weights["transformer"]
    print(f"{weights}: {size:.0%} of the bytes of the float32 transformer, latents off by {float(error):.1%}")
# --8<-- [end:small]

# --8<-- [start:peaks]
memory = pf.sd3.memory_of("large-3.5", weights="int8", tiling=True)
print(f"large-3.5, int8: {memory.together / 1e9:.1f} GB, offload=True {memory.offloaded / 1e9:.1f} GB")
# --8<-- [end:peaks]

options = ["--steps", "4", "--height", "64", "--width", "96", "--seed", "7"]
assert main(["generate", str(folder), "a red fox in the snow", *options]) == 0
assert main(["generate", "--from", "image.png", "--out", "again.png"]) == 0
assert Path("again.png").read_bytes() == Path("image.png").read_bytes()
for picture in Path().glob("*.png"):
    picture.unlink()  # random weights give meaningless images: none is shown
