"""Sentences of the page for visitors whose browser asks for Chinese; what a model or a file states itself stays English."""

import functools
import re
from collections.abc import Mapping
from typing import Any

SENTENCES = {
    # what was typed
    "{what} is {value}, but it is an integer from {least} to {most}.": "{what}为 {value}，应为 {least} 到 {most} 的整数。",
    "{what} is {value}, but it is a number from {least} to {most}.": "{what}为 {value}，应为 {least} 到 {most} 的数。",
    "{what} is empty; enter a number from {least} to {most}.": "{what}为空；请输入 {least} 到 {most} 的数。",
    "guidance is {scale}, but {name} was trained without dropped conditions; set it to 1.": (
        "引导强度为 {scale}，但 {name} 训练时没有丢弃条件；请设为 1。"
    ),
    "guidance is {scale}, but no class is chosen that it could follow; choose one, or set guidance to 1.": (
        "引导强度为 {scale}，但没有选择类别；请选择一个类别，或把引导强度设为 1。"
    ),
    "the temperature is {warmth}, but the base of {name} is data and no noise to scale; set it to 1.": (
        "温度为 {warmth}，但 {name} 的基分布是数据，不是可以缩放的噪声；请设为 1。"
    ),
    "a latent slider is moved, but the base of {name} is not Gaussian; set the sliders to 0.": (
        "隐变量滑块不为 0，但 {name} 的基分布不是高斯分布；请把滑块设为 0。"
    ),
    "the class is {label}, but {name} has the classes {few}; choose one of them.": "类别为 {label}，但 {name} 的类别是 {few}；请从中选择。",
    "the class is 'none', but {name} was trained with a class for each example; choose one.": (
        "没有选择类别，但 {name} 的每个训练样本都有类别；请选择一个。"
    ),
    "{name} needs conditions, but the test data of its run cannot be read; start the app where they can.": (
        "{name} 需要条件，但读不到训练时的测试数据；请在能读到数据的目录下启动。"
    ),
    "the kind is {kind}, but it is 'spherical' or 'linear'.": "插值方式为 {kind}，应为 'spherical' 或 'linear'。",
    "{what} is empty; describe the image in a few words.": "{what}为空；请用几个词描述图像。",
    "{what} has {count} characters, more than {most}; shorten it.": "{what}有 {count} 个字符，超过 {most} 个；请缩短。",
    # images
    "nothing is painted over; draw with the brush over the part that is to be sampled.": (
        "没有涂抹任何部分；请用画笔涂抹需要重新采样的部分。"
    ),
    "the whole image is painted over, so nothing is left to go by; leave a part of it, or use the tab of samples.": (
        "整张图像都被涂抹，没有可以参照的部分；请保留一部分，或使用“采样”页。"
    ),
    "{what} is missing; upload one, or take one of the test set.": "缺少{what}；请上传，或从测试集中取一张。",
    "{what} has {width} x {height} pixels, more than {most}; upload a smaller one.": (
        "{what}有 {width} x {height} 个像素，超过 {most} 个；请上传较小的图像。"
    ),
    "{what} cannot be read as an image; upload a PNG, JPEG or WebP.": "{what}无法读取；请上传 PNG、JPEG 或 WebP。",
    "the test data of {name} cannot be read here; upload an image instead.": "读不到 {name} 的测试数据；请改为上传图像。",
    # what a model cannot do
    "{name} cannot draw parts of images again; use a model of images on a path, such as rectified_flow.": (
        "{name} 不能局部重绘；请使用基于路径的图像模型，例如 rectified_flow。"
    ),
    "{name} has no images of levels 0, 1, ..., so no number of it is white; use a run on images.": (
        "{name} 的数据不是像素值为 0、1、…… 的图像，无法确定哪个值是白色；请使用在图像上训练的模型。"
    ),
    "{name} cannot encode images exactly, so there are no points between two of them; use a flow.": (
        "{name} 不能精确编码图像，因此无法在两张图像之间插值；请使用流模型。"
    ),
    "{name} has no log_prob; use a normalizing flow, or a model on a path such as rectified_flow.": (
        "{name} 没有 log_prob；请使用归一化流，或基于路径的模型，例如 rectified_flow。"
    ),
    "{name} has no log_prob, so there is no density to draw; use its samples.": "{name} 没有 log_prob，画不出密度；请查看它的样本。",
    "{name} makes no images of texts; give a run of `pushforward train sd3`, or a Stable Diffusion 3.": (
        "{name} 不是文生图模型；请使用 `pushforward train sd3` 的训练结果，或 Stable Diffusion 3。"
    ),
    "{name} makes images of texts; use the tab of prompts, or that of prompts side by side.": (
        "{name} 是文生图模型；请使用“文生图”或“文生图对比”页。"
    ),
    "{a} has events of shape {shape} and {b} of {other}; compare models of the same shape.": (
        "{a} 的样本形状为 {shape}，{b} 的为 {other}；请对比形状相同的模型。"
    ),
    "{a} starts from {base} and {b} from {other}; compare models with noise of one kind.": (
        "{a} 从 {base} 出发，{b} 从 {other} 出发；请对比噪声种类相同的模型。"
    ),
    # tables
    "{name} cannot fill in cells; use a model of a table on a path, such as rectified_flow or flow_matching.": (
        "{name} 不能填补空缺；请使用基于路径的表格模型，例如 rectified_flow 或 flow_matching。"
    ),
    "the table has no rows; enter at least one, with an empty cell where a value is missing.": (
        "表格没有任何行；请至少输入一行，缺失的值留空。"
    ),
    "the table has {count} rows, more than {most}; fill in fewer together.": "表格有 {count} 行，超过 {most} 行；请分批填补。",
    "row {row} of column {title} is {cell}, but it must be a number, or empty.": "第 {row} 行、列 {title} 为 {cell}，应为数或留空。",
    # what happened
    "the memory is too small for this; ask for fewer samples.": "内存不足；请减少样本数。",
    "this failed ({reason}); try other settings. The app continues.": "出错了（{reason}）；请换一组设置。应用仍在运行。",
}
WHAT = {
    "a latent slider": "隐变量滑块",
    "guidance": "引导强度",
    "the first image": "第一张图像",
    "the image": "图像",
    "the negative prompt": "反向提示词",
    "the number of evaluations": "求值次数",
    "the number of images": "图像数量",
    "the number of samples": "样本数",
    "the number of steps": "步数",
    "the number of the test image": "测试图像编号",
    "the prompt": "提示词",
    "the second image": "第二张图像",
    "the seed": "随机种子",
    "the side": "边长",
    "the temperature": "温度",
}


def wanted(headers: Mapping[str, Any]) -> bool:
    """Return whether a browser's first language is Chinese, by the headers of its request."""
    return str(headers.get("accept-language", "")).strip().lower().startswith("zh")


def in_chinese(sentence: str) -> str:
    """Return a sentence of the page in Chinese, or as it is if it is none of them."""
    for pattern, translated in _patterns():
        found = pattern.fullmatch(sentence)
        if found is not None:
            return translated.format_map(
                {key: WHAT.get(value, value) if key == "what" else value for key, value in found.groupdict().items()}
            )
    return sentence


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """Return an expression for each English sentence, whose groups are its values, and the Chinese one."""
    return [
        (re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(english)), re.DOTALL), chinese)
        for english, chinese in SENTENCES.items()
    ]
