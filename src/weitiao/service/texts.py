"""From the texts of a request to results: sizes, records, the queue."""

from collections.abc import Sequence
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.privacy import mask_value
from weitiao.runtime.items import records_of
from weitiao.service.batching import Batcher
from weitiao.service.calls import Call
from weitiao.service.errors import bad_request
from weitiao.service.models import Version


def incoming(call: Call, items: Sequence[Any]) -> list[Any]:
    """The items, with personal data masked where the service is set to. Refuses too many texts, or one too long.

    Raises:
        Refused: 413.
    """
    texts = [item for item in items if isinstance(item, str)]
    for item in items:
        if not isinstance(item, str):
            texts += item.values() if isinstance(item, dict) else item
    call.service.access.sizes.check_texts(texts)
    return mask_value(items) if call.service.settings.mask else list(items)


def records(call: Call, held: Version, items: Sequence[Any]) -> list[dict[str, Any]]:
    """The task's records of some items: a bad item is refused here, before it meets others in a batch.

    Raises:
        Refused: 400, an item is not what the task reads, or the model has no task; 413, too many or too long;
            503, the queue is full.
    """
    if held.kind != "predictor":
        raise bad_request(
            say(
                f"{held.model} writes text: use /v1/completions",
                f"{held.model} 是生成模型：请用 /v1/completions",
            )
        )
    held.worker.check_room()
    items = incoming(call, items)
    try:
        return records_of(held.predictor.task, items)
    except WeitiaoError as error:
        raise bad_request(str(error), "bad_text") from None


async def compute(call: Call, held: Version, kind: str, items: Sequence[Any]) -> list[Any]:
    """The values of ``service.work.Result`` for some items, computed in batches with other requests' items.

    Raises:
        Refused: 503, the queue is full.
        Disconnected: the client left.
        WeitiaoError: the model refuses an item.
    """
    assert isinstance(held.worker, Batcher)
    results = await call.wait(held.worker.put(kind, items))
    call.tokens += sum(result.tokens for result in results)
    return [result.value for result in results]
