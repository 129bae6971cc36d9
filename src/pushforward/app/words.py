"""The words of the page in both languages; its errors are in `chinese`."""

ENGLISH, CHINESE = 0, 1
PREFIX = "pushforward_"  # so that no key is one of gradio's own, such as label
WORDS: dict[str, tuple[str, str]] = {
    # tabs
    "sample": ("Samples", "采样"),
    "evaluations": ("Evaluations", "求值次数"),
    "compare": ("Side by side", "对比"),
    "compare_prompts": ("Prompts side by side", "文生图对比"),
    "plane": ("Density and grid", "密度与网格"),
    "interpolate": ("Between two images", "图像插值"),
    "likelihood": ("Likelihood", "似然"),
    "paint": ("Repaint", "局部重绘"),
    "table": ("Rows", "表格"),
    "prompt": ("Prompt", "文生图"),
    # controls
    "n": ("Samples", "样本数"),
    "seed": ("Seed", "随机种子"),
    "label": ("Class", "类别"),
    "sampler": ("Sampler", "采样器"),
    "sampler_info": ("own: the model's own", "own：模型自带的采样器"),
    "count": ("Evaluations", "求值次数"),
    "guidance": ("Guidance (1: off)", "引导强度（1=关）"),
    "temperature": ("Temperature", "温度"),
    "slide_1": ("Latent direction 1", "隐变量方向 1"),
    "slide_2": ("Latent direction 2", "隐变量方向 2"),
    "slide_3": ("Latent direction 3", "隐变量方向 3"),
    "latent": ("Latent sliders", "隐变量滑块"),
    "shown": ("Show", "显示"),
    "state": ("the state", "当前状态"),
    "expected": ("the expected data", "预测的数据"),
    "model_a": ("Model A", "模型 A"),
    "model_b": ("Model B", "模型 B"),
    "sampler_a": ("Sampler of A", "A 的采样器"),
    "sampler_b": ("Sampler of B", "B 的采样器"),
    "count_a": ("Evaluations of A", "A 的求值次数"),
    "count_b": ("Evaluations of B", "B 的求值次数"),
    "steps_a": ("Steps of A", "A 的步数"),
    "steps_b": ("Steps of B", "B 的步数"),
    "image": ("Image", "图像"),
    "image_a": ("1st image", "第一张图像"),
    "image_b": ("2nd image", "第二张图像"),
    "inverted": ("Exchange black and white", "黑白反转"),
    "between": ("Number of images", "图像数量"),
    "kind": ("Points", "插值方式"),
    "kind_info": (
        "spherical: along an arc, which keeps the length of noise; linear: along a line",
        "spherical：沿球面，保持噪声的模长；linear：沿直线",
    ),
    "test_number": ("Test image no.", "测试图像编号"),
    "prompt_text": ("Prompt", "提示词"),
    "negative": ("Negative prompt", "反向提示词"),
    "steps": ("Steps", "步数"),
    "images": ("Number of images", "图像数量"),
    # buttons
    "draw": ("Draw", "生成"),
    "stop": ("Stop", "停止"),
    "measure": ("Measure", "计算"),
    "take_test": ("From the test set", "取自测试集"),
    "take_tests": ("Two of the test set", "从测试集取两张"),
    "repaint": ("Sample the painted part", "重绘涂抹部分"),
    "density_draw": ("Compute the density", "计算密度"),
    "grid_draw": ("Deform the grid", "网格变形"),
    "draw_rows": ("Draw rows", "生成数据行"),
    "fill": ("Fill empty cells", "填补空缺"),
    # results
    "density": ("Density", "密度"),
    "grid": ("A square grid of noise", "噪声网格"),
    "samples": ("Samples", "样本"),
    "progress": ("Step", "步骤"),
    "standing": (
        "Steps × time = total · distance Δ to the exact ODE, in deviations σ",
        "步数 × 用时 = 总计 · 与精确 ODE 的距离 Δ（以标准差 σ 计）",
    ),
    "bits": ("Bits per dimension · less likely test images", "每维比特数 · 更不可能的测试图像占比"),
    "distribution": ("Test set (grey) and this image (blue)", "测试集（灰色）与此图像（蓝色）"),
    "missing": ("What is kept", "保留的部分"),
    "rows": ("Rows", "数据行"),
    "gaps": ("Empty cells are filled in given the rest of their row", "空单元格将根据同一行的其他值填补"),
    "filled": ("Filled in", "填补结果"),
    "result": ("Result", "结果"),
    # sentences
    "about": ("Noise becomes data, step by step. Everything is computed on this machine.", "噪声逐步变为数据。所有计算都在本机完成。"),
    "about_evaluations": (
        "Drag the number of evaluations: the noise stays the same, so only the quality changes.",
        "拖动求值次数：噪声不变，只有质量改变。",
    ),
    "about_compare": ("Both models start from the same noise.", "两个模型从同一噪声出发。"),
    "about_compare_prompts": (
        "One prompt and one seed: models whose images have the same size start from the same noise.",
        "同一提示词、同一随机种子：图像尺寸相同的模型从同一噪声出发。",
    ),
    "about_plane": (
        "The density where the model has one, and what becomes of a square grid of noise.",
        "模型的密度（若有），以及噪声网格的变形。",
    ),
    "about_interpolate": (
        "Both images are encoded, and points between their latents decoded.",
        "将两张图像编码为隐变量，再对其间的点解码。",
    ),
    "about_likelihood": (
        "How likely the model finds an image, next to images of the test set.",
        "模型认为该图像有多可能，并与测试集图像比较。",
    ),
    "about_paint": ("Paint over what is to be sampled again; the rest is kept.", "涂抹需要重新采样的部分，其余部分保持不变。"),
    "about_table": ("Rows drawn from the model, of one class if it has classes.", "从模型中抽取数据行；若有类别，可指定类别。"),
    "about_prompt": ("An image of a text, with a preview after each evaluation.", "由文本生成图像，每次求值后显示预览。"),
}


def translations(language: int) -> dict[str, str]:
    """Return the words of one language by key."""
    return {f"{PREFIX}{key}": texts[language] for key, texts in WORDS.items()}
