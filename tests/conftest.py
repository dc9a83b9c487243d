"""What all tests share: one language, no hub, one thread, and where the data lies."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Set before anything imports torch or numpy, and inherited by the commands that tests start.
os.environ |= {
    "WEITIAO_LANG": "en",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "WANDB_MODE": "offline",
    "MPLBACKEND": "Agg",
}

ROOT = Path(__file__).resolve().parents[1]

# A busy machine must not fail a test: no deadline for an example.
settings.register_profile("weitiao", deadline=None, max_examples=50)
settings.load_profile("weitiao")


# Whole files go to a worker: one that takes minutes must not begin when the other worker is done.
SLOWEST = ("test_survival.py", "test_ladder.py", "test_team.py", "test_serve.py", "test_climb.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first."""
    place = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(SLOWEST)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def example_data() -> Path:
    """The data sets that ship with the project: examples/data/README.md lists them."""
    return ROOT / "examples" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The larger data sets beside the repository, which may not be shipped; the test skips where they are absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data sets are not on this machine")
    return folder


def _characters() -> list[str]:
    """Printable ASCII in lower case, and the 3,755 most common Chinese characters (GB 2312, level 1)."""
    latin = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pairs = [bytes([high, low]) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF)]
    chinese = "".join(pair.decode("gb2312", "ignore") for pair in pairs)
    return [*latin, *chinese, *"，。！？、：；“”《》（）"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT (2 layers, width 32, 64 positions) and a tokenizer for Chinese and Latin letters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    characters = _characters()
    letters = [f"##{char}" for char in characters if char.isascii() and char.isalnum()]
    words = ["the", "card", "money", "bank", "good", "bad", "##ing", "##ed", "##er"]
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    vocabulary = {piece: i for i, piece in enumerate([*names.values(), *characters, *letters, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(piece, vocabulary[piece]) for piece in ("[CLS]", "[SEP]")],
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        # Wider than usual: a random encoder's texts must be told apart.
        initializer_range=0.2,
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    folder = tmp_path_factory.mktemp("model") / "tiny"
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, model_input_names=inputs, **names
    ).save_pretrained(folder)
    return folder
