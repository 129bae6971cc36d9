# %% [markdown]
# # Fine-tune Stable Diffusion 3
#
# A LoRA teaches a Stable Diffusion 3 a new subject from five images, and prior preservation keeps what it knew. The model here is tiny and
# trained in half a minute; with real weights only the line that loads them differs. Guide: [fine-tune](../../docs/en/fine-tune.md).

# %%
import tempfile
from pathlib import Path

import torch
from matplotlib import pyplot as plt

import pushforward as pf

torch.manual_seed(0)
seed = torch.Generator().manual_seed

# %% [markdown]
# The data are latents with the encoding of their prompt, as `sd3.vae.encode` and `sd3.encode_prompt` return them. Here they are noisy
# copies of one thing.


# %%
class Latents(torch.utils.data.Dataset):
    """Latents (n, 16, 8, 8) of images that show one thing, with the encoding of its prompt."""

    def __init__(self, thing, prompt, n, of):
        self.x, self.prompt = thing + 0.3 * torch.randn(n, 16, 8, 8, generator=seed(of)), prompt

    def __len__(self):
        return len(self.x)

    def __getitem__(self, k):
        return self.x[k], self.prompt

    def __getitems__(self, indices):
        return self.x[indices], self.prompt.repeat(len(indices))


net = pf.nn.MMDiT((16, 8, 8), depth=2, heads=2, head_width=32, context_width=24, pooled_width=16, positions=4, base_size=4)
sd3 = pf.StableDiffusion3(net, pf.nn.AutoencoderKL(widths=(32, 32, 32, 32), blocks=1))
dog_prompt, my_dog_prompt = (pf.TextContext(torch.randn(1, 4, 24), torch.randn(1, 16)) for _ in range(2))
dog = torch.randn(16, 8, 8)
my_dog = dog + 0.8 * torch.randn(16, 8, 8)
dogs, five_of_mine = Latents(dog, dog_prompt, 200, of=1), Latents(my_dog, my_dog_prompt, 5, of=2)
pf.Trainer(sd3.model, dogs, steps=400, batch_size=32, lr=2e-3, ema=0, log_every=200).fit()

# %% [markdown]
# The loss on new latents of the new subject and of what was known, before and after two fine-tunings.


# %%
def losses():
    new = Latents(my_dog, my_dog_prompt, 100, of=3), Latents(dog, dog_prompt, 100, of=4)
    with torch.no_grad():
        return [float(sd3.model.eval().loss(*one.__getitems__(list(range(100))), generator=seed(5))) for one in new]


table, folder = {"before": losses()}, Path(tempfile.mkdtemp())
for title, data in (("alone", five_of_mine), ("with prior", pf.data.PriorPreservation(five_of_mine, dogs))):
    parameters = sd3.add_lora(rank=8, targets=["attention.qkv", "attention.out", "mlp.0", "mlp.2", "modulation"])
    pf.Trainer(sd3.model, data, steps=200, batch_size=16, lr=2e-3, warmup=0, ema=0, log_every=100).fit()
    sd3.save_lora(folder / f"{title}.safetensors")
    table[title] = losses()
    trained = sum(p.numel() for p in parameters) / sum(p.numel() for p in net.parameters())
    sd3.unload_lora()
print({title: [round(one, 2) for one in both] for title, both in table.items()}, f"{trained:.0%} of the parameters trained")

# %% [markdown]
# The saved LoRA loads with a weight, and merges into the network at no cost of inference.

# %%
name = sd3.load_lora(folder / "with prior.safetensors")
sd3.merge_lora()
merged = losses()
print("merged:", [round(one, 2) for one in merged])

# %% [markdown]
# Alone, the five images overwrite what the model knew; with prior preservation they do so less.

# %%
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
places = torch.arange(len(table))
for k, label in enumerate(("my dog", "dogs")):
    axis.bar(places + 0.35 * k, [both[k] for both in table.values()], 0.35, label=label)
axis.set(xticks=(places + 0.17).tolist(), xticklabels=list(table), ylabel="loss on new latents")
axis.legend()

# %% [markdown]
# The numbers of this page.

# %%
results = {f"{title}, {what}": both[k] for title, both in table.items() for k, what in enumerate(("mine", "dogs"))}
results |= {"merged, mine": merged[0], "trained": trained}
results
