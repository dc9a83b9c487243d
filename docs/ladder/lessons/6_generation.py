# %% [en]
# # 6. Generation: from probabilities to an answer
#
# A language model does one thing: it says how likely each token is to come next. Writing is choosing one, adding it, and asking again.
# How to choose, how not to compute everything anew each time, and how to teach a model to answer: that is this lesson.

# %% [zh]
# # 6. 生成：从概率到回答
#
# 语言模型只做一件事：给出下一个 token 的概率。写作就是选一个、接上去、再问一遍。怎么选、怎样避免每次从头计算、
# 怎样教模型回答问题，就是本课的内容。

# %% [settings]
MOST = 20  # tokens to write
MODEL = "SmolLM2-135M-Instruct"
ROWS, TESTED, EPOCHS = 120, 24, 2
OUTPUT = "runs/6_generation"

# %% [en]
# ## Temperature
#
# Divide the scores by a **temperature** $\tau$ before the softmax:
#
# $$p_k = \frac{e^{z_k/\tau}}{\sum_j e^{z_j/\tau}}$$
#
# $\tau = 1$ leaves them; small $\tau$ makes the model bold (the likeliest takes all: *greedy*), large $\tau$ makes it wild (all alike).
# *Entropy*, the mean of $-\log_2 p$, says how undecided it is, in bits.

# %% [zh]
# ## 温度
#
# 在 softmax 之前，把分数除以**温度** $\tau$：
#
# $$p_k = \frac{e^{z_k/\tau}}{\sum_j e^{z_j/\tau}}$$
#
# $\tau = 1$ 时不变；$\tau$ 小则果断（概率全归最可能的那个，即 *greedy*），$\tau$ 大则随意（彼此接近）。*熵*是
# $-\log_2 p$ 的平均，表示它有多犹豫，单位是比特。

# %% [code]
import numpy as np

from weitiao.generation.sampling import Sampler, Sampling, candidates


def with_temperature(z, temperature):
    e = np.exp((z - z.max()) / temperature)
    return e / e.sum()


z = np.array([2.0, 1.0, 0.5, -1.0, -3.0], dtype=np.float32)
for temperature in (0.25, 0.5, 1.0, 2.0, 10.0):
    p = with_temperature(z.astype(np.float64), temperature)
    ids, theirs = candidates(z.copy(), Sampling(temperature=temperature))
    np.testing.assert_allclose(p, theirs[np.argsort(ids)], rtol=1e-6)
    print(f"temperature {temperature:5}   entropy {-(p * np.log2(p)).sum():.2f} bits   ", np.round(p, 3))

# %% [en]
# ## Cutting off the tail
#
# Each of ten thousand odd tokens is unlikely, but one of them comes up soon. **Top-k** keeps the $k$ likeliest; **top-p** as many
# as are needed to reach a probability of $p$ together: few where the model is sure, many where it is not.

# %% [zh]
# ## 截去尾巴
#
# 成千上万个不合适的 token 各自都不太可能，但很快总会抽到其中一个。**top-k** 只保留最可能的 $k$ 个；**top-p** 保留到合计
# 概率达到 $p$ 为止：模型有把握时留得少，没把握时留得多。


# %% [code]
def top_p(probabilities, p):
    order = np.argsort(-probabilities)
    needed = np.searchsorted(probabilities[order].cumsum(), p) + 1
    return sorted(order[:needed])


p = with_temperature(z.astype(np.float64), 1.0)
for share in (0.5, 0.8, 0.9, 0.99):
    ids, theirs = candidates(z.copy(), Sampling(temperature=1.0, top_p=share))
    assert sorted(ids) == top_p(p, share)
    np.testing.assert_allclose(theirs.sum(), 1)  # what is left is made to sum to 1 again
    print(f"top-p {share}: tokens {[int(i) for i in top_p(p, share)]}")
assert sorted(candidates(z.copy(), Sampling(temperature=1.0, top_k=2))[0]) == [0, 1]

draws = Sampler(Sampling(temperature=1.0, seed=0))
drawn = np.bincount([draws.pick(z.copy()) for _ in range(4000)], minlength=5) / 4000
print("drawn 4,000 times:", np.round(drawn, 3), "  expected:", np.round(p, 3))
np.testing.assert_allclose(drawn, p, atol=0.03)

# %% [en]
# ## Writing token by token, and the cache
#
# For the next token the model must read the whole text so far. But the keys and values of what was read do not change (nothing looks
# forward), so they are kept: the **key-value cache**. Writing $n$ tokens then costs $n$ tokens of work instead of
# $1 + 2 + \dots + n \approx n^2/2$. The tokens must be the same:

# %% [zh]
# ## 逐个 token 写作，以及缓存
#
# 要写下一个 token，模型得读完目前的全部文本。但读过部分的 key 与 value 不会再变（谁都看不到后文），于是把它们留下来：
# 这就是 **key-value 缓存**。写 $n$ 个 token 的工作量便是 $n$，而不是 $1 + 2 + \dots + n \approx n^2/2$。结果必须一样：

# %% [code]
import torch

from weitiao.models.decoder import Decoder
from weitiao.models.decoding import Decoding
from weitiao.models.packed import pack

SMALL = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "hidden_act": "silu", "initializer_range": 0.3,
}  # fmt: skip
torch.manual_seed(0)
decoder = Decoder(SMALL).eval()
prompt, most = [3, 14, 15, 9], MOST


@torch.no_grad()
def anew():
    """The whole text is read for each token."""
    ids = list(prompt)
    for _ in range(most):
        ids.append(int(decoder.logits(decoder(pack([np.array(ids)])))[-1].argmax()))
    return ids[len(prompt) :]


@torch.no_grad()
def cached():
    """Only what is new is read."""
    cache, new, written = decoder.new_cache(1, 64), torch.tensor([prompt]), []
    for _ in range(most):
        written.append(int(decoder.logits(decoder.step(new, cache)[0])[-1].argmax()))
        new = torch.tensor([written[-1:]])
    return written


def package():
    """The package's: the same cache, with the weights laid out for speed."""
    writer, written = Decoding(decoder), []
    scores = writer.read([prompt], most)
    for _ in range(most):
        written.append(int(scores[0].argmax()))
        scores = writer.step(np.array(written[-1:]))
    return written


print(cached())
assert anew() == cached() == package()

# %% [en]
# ## Teaching it to answer
#
# A dialogue becomes one text, with marks for who speaks. It is trained like any text, with one difference: the loss counts only on the
# tokens $A$ of the answers. The model shall learn to answer, not to ask.
#
# $$L = -\frac{1}{|A|} \sum_{t \in A} \log p(x_t \mid x_1 \dots x_{t-1})$$

# %% [zh]
# ## 教它回答
#
# 对话变成一段文本，用标记注明谁在说话。训练方式和普通文本一样，只有一处不同：损失只计算回答部分的 token $A$。要它学会的
# 是回答，而不是提问。
#
# $$L = -\frac{1}{|A|} \sum_{t \in A} \log p(x_t \mid x_1 \dots x_{t-1})$$

# %% [code]
from weitiao.core import catalogue

ids = np.array([1, 20, 21, 2, 30, 31, 32, 0])
is_answer = np.array([False, False, False, False, True, True, True, True])  # and the mark that ends it
with torch.no_grad():
    log_p = torch.log_softmax(decoder.logits(decoder(pack([ids])))[:-1].double(), -1).numpy()
each = -log_p[np.arange(len(ids) - 1), ids[1:]]
print("loss of each token after the first:", np.round(each, 2))
answers_only = each[is_answer[1:]].mean()
print(f"of the answer alone: {answers_only:.4f}")

places = np.flatnonzero(is_answer[1:])  # the states that the answer's tokens are foretold from
with torch.no_grad():
    logits = decoder.logits(decoder(pack([ids]), rows_R=torch.from_numpy(places)))
objective = catalogue.member("objectives", "causal_lm")()
theirs = objective.loss_sum(logits, torch.from_numpy(ids[places + 1])).item() / len(places)
np.testing.assert_allclose(answers_only, theirs, rtol=1e-5)

# %% [en]
# The package does the same with real dialogues. Here are the tokens of one, with those marked that are learnt:

# %% [zh]
# 本工具对真实对话做同样的事。下面是一段对话的 token，标出了要学习的部分：

# %% [code]
from weitiao.models.known import resolve_model
from weitiao.tasks._prompts import open_prompts

prompts = open_prompts(resolve_model(MODEL).path, chat=True)
dialogue = [
    {"role": "user", "content": "My card has not come yet."},
    {"role": "assistant", "content": "card arrival"},
]
ids, learnt = prompts.taught(dialogue)
for token, marked in zip(ids[-12:], learnt[-12:], strict=True):
    print(f"{prompts.tokenizer.id_to_token(token)!r:20}", "learnt" if marked else "")
assert prompts.tokenizer.decode([i for i, m in zip(ids, learnt, strict=True) if m]).startswith("card arrival")

# %% [en]
# ## With the package
#
# We teach the model to answer a bank's customers with the kind of their question, in words.

# %% [zh]
# ## 用本工具
#
# 教模型用几个词回答银行客户：他们问的是哪一类问题。

# %% [code]
import weitiao
from weitiao.data.known import resolve_data
from weitiao.data.readers import read_splits

KINDS = ("card_arrival", "exchange_rate", "lost_or_stolen_card", "top_up_failed")
tables = read_splits(resolve_data("banking77").path)


def dialogues(split, count):
    rows = [row for row in tables[split].rows.shuffle(seed=1) if row["category"] in KINDS][:count]
    return [
        {"instruction": row["text"] + "\nWhat is it about?", "output": row["category"].replace("_", " ")}
        for row in rows
    ]


train, test = dialogues("train", ROWS), dialogues("test", TESTED)
asked = [each["instruction"] for each in test[:6]]
before = weitiao.generate(MODEL, asked, max_new_tokens=12)
run = weitiao.finetune(
    train,
    test_data=test,
    task="chat",
    model=MODEL,
    num_epochs=EPOCHS,
    learning_rate=1e-4,
    max_length=96,
    max_new_tokens=12,
    output=OUTPUT,
    show=False,
)
after = weitiao.generate(run, asked, max_new_tokens=12)
for each, untaught, taught in zip(test, before, after, strict=False):
    print(each["instruction"].split("\n")[0])
    print(f"   before: {untaught!r}\n   after: {taught!r}   true: {each['output']!r}")
scores = run.metrics["evaluation"]["test"]["scores"]
print({name: round(scores[name], 3) for name in ("rouge_l", "perplexity")})

# %% [en]
# Where only some answers make sense, the choice can be constrained: tokens that lead nowhere get the score $-\infty$. Even an untaught model
# then gives one of them.

# %% [zh]
# 如果只有某些回答才有意义，可以加以限制：走不通的 token 分数设为 $-\infty$。这样，没教过的模型也只会给出其中之一。

# %% [code]
choices = [kind.replace("_", " ") for kind in KINDS]
for model in (MODEL, run):
    found = weitiao.generate(model, asked, choices=choices)
    assert set(found) <= set(choices)
    print(
        f"{sum(a == each['output'] for a, each in zip(found, test, strict=False))} of {len(asked)} right:",
        found[:3],
    )

# %% [en]
# ## Try it
#
# * Write with `Sampler(Sampling(temperature=0.8, seed=1))` in place of `argmax`, twice. Why are both the same? And with another seed?
# * `min_p=0.1` keeps what is at least a tenth as likely as the likeliest. When does it differ from top-p?

# %% [zh]
# ## 试一试
#
# * 用 `Sampler(Sampling(temperature=0.8, seed=1))` 代替 `argmax` 写两遍。为什么两遍相同？换个种子呢？
# * `min_p=0.1` 保留概率至少为最大者十分之一的 token。它什么时候与 top-p 不同？
