"""Keys of the archive: derived from the application's, or from a file of one's own."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from evsession.archive.signing import Signer, Trusted
from evsession.errors import ConfigError
from evsession.keys import Keyring
from tests.archive.logs import RING
from tests.unit.test_archive_manifest import MANIFEST

AUDITED = Keyring(
    "the key of those who archive in tests", namespace="shop", audit_key="the key of those who audit it all"
)


def test_a_signature_is_good_for_one_manifest_and_key() -> None:
    """Any change, any other key: nobody vouches."""
    signed = Signer.of(RING).sign(MANIFEST)
    assert Trusted.of(RING).vouches(signed)
    assert not Trusted.of(RING).vouches(replace(signed, count=8))
    assert not Trusted.of(RING).vouches(replace(signed, signature=bytes(64)))
    assert not Trusted.of(AUDITED).knows(signed)
    assert not Trusted.of(AUDITED).vouches(signed)
    assert not Trusted([]).vouches(signed)


def test_the_audit_key_signs_where_there_is_one() -> None:
    """So who only makes tokens cannot sign archives."""
    assert Trusted.of(AUDITED).vouches(Signer.of(AUDITED).sign(MANIFEST))
    assert Signer.of(AUDITED).key_id != Signer.of(RING).key_id


def test_signing_twice_gives_the_same_bytes() -> None:
    """Two archivers at the same file write the same manifest."""
    assert Signer.of(RING).sign(MANIFEST) == Signer.of(RING).sign(MANIFEST)


def test_a_key_of_ones_own_comes_from_a_file(tmp_path: Path) -> None:
    """As the error tells to make it, and its public half is enough to check."""
    if which("openssl") is None:
        pytest.skip("openssl is not on this machine")
    private, public = tmp_path / "archive.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    signer = Signer.load(private)
    public.write_text(signer.public_pem)
    signed = signer.sign(MANIFEST)
    for path in (private, public):
        trusted = Trusted.of(RING).with_file(path)
        assert trusted.vouches(signed)
        assert trusted.vouches(Signer.of(RING).sign(MANIFEST))


def test_other_files_are_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    """No such file, no key, another kind of key."""
    nothing, text, other, public = (tmp_path / name for name in ("nothing", "text", "other", "public"))
    text.write_text("hello")
    curve = ec.generate_private_key(ec.SECP256R1())
    other.write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for path in (nothing, text, other):
        with pytest.raises(ConfigError, match="openssl genpkey -algorithm ed25519"):
            Signer.load(path)
    for path in (nothing, text, public):
        with pytest.raises(ConfigError, match="evsession archive --public-key"):
            Trusted.of(RING).with_file(path)


def test_a_signer_hides_its_key() -> None:
    """In logs and tracebacks."""
    assert repr(Signer.of(RING)) == f"<Signer {Signer.of(RING).key_id}: hidden>"
