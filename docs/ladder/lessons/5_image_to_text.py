# %% [en]
# # 5. Image to text: a bridge from pixels to words
#
# Lesson 1 made a network that sees, lesson 2 one that writes. How can the second talk about what the first sees? There are two ways:
# say it in words, or speak its inner language.

# %% [zh]
# # 5. 从图像到文本：像素与词语之间的桥
#
# 第 1 课得到会看的网络，第 2 课得到会写的网络。怎样让后者谈论前者看到的东西？有两条路：用词语告诉它，或者直接说它内部
# 的语言。

# %% [settings]
TOKENS = 3  # vectors that a picture becomes
DATA, MODEL = "mnist", "SmolLM2-135M-Instruct"
ROWS, ASKED, TESTED, EPOCHS = 3000, 600, 200, 3
OUTPUT = "runs/5_image_to_text"

# %% [en]
# ## Staged: the classifier speaks
#
# Picture → classifier → its best guess as words → language model. Simple, and each part can be looked at. But all the doubts of the
# classifier are lost on the way: with probabilities 0.51 for 4 and 0.49 for 9 the language model only hears "four". If the classifier is
# right with probability $a$ and the language model answers a rightly read digit with probability $b$, then at best
#
# $$P(\text{right}) \ge a\,b$$
#
# with equality where a misread digit never gives the right answer. (For "is it odd?" it does half of the time.)

# %% [zh]
# ## 分段式：让分类器开口
#
# 图片 → 分类器 → 把最可能的答案写成词语 → 语言模型。简单，每一段都看得见。但分类器的犹豫在途中全丢了：4 的概率 0.51、
# 9 的概率 0.49，语言模型听到的只有“四”。如果分类器以概率 $a$ 认对，语言模型对认对的数字以概率 $b$ 答对，那么
#
# $$P(\text{right}) \ge a\,b$$
#
# 当认错的数字永远得不到正确回答时取等号。（而“是奇数吗？”即使认错，也有约一半机会答对。）

# %% [code]
import numpy as np

random = np.random.default_rng(0)
digit = random.integers(0, 10, 200_000)
a, b = 0.9, 0.95
read = np.where(random.random(len(digit)) < a, digit, (digit + random.integers(1, 10, len(digit))) % 10)
understood = random.random(len(digit)) < b  # else the language model says the opposite
name_right = ((read == digit) & understood).mean()
odd_right = ((read % 2 == digit % 2) == understood).mean()
print(f"names the digit: {name_right:.3f} (a b = {a * b:.3f})   says odd or even: {odd_right:.3f}")
np.testing.assert_allclose(name_right, a * b, atol=0.005)
assert odd_right > name_right

# %% [en]
# ## Learned: a bridge
#
# A language model turns each token into a vector before it does anything else. So a picture can be given to it as a few vectors, as if
# they were words of a language that nobody writes. A small **projector** $P$ makes $k$ such vectors of the picture's features $f$; before
# them comes the question $q$, after them the answer $a$:
#
# $$[h_1 \dots h_k] = P(f), \qquad L = -\sum_t \log p\,(a_t \mid q,\; h_1 \dots h_k,\; a_1 \dots a_{t-1})$$
#
# The eye and the language model stay frozen: only $P$ is trained, by the gradient that flows back *through* the language model.

# %% [zh]
# ## 学习式：架一座桥
#
# 语言模型做任何事之前，先把每个 token 变成一个向量。所以图片也可以用几个向量交给它，仿佛它们是一种无人书写的语言里的词。
# 一个小小的**投影器** $P$ 把图片特征 $f$ 变成 $k$ 个这样的向量；前面是问题 $q$，后面是回答 $a$：
#
# $$[h_1 \dots h_k] = P(f), \qquad L = -\sum_t \log p\,(a_t \mid q,\; h_1 \dots h_k,\; a_1 \dots a_{t-1})$$
#
# 眼睛和语言模型都冻结：只训练 $P$，梯度*穿过*语言模型传回来。

# %% [code]
from dataclasses import replace

import torch
from torch import nn

from weitiao.models.bridge import Bridge
from weitiao.models.decoder import Decoder
from weitiao.models.packed import pack

SMALL = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu", "initializer_range": 0.4,
}  # fmt: skip
torch.manual_seed(0)
language_model = Decoder(SMALL).double().requires_grad_(False)
k, features = TOKENS, torch.randn(16, dtype=torch.float64)
question, answer = [7, 8, 9], [20, 21, 1]  # the answer's last token ends it


class Projector(nn.Module):
    """Two layers, after bringing the features to mean 0 and variance 1."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, k * 32)

    def forward(self, f):
        return self.down(
            nn.functional.gelu(self.up((f - f.mean()) / (f.var(correction=0) + 1e-5).sqrt()))
        ).view(k, 32)


projector = Projector().double()


def loss(features, question, answer):
    words = language_model.embed(torch.tensor([*question, *answer]))
    inputs = torch.cat([words[: len(question)], projector(features), words[len(question) :]])
    length_only = pack([np.zeros(len(inputs), np.int64)])  # the embeddings are there already
    hidden = language_model(length_only, inputs_TD=inputs)
    before = hidden[len(question) + k - 1 : -1]  # the states that an answer's token is foretold from
    return nn.functional.cross_entropy(language_model.logits(before), torch.tensor(answer), reduction="sum")


loss(features, question, answer).backward()
gradient = projector.down.weight.grad[5, 2].item()
with torch.no_grad():  # the same by hand: one weight, a tiny step to either side
    projector.down.weight[5, 2] += 1e-6
    above = loss(features, question, answer)
    projector.down.weight[5, 2] -= 2e-6
    below = loss(features, question, answer)
    projector.down.weight[5, 2] += 1e-6
print(f"gradient of one weight: autograd {gradient:.8f}   by hand {((above - below) / 2e-6).item():.8f}")
np.testing.assert_allclose(gradient, ((above - below) / 2e-6).item(), rtol=1e-4, atol=1e-9)
assert all(parameter.grad is None for parameter in language_model.parameters())

# The package's bridge with the same projector: the question's keys and values are computed once, the rest is the same.
bridge = Bridge(language_model, features=16, size=24, tokens=k).double()
bridge.projector.load_state_dict(projector.state_dict())
text = pack(
    [np.array([*question, *answer[:-1]])], types=[np.array([0] * len(question) + [1] * (len(answer) - 1))]
)
states = bridge(replace(text, features_BKF=features.view(1, 1, -1)))
theirs = nn.functional.cross_entropy(language_model.logits(states), torch.tensor(answer), reduction="sum")
torch.testing.assert_close(theirs, loss(features, question, answer))

# %% [en]
# A bridge can teach a frozen model to name things: here three "pictures" (random features), three answers, and a language model that
# has learnt nothing at all. Only the projector moves.

# %% [zh]
# 桥能教会冻结的模型说出名称：这里有三张“图片”（随机特征）、三个回答，和一个什么都没学过的语言模型。动的只有投影器。

# %% [code]
pictures = torch.randn(3, 16, dtype=torch.float64)
answers = ([20, 1], [21, 1], [22, 1])
optimizer = torch.optim.Adam(projector.parameters(), lr=0.02)
for step in range(61):
    total = sum(loss(f, question, a) for f, a in zip(pictures, answers, strict=True))
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step:2d}   loss {total.item():.3f}")
assert total.item() < 1.5

# %% [en]
# ## With the package
#
# First the eye: the classifier of lesson 1, in short. Then the bridge from it into a language model that stays as it is. Each digit is asked
# for its name in English and in Chinese, and whether it is even.

# %% [zh]
# ## 用本工具
#
# 先是眼睛：第 1 课的分类器，简短版。然后从它架一座桥，通向保持不变的语言模型。对每个数字，用英文和中文问它的名称，再问它是不是偶数。

# %% [code]
import weitiao
from weitiao.data.known import resolve_data
from weitiao.data.readers import read_splits

tables = read_splits(resolve_data(DATA).path)
train, test = (
    tables[s].rows.select_columns(["image", "label"]).select(range(n))
    for s, n in (("train", ROWS), ("test", TESTED))
)
eye = weitiao.finetune(
    train, test_data=test, task="image_classification", preset="quick", output=f"{OUTPUT}-eye", show=False
)
run = weitiao.finetune(
    train.select(range(ASKED)),
    test_data=test,
    task="image_to_text",
    vision=str(eye.folder),
    model=MODEL,
    tuning="bridge",
    questions="name,name_zh,even",
    num_epochs=EPOCHS,
    output=OUTPUT,
    show=False,
)
seen, told = (each.metrics["evaluation"]["test"] for each in (eye, run))
print(f"the eye alone: {seen['scores']['accuracy']:.1%}   answers in words: {told['scores']['accuracy']:.1%}")
for each in told.get("slices", []):
    if each["by"] == "question":
        print(f"   {each['value']:28} {each['score']:.1%} of {each['rows']}")

# %% [code]
for row in test.select(range(3)):
    for asked in ("Which digit is this?", "这是数字几？", "Is this digit even?"):
        answer = run.predict([{"image": row["image"], "question": asked}])[0]
        print(f"{row['label']}   {asked} {answer['answer']!r} ({answer['score']:.1%})")

# %% [en]
# ## Try it
#
# * Make the projector give one vector a picture (`TOKENS = 1`). Does it still learn three names? And thirty?
# * Train the language model as well (`requires_grad_(True)`). The loss falls faster; what does the model forget?

# %% [zh]
# ## 试一试
#
# * 让投影器给每张图片只产生一个向量（`TOKENS = 1`）。还能学会三个名称吗？三十个呢？
# * 同时训练语言模型（`requires_grad_(True)`）。损失下降更快；可是模型会忘掉什么？
