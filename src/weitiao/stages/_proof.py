"""A bundle compared with the trained model before it is sealed: its certificate, its statistics for drift, its card."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core import catalogue
from weitiao.core.events import NoteEvent
from weitiao.core.messages import say
from weitiao.core.runs import write_json
from weitiao.runtime.bundle import Bundle, forget, seal
from weitiao.runtime.predictor import Predictor
from weitiao.runtime.reference import describe
from weitiao.stages._bundle_card import bundle_card
from weitiao.stages._certificate import Certificate
from weitiao.stages._served import SERVING, can_serve, in_requests, served

CERTIFICATE, REFERENCE, CARD = "certificate.json", "reference.json", "README.md"
SAME = 1e-6  # two ways to the same graph in the same batches: more than what JSON could round is a fault


@dataclass(frozen=True)
class Proof:
    """What a bundle has to show.

    Attributes:
        certificate: the trained model has been compared already, as the first form.
        labels: of the certificate's rows, where they have some.
        exact: the graph has to be the trained model to the tolerance, and the service too (an export). Else the forms
            of the graph are compared for information (a compression), and the service has to answer as the graph does.
        engine: the only engine to compare; empty: all that are installed.
        service: compare the HTTP service, where it is installed.
        table: what the card shows of a compression's measurements.
    """

    certificate: Certificate
    labels: Sequence[Any]
    exact: bool = True
    engine: str = ""
    threads: int = 0
    service: bool = True
    table: str = ""

    def write(self, folder: Path, described: dict[str, Any]) -> dict[str, Any]:
        """Compare every form, and write the certificate, the reference and the card beside the bundle's other files.

        Args:
            described: the bundle's manifest.

        Returns:
            the manifest to seal the folder with.

        Raises:
            WeitiaoError: a form that must agree does not.
        """
        reference = self._engines(folder, described)
        if self.service and can_serve():
            self._service(folder, described)
        self.certificate.check()
        found = self.certificate.as_json()
        write_json(folder / CERTIFICATE, found)
        write_json(folder / REFERENCE, reference)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        (folder / CARD).write_text(bundle_card(described, found, sizes, self.table), encoding="utf-8")
        return {**described, "reference": REFERENCE}

    def notes(self) -> Iterator[NoteEvent]:
        """A line about each form that was compared."""
        for entry in self.certificate.compared[1:]:
            off, same = entry["largest_difference"], 100 * entry["agreement"]
            yield NoteEvent(
                say(
                    f"{entry['name']}: outputs within {off:.1g}, {same:.2f} % of decisions the same",
                    f"{entry['name']}：输出相差不超过 {off:.1g}，判定一致率 {same:.2f} %",
                )
            )

    def _engines(self, folder: Path, described: dict[str, Any]) -> dict[str, Any]:
        """Run the rows through the graph on each engine, in each precision. Returns the statistics for drift."""
        reference: dict[str, Any] = {}
        for name in (self.engine,) if self.engine else catalogue.members("engines"):
            kind = catalogue.member("engines", name)
            for precision in kind.usable() if kind.installed() else ():
                predictor = Predictor(
                    Bundle(folder, described, "draft"), engine=name, precision=precision, threads=self.threads
                )
                must = self.exact and precision == "fp32"
                form = f"{name} {precision}"
                self.certificate.compare(form, _in_requests(predictor.outputs), must=must)
                reference = reference or self._reference(predictor, form)
                predictor.close()
        return reference

    def _reference(self, predictor: Predictor, form: str) -> dict[str, Any]:
        """What the texts look like to the bundle, and how it decides on them."""
        records = self.certificate.records
        texts = [predictor.task.shown(record) for record in records]
        return describe(
            texts,
            self.certificate.answers_of(form),
            predictor.tokenizer,
            labels=self.labels,
            embeddings=predictor.embed(texts),
            encoded=predictor.encode(records),
        )

    def _service(self, folder: Path, described: dict[str, Any]) -> None:
        """The rows over HTTP: against the trained model, or against the graph on the engine that serves them."""
        engine = self.engine or SERVING
        seal(folder, described)
        try:
            with served(folder, engine=engine, threads=self.threads) as answers:
                if self.exact:
                    self.certificate.compare("HTTP service", answers)
                else:
                    self.certificate.compare(
                        "HTTP service", answers, against=f"{engine} fp32", tolerance=SAME
                    )
        finally:
            forget(folder)


def _in_requests(outputs: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
    """The same in parts as large as the service's requests, for graphs whose answers depend on the batch."""
    return lambda items: [one for part in in_requests(items) for one in outputs(part)]
