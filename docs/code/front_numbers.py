"""The numbers of the front page: read from the runs that measured them."""

import json
import re
from pathlib import Path

import pushforward as pf

ROOT = Path(pf.__file__).parents[2]
RESULTS = ROOT / "docs" / "assets" / "results"
SPEED = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")


def measured(group, case):
    """Ours and the peers' milliseconds of a case of benchmarks/RESULTS.md."""
    section = SPEED.partition(f"\n## {group}\n")[2].partition("\n## ")[0]
    row = next(line for line in section.splitlines() if line.startswith(f"| {case} (ms) |"))
    ours, peers = (cell.strip() for cell in row.split("|")[2:4])
    return f"{ours} ms", f"{peers} ms", f"python -m benchmarks --only {group}"


def results(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def mean(values):
    return sum(values) / len(values)


killed = [one for name, one in results("faults").items() if name.startswith("killed, ")]  # each was resumed and compared
lost = max(one["lost"] for one in killed)


nats = {name: mean(values) for name, values in results("tables")["breast_cancer"]["nats"].items()}
best = max(nats[name] for name in ("gaussian", "kernel_density", "gaussian_mixture"))
densities = {one["density"]: one for one in results("fashion-unet")["likelihood"]}
unet, gaussian = densities["this model"]["conditional"], densities["gaussian, per class"]["conditional"]
# Each row: the case in English and Chinese, ours, what it is compared with in both languages, and the command.
tokens = "MMDiT, depth 6, width 384, 333 text tokens: 4096 image tokens, batch 1"
unet_case = re.search(r"^\| (training step, U-Net .+?) \(ms\)", SPEED, re.MULTILINE)[1]
likelihood = measured("likelihood", "exact likelihood, 20 midpoint steps, batch 256, d=64: MLP")
spline = measured("flows", "spline D=16, 8 layers, batch 1024: log_prob")
transformer, step = measured("mmdit", tokens), measured("image_networks", unet_case)
rows = [
    ("exact likelihood of an ODE, 64 dimensions, 256 rows", "ODE 的精确似然，64 维，256 行", likelihood),
    ("`log_prob` of a spline flow, 16 dimensions, 1,024 rows", "样条流的 `log_prob`，16 维，1,024 行", spline),
    ("SD3's transformer at depth 6, 4,096 image tokens", "深度为 6 的 SD3 transformer，4,096 个图像 token", transformer),
    ("training step of a U-Net, 7 million parameters, batch of 4", "U-Net 的训练步，700 万参数，批量 4", step),
    (
        "held-out log-likelihood a row of breast_cancer, `maf` (nats)",
        "breast_cancer 每行的留出对数似然，`maf`（nat）",
        (
            f"{nats['maf']:.1f}",
            (
                f"zuko {nats['zuko maf']:.1f}, best baseline {best:.1f}",
                f"zuko {nats['zuko maf']:.1f}，最好的基线 {best:.1f}",
            ),
            "python -m benchmarks.tables",
        ),
    ),
    (
        "Fashion-MNIST, an hour on one core (bits per dimension)",
        "Fashion-MNIST，单核训练一小时（比特/维）",
        (f"{unet:.2f}", (f"Gaussian per class {gaussian:.2f}", f"逐类高斯 {gaussian:.2f}"), "pushforward evaluate runs/fashion-unet"),
    ),
    (
        "runs killed at random moments that ended with the same bits",
        "在随机时刻被杀死、续训后逐位一致的训练",
        (
            f"{sum(one['times'] for one in killed)}",
            (f"at most {lost} steps computed again", f"最多重算 {lost} 步"),
            "make test-faults",
        ),
    ),
]
for place, (language, head) in enumerate({"en": "| | pushforward | others |", "zh": "| | pushforward | 对照 |"}.items()):
    lines = [head, "|---|---:|---|"]
    for *names, (ours, others, command) in rows:
        lines.append(f"| {names[place]}<br>`{command}` | {ours} | {others if isinstance(others, str) else others[place]} |")
    Path(f"{language}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
