"""What a climb's page says of each rung, in both languages: before its formulas and after them."""

from dataclasses import dataclass

Pair = tuple[str, str]


@dataclass(frozen=True)
class Words:
    """A rung's title and paragraphs, each in English and in Chinese."""

    title: Pair
    before: tuple[Pair, ...]
    after: tuple[Pair, ...] = ()


WORDS = {
    "mnist": Words(
        ("Reading digits", "认识数字"),
        (
            (
                "A picture is 784 numbers. The network turns them into ten scores z, one for each digit, "
                "and softmax makes "
                "probabilities of the scores:",
                "一张图片就是 784 个数。网络把它们变成十个分数 z，每个数字一个；softmax 再把分数变成概率：",
            ),
        ),
        (
            (
                "The loss L asks how probable the model found the true answer y. Its gradient is what "
                "training follows: what was "
                "said, minus what is true. A wrong score is pushed down by as much as it was believed.",
                "损失 L 问的是：模型认为正确答案 y 有多大可能？训练就沿着它的梯度走：你说的，减去真实的。错误的分数被相信多少，"
                "就被压低多少。",
            ),
        ),
    ),
    "pretraining": Words(
        ("Learning language from text alone", "只从文本中学习语言"),
        (
            (
                "Nobody labels a library, so the text itself sets the exercise. A decoder guesses each "
                "token x from those before "
                "it; an encoder guesses the hidden ones, M, from all the rest. Both losses are the "
                "cross-entropy of the first "
                "rung, with the whole vocabulary as classes. Bits per byte can be compared whatever the "
                "tokenizer.",
                "没有人给整座图书馆打标签，题目就由文本自己来出。解码器从前文猜每个词元 x；编码器遮住一部分 M，再从其余部分猜出来。"
                "两种损失都是第一级的交叉熵，只是类别换成了整个词表。每字节比特数与分词器无关，可以相互比较。",
            ),
        ),
    ),
    "finetuning": Words(
        ("Fine-tuning a language model", "微调语言模型"),
        (
            (
                "A model that has read much text gives each of a text's T tokens a vector h. Their mean "
                "stands for the text, and "
                "one new layer reads the scores of the classes off it. Softmax, loss and gradient are "
                "those of the first rung; "
                "only now they move a model that knows words already. How much is that worth? Three starts: "
                "an encoder that was stopped after one step of pretraining, ours from the second rung, "
                "and one that others "
                "pretrained on far more text.",
                "读过大量文本的模型，为文本的 T 个 token 各给出一个向量 h。它们的平均代表整段文本，再由一个新的层读出各类的分数。"
                "softmax、损失与梯度和第一级完全相同，只是现在推动的是一个已经认识词语的模型。这值多少？"
                "比较三种起点：只预训练一步的编码器、第二级自己训练的编码器，以及别人用多得多的文本预训练的编码器。",
            ),
        ),
    ),
    "efficient": Words(
        ("Tuning few parameters", "只微调少量参数"),
        (
            (
                "The same model, texts and loss; but the weights W stay as they are. LoRA learns a change "
                "of low rank beside them: "
                "B times A, two thin matrices. Beside it, the least that can be trained: the last layer "
                "alone.",
                "同样的模型、文本和损失，但权重 W 保持不变。LoRA 在旁边学习一个低秩的改变：两个细长矩阵 B 与 A 的乘积。"
                "作为对照，还有能训练的最少部分：只训练最后一层。",
            ),
        ),
    ),
    "bridge": Words(
        ("Pictures that a language model reads", "语言模型看图"),
        (
            (
                "The network of the first rung sees, a language model writes; neither is changed any "
                "more. A small projector P "
                "turns what the first sees, its features f, into a few vectors h, as if they were words "
                "that nobody writes. The "
                "language model reads the question q, then h, and answers. Only P learns, by the gradient "
                "that comes back "
                "through the language model; the loss counts the tokens a of the answer alone.",
                "第一级的网络会看，语言模型会写，两者都不再改动。一个小小的投影层 P 把前者看到的特征 f 变成几个向量 h，仿佛是"
                "无人书写的词。语言模型读完问题 q 和 h，便作答。只有 P 在学习，梯度穿过语言模型传回来；损失只计算回答的 "
                "token a。",
            ),
        ),
    ),
    "generation": Words(
        ("Answers in words", "用语言作答"),
        (
            (
                "The decoder of the second rung is taught to answer: the same loss as before, but only "
                "over the tokens A of the "
                "answers. When it writes, the scores z of the next token are divided by a temperature τ: "
                "a small one makes it "
                "bold, a large one wild.",
                "教第二级的解码器回答问题：损失与之前相同，但只计算回答部分的词元 A。写作时，下一个词元的分数 z 先除以温度 τ："
                "温度低则果断，温度高则随意。",
            ),
        ),
    ),
}
