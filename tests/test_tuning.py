"""What the tuning methods promise beyond the contract that tests/test_families.py tests for all of them."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from toy import POOLED, make, make_parts, open_model, table

import weitiao
from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError
from weitiao.models import fused
from weitiao.models.backbone import TextModel
from weitiao.models.encoder import Encoder, Shape
from weitiao.models.heads import make_head
from weitiao.models.packed import pack, widen
from weitiao.training.batches import Batches
from weitiao.training.engagement import Engagement
from weitiao.training.loop import train

VIRTUAL = ("prompt", "p_tuning", "prefix")
ROWS = [
    {"text": f"{['good money', 'bad card', 'the bank'][i % 3]} {i}", "label": "abc"[i % 3]} for i in range(60)
]
SHORT = {"max_length": 32, "precision": "fp32", "threads": 1, "show": False}


def first_texts(count: int = 8):
    return Batches(table(), count, 0).batch(np.arange(count)).packed


def finetune(tiny_model, folder, **settings):
    return weitiao.finetune(ROWS, model=str(tiny_model), output=folder, **{**SHORT, **settings})


def test_lora_s_new_head_has_a_rate_of_its_own_where_the_user_gives_none(tiny_model, tmp_path):
    def head(name, **rates):
        finetune(tiny_model, tmp_path / name, tuning="lora", num_epochs=1, **rates)
        return load_file(tmp_path / name / "model" / "head.safetensors")

    default = head("default")
    same = head("same", learning_rate=5e-4, head_learning_rate=5e-3)
    slower = head("slower", learning_rate=5e-4)
    probed, probed_slower = head("probed", start="probe"), head("slow", start="probe", learning_rate=5e-4)
    assert all(torch.equal(default[key], same[key]) for key in default)
    assert not all(torch.equal(default[key], slower[key]) for key in default)
    assert all(
        torch.equal(probed[key], probed_slower[key]) for key in probed
    )  # what was fitted is not shaken


# --- bottleneck adapters


@pytest.mark.parametrize(("kind", "count"), [("houlsby", 4), ("pfeiffer", 2)])
def test_adapters_sit_where_they_are_told_and_begin_as_nothing(tiny_model, kind, count):
    plain = open_model(tiny_model)
    model = open_model(tiny_model, make("tuning", "adapter", adapter_kind=kind, adapter_size=5))
    downs = [
        n for n, p in model.named_parameters() if n.endswith("adapter.down.weight") and p.shape == (5, 32)
    ]
    assert len(downs) == count
    assert any("attention.output.dense" in name for name in downs) == (kind == "houlsby")
    with torch.no_grad():
        assert torch.equal(model(first_texts()), plain(first_texts()))


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "tanh"])
def test_an_adapter_computes_what_houlsby_et_al_wrote(tiny_model, activation):
    from weitiao.models.bottleneck import ACTIVATIONS, Bottleneck

    layer, x = torch.nn.Linear(6, 4), torch.randn(3, 6)
    adapter = Bottleneck(layer, 2, activation)
    torch.nn.init.normal_(adapter.adapter["up"].weight)
    down, up = adapter.adapter["down"], adapter.adapter["up"]
    y = layer(x)
    expected = y + ACTIVATIONS[activation](y @ down.weight.T + down.bias) @ up.weight.T + up.bias
    torch.testing.assert_close(adapter(x), expected)


def test_bitfit_trains_and_saves_biases_alone(tiny_model, tmp_path):
    run = finetune(tiny_model, tmp_path / "run", tuning="bitfit", num_epochs=1)
    saved = load_file(tmp_path / "run" / "model" / "adapter.safetensors")
    assert saved and all(name.endswith("bias") for name in saved)
    assert not list((tmp_path / "run" / "model").glob("model*.safetensors"))
    sizes = [p.stat().st_size for p in (tmp_path / "run" / "model").glob("*.safetensors")]
    assert run.metrics["model"]["weights_bytes"] == sum(sizes) < 20_000


def test_ia3_scales_keys_values_and_what_enters_the_second_feed_forward_layer(tiny_model):
    model = open_model(tiny_model, make("tuning", "ia3"))
    shapes = {
        n.split(".layer.0.")[1]: p.numel() for n, p in model.named_parameters() if ".0." in n and "ia3" in n
    }
    parts = {"attention.self.key": 32, "attention.self.value": 32, "output.dense": 64}
    assert shapes == {f"{name}.ia3_l.default": size for name, size in parts.items()}


# --- virtual tokens


def plain_text(encoder: Encoder, ids: torch.Tensor, new_nD: torch.Tensor, prefixes=None) -> torch.Tensor:
    """One text's hidden states by the equations of BERT, with virtual tokens before it: an independent way."""
    parts, shape = encoder.embeddings, encoder.shape
    x = parts.word_embeddings.weight[ids] + parts.position_embeddings.weight[: len(ids)]
    norm = parts.LayerNorm
    x = norm(x + parts.token_type_embeddings.weight[0])
    new = torch.zeros_like(x[:0]) if new_nD is None else norm(new_nD)
    x, count = torch.cat([new, x]), len(new)
    for number, layer in enumerate(encoder.encoder["layer"]):
        linear = {name: getattr(m, "base_layer", m) for name, m in layer.attention.self.items()}
        q, k, v = (linear[name](x) for name in ("query", "key", "value"))
        if prefixes is not None:
            k, v = (torch.cat([prefix, rows]) for prefix, rows in zip(prefixes[number], (k, v), strict=True))
        q, k, v = (t.view(len(t), shape.num_attention_heads, -1).transpose(0, 1) for t in (q, k, v))
        weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1)
        context = (weights @ v).transpose(0, 1).flatten(1)
        out, last = layer.attention.output, layer.output
        x = out["LayerNorm"](x + out["dense"](context))
        x = last["LayerNorm"](x + last["dense"](F.gelu(layer.intermediate["dense"](x))))
    return x[count:]


@pytest.mark.parametrize("name", VIRTUAL)
def test_virtual_tokens_do_what_their_papers_say(tiny_model, name):
    """A whole batch of texts of several lengths, against each text on its own by the equations."""
    model = open_model(tiny_model, make("tuning", name, virtual_tokens=3)).eval()
    backbone, inner = model.backbone, model.backbone.inner
    prefixes = None
    if name == "prefix":
        attention = [layer.attention.self for layer in inner.encoder["layer"]]
        prefixes = [tuple(layer[part].prefix_nD for part in ("key", "value")) for layer in attention]
    packed = first_texts()
    with torch.no_grad():
        hidden = backbone(packed)
        new = None if prefixes else backbone.prompt()
        texts = [
            plain_text(inner, ids, new, prefixes) for ids in packed.ids_T.split(packed.lengths_B.tolist())
        ]
        torch.testing.assert_close(hidden, torch.cat(texts), atol=1e-5, rtol=0)
        rows = torch.tensor([4, 0, 11])
        torch.testing.assert_close(backbone(packed, rows_R=rows), hidden[rows], atol=1e-6, rtol=0)
        plain = open_model(tiny_model).backbone(packed)
    assert (plain - hidden).abs().max() > 1e-2, "the virtual tokens do nothing"


def test_a_widened_batch_keeps_its_texts_in_place():
    packed = pack([np.array([7, 8]), np.array([5, 6, 9])], 2, [np.array([0, 1]), np.array([0, 1, 1])])
    wide, own, new = widen(packed, 2)
    assert wide.ids_T.tolist() == [0, 0, 7, 8, 0, 0, 5, 6, 9]
    assert wide.positions_T[own].tolist() == packed.positions_T.tolist() == [2, 3, 2, 3, 4]
    assert wide.types_T[own].tolist() == [0, 1, 0, 1, 1]
    assert new.tolist() == [0, 1, 4, 5]
    assert wide.lengths_B.tolist() == [4, 5]
    assert (wide.groups[0].first, wide.groups[-1].last) == (0, 9)


@pytest.mark.parametrize("name", VIRTUAL)
def test_virtual_tokens_need_room_and_say_so_before_training(tiny_model, tmp_path, name):
    with pytest.raises(
        WeitiaoError, match=f"max_length is 60; .* with --tuning {name} reads at most 54 tokens"
    ):
        finetune(tiny_model, tmp_path / "run", tuning=name, max_length=60, virtual_tokens=10)
    with pytest.raises(WeitiaoError, match="virtual_tokens is 60; the model reads 64"):
        finetune(tiny_model, tmp_path / "run", tuning=name, virtual_tokens=60)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_p_tuning_saves_its_tokens_and_not_the_network(tiny_model, tmp_path):
    for kind in ("lstm", "mlp"):
        folder = tmp_path / kind
        run = finetune(
            tiny_model, folder, tuning="p_tuning", prompt_encoder=kind, num_epochs=1, virtual_tokens=4
        )
        saved = load_file(folder / "model" / "adapter.safetensors")
        assert {name: tuple(t.shape) for name, t in saved.items()} == {"prompt.embeddings": (4, 32)}
        assert run.metrics["model"]["trained_parameters"] > 4 * 32 + 99
        described = json.loads((folder / "model" / "adapter.json").read_text())
        assert (described["method"], described["settings"]["prompt_encoder"]) == ("p_tuning", kind)


@pytest.mark.parametrize("task", ["token_classification", "text_matching"])
@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_other_tasks_see_their_own_tokens_only(tiny_model, tmp_path, name, task):
    rows = [
        {"text": f"my card {n} is lost", "spans": [{"start": 3, "end": 7, "label": "thing"}]}
        for n in range(30)
    ]
    if task == "text_matching":
        rows = [{"text_a": f"my card {n}", "text_b": "lost it", "label": str(n % 2)} for n in range(30)]
    settings = {**SHORT, "task": task, "tuning": name, "num_epochs": 1, "virtual_tokens": 3}
    run = weitiao.finetune(rows, model=str(tiny_model), output=tmp_path / "run", **settings)
    assert run.metrics["model"]["saved_logit_difference"] <= 1e-5


# --- AdaLoRA


def adalora(tiny_model, **options):
    tuning = make("tuning", "adalora", lora_rank=4, **options)
    model = open_model(tiny_model, tuning)
    return tuning, model, Engagement(model, tuning)


def test_adalora_shares_out_its_ranks(tiny_model):
    tuning, model, watch = adalora(tiny_model)
    for event in train(make_parts(model, table(), learning_rate=1e-2, epochs=6, hooks=tuning)):
        ranks = [int((p != 0).sum()) for n, p in model.named_parameters() if "lora_E" in n]
        if event.step > tuning.settings.tinit:
            assert sum(ranks) < 72 or event.step == 1
        assert tuning.settled(event.step, 18) == (event.step >= 11)
    found = watch.check(model)
    assert found["ranks"] == ranks
    assert (sum(ranks), found["rank_budget"], found["rank_at_start"]) == (48, 48, 72)
    assert len(set(ranks)) > 1, "every layer has the same rank, as in plain LoRA"
    assert tuning.settings.total_step == 18


def test_adalora_that_trains_as_plain_lora_is_an_error(tiny_model, tmp_path, monkeypatch):
    _, model, watch = adalora(tiny_model)
    list(train(make_parts(model, table(), learning_rate=1e-2)))  # a loop that knows no hooks
    with pytest.raises(WeitiaoError, match="did not share out its ranks: they sum to 72, the budget is 48"):
        watch.check(model)
    monkeypatch.setattr(catalogue.member("tuning", "adalora"), "after_step", lambda *_: None)
    with pytest.raises(WeitiaoError, match="did not share out its ranks"):
        finetune(tiny_model, tmp_path / "run", tuning="adalora", num_epochs=1)
    assert not (tmp_path / "run" / "model").exists()


def test_a_singular_value_above_the_budget_is_an_error(tiny_model):
    tuning, model, watch = adalora(tiny_model)
    list(train(make_parts(model, table(), learning_rate=1e-2, hooks=tuning)))
    watch.check(model)
    name, mask = next((n, m) for n, m in tuning.settings.rank_pattern.items() if not all(m))
    with torch.no_grad():
        dict(model.backbone.named_parameters())[name][mask.index(False)] = 0.1
    with pytest.raises(WeitiaoError, match="1 layers are above theirs"):
        watch.check(model)


def test_the_best_adalora_checkpoint_has_the_final_ranks(tiny_model, tmp_path):
    """The first epoch's weights may score best, but their ranks are over the budget."""
    run = finetune(tiny_model, tmp_path / "run", tuning="adalora", num_epochs=5, dev_data=ROWS)
    better = [event["step"] for event in run.events if event["event"] == "evaluation" and event["best"]]
    assert better and min(better) >= 9
    engagement = run.metrics["engagement"]
    assert sum(engagement["ranks"]) == engagement["rank_budget"] == 8 * 12
    config = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())
    assert sum(map(sum, config["rank_pattern"].values())) == 8 * 12
    assert config["total_step"] == 5 * 3


def test_the_penalty_is_in_the_loss_and_keeps_directions_orthogonal(tiny_model):
    first = {}
    for weight in (0.0, 5.0):
        tuning, model, _ = adalora(tiny_model, adalora_penalty=weight)
        first[weight] = next(iter(train(make_parts(model, table(), hooks=tuning)))).loss
    tuning, model, _ = adalora(tiny_model, adalora_penalty=5.0)
    a = [p.detach() for n, p in model.named_parameters() if "lora_A" in n]
    b = [p.detach().T for n, p in model.named_parameters() if "lora_B" in n]
    expected = 5 * np.mean([float(torch.linalg.norm(m @ m.T - torch.eye(6))) for m in a + b])
    assert first[5.0] - first[0.0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("settings", "said"), [
    ({"adalora_start_rank": 8}, "adalora_start_rank is 8: with lora_rank 8 nothing would be left"),
    ({"batch_size": 64, "num_epochs": 1}, "needs at least 2"),
])  # fmt: skip
def test_adalora_without_room_to_share_out_is_refused(tiny_model, tmp_path, settings, said):
    with pytest.raises(WeitiaoError, match=said):
        finetune(tiny_model, tmp_path / "run", tuning="adalora", **settings)


# --- QLoRA


def test_weights_go_to_the_nearest_of_16_levels_of_their_block():
    from weitiao.models.four_bits import LEVELS, rounded

    torch.manual_seed(0)
    weight = torch.randn(5, 30)  # 150 numbers: blocks of 64, 64 and 22, over the rows' ends
    held = rounded(weight)
    for block, kept in zip(weight.flatten().split(64), held.flatten().split(64), strict=True):
        grid = torch.tensor(LEVELS) * block.abs().max()
        assert torch.equal(kept, grid[(block[:, None] - grid).abs().argmin(1)])
    assert torch.equal(rounded(held), held)
    assert not rounded(torch.zeros(3, 40)).any()


def test_qlora_rounds_a_copy_of_every_layer_and_begins_as_the_rounded_model(tiny_model):
    from weitiao.models.four_bits import rounded

    plain, model = open_model(tiny_model), open_model(tiny_model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    held = {name: tensor.data for name, tensor in model.named_parameters()}
    make("tuning", "qlora", lora_targets="attention").apply(model)
    assert all(torch.equal(held[name], before[name]) for name in held), (
        "the base's own tensors were written to"
    )
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.endswith(("dense.weight", "query.weight", "key.weight", "value.weight")):
                parameter.copy_(rounded(parameter))
        torch.testing.assert_close(model(first_texts()), plain(first_texts()), atol=1e-6, rtol=0)


def test_qlora_without_a_gpu_is_one_line_that_names_the_others(tiny_model, tmp_path, capsys, monkeypatch):
    from weitiao.cli import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data = tmp_path / "rows.csv"
    data.write_text("text,label\ngood,a\nbad,b\n")
    flags = ["--data", str(data), "--model", str(tiny_model), "--output", str(tmp_path / "run")]
    assert main(["finetune", *flags, "--tuning", "qlora"]) == 2
    said = capsys.readouterr().err.strip()
    assert "--tuning qlora needs a GPU and the package bitsandbytes. Choose another here: " in said
    assert "\n" not in said and all(name in said for name in ("full", "lora", "p-tuning")), said
    assert not (tmp_path / "run").exists()


def test_packed_weights_are_the_rounded_ones():
    pytest.importorskip("bitsandbytes")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tuning = make("tuning", "qlora")
    # Widths of whole blocks: bitsandbytes 0.50 misplaces others on a processor, though not on a GPU.
    shape = Shape(200, 64, 2, 2, 128, 64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = TextModel(Encoder(shape), make_head(POOLED, 64), {"model_type": "bert"})
    tuning.apply(model)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(first_texts())
    tuning.pack(model)
    model.to(device)
    watch = Engagement(model, tuning)
    packed = model(first_texts().to(device)).cpu()
    # The weights are the same to the bit, as is seen below; some processors multiply by them in bf16.
    torch.testing.assert_close(packed, expected, atol=0.1, rtol=0)
    if device == "cpu":
        list(train(make_parts(model, table(), hooks=tuning)))
        watch.check(model)
    tuning.unpack(model)
    model.to("cpu")
    assert {name: t.shape for name, t in model.state_dict().items()} == {n: t.shape for n, t in plain.items()}
    for name, tensor in model.state_dict().items():
        if "lora_" not in name and not name.startswith("head."):
            torch.testing.assert_close(tensor, plain[name], atol=1e-7, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_qlora_run_is_saved_as_it_was_trained(tiny_model, tmp_path):
    pytest.importorskip("bitsandbytes")
    run = finetune(tiny_model, tmp_path / "run", tuning="qlora", num_epochs=2)
    assert run.metrics["model"]["saved_logit_difference"] <= 1e-5
    assert len(run.predict(["good money"])) == 1


# --- all


@pytest.mark.parametrize("name", [n for n in catalogue.members("tuning") if n not in ("head", "bridge")])
def test_every_method_trains_on_the_native_kernels_in_bf16(name):
    torch.manual_seed(0)
    shape = Shape(200, 64, 2, 2, 128, 64)
    config = {"model_type": "bert"}
    model = TextModel(Encoder(shape), make_head(POOLED, 64), config)
    tuning = make("tuning", name)
    tuning.apply(model)
    watch = Engagement(model, tuning)
    parts = make_parts(model, table(), precision="bf16", hooks=tuning)
    assert all(np.isfinite(event.loss) for event in train(parts))
    watch.check(model)
    model.eval()
    with torch.no_grad():
        fine = model(first_texts())
        with torch.autocast("cpu", torch.bfloat16):
            coarse = model(first_texts())
            if fused.native.library() is not None:
                assert fused.usable(torch.zeros(1, 64, dtype=torch.bfloat16), 2), "not on the kernels"
    torch.testing.assert_close(coarse, fine, atol=0.05, rtol=0)
    assert not torch.equal(coarse, fine)


def test_a_model_folder_without_its_head_is_refused(tiny_model, tmp_path):
    run = finetune(tiny_model, tmp_path / "run", tuning="prefix", num_epochs=1)
    (run.folder / "model" / "head.safetensors").unlink()
    with pytest.raises(WeitiaoError, match=r"the head lacks linear\.weight"):
        weitiao.load(run.folder).predict(["good"])


def test_an_adapter_of_another_shape_is_refused(tiny_model, tmp_path):
    for name in ("adalora", "prompt"):
        run = finetune(tiny_model, tmp_path / name, tuning=name, num_epochs=1)
        option = "lora_rank" if name == "adalora" else "virtual_tokens"
        path = run.folder / "model" / "weitiao.json"
        described = json.loads(path.read_text())
        described["tuning_options"][option] += 3
        path.write_text(json.dumps(described))
        if name == "adalora":  # the ranks come from the adapter's own file
            (path.parent / "adapter_config.json").write_text("{}")
        with pytest.raises(WeitiaoError, match="the adapter does not fit the model"):
            weitiao.load(run.folder).predict(["good"])
