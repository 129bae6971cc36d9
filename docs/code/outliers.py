import torch

import pushforward as pf

seed = torch.Generator().manual_seed

# --8<-- [start:train]
parts = {split: pf.data.load("digits", split) for split in ("train", "validation", "test")}
known = {split: pf.data.Dataset(split, part.x[part.cond != 8], levels=17) for split, part in parts.items()}  # all digits but the eights
torch.manual_seed(0)
model = pf.models.rectified_flow(pf.nn.MLP.Config((256, 256)), (1, 8, 8), levels=17)
model = pf.Trainer(model, known["train"], steps=1000, batch_size=128, lr=2e-3, ema=0.99).fit().averaged_model.eval()
# --8<-- [end:train]

# --8<-- [start:score]
detector = pf.evaluation.outlier_detector(model, known["validation"], sampler=pf.samplers.RK4(10), generator=seed(0))
own = detector.score(known["test"], generator=seed(1))

x = known["test"].x
others = {
    "eights": parts["test"].x[parts["test"].cond == 8],
    "upside down": x.flip(2),
    "half contrast": (x / 2).floor(),
    "blank": torch.zeros_like(x),
    "noise": torch.randint(17, x.shape, generator=seed(2)).float(),
}
limit = detector.threshold("typicality", false_alarms=0.05)
rows = {"test": own, **{name: detector.score(images, generator=seed(1)) for name, images in others.items()}}
# --8<-- [end:score]

with open("rows.txt", "w", encoding="utf-8") as file:
    for name, scores in rows.items():
        areas = [
            pf.evaluation.auroc(own.likelihood, scores.likelihood),
            pf.evaluation.auroc(own.typicality, scores.typicality),
            pf.evaluation.auroc(own.grouped(10).typicality, scores.grouped(10).typicality),
        ]
        cells = [name, f"{float(scores.likelihood.mean()):.2f}", *(f"{area:.2f}" for area in areas)]
        file.write(f"| {' | '.join(cells)} | {100 * float((scores.typicality > limit).double().mean()):.0f} % |\n")
