import diffusers
import torch

import pushforward as pf

diffusers.utils.logging.disable_progress_bar()
torch.manual_seed(0)
seed = torch.Generator().manual_seed

# --8<-- [start:pipeline]
unet = diffusers.UNet2DModel(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    block_out_channels=(32, 64),
    layers_per_block=1,
    norm_num_groups=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
).eval()
scheduler = diffusers.DDPMScheduler(1000)
pipeline = diffusers.DDPMPipeline(unet, scheduler)
pipeline.set_progress_bar_config(disable=True)
pipeline.save_pretrained("ddpm")

model = pf.load("ddpm")
# --8<-- [end:pipeline]

# --8<-- [start:sd3]
config = {"sample_size": 16, "in_channels": 16, "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2}
config |= {"caption_projection_dim": 64, "joint_attention_dim": 96, "pooled_projection_dim": 48, "pos_embed_max_size": 24}
transformer = diffusers.SD3Transformer2DModel(**config, out_channels=16).eval()
transformer.save_pretrained("sd3/transformer")
blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "block_out_channels": (32, 32)}
vae = diffusers.AutoencoderKL(
    **blocks, latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
).eval()
vae.save_pretrained("sd3/vae")

files = pf.formats.read_sd3("sd3", parts=("transformer", "vae"))
# --8<-- [end:sd3]


# --8<-- [start:parts]
class Given(torch.nn.Module):
    """A base whose samples are known: the noise that both libraries start from."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def sample(self, n, generator=None):
        return self.noise

    def log_prob(self, z):
        raise NotImplementedError


def scheduled(scheduler, steps, net=lambda x, k: unet(x, k).sample):
    """Return what a scheduler makes of the noise by the network."""
    scheduler.set_timesteps(steps)
    x, options = noise, {"generator": seed(0)} if isinstance(scheduler, diffusers.DDPMScheduler) else {}
    for k in scheduler.timesteps:
        x = scheduler.step(net(x, k), k, x, return_dict=False, **options)[0]
    return x


def sampled(sampler, path=model.path, kind="noise", net=model.net):
    """Return what a sampler makes of it."""
    return pf.families.PathModel(net, (1, 8, 8), path, kind, base=Given(noise), sampler=sampler).sample(4, generator=seed(0))


data, noise = torch.rand(4, 1, 8, 8) * 2 - 1, torch.randn(4, 1, 8, 8)
k = torch.tensor([0, 250, 500, 999])  # their timestep k
t = (k + 1) / 1000  # is our time
leading = pf.samplers.DDPM(20, grid=pf.samplers.Knots("leading"), clip=pf.samplers.Clipping())
mse_loss = torch.nn.functional.mse_loss
trailing = {"timestep_spacing": "trailing"}
multistep = {"timestep_spacing": "trailing", "final_sigmas_type": "zero"}
fixed = pf.families.PathModel(model.net, (1, 8, 8), model.path, "noise", times=pf.times.Point(1.0))
latents, cond = torch.randn(2, 16, 16, 16), pf.TextContext(torch.randn(2, 7, 96), torch.randn(2, 48))
when, images = torch.tensor([0.25, 0.75]), torch.rand(2, 3, 16, 16) * 2 - 1
field = lambda x, t, cond: model.net(x, torch.full((len(x),), 0.5), cond)  # a velocity of x alone  # noqa: E731
# --8<-- [end:parts]

# --8<-- [start:pairs]
PAIRS = [
    ("unet(data, k).sample", "model.net(data, t)"),
    ("scheduler.add_noise(data, noise, k)", "model.path.mix(data, noise, t)"),
    ("scheduler.get_velocity(data, noise, k)", "model.path.target('v', data, noise, t)"),
    (
        "mse_loss(unet(scheduler.add_noise(data, noise, torch.tensor([999])), 999).sample, noise)",
        "fixed.loss(data, noise=noise)",
    ),
    (
        "scheduled(diffusers.DDPMScheduler(), 20)",
        "sampled(pf.samplers.DDPM(20, grid=pf.samplers.Knots('leading'), clip=pf.samplers.Clipping()))",
    ),
    ("scheduled(diffusers.DDIMScheduler(clip_sample=False, **trailing), 20)", "sampled(pf.samplers.DDIM(20, grid=pf.samplers.Knots()))"),
    ("scheduled(diffusers.DPMSolverMultistepScheduler(**multistep), 20)", "sampled(pf.samplers.DPMSolverPP(20, grid=pf.samplers.Knots()))"),
    ("scheduled(diffusers.UniPCMultistepScheduler(**multistep), 20)", "sampled(pf.samplers.UniPC(20, grid=pf.samplers.Knots()))"),
    (
        "scheduled(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 20, lambda x, k: unet(x, 499).sample)",
        "sampled(pf.samplers.Euler(20, grid=pf.samplers.Shifted(3.0, levels=1000)), pf.paths.Linear(), 'velocity', field)",
    ),
    (
        "torch.from_numpy(pipeline(4, seed(0), 20, output_type='np').images).permute(0, 3, 1, 2)",
        "(model.sample(4, sampler=leading, generator=seed(0)) - 0.5) / 255",
    ),
    ("transformer(latents, cond.context, cond.pooled, 1000 * when).sample", "files.transformer(latents, when, cond)"),
    ("(vae.encode(images).latent_dist.mode() - 0.0609) * 1.5305", "files.vae.encode(images)"),
    ("vae.decode(latents / 1.5305 + 0.0609).sample", "files.vae.decode(latents)"),
]
with torch.no_grad():
    for theirs, ours in PAIRS:
        expected, found = eval(theirs), eval(ours)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        print(f"| `{theirs}` | `{ours}` | {(found - expected).abs().max():.1g} |")
# --8<-- [end:pairs]
