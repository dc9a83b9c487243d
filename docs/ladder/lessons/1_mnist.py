# %% [en]
# # 1. MNIST: a machine that reads digits
#
# The first rung. A picture goes in, ten probabilities come out, and a formula says how wrong they are. We write that
# formula down, compute it in a few lines, check it against the package, and then let the package train a network.
#
# Set the project up once (`make install` at its root) and open this page with the Python in `.venv`. Every number is computed
# in front of you.

# %% [zh]
# # 1. MNIST：会认数字的机器
#
# 这是第一级台阶：输入一张图片，输出十个概率，再用一个公式衡量它错得有多远。我们先写下公式，用几行代码算出来，
# 与本工具的实现对照，最后让本工具训练一个网络。
#
# 在项目根目录运行一次 `make install`，再用 `.venv` 中的 Python 打开本页即可。每个数字都当场算给你看。

# %% [settings]
DATA = "mnist"  # a name in the catalogue, or a folder with IDX files
ROWS, TESTED, EPOCHS = 6000, 2000, 4
OUTPUT = "runs/1_mnist"

# %% [en]
# ## A digit is 784 numbers
#
# MNIST holds 70,000 handwritten digits, each 28 x 28 grey pixels. To the machine a digit is a vector $x$ of 784 numbers
# between 0 (black) and 1 (white), and a label $y$ between 0 and 9.

# %% [zh]
# ## 一个数字就是 784 个数
#
# MNIST 有 70,000 个手写数字，每个是 28 x 28 的灰度图。对机器来说，一个数字就是由 784 个 0（黑）到 1（白）之间的数
# 组成的向量 $x$，外加一个 0 到 9 的标签 $y$。

# %% [code]
import numpy as np

from weitiao.data.known import resolve_data
from weitiao.data.pictures import decode
from weitiao.data.readers import read_splits

tables = read_splits(resolve_data(DATA).path)
train = tables["train"].rows.select_columns(["image", "label"]).select(range(ROWS))
test = tables["test"].rows.select_columns(["image", "label"]).select(range(TESTED))


def pixels(table):
    """[N, 784], between 0 and 1."""
    cells = [np.frombuffer(decode(cell, 28, 1)[0], np.uint8) for cell in table["image"]]
    return np.stack(cells) / 255


def show(x):
    for row in x.reshape(28, 28)[::2]:
        print("".join(" .:-=+*#%@"[int(9.99 * value)] for value in row))


x_train, y_train = pixels(train), np.array(train["label"]).astype(int)
x_test, y_test = pixels(test), np.array(test["label"]).astype(int)
print(x_train.shape, "label:", y_train[0])
show(x_train[0])

# %% [en]
# ## The formula: softmax and cross-entropy
#
# A model gives ten scores $z$, one for each digit (*logits*). **Softmax** turns them into probabilities:
#
# $$p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}$$
#
# **Cross-entropy** asks only one thing: how probable did you find what is true?
#
# $$L = -\log p_y$$
#
# It is 0 for a sure right answer. Someone who knows nothing says 1/10 each time and pays $\log 10 \approx 2.303$.

# %% [zh]
# ## 公式：softmax 与交叉熵
#
# 模型给出十个分数 $z$，每个数字一个，称为 *logits*。**softmax** 把它们变成概率：
#
# $$p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}$$
#
# **交叉熵**只问一件事：你给正确答案的概率是多少？
#
# $$L = -\log p_y$$
#
# 完全确信且正确时为 0；什么都不知道的人每次都说 1/10，代价是 $\log 10 \approx 2.303$。

# %% [code]
import torch

from weitiao.core import catalogue


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))  # the largest is taken off: e^1000 would overflow
    return e / e.sum(-1, keepdims=True)


def cross_entropy(z, y):
    return -np.log(softmax(z)[np.arange(len(y)), y]).mean()


random = np.random.default_rng(0)
z, y = random.normal(size=(5, 10)), np.array([3, 1, 4, 1, 5])
ours = cross_entropy(z, y)

objective = catalogue.member("objectives", "cross_entropy")()
theirs = objective.loss_sum(torch.tensor(z), torch.tensor(y)).item() / len(y)
print(f"ours {ours:.6f}   the package {theirs:.6f}   knowing nothing {cross_entropy(0 * z, y):.6f}")
np.testing.assert_allclose(ours, theirs, rtol=1e-6)

# %% [en]
# ## Its gradient, which is all that training needs
#
# How must the scores change for the loss to fall? Take the derivative. Of all formulas in this field it is the kindest:
#
# $$\frac{\partial L}{\partial z_k} = p_k - [k = y]$$
#
# *What you said, minus what is true.* Check it three ways: by the formula, by torch's automatic differentiation, and by
# hand, moving one score by a tiny step.

# %% [zh]
# ## 它的梯度，训练所需的全部
#
# 分数该怎样变，损失才会下降？求导即可。这大概是这个领域里最友好的公式：
#
# $$\frac{\partial L}{\partial z_k} = p_k - [k = y]$$
#
# *你说的，减去真实的。* 用三种方法核对：按公式算、用 torch 自动求导，以及亲手把某个分数挪动一小步。

# %% [code]
one_hot = np.eye(10)[y]
by_formula = (softmax(z) - one_hot) / len(y)

z_torch = torch.tensor(z, requires_grad=True)
(objective.loss_sum(z_torch, torch.tensor(y)) / len(y)).backward()

step = np.zeros_like(z)
step[2, 7] = 1e-5
by_hand = (cross_entropy(z + step, y) - cross_entropy(z - step, y)) / 2e-5

print(
    f"one entry: formula {by_formula[2, 7]:.8f}   autograd {z_torch.grad[2, 7]:.8f}   by hand {by_hand:.8f}"
)
np.testing.assert_allclose(by_formula, z_torch.grad.numpy(), atol=1e-12)
np.testing.assert_allclose(by_formula[2, 7], by_hand, atol=1e-8)

# %% [en]
# ## Learning with nothing but that
#
# The simplest model has one weight for each pixel and digit: $z = Wx + b$. By the chain rule
# $\partial L / \partial W = (p - \mathbb 1_y)\,x^\top$. **Gradient descent** takes a small step against it, again and again:
# $W \leftarrow W - \eta\, \partial L / \partial W$.

# %% [zh]
# ## 只用它就能学习
#
# 最简单的模型给每个像素、每个数字一个权重：$z = Wx + b$。由链式法则，
# $\partial L / \partial W = (p - \mathbb 1_y)\,x^\top$。**梯度下降**反复朝它的反方向走一小步：
# $W \leftarrow W - \eta\, \partial L / \partial W$。

# %% [code]
W, b, rate = np.zeros((784, 10)), np.zeros(10), 0.5
for step in range(200):
    p = softmax(x_train @ W + b)
    if step % 50 == 0:
        print(f"step {step:3d}   loss {cross_entropy(x_train @ W + b, y_train):.3f}")
    gradient = (p - np.eye(10)[y_train]) / len(y_train)
    W -= rate * x_train.T @ gradient
    b -= rate * gradient.sum(0)

linear = ((x_test @ W + b).argmax(1) == y_test).mean()
majority = (y_test == np.bincount(y_train).argmax()).mean()
print(f"\nright on the test digits: {linear:.1%}   always the most frequent digit: {majority:.1%}")
assert linear > 3 * majority

# %% [en]
# ## Convolution: the same eye everywhere
#
# The linear model has to learn a "7" anew at each place. A **convolution** slides one small filter $w$ over the picture:
#
# $$\text{out}_{i,j} = \sum_{c}\sum_{u=-1}^{1}\sum_{v=-1}^{1} w_{c,u,v}\; x_{c,\,i+u,\,j+v}$$
#
# Nine weights instead of 784, and a stroke is found wherever it is. Below: the formula, against the first layer of the
# package's network.

# %% [zh]
# ## 卷积：处处是同一只眼睛
#
# 线性模型在每个位置都得重新学一遍“7”。**卷积**则让一个小滤波器 $w$ 滑过整张图：
#
# $$\text{out}_{i,j} = \sum_{c}\sum_{u=-1}^{1}\sum_{v=-1}^{1} w_{c,u,v}\; x_{c,\,i+u,\,j+v}$$
#
# 权重只有 9 个而不是 784 个，笔画无论在哪里都能被发现。下面按公式计算，并与本工具网络的第一层对照。

# %% [code]
from weitiao.models.vision import make


def convolve(x_HW, w_33):
    wide = np.pad(x_HW, 1)  # a rim of zeros, so that the picture keeps its size
    height, width = x_HW.shape
    return sum(w_33[u, v] * wide[u : u + height, v : v + width] for u in range(3) for v in range(3))


torch.manual_seed(0)
network, config = make("cnn", {"image_size": 28, "channels": 1, "views": 1})
first = network.layers[0].conv1
picture = x_train[0].reshape(28, 28)
with torch.no_grad():
    theirs = first(torch.tensor(picture, dtype=torch.float32)[None, None])[0]
ours = np.stack([convolve(picture, w) for w in first.weight.detach().numpy()[:, 0]])
np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
weights = sum(parameter.numel() for parameter in network.parameters())
print(f"{len(ours)} filters agree with ours.   the whole network: {weights:,} weights")

# %% [en]
# Stack such layers, let each pass on only what is positive (*relu*) and the strongest answer of each 2 x 2 square
# (*pooling*), and after three rounds 28 x 28 pixels are 3 x 3 points that each know a good part of the digit. The whole
# network stands in `weitiao/models/cnn.py`, short enough to read now.
#
# ## With the package
#
# One call: it reads, holds a part out, turns and shifts the digits a little while training (so that it cannot learn them by
# heart), keeps the best weights, and measures.

# %% [zh]
# 把这样的层叠起来，每层只传递正的部分（*relu*）和每个 2 x 2 方格中最强的响应（*池化*）；三轮之后，28 x 28 个像素
# 变成 3 x 3 个点，每个点都了解数字的一大块。整个网络在 `weitiao/models/cnn.py` 里，短到现在就可以读完。
#
# ## 用本工具
#
# 一次调用：读入数据，留出一部分，训练时把数字略微旋转、平移（免得它死记硬背），保留最好的权重，并给出评测。

# %% [code]
import weitiao

run = weitiao.finetune(
    train,
    test_data=test,
    task="image_classification",
    preset="quick",
    num_epochs=EPOCHS,
    output=OUTPUT,
    show=False,
)
report = run.metrics["evaluation"]["test"]
low, high = report["intervals"]["accuracy"]
accuracy = report["scores"]["accuracy"]
print(f"linear {linear:.1%}   convolutional {accuracy:.1%}   (95% interval {low:.1%} - {high:.1%})")
print(
    "training loss:",
    *(f"{e['loss']:.2f}" for e in run.events if e["event"] == "step" and e["step"] % 40 == 1),
)

# %% [en]
# Twelve digits and what the model says of them, with its probability:

# %% [zh]
# 看十二个数字，以及模型的回答和它给出的概率：

# %% [code]
answers = run.predict(test["image"][:12])
for answer, truth in zip(answers, y_test, strict=False):
    print(
        f"says {answer['label']} ({answer['score']:.1%}), is {truth}"
        + ("" if answer["label"] == str(truth) else "   <- wrong")
    )

# %% [en]
# ## Try it
#
# * Open `report.html` in the run's folder: the errors are there as pictures. Would you have known better?
# * Use all 60,000 digits: `weitiao finetune --task image-classification --data mnist --output runs/mnist`.
# * Train without turning and shifting (`rotation_degrees=0, shift=0, scale=0, shear_degrees=0`). What happens to the
#   training loss, and what to the test digits?
# * Set `model="vit"`: no convolution at all, only attention. Lesson 2 says what that is.

# %% [zh]
# ## 试一试
#
# * 打开运行目录里的 `report.html`：错误以图片的形式列在那里。换作你能认对吗？
# * 用上全部 60,000 个数字：`weitiao finetune --task image-classification --data mnist --output runs/mnist`。
# * 关掉旋转和平移再训练（`rotation_degrees=0, shift=0, scale=0, shear_degrees=0`）。训练损失会怎样？测试数字呢？
# * 设 `model="vit"`：完全不用卷积，只用注意力。注意力是什么，见第 2 课。
