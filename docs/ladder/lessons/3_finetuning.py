# %% [en]
# # 3. Fine-tuning: from a language model to your task
#
# A model that has read much text already knows which words belong together. Fine-tuning puts one small layer on top of it and
# moves all its weights a little, with a few hundred labelled texts. Here: titles of Chinese papers, and the field each belongs to.

# %% [zh]
# # 3. 微调：从语言模型到你的任务
#
# 读过大量文本的模型，已经知道哪些词相互关联。微调就是在它上面加一个小小的层，再用几百条带标签的文本，把它的全部
# 权重略微挪动。本课的例子：中文论文标题，以及它所属的学科。

# %% [settings]
DATA = "csl"  # ships with the project; or any table with a text and a label
MODEL = "multilingual-e5-small"
ROWS, TESTED, EPOCHS, MAX_LENGTH = 600, 400, 3, 48
LEARNING_RATE = 2e-4
OUTPUT = "runs/3_finetuning"

# %% [en]
# ## Text is cut into tokens
#
# A tokenizer knows a fixed list of pieces and cuts a text into them; the model sees their numbers only. One tokenizer can serve
# two languages.

# %% [zh]
# ## 文本先切成 token
#
# 分词器有一张固定的片段表，把文本切成这些片段；模型看到的只是它们的编号。一个分词器可以同时服务两种语言。

# %% [code]
from weitiao.data.encode import load_tokenizer
from weitiao.models.known import resolve_model

folder = resolve_model(MODEL).path
tokenizer = load_tokenizer(folder)
for text in ("深度学习在医学影像中的应用", "deep learning for medical images"):
    encoded = tokenizer.encode(text)
    print(encoded.tokens, encoded.ids[:4], "...")

# %% [en]
# ## From token states to an answer
#
# The encoder gives each of the $T$ tokens a vector $h_t$. Their mean stands for the text, and one linear layer, the *head*, reads
# the class scores off it:
#
# $$\bar h = \frac1T \sum_{t=1}^{T} h_t, \qquad z = W \bar h + b$$
#
# After that all is as in lesson 1: softmax, cross-entropy, gradient.

# %% [zh]
# ## 从 token 的状态到答案
#
# 编码器为 $T$ 个 token 各给出一个向量 $h_t$。取平均代表整段文本，再由一个线性层（*head*）读出各类的分数：
#
# $$\bar h = \frac1T \sum_{t=1}^{T} h_t, \qquad z = W \bar h + b$$
#
# 之后就和第 1 课一样：softmax、交叉熵、梯度。

# %% [code]
import numpy as np
import torch

from weitiao.models.backbone import TextModel, open_backbone
from weitiao.models.heads import make_head
from weitiao.models.packed import pack

torch.manual_seed(0)
backbone, config, _ = open_backbone(folder, dropout=0.0)
head = make_head({"type": "pooled", "outputs": 13, "pooling": "mean"}, backbone.shape.hidden_size)
model = TextModel(backbone, head, config).eval()

texts = ("物流管理", "deep learning for medical images")
packed = pack([np.array(tokenizer.encode(text).ids) for text in texts])  # one flat row, without padding
with torch.no_grad():
    hidden_TD = backbone(packed)
    ours = []
    for states in hidden_TD.split(packed.lengths_B.tolist()):
        ours.append(head.linear.weight @ states.mean(0) + head.linear.bias)
    theirs = model(packed)
print(
    "tokens:",
    packed.lengths_B.tolist(),
    "  states:",
    tuple(hidden_TD.shape),
    "  scores:",
    tuple(theirs.shape),
)
torch.testing.assert_close(torch.stack(ours), theirs, rtol=1e-4, atol=1e-5)

# %% [en]
# ## AdamW: a step for each weight
#
# Plain gradient descent takes the same rate for all weights. **Adam** keeps two running means for each, of its gradient $g$ and
# of $g^2$, and divides one by the root of the other, so that each weight moves by about the learning rate $\eta$, whatever the size
# of its gradient. **AdamW** also lets weights decay a little, apart from the gradient:
#
# $$m \leftarrow \beta_1 m + (1-\beta_1)\,g, \qquad v \leftarrow \beta_2 v + (1-\beta_2)\,g^2$$
#
# $$w \leftarrow w - \eta\lambda w - \eta\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \varepsilon}$$

# %% [zh]
# ## AdamW：每个权重有自己的步长
#
# 普通的梯度下降对所有权重用同一个步长。**Adam** 为每个权重维护两个滑动平均：梯度 $g$ 的，和 $g^2$ 的；前者除以后者的
# 平方根，于是无论梯度大小，每个权重每步大约移动一个学习率 $\eta$。**AdamW** 还让权重独立于梯度略微衰减：
#
# $$m \leftarrow \beta_1 m + (1-\beta_1)\,g, \qquad v \leftarrow \beta_2 v + (1-\beta_2)\,g^2$$
#
# $$w \leftarrow w - \eta\lambda w - \eta\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \varepsilon}$$

# %% [code]
from weitiao.training.optimizer import make_optimizer

layer = torch.nn.Linear(6, 4)
optimizer = make_optimizer(layer, 1e-2, weight_decay=0.1, layer_decay=1.0, head_learning_rate=None)
w = layer.weight.detach().double().numpy().copy()
m = v = np.zeros_like(w)
random = torch.Generator().manual_seed(0)
for t in range(1, 6):
    x, y = torch.randn(8, 6, generator=random), torch.randint(0, 4, (8,), generator=random)
    torch.nn.functional.cross_entropy(layer(x), y).backward()
    g = layer.weight.grad.double().numpy().copy()
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    w -= 1e-2 * 0.1 * w + 1e-2 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    optimizer.step()
    optimizer.zero_grad()
print("largest difference after 5 steps:", f"{np.abs(w - layer.weight.detach().numpy()).max():.1e}")
np.testing.assert_allclose(w, layer.weight.detach().numpy(), atol=1e-6)

# %% [en]
# ## The learning rate rises, then falls
#
# The head is random at first, and its gradients push the encoder about. So the rate starts at 0, rises over the first tenth of the
# steps (*warm-up*) and then falls in a straight line to 0.

# %% [zh]
# ## 学习率先升后降
#
# head 一开始是随机的，它的梯度会把编码器推得东倒西歪。所以学习率从 0 开始，在前十分之一的步数里上升（*warm-up*），
# 然后沿直线降到 0。

# %% [code]
from weitiao.training.optimizer import make_schedule

total, warmup = 100, 10
ours = [step / warmup if step < warmup else 1 - (step - warmup) / (total - warmup) for step in range(total)]
theirs = make_schedule("linear", total, 0.1)
np.testing.assert_allclose(ours, [theirs(step) for step in range(total)])
for step in range(0, total, 10):
    print(f"{step:3d} " + "#" * round(40 * ours[step]))

# %% [en]
# ## A step may be cut in pieces
#
# Sixteen long texts may not fit into memory at once. The gradient of a sum is the sum of gradients: cut the step into
# *micro-batches*, add their gradients up, divide by the whole count. It must not change anything, and does not:

# %% [zh]
# ## 一步可以切成几块
#
# 十六条长文本可能无法一次放进内存。和的梯度等于梯度的和：把这一步切成若干 *micro-batch*，梯度相加，再除以总数。
# 结果不应有任何变化，也确实没有：

# %% [code]
x, y = torch.randn(16, 6, generator=random), torch.randint(0, 4, (16,), generator=random)
loss_sum = lambda part: torch.nn.functional.cross_entropy(layer(x[part]), y[part], reduction="sum") / len(y)

loss_sum(slice(0, 16)).backward()
whole = layer.weight.grad.clone()
layer.weight.grad = None
for part in (slice(0, 5), slice(5, 6), slice(6, 16)):
    loss_sum(part).backward()  # torch adds to what is there
torch.testing.assert_close(whole, layer.weight.grad)

# %% [en]
# ## With the package

# %% [zh]
# ## 用本工具

# %% [code]
import weitiao
from weitiao.data.known import resolve_data
from weitiao.data.readers import read_splits

tables = read_splits(resolve_data(DATA).path)
take = lambda split, count: (
    tables[split].rows.select_columns(["text", "label"]).shuffle(seed=1).select(range(count))
)
train, test = take("train", ROWS), take("test", TESTED)
print(train[0])

run = weitiao.finetune(
    train,
    test_data=test,
    model=MODEL,
    num_epochs=EPOCHS,
    max_length=MAX_LENGTH,
    learning_rate=LEARNING_RATE,
    output=OUTPUT,
    show=False,
)
report = run.metrics["evaluation"]["test"]
accuracy, baseline = report["scores"]["accuracy"], report["baseline"]["accuracy"]
print(f"accuracy {accuracy:.1%}   always the most frequent field: {baseline:.1%}")
print(
    "training loss:",
    *(f"{e['loss']:.2f}" for e in run.events if e["event"] == "step" and e["step"] % 10 == 1),
)

# %% [en]
# ## How sure is that number?
#
# Another test set would have given another score. The **bootstrap** asks how different: draw as many test texts as there are, with
# replacement, score them, a thousand times; 95 % of the scores lie in the interval. If the intervals of two models overlap, these
# texts cannot tell which is better.

# %% [zh]
# ## 这个数字有多可靠？
#
# 换一个测试集，得分就会不同。**bootstrap** 估计会差多少：有放回地抽取同样多的测试文本，计算得分，重复一千次；95% 的
# 得分所在的范围就是区间。如果两个模型的区间重叠，那么这些文本还分不出谁更好。

# %% [code]
answers = run.predict(test["text"])
right = np.array([answer["label"] == label for answer, label in zip(answers, test["label"], strict=True)])
draws = np.random.default_rng(0).integers(0, len(right), (1000, len(right)))
low, high = np.percentile(right[draws].mean(1), [2.5, 97.5])
theirs = report["intervals"]["accuracy"]
print(f"ours {low:.1%} - {high:.1%}   the report's {theirs[0]:.1%} - {theirs[1]:.1%}")
np.testing.assert_allclose(right.mean(), accuracy)
np.testing.assert_allclose([low, high], theirs, atol=2.5 / len(right) + 0.01)

# %% [code]
for text in (
    "一种面向遥感影像的深度学习变化检测方法",
    "明代江南市镇的商业与社会变迁",
    "Teaching physics in rural schools",
):
    print(run.predict([text])[0], text)

# %% [en]
# ## Try it
#
# * Read `errors.csv` in the run's folder: some labels are wrong, and some titles belong to two fields.
# * Give it 60 texts instead of 600, then 6,000. How does the interval move, and how the score?
# * Set `start="probe"`: the head is fitted on the untouched encoder first. Does training still need as many epochs?
# * Your own table: `weitiao finetune --data reviews.csv --output runs/reviews`.

# %% [zh]
# ## 试一试
#
# * 读一读运行目录里的 `errors.csv`：有的标签本身就错了，有的标题同属两个学科。
# * 把 600 条文本改成 60 条，再改成 6,000 条。区间和得分分别怎样变化？
# * 设 `start="probe"`：先在未改动的编码器上拟合 head。训练还需要那么多轮吗？
# * 用你自己的表格：`weitiao finetune --data reviews.csv --output runs/reviews`。
