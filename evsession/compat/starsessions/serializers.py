"""How an app's values become JSON, and back.

Sessions are kept as JSON, key by key. A serializer of the app's own decides what stands there for values that JSON has
not, so it must write JSON; `PickleSerializer` and the like cannot.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

from evsession.errors import Unsupported


class Serializer(ABC):
    """Turns the data of a session into bytes of JSON, and back."""

    @abstractmethod
    def serialize(self, data: Any) -> bytes:
        """Return the JSON of the data."""

    @abstractmethod
    def deserialize(self, data: bytes) -> dict[str, Any]:
        """Return the data of a JSON; of no bytes, an empty dict."""


class JsonSerializer(Serializer):
    """The standard library's JSON, with an encoder and a decoder of one's own if need be."""

    def __init__(
        self,
        json_encoder: type[json.JSONEncoder] = json.JSONEncoder,
        json_decoder: type[json.JSONDecoder] = json.JSONDecoder,
    ) -> None:
        self._encoder = json_encoder
        self._decoder = json_decoder

    @property
    def is_plain(self) -> bool:
        """Whether its JSON is everybody's, so that the session itself can be handed out."""
        return self._encoder is json.JSONEncoder and self._decoder is json.JSONDecoder

    def serialize(self, data: Any) -> bytes:
        """Return the JSON of the data."""
        return json.dumps(data, cls=self._encoder).encode()

    def deserialize(self, data: bytes) -> dict[str, Any]:
        """Return the data of a JSON; of no bytes, an empty dict."""
        found: dict[str, Any] = json.loads(data, cls=self._decoder) if data else {}
        return found


def own_serializer(serializer: Serializer | None) -> Serializer | None:
    """Return a serializer that has to be asked; None where the data is JSON as it is.

    Raises:
        Unsupported: it does not write JSON.
    """
    if serializer is None or (type(serializer) is JsonSerializer and serializer.is_plain):
        return None
    encode(serializer, {})
    return serializer


def encode(serializer: Serializer, data: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON values that a serializer makes of the data.

    Raises:
        Unsupported: it does not write a JSON object.
    """
    try:
        encoded = json.loads(serializer.serialize(data))
    except (ValueError, TypeError) as error:
        raise _no_json(serializer) from error
    if not isinstance(encoded, dict):
        raise _no_json(serializer)
    return encoded


def _no_json(serializer: Serializer) -> Unsupported:
    instead = "sessions are kept as JSON: use JsonSerializer(json_encoder=…, json_decoder=…)"
    return Unsupported(f"the serializer {type(serializer).__name__}, which writes no JSON object", instead)
