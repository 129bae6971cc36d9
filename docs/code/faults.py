import json
from pathlib import Path

import pushforward as pf

FOLDER = Path(pf.__file__).parents[2] / "docs" / "assets" / "results"
RESUMED = "resumed: the same bits", "续训，结果逐位一致"
NAMED = "every other process names it and ends", "其余每个进程都指出该进程并退出"
# Name of a fault in faults.json: what is injected and what happens, in English and Chinese.
ROWS = {
    "killed, plain": ("SIGKILL at random moments", "在随机时刻发送 SIGKILL", *RESUMED),
    "killed, asynchronous": ("the same with `--async-checkpoints`", "同上，使用 `--async-checkpoints`", *RESUMED),
    "killed, sharded": ("the same with `--parallel fsdp`, two processes", "同上，`--parallel fsdp`，两个进程", *RESUMED),
    "killed, sharded and asynchronous": ("the same with both", "同上，两个选项同时使用", *RESUMED),
    "torchrun restarts": (
        "a worker of `torchrun --max-restarts` is killed, on one machine and of two agents",
        "杀死 `torchrun --max-restarts` 的一个工作进程（单机，以及两个 agent）",
        "torchrun restarts all, and they continue: the same bits",
        "torchrun 重启全部进程，自动续训，结果逐位一致",
    ),
    "newest checkpoint damaged": (
        "each file of the newest checkpoint cut in half, bits flipped, no manifest",
        "最新检查点的每个文件截断一半、比特翻转、缺少 manifest",
        "resumed from the one before: the same bits",
        "从前一个检查点续训，结果逐位一致",
    ),
    "disk full": (
        "each write of a checkpoint and of metrics fails in turn: no space left",
        "检查点和指标的每次写入依次失败：磁盘已满",
        "ends; the step is saved elsewhere, and the error gives the path",
        "训练终止；当前步保存到别处，错误信息给出路径",
    ),
    "folder read-only": ("the run folder becomes read-only", "运行目录变为只读", "the same", "同上"),
    "disk failing": ("each write in turn fails with an I/O error", "每次写入依次发生 I/O 错误", "the same", "同上"),
    "NaN": ("one gradient is NaN", "一个梯度为 NaN", "the step is skipped and counted", "跳过该步并计数"),
    "spike": ("one gradient is 10,000 times as large", "一个梯度放大一万倍", "the same", "同上"),
    "NaN that stays": (
        "all gradients are NaN from a step on",
        "从某一步起所有梯度都是 NaN",
        "ends before broken weights are saved; resumed: the same bits",
        "在保存损坏的权重之前终止；续训后结果逐位一致",
    ),
    "loader worker": (
        "a worker process of the loader is killed, or hangs",
        "数据加载进程被杀死或无响应",
        "ends and names it; resumed: the same bits",
        "终止并指出原因；续训后结果逐位一致",
    ),
    "process hangs": ("one of four processes hangs (`--timeout 8`)", "四个进程之一无响应（`--timeout 8`）", *NAMED),
    "process killed": ("one of four processes is killed", "四个进程之一被杀死", *NAMED),
    "process fails": ("one of four processes cannot read its data", "四个进程之一无法读取数据", *NAMED),
    "straggler": (
        "a process waits for 4 s within the timeout",
        "一个进程停顿 4 s（未超时）",
        "the others wait: the same bits",
        "其余进程等待，结果逐位一致",
    ),
    "SIGTERM": (
        "SIGTERM at the start, in training, saving, validation, sampling and at the end",
        "在启动、训练、保存、验证、采样和结束时收到 SIGTERM",
        "ends with 143 and a checkpoint of its step; resumed: the same bits",
        "保存当前步的检查点，以 143 退出；续训后结果逐位一致",
    ),
}
HEADS = ("| injected | times | what happens | steps lost at most |", "| 注入的故障 | 次数 | 结果 | 最多丢失的步数 |")

found = json.loads((FOLDER / "faults.json").read_text(encoding="utf-8"))
for place, language in enumerate(("en", "zh")):
    lines = [HEADS[place], "|---|---:|---|---:|"]
    for name, texts in ROWS.items():
        own = [value for key, value in found.items() if key == name or (key.startswith(f"{name}, ") and key not in ROWS)]
        times = sum(one.get("times", 1) for one in own)
        lost = max(one["lost"] for one in own) if "lost" in own[0] else f"≤ {own[0]['every']}"
        lines.append(f"| {texts[place]} | {times} | {texts[2 + place]} | {lost} |")
    Path(f"{language}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
