"""Attention relations of a packed batch, as MiniLM distils them, and their distance between teacher and student.

Wang et al. 2021, "MiniLMv2", equations 4-7: queries (keys, values) are cut into as many relation heads for teacher
and student, whatever their own heads and sizes; softmax(a a' / sqrt(d)) of each is compared by its KL divergence.
"""

from torch import Tensor

from weitiao.models.packed import Group, Packed


def relation_loss(student_T: Tensor, teacher_T: Tensor, packed: Packed, heads: int) -> Tensor:
    """The sum over texts of the mean KL divergence of a text's relation rows.

    Args:
        student_T, teacher_T: queries, keys or values, ``[T, S]`` and ``[T, S']``; ``heads`` divides both sizes.
    """
    total = student_T.new_zeros(())
    for group in packed.groups:
        student = _relations(student_T, group, heads)
        teacher = _relations(teacher_T, group, heads)
        kl_BHL = (teacher.exp() * (teacher - student).nan_to_num(0.0, 0.0, 0.0)).sum(-1)
        if group.real_t is None:
            total = total + kl_BHL.mean((1, 2)).sum()
            continue
        real_BL = kl_BHL.new_zeros(group.batch * group.length).index_fill(0, group.real_t, 1.0)
        real_BL = real_BL.view(group.batch, group.length)
        total = total + ((kl_BHL.mean(1) * real_BL).sum(1) / real_BL.sum(1)).sum()
    return total


def _relations(x_TS: Tensor, group: Group, heads: int) -> Tensor:
    """log softmax(x x' / sqrt(d)) within each text of a group, ``[B, H, L, L]``."""
    rows = x_TS[group.first : group.last]
    if group.padded_BL is not None:
        rows = rows.index_select(0, group.padded_BL)
    x_BHLd = rows.view(group.batch, group.length, heads, -1).transpose(1, 2).float()
    scores = x_BHLd @ x_BHLd.transpose(2, 3) * x_BHLd.shape[-1] ** -0.5
    if group.bias_B1L is not None:
        # Large and finite: the gradient of -inf minus -inf would be NaN.
        scores = scores + group.bias_B1L.unsqueeze(1).clamp_min(-1e9)
    return scores.log_softmax(-1)
