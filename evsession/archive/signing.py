"""Ed25519 signatures: made by whoever archives, checked by anybody who has the public key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from evsession.errors import ConfigError
from evsession.keys import Keyring

_MAKE_ONE = "openssl genpkey -algorithm ed25519 -out archive.pem"


class Signable(Protocol):
    """A frozen dataclass with all that it says, but its signature, as bytes."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def content(self) -> bytes: ...
    @property
    def key_id(self) -> str: ...
    @property
    def signature(self) -> bytes: ...


S = TypeVar("S", bound=Signable)


class Signer:
    """Signs documents; the private key stays in here."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key()
        self.key_id = key_id_of(self.public)

    def __repr__(self) -> str:
        return f"<Signer {self.key_id}: hidden>"

    @classmethod
    def of(cls, keys: Keyring) -> Self:
        """Return the signer that an application's newest key stands for, which Redis and the archive do not hold."""
        return cls(Ed25519PrivateKey.from_private_bytes(keys.archive_seeds()[0]))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the signer of a PEM file.

        Raises:
            ConfigError: there is no such file, or no Ed25519 key in it.
        """
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            msg = f"no private key can be read from {path} ({error}); make one: {_MAKE_ONE}"
            raise ConfigError(msg) from error
        if not isinstance(key, Ed25519PrivateKey):
            msg = f"the key in {path} is a {type(key).__name__}; make one for Ed25519: {_MAKE_ONE}"
            raise ConfigError(msg)
        return cls(key)

    @property
    def public_pem(self) -> str:
        """The public key, to be given to auditors."""
        return self.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, document: S) -> S:
        """Return a manifest, or another document, with a signature."""
        return replace(document, key_id=self.key_id, signature=self._private.sign(document.content))


class Trusted:
    """The public keys whose signatures count."""

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self._keys = {key_id_of(key): key for key in keys}

    @classmethod
    def of(cls, keys: Keyring) -> Self:
        """Return the keys of all of an application's secrets, so that a rotation leaves old files readable."""
        privates = (Ed25519PrivateKey.from_private_bytes(seed) for seed in keys.archive_seeds())
        return cls(private.public_key() for private in privates)

    def with_signer(self, signer: Signer) -> Trusted:
        """Return these and the key of a signer."""
        return Trusted([*self._keys.values(), signer.public])

    def with_file(self, path: Path) -> Trusted:
        """Return these and the key of a PEM file, public or private.

        Raises:
            ConfigError: there is no such file, or no Ed25519 key in it.
        """
        try:
            raw = path.read_bytes()
            if b"PRIVATE KEY" in raw:
                return self.with_signer(Signer.load(path))
            key = load_pem_public_key(raw)
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            msg = f"no public key can be read from {path} ({error}); pass what `evsession archive --public-key` prints"
            raise ConfigError(msg) from error
        if not isinstance(key, Ed25519PublicKey):
            msg = f"the key in {path} is a {type(key).__name__}; pass what `evsession archive --public-key` prints"
            raise ConfigError(msg)
        return Trusted([*self._keys.values(), key])

    def knows(self, document: Signable) -> bool:
        """Tell whether a document says that it was signed with one of these."""
        return document.key_id in self._keys

    def vouches(self, document: Signable) -> bool:
        """Tell whether a document was signed with one of these."""
        key = self._keys.get(document.key_id)
        if key is None:
            return False
        try:
            key.verify(document.signature, document.content)
        except InvalidSignature:
            return False
        return True


def key_id_of(key: Ed25519PublicKey) -> str:
    """Return the public name of a key: 16 hex digits of its SHA-256."""
    return sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]
