"""What the help of a command shows first: its most used options, in order, and examples. Commands with few options show all."""

SHOWN: dict[str, tuple[str, ...]] = {
    "train": (
        "data", "data-options", "out", "steps", "batch-size", "lr", "seed", "device", "recipe", "config", "resume", "overwrite", "dry-run",
    ),
    "train usage": ("--data", "NAME|PATH"),
    "sample": ("n", "label", "cond", "guidance", "sampler", "steps", "sampler-options", "out", "seed", "checkpoint", "device"),
    "evaluate": ("data", "out", "split", "checkpoint", "samples", "scored", "evaluations", "sampler", "steps", "guidance", "device"),
    "compare": (
        "data", "data-options", "seconds", "train-steps", "seeds", "out", "samples", "evaluations", "split", "reported", "explain",
        "device",
    ),
    "finetune": (
        "data", "caption", "size", "rank", "full", "text-encoders", "prior", "out", "steps", "batch-size", "lr", "device", "resume",
        "overwrite", "dry-run",
    ),
    "finetune usage": ("--data", "FOLDER"),
    "generate": (
        "n", "seed", "negative", "guidance", "steps", "height", "width", "image", "strength", "lora", "from", "out", "dtype", "offload",
        "device",
    ),
    "edit usage": ("--source", "CLASS", "--target", "CLASS"),
}  # fmt: skip
EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("pushforward demo --out runs/demo",),
    "train": (
        "pushforward train PRESET --data moons --steps 2000 --out runs/moons",
        "pushforward train PRESET --data my.csv --dry-run",
        "pushforward train --resume --out runs/moons",
    ),
    "sample": (
        "pushforward sample runs/demo -n 100 --label 3 --out threes.png",
        "pushforward sample runs/moons -n 1000 --steps 20 --out moons.csv",
    ),
    "edit": ("pushforward edit runs/demo --source 3 --target 8 --out eights.png",),
    "evaluate": (
        "pushforward evaluate runs/demo",
        "pushforward evaluate runs/demo --split validation --samples 500 --json",
    ),
    "compare": (
        "pushforward compare nsf ddpm --data digits --seconds 60",
        'pushforward compare "rectified_flow net:mlp" runs/mine --train-steps 500',
        "pushforward compare --reported runs/a runs/b",
    ),
    "reflow": ("pushforward reflow runs/moons --rounds 2",),
    "distill": ("pushforward distill runs/moons-reflow-1 --out runs/one-step",),
    "finetune": ('pushforward finetune sd3.safetensors --data my-dog/ --caption "my dog"',),
    "generate": (
        'pushforward generate sd3.safetensors "a red fox" --seed 7 --out fox.png',
        "pushforward generate --from fox.png --guidance 4 --out other.png",
    ),
    "app": ("pushforward app runs/demo runs/moons",),
    "push": ("pushforward push runs/moons alice/moons --license mit",),
    "list": ("pushforward list", "pushforward list samplers.ddim", "pushforward list recipes", "pushforward list models --json"),
    "info": ("pushforward info runs/demo", "pushforward info runs/demo --json"),
    "new-package": ("pushforward new-package my_flows --parts preset data",),
    "doctor": ("pushforward doctor", "pushforward doctor --aliasing train.py"),
}
