import torch

import pushforward as pf

seed = torch.Generator().manual_seed
torch.manual_seed(0)


# --8<-- [start:data]
class Latents(torch.utils.data.Dataset):
    """Latents (n, 16, 8, 8) of images that show one thing, with the encoding of its prompt."""

    def __init__(self, thing: torch.Tensor, prompt: pf.TextContext, n: int, of: int) -> None:
        self.x = thing + 0.3 * torch.randn(n, 16, 8, 8, generator=seed(of))
        self.prompt = prompt

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, pf.TextContext]:
        return self.x[k], self.prompt

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, pf.TextContext]:
        return self.x[indices], self.prompt.repeat(len(indices))


# --8<-- [end:data]
# --8<-- [start:base]
net = pf.nn.MMDiT((16, 8, 8), depth=2, heads=2, head_width=32, context_width=24, pooled_width=16, positions=4, base_size=4)
sd3 = pf.StableDiffusion3(net, pf.nn.AutoencoderKL(widths=(32, 32, 32, 32), blocks=1))
dog_prompt, my_dog_prompt = (pf.TextContext(torch.randn(1, 4, 24), torch.randn(1, 16)) for _ in range(2))
dog = torch.randn(16, 8, 8)
my_dog = dog + 0.8 * torch.randn(16, 8, 8)
dogs, five_of_mine = Latents(dog, dog_prompt, 200, of=1), Latents(my_dog, my_dog_prompt, 5, of=2)
pf.Trainer(sd3.model, dogs, steps=400, batch_size=32, lr=2e-3, ema=0).fit()
# --8<-- [end:base]

# --8<-- [start:train]
before = {name: one.clone() for name, one in net.state_dict().items()}


def losses() -> str:
    """Return the loss on new latents of the subject and of its class."""
    new = Latents(my_dog, my_dog_prompt, 100, of=3), Latents(dog, dog_prompt, 100, of=4)
    with torch.no_grad():
        mine, others = (float(sd3.model.eval().loss(*one.__getitems__(list(range(100))), generator=seed(5))) for one in new)
    return f"my dog {mine:.2f}, dogs {others:.2f}"


print("before:", losses())
for title, data in (("alone", five_of_mine), ("with prior", pf.data.PriorPreservation(five_of_mine, dogs))):
    parameters = sd3.add_lora(rank=8, targets=["attention.qkv", "attention.out", "mlp.0", "mlp.2", "modulation"])
    pf.Trainer(sd3.model, data, steps=300, batch_size=16, lr=2e-3, warmup=0, ema=0).fit()
    sd3.save_lora(f"my dog {title}.safetensors")
    print(f"{title}: {losses()}, {sum(p.numel() for p in parameters):,} of {sum(p.numel() for p in net.parameters()):,} parameters")
    sd3.unload_lora()
# --8<-- [end:train]

# --8<-- [start:use]
name = sd3.load_lora("my dog with prior.safetensors", weight=0.5)
print(sd3.loras, losses())
sd3.set_lora({name: 1.0})
sd3.merge_lora()  # no cost at inference
print("merged:", losses())
sd3.unmerge_lora()
sd3.save_lora("for other tools.safetensors", "kohya", name=name)
sd3.unload_lora()
print("as before:", all(torch.equal(one, before[key]) for key, one in net.state_dict().items()))
# --8<-- [end:use]
