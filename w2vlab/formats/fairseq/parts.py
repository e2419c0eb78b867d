"""The options of a model of ours by their names, for formats that do not have all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from w2vlab.utils.messages import one_line


class Part:
    """The options of a part by name, and the errors that name them.

    Args:
        config: Configuration of the part.
        place: Its dotted name.
    """

    def __init__(self, config: Any, place: str) -> None:
        self.place = place
        self._options: Mapping[str, Any] = config.get("init_args") or {}
        path = str(config["class_path"])
        self.kind = path.rpartition(".")[2] if path.startswith("w2vlab.") else path

    def __getitem__(self, name: str) -> Any:
        return self._options[name]

    def part(self, name: str) -> Part:
        """Returns a part of this part."""
        return Part(self._options[name], f"{self.place}.{name}")

    def require_class(self, *kinds: str) -> None:
        """Refuses another class than those of w2vlab with these names."""
        if self.kind not in kinds:
            raise ValueError(f"`{self.place}` must be {' or '.join(kinds)} for fairseq, but is {self.kind}.")

    def require(self, name: str, *values: Any) -> None:
        """Refuses other values of an option."""
        if self._options[name] not in values:
            self.refuse(name, " or ".join(map(_shown, values)))

    def refuse(self, name: str, rule: str) -> NoReturn:
        """Raises the error for an option that fairseq does not have."""
        raise ValueError(
            f"`{self.place}.{name}` must be {rule} for fairseq, but is {_shown(self._options[name])}: fairseq's model "
            "has no such option."
        )

    def differing(self, expected: Mapping[str, Any]) -> list[str]:
        """Returns a sentence for each option that only training sees and that fairseq has in one value."""
        return [
            f"`{self.place}.{name}` is {_shown(self._options[name])}; fairseq trains with {_shown(value)}."
            for name, value in expected.items()
            if self._options.get(name, value) != value
        ]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:  # a part
        value = str(value["class_path"]).rpartition(".")[2]
    text = str(value).lower().replace("none", "null") if value is None or isinstance(value, bool) else str(value)
    return one_line(text, 60)
