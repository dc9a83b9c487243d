"""Another encoder as the student of a distillation, under a new head of the teacher's kind."""

import torch

from weitiao.compression.base import Subject
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.encode import load_tokenizer
from weitiao.models.backbone import TextModel, open_backbone
from weitiao.models.heads import make_head
from weitiao.models.known import resolve_model
from weitiao.models.saving import start_pooler


def open_student(subject: Subject, name: str, pooling: str) -> None:
    """Put the encoder called ``name`` into the subject, with its own tokenizer.

    Raises:
        WeitiaoError: there is no such encoder, or it reads shorter texts than the teacher does.
    """
    folder = resolve_model(name).path
    backbone, config, beside = open_backbone(folder)
    if backbone.shape.max_length < subject.max_length:
        raise WeitiaoError(
            say(
                f"{name} reads at most {backbone.shape.max_length} tokens, the teacher {subject.max_length}. "
                "Take another --student",
                f"{name} 最多读 {backbone.shape.max_length} 个 token，而教师读 {subject.max_length} 个。请换一个 --student",
            )
        )
    torch.manual_seed(subject.seed)
    head = make_head(subject.task.head(subject.answers, pooling), backbone.shape.hidden_size)
    start_pooler(head, beside)
    subject.model = TextModel(backbone, head, config).eval()
    subject.tokenizer = load_tokenizer(folder)
