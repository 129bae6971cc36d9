// The texts of the figures in both languages of the site.
const TEXTS = {
  keys: ["The arrow keys move the point.", "方向键可以移动该点。"],
  steps: ["steps", "步数"],
  sampler: ["solver", "求解器"],
  euler: ["Euler", "Euler"],
  midpoint: ["midpoint", "中点法"],
  heun: ["Heun", "Heun"],
  rk4: ["Runge–Kutta 4", "四阶 Runge–Kutta"],
  model: ["model", "模型"],
  flow: ["first training", "第一次训练"],
  reflowed: ["after one reflow", "reflow 一次之后"],
  dragged: ["drag", "拖动"],
  point: ["one point", "一个点"],
  cloud: ["a cloud", "一团点"],
  noiseLabel: ["Noise and the samples it becomes; drag the noise.", "噪声以及由它得到的样本；请拖动噪声。"],
  noiseOutput: ["evaluations: {0}; noise ({1}, {2}) becomes ({3}, {4})", "求值 {0} 次；噪声 ({1}, {2}) 变为 ({3}, {4})"],
  layer: ["layers", "层数"],
  layersLabel: ["A grid and points after the layers of a flow; drag the noise.", "网格与点经过流的若干层之后的样子；请拖动噪声。"],
  layersStart: ["noise, before the first layer", "噪声，尚未经过任何一层"],
  layersOutput: ["layer {0} of {1}: {2} moves, {3} is kept; the point is at ({4}, {5})", "第 {0} 层（共 {1} 层）：{2} 移动，{3} 不变；该点位于 ({4}, {5})"],
  half: ["the half that moves", "移动的一半"],
  second: ["across the line", "垂直于直线的坐标"],
  first: ["along the line", "沿直线的坐标"],
  angle: ["split", "划分方向"],
  shift: ["shift", "平移"],
  scaling: ["scale", "缩放"],
  splitLabel: ["A coupling layer deforms a grid; drag the split.", "耦合层使网格变形；请拖动划分方向。"],
  splitOutput: ["area of the orange cell: {0} → {1}; log|det| in its middle: {2}", "橙色单元的面积：{0} → {1}；其中心处的 log|det|：{2}"],
  eta: ["η", "η"],
  again: ["Draw other noise", "重新抽取噪声"],
  ddimLabel: ["Trajectories of DDIM from noise to data; drag the noise.", "DDIM 从噪声到数据的轨迹；请拖动噪声。"],
  ddimOutput: ["η = {0}; evaluations: {1}; samples are {2} from the nearest data on average", "η = {0}，求值 {1} 次；样本到最近数据点的平均距离为 {2}"],
  heatTime: ["heat time s", "热时间 s"],
  heatLabel: ["A density that diffuses, and points that follow its score.", "扩散中的密度，以及沿得分反方向运动的点。"],
  heatOutput: ["variance of the points {0}; of the data {1} + 2s = {2}", "点的方差为 {0}；数据的方差加 2s 为 {1} + 2s = {2}"],
  digit: ["digit", "数字"],
  jumps: ["jumps of MeanFlow", "MeanFlow 的跳步数"],
  eulerSteps: ["Euler steps of the flow", "流的 Euler 步数"],
  digitsLabel: ["Noise, and the digits that two models make of it; drag the noise.", "噪声以及两个模型由它生成的数字；请拖动噪声。"],
  digitsOutput: ["evaluations: {0} and {1}; mean difference of a pixel {2} of 2", "求值 {0} 次对 {1} 次；像素的平均差为 {2}（范围为 2）"],
  noise: ["noise", "噪声"],
  batch: ["batch size", "批量大小"],
  pairing: ["pairing", "配对"],
  independent: ["independent", "独立"],
  transport: ["optimal transport", "最优传输"],
  pairingLabel: ["Noise and data, joined by the lines of a pairing; drag the noise.", "由配对连线的噪声与数据；请拖动噪声。"],
  pairingOutput: ["mean squared length {0}; {1} crossings", "平均平方长度 {0}；交叉 {1} 处"],
};

const language = document.documentElement.lang.startsWith("zh") ? 1 : 0;

/** A text in the language of the page, with numbers in place of {0}, {1}, ...; what has no text is returned as it is. */
export function words(name, ...values) {
  const text = TEXTS[name]?.[language] ?? name;
  return text.replace(/\{(\d)\}/g, (_, k) => values[k]);
}
