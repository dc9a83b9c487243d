# %% [en]
# # 2. Pretraining: learning language from text alone
#
# Nobody labels a library. Pretraining makes its own exercises: hide a word and guess it, or guess the next one. To do that well one
# has to learn grammar, topics, a little of the world. The network that learns it is the transformer, and its heart is attention.

# %% [zh]
# # 2. 预训练：只从文本中学习语言
#
# 没有人给整座图书馆打标签。预训练自己出题：遮住一个词来猜，或者猜下一个词。要猜得好，就得学会语法、话题，以及一点点
# 世界知识。学习它的网络叫 transformer，核心是注意力。

# %% [settings]
CORPUS_TEXTS, STEPS, VOCABULARY = 8000, 400, 4000
ROWS, EPOCHS = 400, 6  # of the labelled titles at the end
SIZE = "tiny"  # 2 layers; small: 4, base: 12
OUTPUT = "runs/2_pretraining"

# %% [en]
# ## Attention: each token asks all the others
#
# Each token makes three vectors: a query $q$ ("what do I look for?"), a key $k$ ("what am I?") and a value $v$ ("what do I tell?").
# It listens to the others as much as its query fits their keys:
#
# $$\text{attention}(Q, K, V) = \text{softmax}\!\left(\frac{QK^\top}{\sqrt d}\right) V$$
#
# Several *heads* do this side by side, each on its own part of the vectors. An encoder lets every token look at all others. A decoder
# lets it look only at those before it: what comes later gets the score $-\infty$, so its share is 0.

# %% [zh]
# ## 注意力：每个 token 向其他 token 提问
#
# 每个 token 产生三个向量：query $q$（“我在找什么？”）、key $k$（“我是什么？”）和 value $v$（“我要说什么？”）。它的 query
# 与谁的 key 越吻合，就越多地听取谁：
#
# $$\text{attention}(Q, K, V) = \text{softmax}\!\left(\frac{QK^\top}{\sqrt d}\right) V$$
#
# 多个 *head* 并行进行，各用向量的一段。编码器让每个 token 看到所有其他 token；解码器只让它看到前面的：后面的分数设为
# $-\infty$，所占份额便是 0。

# %% [code]
import numpy as np
import torch

from weitiao.models import causal, kernels
from weitiao.models.packed import pack


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q, k, v, heads, only_before):
    """[T, D] of one text."""
    out = []
    for q_h, k_h, v_h in zip(*(np.split(x, heads, axis=1) for x in (q, k, v)), strict=True):
        scores = q_h @ k_h.T / np.sqrt(q_h.shape[1])
        if only_before:
            scores = np.where(np.tri(len(q)), scores, -np.inf)
        out.append(softmax(scores) @ v_h)
    return np.concatenate(out, axis=1)


random = np.random.default_rng(0)
q, k, v = (random.normal(size=(7, 8)) for _ in range(3))
one_text = pack([np.arange(7)])
qkv = [torch.tensor(x, dtype=torch.float32) for x in (q, k, v)]
package = {
    "encoder": kernels.attention(*qkv, one_text, 2, dropout=None, p=0.0),
    "decoder": causal.attention(*qkv, one_text, 2),
}
for name, theirs in package.items():
    ours = attention(q, k, v, 2, only_before=name == "decoder")
    theirs = theirs.numpy()
    print(name, "largest difference:", f"{np.abs(ours - theirs).max():.1e}")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)

# %% [en]
# ## Guess the next token
#
# A text is a chain of tokens $x_1, x_2, \dots$ Its probability is the product of each one's, given those before. So the loss is a
# cross-entropy at every place, the one of lesson 1, with the whole vocabulary as classes:
#
# $$L = -\frac1T \sum_{t=1}^{T} \log p(x_t \mid x_1 \dots x_{t-1})$$
#
# One pass gives all places at once, because no place can see what comes after it. That can be checked: change the last token, and the
# scores at all earlier places must stay.

# %% [zh]
# ## 猜下一个 token
#
# 文本是一串 token $x_1, x_2, \dots$，它的概率是每个 token 在前文之下的概率之积。于是每个位置都有一个交叉熵，和第 1 课的
# 一样，只是类别换成了整个词表：
#
# $$L = -\frac1T \sum_{t=1}^{T} \log p(x_t \mid x_1 \dots x_{t-1})$$
#
# 因为任何位置都看不到后文，所以一次前向就能得到所有位置的损失。这可以验证：改掉最后一个 token，前面各处的分数必须不变。

# %% [code]
from weitiao.models.decoder import Decoder
from weitiao.models.language_head import LanguageHead

SMALL = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip
torch.manual_seed(0)
decoder = Decoder(SMALL)
ids = random.integers(0, 50, 12)
with torch.no_grad():
    z = decoder.logits(decoder(pack([ids]))).numpy()
    changed = np.append(ids[:-1], (ids[-1] + 1) % 50)
    z_changed = decoder.logits(decoder(pack([changed]))).numpy()
np.testing.assert_allclose(z[:-1], z_changed[:-1], atol=1e-6)
assert np.abs(z[-1] - z_changed[-1]).max() > 1e-4

p = softmax(z[:-1].astype(np.float64))
causal_loss = -np.log(p[np.arange(11), ids[1:]]).mean()

head = LanguageHead(lambda: decoder.output_VD)  # the package's: the loss and its gradient in one pass
theirs = head.loss_sum(decoder(pack([ids]))[:-1], torch.from_numpy(ids[1:])) / 11
np.testing.assert_allclose(causal_loss, theirs.item(), rtol=1e-5)
print(f"an untrained model: loss {causal_loss:.3f}; knowing nothing costs log(50) = {np.log(50):.3f}")

# %% [en]
# ## Guess what is hidden
#
# An encoder may look both ways, so the next token would be no riddle. Instead some tokens, 15 % of them, are hidden, and the loss is
# taken there only:
#
# $$L = -\frac{1}{|M|} \sum_{t \in M} \log p(x_t \mid x_{\setminus M})$$
#
# Of the chosen ones 80 % become `[MASK]`, 10 % another token and 10 % stay: the model must doubt every word, not only masks. The
# choice is drawn anew each time (*dynamic masking*).

# %% [zh]
# ## 猜被遮住的 token
#
# 编码器能看到前后两边，猜下一个词就不成谜了。于是遮住一部分 token（15%），只在这些位置计算损失：
#
# $$L = -\frac{1}{|M|} \sum_{t \in M} \log p(x_t \mid x_{\setminus M})$$
#
# 选中的 token 中 80% 换成 `[MASK]`，10% 换成别的 token，10% 保持不变：模型必须对每个词都存疑，而不只是对遮住的。每次都
# 重新抽取（*动态遮盖*）。


# %% [code]
from weitiao.core import catalogue
from weitiao.models.sizes import encoder_config, new_encoder
from weitiao.pretraining.base import Example, Vocabulary


def hide(ids, mask_id, vocabulary, random):
    """The tokens to read, and what is to be guessed (-100: nothing)."""
    chosen = random.random(len(ids)) < 0.15
    kind = random.random(len(ids))
    read = np.where(chosen & (kind < 0.8), mask_id, ids)
    read = np.where(chosen & (kind >= 0.9), random.integers(0, vocabulary, len(ids)), read)
    return read, np.where(chosen, ids, -100)


ids = random.integers(5, 50, 100_000)
read, wanted = hide(ids, 4, 50, random)
chosen = wanted != -100
shares = chosen.mean(), (read[chosen] == 4).mean(), (read[chosen] == ids[chosen]).mean()
print("chosen {:.3f}, of them masked {:.3f}, unchanged {:.3f}".format(*shares))
np.testing.assert_allclose(shares, (0.15, 0.8, 0.1), atol=0.01)
assert (read[~chosen] == ids[~chosen]).all()

# The package hides in the same way (it can also hide whole words, and spans of Chinese).
every = np.ones(50, bool)
vocabulary = Vocabulary(
    starts_V=every, chinese_V=~every, ends_V=~every, used=np.arange(5, 50), sep=3, cls=2, mask=4
)
example = Example(ids)
catalogue.member("pretraining", "masked_lm")(whole_words=False).predict([example], vocabulary, random)
theirs = example.ids[example.marks]
shares = len(theirs) / len(ids), (theirs == 4).mean(), (theirs == example.targets).mean()
np.testing.assert_allclose(shares, (0.15, 0.8, 0.1), atol=0.015)

# The loss at the hidden places only, by the formula and by the package.
torch.manual_seed(0)
encoder = new_encoder({**encoder_config("tiny", 50, 64, dropout=0.0), "initializer_range": 0.1})
short, guess = hide(ids[:60], 4, 50, random)
places = np.flatnonzero(guess != -100)
states = encoder(pack([short]))[torch.from_numpy(places)]
table = encoder.embeddings.word_embeddings.weight
p = softmax((states @ table.T).detach().double().numpy())
masked_loss = -np.log(p[np.arange(len(places)), guess[places]]).mean()
theirs = LanguageHead(lambda: table).loss_sum(states, torch.from_numpy(guess[places])) / len(places)
np.testing.assert_allclose(masked_loss, theirs.item(), rtol=1e-5)

# %% [en]
# ## How good is a language model?
#
# **Perplexity** is $e^L$: among so many tokens it hesitates, as if they were equally likely. But who cuts a text into longer tokens has
# fewer and harder riddles. **Bits per byte** can be compared between tokenizers, because the bytes of a text are always the same:
#
# $$\text{bits per byte} = \frac{L \cdot T}{\log 2 \cdot \text{bytes}}$$
#
# It is also a compression rate: a model with 2 bits per byte can pack a text into a quarter. What must be beaten first is counting:
# how often does each character follow each other one (a *bigram* model)?

# %% [zh]
# ## 语言模型有多好？
#
# **困惑度**是 $e^L$：它相当于在这么多个同样可能的 token 之间犹豫。但把文本切成更长的 token，谜题就更少、更难。**每字节
# 比特数**可以在不同分词器之间比较，因为文本的字节数总是一样的：
#
# $$\text{bits per byte} = \frac{L \cdot T}{\log 2 \cdot \text{bytes}}$$
#
# 它也是压缩率：每字节 2 比特的模型能把文本压到四分之一。首先要胜过的是计数：每个字后面出现其他字的频率（*bigram* 模型）。

# %% [code]
from collections import Counter

from weitiao.data.known import resolve_data
from weitiao.data.readers import read_splits


def texts_of(name, split):
    return list(read_splits(resolve_data(name).path)[split].rows.shuffle(seed=1)["text"])


half = CORPUS_TEXTS // 2
corpus = texts_of("csl", "train")[:half] + texts_of("banking77", "train")[:half]
held_out = texts_of("csl", "test")[:200] + texts_of("banking77", "test")[:200]

pairs, single = Counter(), Counter()
for text in corpus:
    pairs.update(zip("\n" + text, text + "\n", strict=True))
    single.update("\n" + text)
kinds = len(set("".join(corpus))) + 1


def bigram_bits(text):
    """-log2 of the text's probability; each pair is counted a little more than it was seen, for none is impossible."""
    counts = (
        (pairs[a, b] + 0.01) / (single[a] + 0.01 * kinds)
        for a, b in zip("\n" + text, text + "\n", strict=True)
    )
    return -sum(np.log2(share) for share in counts)


counting = sum(map(bigram_bits, held_out)) / sum(len(text.encode()) + 1 for text in held_out)
print(f"{len(corpus):,} texts; counting pairs of characters: {counting:.2f} bits per byte")

# %% [en]
# ## With the package
#
# `weitiao pretrain` learns a tokenizer from the corpus, packs all texts into blocks without padding, trains, and scores texts that it has
# held out. This is the command itself, called from Python:

# %% [zh]
# ## 用本工具
#
# `weitiao pretrain` 先从语料中学出分词器，把所有文本无填充地拼成文本块，训练，再用留出的文本评分。下面就是这条命令，只是从
# Python 中调用：

# %% [code]
import json
from pathlib import Path

from weitiao.cli import main

Path(OUTPUT).parent.mkdir(parents=True, exist_ok=True)
texts = [corpus[place] for place in np.random.default_rng(0).permutation(len(corpus))]
with open("runs/corpus.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)

common = [
    "--data",
    "runs/corpus.jsonl",
    "--model",
    SIZE,
    "--tokenizer-size",
    VOCABULARY,
    "--max-steps",
    STEPS,
]
common += ["--num-epochs", 20, "--batch-tokens", 2048]
assert (
    main([str(part) for part in ["pretrain", "--objective", "causal-lm", *common, "--output", OUTPUT]]) == 0
)

# %% [en]
# Now both can be asked about the very same texts. Each is put between two end marks, and each token costs $-\log_2 p$ bits:

# %% [zh]
# 现在可以用完全相同的文本来比较两者。每段文本放在两个结束标记之间，每个 token 的代价是 $-\log_2 p$ 比特：

# %% [code]
from weitiao.data.encode import load_tokenizer
from weitiao.models.decoder import open_decoder

model, tokenizer = open_decoder(Path(OUTPUT) / "model"), load_tokenizer(Path(OUTPUT) / "model")
end = model.config["eos_token_id"]


@torch.no_grad()
def model_bits(text):
    ids = np.array([end, *tokenizer.encode(text).ids, end])
    log_p = torch.log_softmax(model.logits(model(pack([ids[:-1]]))).double(), -1)
    return -log_p[torch.arange(len(ids) - 1), torch.from_numpy(ids[1:])].sum().item() / np.log(2)


learned = sum(map(model_bits, held_out)) / sum(len(text.encode()) + 1 for text in held_out)
print(f"bits per byte of {len(held_out)} new texts: counting pairs {counting:.2f}, the model {learned:.2f}")
for text in held_out[:2] + held_out[-2:]:
    begin = text[: len(text) // 2]
    ids = [end, *tokenizer.encode(begin).ids]
    for _ in range(12):  # lesson 6 does this properly
        with torch.no_grad():
            ids.append(int(model.logits(model(pack([np.array(ids)]))[-1:])[0].argmax()))
    print(begin, "|", tokenizer.decode(ids[1:])[len(begin) :])

# %% [en]
# ## What it is good for
#
# What has been learnt from plain texts helps where labels are few. Lesson 3 does it with a large model; here is the same with ours: an
# encoder that guesses hidden words, then the fields of some titles.

# %% [zh]
# ## 它有什么用
#
# 从纯文本中学到的东西，在标签很少时派得上用场。第 3 课用大模型来做；这里先用自己的：先让编码器猜被遮住的词，再学一些标题
# 所属的学科。

# %% [code]
import weitiao

rows = read_splits(resolve_data("csl").path)
train, test = (
    rows[split].rows.select_columns(["text", "label"]).shuffle(seed=2).select(range(ROWS))
    for split in ("train", "test")
)
known = set(train["label"])  # of so few titles, some fields may be in the test part alone
test = test.filter(lambda row: row["label"] in known)

scores = {}
for name, steps in (("without", 1), ("with", STEPS)):
    rate = 1e-5 if name == "without" else 2e-3
    folder = f"{OUTPUT}-{name}"
    words = ["pretrain", "--objective", "masked-lm", *common, "--max-steps", steps, "--learning-rate", rate]
    assert main([str(word) for word in [*words, "--output", folder]]) == 0
    run = weitiao.finetune(
        train,
        test_data=test,
        model=folder,
        num_epochs=EPOCHS,
        learning_rate=5e-4,
        max_length=48,
        output=f"{folder}-fields",
        show=False,
    )
    scores[name] = run.metrics["evaluation"]["test"]["scores"]["accuracy"]
baseline = run.metrics["evaluation"]["test"]["baseline"]["accuracy"]
print(f"{ROWS} labels: without pretraining {scores['without']:.1%}, with {scores['with']:.1%}")
print(f"always the same answer: {baseline:.1%}")

# %% [en]
# ## Try it
#
# * Count triples instead of pairs. Is it better on the held-out texts? And with only 400 texts to count in? (That is why counting
#   alone does not go far: most long chains are never seen.)
# * Take out the division by $\sqrt d$ in the attention and make $d$ large. What happens to the softmax?
# * Let the decoder see the next token (`only_before=False`): the loss can then fall to 0 without any language learnt.

# %% [zh]
# ## 试一试
#
# * 改为统计三个字一组。在留出的文本上更好吗？如果只有 400 条文本可供统计呢？（这就是单靠计数走不远的原因：大多数长串
#   从未出现过。）
# * 去掉注意力中除以 $\sqrt d$ 的一步，再把 $d$ 加大。softmax 会怎样？
# * 让解码器看到下一个 token（`only_before=False`）：什么语言都没学到，损失也能降到 0。
