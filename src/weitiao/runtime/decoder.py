"""A bundle's language model: text in, text out, token by token; no torch.

The key-value cache is one piece of memory for each layer: onnxruntime reads it and appends to it in place, so a step
copies nothing but its scores. Steps reuse one binding; a long prompt is read in stretches.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.encode import load_tokenizer
from weitiao.engines.onnxruntime import OnnxRuntime
from weitiao.generation.prompts import Prompt, Prompts
from weitiao.generation.sampling import Sampler, Sampling
from weitiao.generation.writing import Constraint, Writing, stream
from weitiao.runtime.bundle import Bundle

STRETCH = 512  # tokens of a prompt read at once; attention's memory grows with the square


class Decoder:
    """What ``weitiao.runtime.load`` returns for a bundle with a language model. Streams may run side by side.

    Attributes:
        bundle: the files and the manifest.
        max_length: how many tokens the model reads and writes in all.
    """

    def __init__(
        self, bundle: Bundle, *, engine: str = "auto", precision: str = "auto", threads: int = 0
    ) -> None:
        if engine not in ("auto", "onnxruntime") or precision not in ("auto", "fp32"):
            raise WeitiaoError(
                say(
                    f"A decoder runs in onnxruntime and as exported, not in {engine} {precision}. "
                    "Export it with --bits 4, 8, 16 or 32",
                    f"解码器用 onnxruntime 运行，精度在导出时确定，不支持 {engine} {precision}。"
                    "请用 --bits 4、8、16 或 32 导出",
                )
            )
        self.bundle = bundle
        try:
            self._read(bundle.manifest)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(bundle, f"{type(error).__name__}: {error}") from None
        self.tokenizer = load_tokenizer(bundle.folder)
        self.prompts = Prompts(self.tokenizer, self.template, self.ends)
        self.engine = OnnxRuntime(Path(bundle.graph), threads=threads)
        wanted = {
            f"past_{kind}_{number}" for kind in ("key", "value") for number in range(self.cache["layers"])
        }
        if missing := sorted(wanted - {value.name for value in self.engine.session.get_inputs()}):
            raise _damaged(bundle, f"{bundle.graph.name}: no {missing[0]}")

    def _read(self, manifest: dict[str, Any]) -> None:
        self.max_length = int(manifest["max_length"])
        self.ends = frozenset(map(int, manifest["eos_token_ids"]))
        self.template: dict[str, Any] | None = manifest["chat_template"]
        self.cache = {key: int(manifest["cache"][key]) for key in ("layers", "heads", "head_size")}
        self.vocabulary_size = int(manifest["vocabulary_size"])

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        seed: int | None = None,
        constraint: Constraint | None = None,
    ) -> Iterator[str]:
        """Continue a text, or answer a dialogue ``[{"role", "content"}, ...]``, piece by piece.

        Args: those of ``sampling.Sampling``; ``constraint``: what the answer may be (``generation.constraints``).

        Yields:
            one piece for each token, empty where a character or a possible stop text is not complete. Joined they
            are the answer. It ends at an end token, a stop text, ``max_new_tokens``, or where the context is full.

        Raises:
            WeitiaoError: a setting out of its range, no prompt, or one that leaves no room to answer.
        """
        sampling = Sampling(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed)
        ids = self.encode(prompt)
        self.prompts.check_room(ids, self.max_length)
        room = min(sampling.max_new_tokens, self.max_length - len(ids))
        writing = Writing(self.tokenizer, ids, sampling, self.ends, room, constraint)
        return stream(self.scores(len(ids) + room), ids, writing)

    def scores(self, places: int) -> "_State":
        """What gives the scores for one text of at most so many tokens."""
        return _State(self, places)

    def generate(self, prompt: Prompt, **options: Any) -> str:
        """The whole answer at once; arguments as for ``stream``."""
        return "".join(self.stream(prompt, **options))

    def count(self, prompt: Prompt) -> int:
        """The tokens of a prompt as the model reads it."""
        return len(self.encode(prompt))

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt. In messages a special token's name is text: no message can pose as another.

        Raises:
            WeitiaoError: messages that the model has no template for.
        """
        return self.prompts.encode(prompt)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """The scores of what follows after each token, float32 ``[len(ids), V]``: for perplexity and comparisons."""
        return _State(self, len(ids)).scores_after(list(ids), every=True)

    def continued(self, ids: Sequence[int], count: int) -> list[int]:
        """The likeliest ``count`` tokens after these, one after the other; end tokens are tokens like any other."""
        state, sampler = _State(self, len(ids) + count), Sampler(Sampling())
        found = [sampler.pick(state.scores_after(list(ids))[-1])]
        while len(found) < count:
            found.append(sampler.pick(state.step(np.array(found[-1:]))[0]))
        return found

    def close(self) -> None:
        """Let go of the graph."""
        self.engine.close()


def _damaged(bundle: Bundle, reason: str) -> WeitiaoError:
    return WeitiaoError(
        say(
            f"{bundle.folder} holds no language model that can be read ({reason[:120]}). Export or copy it again",
            f"{bundle.folder} 中没有可读取的语言模型（{reason[:120]}）。请重新导出或复制",
        )
    )


class _State:
    """The cache of one text, and the arrays that the graph reads and writes."""

    def __init__(self, decoder: Decoder, places: int) -> None:
        self.session = decoder.engine.session
        cache = decoder.cache
        self.vocabulary_size = decoder.vocabulary_size
        # Places are rounded up, so that the allocator meets few sizes; what is never written costs no memory.
        shape = (1, cache["heads"], -(-places // 64) * 64, cache["head_size"])
        names = [f"{kind}_{number}" for number in range(cache["layers"]) for kind in ("key", "value")]
        self.cache = {name: np.zeros(shape, np.float32) for name in names}
        self.used = 0
        self.last = np.zeros(1, np.int32)  # places used after the call, less one
        self.total = np.zeros((), np.int32)
        self.token = np.zeros((1, 1), np.int64)
        self.scores = np.zeros((1, 1, self.vocabulary_size), np.float32)
        self.first = np.zeros(1, np.int64)
        self.binding: Any = None

    def read(self, prompts: Sequence[Sequence[int]], room: int) -> np.ndarray:
        """Begin with a text, for which there is room. Returns the scores after it ``[1, V]``."""
        (ids,) = prompts
        return self.scores_after(list(ids))

    def select(self, rows_R: np.ndarray) -> None:
        """Go on with the one text."""

    def scores_after(self, ids: list[int], every: bool = False) -> np.ndarray:
        """Read tokens. Returns the scores after the last one ``[1, V]``, or after ``every`` one."""
        found = []
        for start in range(0, len(ids), STRETCH):
            part = np.array([ids[start : start + STRETCH]], np.int64)
            count = part.shape[1]
            positions = np.arange(count) if every else np.array([count - 1])
            scores = np.empty((1, len(positions), self.vocabulary_size), np.float32)
            self._advance(count)
            self.session.run_with_iobinding(self._bound(part, positions, scores))
            found.append(scores[0])
        return np.concatenate(found) if every else found[-1]

    def step(self, tokens_B: np.ndarray) -> np.ndarray:
        """Read one token. Returns the scores after it ``[1, V]``, in memory that the next step writes over."""
        self.token[0] = tokens_B
        if self.binding is None:
            self.binding = self._bound(self.token, self.first, self.scores)
        self._advance(1)
        self.session.run_with_iobinding(self.binding)
        return self.scores[0]

    def _advance(self, count: int) -> None:
        self.used += count
        self.last[0], self.total[()] = self.used - 1, self.used

    def _bound(self, ids: np.ndarray, positions: np.ndarray, scores: np.ndarray) -> Any:
        """A binding to these arrays, which must outlive it."""
        binding = self.session.io_binding()
        inputs = {
            "input_ids": ids,
            "positions": positions,
            "seqlens_k": self.last,
            "total_sequence_length": self.total,
        }
        inputs |= {f"past_{name}": array for name, array in self.cache.items()}
        outputs = {"logits": scores} | {f"present_{name}": array for name, array in self.cache.items()}
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding
