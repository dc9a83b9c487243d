# %% [en]
# # 4. Parameter-efficient tuning: move little, keep much
#
# Full fine-tuning gives every task a copy of the whole model. But the change that a task needs is small. **LoRA** learns only that
# change, in a form with few numbers: the file of a task shrinks from hundreds of megabytes to one or two.

# %% [zh]
# # 4. 参数高效微调：动得少，留得多
#
# 全量微调让每个任务都拥有整个模型的一份副本。可是一个任务真正需要的改变很小。**LoRA** 只学习这个改变，并用很少的
# 数来表示它：一个任务的文件从几百 MB 缩小到一两 MB。

# %% [settings]
DATA = "csl"
MODEL = "multilingual-e5-small"
ROWS, TESTED, EPOCHS, MAX_LENGTH = 400, 400, 3, 48
RANK, ALPHA = 8, 16
OUTPUT = "runs/4_efficient_tuning"

# %% [en]
# ## The formula: a change of low rank
#
# A linear layer computes $Wx$ with $W$ of size $d_\text{out} \times d_\text{in}$. Leave $W$ as it is and add a product of two thin
# matrices, $A$ ($r \times d_\text{in}$) and $B$ ($d_\text{out} \times r$):
#
# $$y = Wx + \frac{\alpha}{r}\,B A x$$
#
# $A$ starts random, $B$ at zero: at first nothing is changed. Instead of $d_\text{out} d_\text{in}$ numbers,
# $r\,(d_\text{in} + d_\text{out})$ are trained.

# %% [zh]
# ## 公式：低秩的改变
#
# 线性层计算 $Wx$，$W$ 的大小为 $d_\text{out} \times d_\text{in}$。让 $W$ 保持不变，加上两个细长矩阵的乘积：$A$
# （$r \times d_\text{in}$）和 $B$（$d_\text{out} \times r$）：
#
# $$y = Wx + \frac{\alpha}{r}\,B A x$$
#
# $A$ 随机初始化，$B$ 从零开始：起初什么都没有改变。要训练的不是 $d_\text{out} d_\text{in}$ 个数，而是
# $r\,(d_\text{in} + d_\text{out})$ 个。

# %% [code]
import torch
from torch import nn


class LoRA(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear, self.scale = linear.requires_grad_(False), alpha / rank
        self.A = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.A.T @ self.B.T)


torch.manual_seed(0)
layer = LoRA(nn.Linear(384, 384), RANK, ALPHA)
x = torch.randn(5, 384)
torch.testing.assert_close(layer(x), layer.linear(x))  # at the start: no change
thin = sum(p.numel() for p in layer.parameters() if p.requires_grad)
print(f"trained: {thin:,} instead of {layer.linear.weight.numel():,} numbers")
assert thin == RANK * (384 + 384)

# %% [en]
# ## Which of the two learns first?
#
# With $g = \partial L/\partial y$ (and $s = \alpha/r$) the chain rule gives
#
# $$\frac{\partial L}{\partial B} = s\; g\,(Ax)^\top, \qquad \frac{\partial L}{\partial A} = s\; B^\top g\, x^\top$$
#
# $B$ is zero, so the gradient of $A$ is zero as well: in the first step only $B$ moves. If both began at zero, nothing would ever
# move.

# %% [zh]
# ## 两个矩阵谁先学？
#
# 记 $g = \partial L/\partial y$，$s = \alpha/r$，由链式法则
#
# $$\frac{\partial L}{\partial B} = s\; g\,(Ax)^\top, \qquad \frac{\partial L}{\partial A} = s\; B^\top g\, x^\top$$
#
# $B$ 为零，所以 $A$ 的梯度也为零：第一步只有 $B$ 在动。如果两者都从零开始，就永远不会动了。

# %% [code]
y = layer(x)
y.retain_grad()
y.pow(2).sum().backward()
g = y.grad
torch.testing.assert_close(layer.B.grad, layer.scale * g.T @ (x @ layer.A.T), rtol=1e-4, atol=1e-4)
assert layer.A.grad.abs().max() == 0 < layer.B.grad.abs().max()
assert layer.linear.weight.grad is None  # frozen: neither gradient nor optimizer state

# %% [en]
# ## The same in the package
#
# `--tuning lora` puts such a pair on every linear layer of the encoder. We take one layer out, give its matrices to our formula, and
# compare.

# %% [zh]
# ## 与本工具对照
#
# `--tuning lora` 给编码器的每个线性层配上这样一对矩阵。取出其中一层，把它的矩阵代入我们的公式，比较结果。

# %% [code]
from weitiao.core import catalogue
from weitiao.models.backbone import TextModel, open_backbone
from weitiao.models.heads import make_head
from weitiao.models.known import resolve_model

folder = resolve_model(MODEL).path


def fresh(tuning, **options):
    """The model with a new head, adapted by a method."""
    torch.manual_seed(0)
    backbone, config, _ = open_backbone(folder, dropout=0.0)
    head = make_head({"type": "pooled", "outputs": 13, "pooling": "mean"}, backbone.shape.hidden_size)
    model = TextModel(backbone, head, config).eval()
    method = catalogue.member("tuning", tuning)(**options)
    method.apply(model)
    return model, method


model, method = fresh("lora", lora_rank=RANK, lora_alpha=ALPHA)
theirs = model.backbone.encoder["layer"][0].attention.self["query"]
A, B = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
nn.init.normal_(B, std=0.1)  # as if it had been trained
x = torch.randn(5, A.shape[1])
ours = theirs.base_layer(x) + ALPHA / RANK * (x @ A.T @ B.T)
torch.testing.assert_close(ours, theirs(x))
print("A", tuple(A.shape), "  B", tuple(B.shape), "  W", tuple(theirs.base_layer.weight.shape))

# %% [en]
# ## Merging: no cost when it is used
#
# $Wx + sBAx = (W + sBA)\,x$. After training, the change can be added into the weights: the model has its old shape and speed again.

# %% [zh]
# ## 合并：使用时没有代价
#
# $Wx + sBAx = (W + sBA)\,x$。训练之后，可以把改变直接加进权重：模型恢复原来的形状和速度。

# %% [code]
before, merged = theirs(x).detach(), (theirs.base_layer.weight + ALPHA / RANK * B @ A).detach()
method.merge(model)
plain = model.backbone.encoder["layer"][0].attention.self["query"]
assert not hasattr(plain, "lora_A")
torch.testing.assert_close(plain.weight, merged, rtol=1e-4, atol=1e-6)
torch.testing.assert_close(plain(x), before, rtol=1e-4, atol=1e-4)

# %% [en]
# ## Who trains how much
#
# LoRA is one of several ways to train little. *BitFit* moves the biases only, *IA3* scales channels, an *adapter* puts small layers
# in between, a *prefix* adds invisible words; *head* trains nothing but the last layer.

# %% [zh]
# ## 谁训练多少
#
# LoRA 只是少训练的办法之一。*BitFit* 只动偏置，*IA3* 缩放通道，*adapter* 在中间插入小层，*prefix* 加上看不见的词，
# *head* 只训练最后一层。

# %% [code]
counts = {}
for tuning in ("full", "lora", "adapter", "prefix", "bitfit", "ia3", "head"):
    model, _ = fresh(tuning)
    counts[tuning] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{tuning:8} {counts[tuning]:12,}   {counts[tuning] / counts['full']:.3%}")

layers = [module for module in model.backbone.encoder.modules() if isinstance(module, nn.Linear)]
by_formula = RANK * sum(layer.in_features + layer.out_features for layer in layers)
assert counts["lora"] == by_formula + counts["head"]

# %% [en]
# ## With the package: the same rows, three ways
#
# `weitiao.compare` trains each way on the same rows. With few texts, training little is often no worse; and there is less to keep.

# %% [zh]
# ## 用本工具：同样的数据，三种方法
#
# `weitiao.compare` 在同样的数据上训练每种方法。文本不多时，少训练往往并不吃亏，需要保存的也少得多。

# %% [code]
import weitiao
from weitiao.data.known import resolve_data
from weitiao.data.readers import read_splits

tables = read_splits(resolve_data(DATA).path)
take = lambda split, count: (
    tables[split].rows.select_columns(["text", "label"]).shuffle(seed=1).select(range(count))
)
found = weitiao.compare(
    take("train", ROWS),
    test_data=take("test", TESTED),
    model=MODEL,
    tuning="head,lora,full",
    seeds=1,
    num_epochs=EPOCHS,
    max_length=MAX_LENGTH,
    output=OUTPUT,
    show=False,
)
print(f"{found['monitor']}; always the most frequent field: {found['baseline']:.3f}")
for each in found["methods"]:
    print(
        f"{each['name']:6} {each['score']:.3f}   trained {each['trained_parameters']:11,}   file {each['weights_bytes']:11,} bytes"
    )
assert found["methods"][1]["weights_bytes"] < found["methods"][2]["weights_bytes"]

# %% [en]
# ## Try it
#
# * `seeds=3`: how wide are the intervals? One seed is an anecdote.
# * Rank 1, rank 64. Does the score follow?
# * Only the top layers: `lora_layers=4`. Why is training so much faster now? (Nothing flows back below them.)
# * The adapter opens elsewhere: `peft.PeftModel.from_pretrained(base, "runs/4_efficient_tuning/runs/lora-42/model")`.

# %% [zh]
# ## 试一试
#
# * `seeds=3`：区间有多宽？单个种子的结果只能算轶事。
# * 把秩设为 1，再设为 64。得分会跟着变吗？
# * 只加在最上面几层：`lora_layers=4`。为什么训练快了这么多？（梯度不必再往下传。）
# * 适配器可以在别处打开：`peft.PeftModel.from_pretrained(base, "runs/4_efficient_tuning/runs/lora-42/model")`。
