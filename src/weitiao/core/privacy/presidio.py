"""Microsoft Presidio as a further finder, where the user has installed it: names in free text, more countries."""

from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.privacy.text import Span

KINDS = {
    "CREDIT_CARD": "bank_card",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "LOCATION": "address",
    "PERSON": "name",
    "PHONE_NUMBER": "phone",
    "US_PASSPORT": "passport",
    "US_SSN": "ssn",
}


class Presidio:
    """Presidio's analyzer in one language.

    Args:
        analyzer: one that is set up already; else Presidio's own default, which needs its spaCy model.
        least_score: what Presidio is less sure of is passed over.

    Raises:
        WeitiaoError: presidio-analyzer, or the model it needs, is not installed.
    """

    def __init__(self, analyzer: Any = None, language: str = "en", least_score: float = 0.5) -> None:
        if analyzer is None:
            try:
                from presidio_analyzer import AnalyzerEngine
            except ImportError:
                raise _missing() from None
            try:
                analyzer = AnalyzerEngine(supported_languages=[language])
            except (OSError, SystemExit, ValueError) as error:  # spaCy ends the process where it has no model
                raise _missing(str(error)) from None
        self.analyzer, self.language, self.least_score = analyzer, language, least_score

    def find(self, text: str) -> list[Span]:
        """Its finds, under Weitiao's names of kinds; kinds that Weitiao has no name for keep their own."""
        results = self.analyzer.analyze(text=text, language=self.language, score_threshold=self.least_score)
        return [
            Span(KINDS.get(one.entity_type, one.entity_type.lower()), one.start, one.end) for one in results
        ]


def _missing(reason: str = "") -> WeitiaoError:
    way = "pip install presidio-analyzer"
    return WeitiaoError(
        say(f"Presidio cannot be used: {way}", f"无法使用 Presidio：{way}")
        + (f" ({reason})" if reason else "")
    )
