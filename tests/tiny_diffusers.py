"""Tiny random pipelines of diffusers, written to a folder as `save_pretrained` writes them."""

import torch

NET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


def network(**options):
    """Return a UNet2DModel whose parameters are all random."""
    import diffusers

    net = diffusers.UNet2DModel(**{**NET, **options}).eval()
    randomised(net)
    return net


def randomised(net):
    generator = torch.Generator().manual_seed(7)
    for parameter in net.parameters():
        mean, std = (0.0, 0.1) if parameter.ndim > 1 else (0.5, 0.3)
        torch.nn.init.normal_(parameter, mean, std, generator)


def written(folder, net, scheduler, **options):
    """Write a pipeline and return its folder."""
    import diffusers

    diffusers.DDPMPipeline(net, scheduler).save_pretrained(folder, **options)
    return folder
